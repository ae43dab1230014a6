"""A subinterpreter refuses to import threadlets, and the error says which loop to use instead."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, os, sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

if sys.argv[2] == "main first":
    import threadlets

inside = '''
import os, sys
sys.path[:] = PATH
try:
    import MODULE
except ImportError as error:
    os.write(1, str(error).encode())
'''
inside = inside.replace("PATH", repr(sys.path)).replace("MODULE", sys.argv[1])
other = interpreters.create()
interpreters.run_string(other, inside)
interpreters.destroy(other)

import threadlets
print(threadlets.run(asyncio.sleep(0, "; the main interpreter goes on")))
"""


@pytest.mark.parametrize("order", ["main first", "main later"])
@pytest.mark.parametrize("module", ["threadlets", "threadlets._core", "threadlets._aio.loop"])
def test_import_into_a_subinterpreter_is_refused(module: str, order: str) -> None:
    """The error gives reason and remedy; the main interpreter works before and afterwards."""
    command = [sys.executable, "-c", SCRIPT, module, order]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert ran.stdout.startswith("threadlets was imported in a subinterpreter; its threads")
    assert ran.stdout.endswith("asyncio.run(); the main interpreter goes on\n")
