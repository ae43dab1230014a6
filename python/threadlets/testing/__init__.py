"""Help for tests: programs on an engine of one's choice, and proof that nothing leaked.

With `pytest_plugins = ["threadlets.testing.plugin"]` in a conftest.py, every test ends with a ledger
of zero, or fails.
"""

from threadlets.testing.engines import use_engine
from threadlets.testing.leaks import no_leaks

__all__ = ["no_leaks", "use_engine"]
