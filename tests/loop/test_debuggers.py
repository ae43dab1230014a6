"""A debugger can have an idle loop run a script (PEP 768)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

IDLE = """
import asyncio, threadlets

async def main():
    print("idle", flush=True)
    await asyncio.Event().wait()

threadlets.run(main())
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="remote scripts came with Python 3.14")
def test_an_idle_loop_runs_a_debuggers_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, os\n"
        "names = [task.get_name() for task in asyncio.all_tasks(asyncio.get_running_loop())]\n"
        "print('ran', *names, flush=True)\n"
        "os._exit(7)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", IDLE], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "idle\n" == process.stdout.readline()
        try:
            sys.remote_exec(process.pid, str(script))  # type: ignore[attr-defined]
        except PermissionError:
            pytest.skip("this user may not look into other processes")
        assert 7 == process.wait(timeout=30)
        assert "ran Task-1\n" == process.stdout.read()
    finally:
        process.kill()
        process.communicate()
