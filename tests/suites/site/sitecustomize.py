"""Make every new loop of a process one of the judged kind: Python imports this when it starts.

The processes that a test starts inherit PYTHONPATH and SUITES_LOOP, so their loops are judged too.
"""

import os

if name := os.environ.get("SUITES_LOOP"):
    from harness.loops import install

    CENSUS = install(name)
