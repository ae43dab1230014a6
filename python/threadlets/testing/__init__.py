"""Helpers for tests: a choice of engine, and a check that nothing leaked.

With `pytest_plugins = ["threadlets.testing.plugin"]` in a conftest.py, a test fails unless the
ledgers of its loops end at zero.
"""

from threadlets.testing._engines import use_engine
from threadlets.testing._leaks import no_leaks

__all__ = ["no_leaks", "use_engine"]
