"""Jupyter and IPython on our loop, unchanged: only how the kernel is started differs (docs/notebooks.md)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_PAGE = Path(__file__).parents[2] / "docs/notebooks.md"
_DEADLINE_S = 40.0

Execute = Callable[..., tuple[str, list[str]]]


class Kernel:
    """A running kernel, to which cells are sent."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        manager.start_kernel(stderr=subprocess.DEVNULL)
        self.client = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=_DEADLINE_S)

    def execute(self, cell: str, *, interrupt_at: str | None = None) -> tuple[str, list[str]]:
        """Run a cell, and return what it has printed or shown, and the names of its errors.

        `interrupt_at` is what it prints before it is to be interrupted.
        """
        sent = self.client.execute(cell)
        shown, errors = "", []
        while True:
            message = self.client.get_iopub_msg(timeout=_DEADLINE_S)
            if message["parent_header"].get("msg_id") != sent:
                continue
            content = message["content"]
            if message["msg_type"] == "error":
                errors.append(content["ename"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return shown, errors
            shown += content.get("text") or content.get("data", {}).get("text/plain", "")
            if interrupt_at is not None and interrupt_at in shown:
                interrupt_at = None
                self.manager.interrupt_kernel()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Start a kernel as the page says it: with its line in the kernel's kernel.json."""
    pytest.importorskip("ipykernel")
    jupyter_client = pytest.importorskip("jupyter_client")
    (line,) = re.findall(r'^"argv": (\[.*\]),$', _PAGE.read_text(), re.MULTILINE)
    argv = [sys.executable, *json.loads(line)[1:]]
    folder = tmp_path / "kernels/threadlets"
    folder.mkdir(parents=True)
    specification = {"argv": argv, "display_name": "threadlets", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(specification))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    kernel = Kernel(jupyter_client.KernelManager(kernel_name="threadlets"))
    kernel.execute("import asyncio, threadlets, time")
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


@pytest.mark.filterwarnings("ignore")
def test_cells_run_on_our_loop(kernel: Kernel) -> None:
    """What is awaited in a cell, tasks from cell to cell, and everything of threadlets."""
    assert "threadlets.Loop" in kernel.execute("print(type(asyncio.get_running_loop()))")[0]
    assert ("42", []) == kernel.execute("await asyncio.sleep(0.01, 42)")
    kernel.execute(
        "ticks = []\n"
        "async def tick():\n"
        "    while True:\n"
        "        await asyncio.sleep(0.001)\n"
        "        ticks.append(1)\n"
        "task = asyncio.create_task(tick())"
    )
    kernel.execute("await threadlets.call(time.sleep, 0.3)")
    assert ("True", []) == kernel.execute("len(ticks) > 5")
    cell = "async with threadlets.Scope() as scope:\n    it = scope.start(len, 'four')\nit.result()"
    assert ("4", []) == kernel.execute(cell)
    assert ("True", []) == kernel.execute("b'' != await threadlets.read_file('/proc/self/stat')")
    assert ("True", []) == kernel.execute("task.cancel()")
    assert ("", ["ZeroDivisionError"]) == kernel.execute("1 / 0")
    assert "echoed" in kernel.execute("!echo echoed")[0]


@pytest.mark.filterwarnings("ignore")
def test_interrupt_ends_a_cell_and_nothing_else(kernel: Kernel) -> None:
    """One that awaits, and one that does not; the tasks of other cells go on."""
    kernel.execute("task = asyncio.create_task(asyncio.sleep(1000))")
    for cell in ("await asyncio.sleep(1000)", "time.sleep(1000)", "while True: pass"):
        _, errors = kernel.execute(f"print('begun', flush=True)\n{cell}", interrupt_at="begun")
        assert errors in (["CancelledError"], ["KeyboardInterrupt"])
    assert ("False", []) == kernel.execute("task.done()")


@pytest.mark.filterwarnings("ignore")
def test_nested_loops_work(kernel: Kernel) -> None:
    """By nest_asyncio, which notebooks like to apply."""
    pytest.importorskip("nest_asyncio")
    kernel.execute("import nest_asyncio; nest_asyncio.apply()")
    cell = "asyncio.get_event_loop().run_until_complete(asyncio.sleep(0.01, 'nested'))"
    assert ("'nested'", []) == kernel.execute(cell)
    assert ("1", []) == kernel.execute("await asyncio.sleep(0.01, 1)")


@pytest.mark.filterwarnings("ignore")
def test_kernel_ends_when_it_is_told_to(kernel: Kernel) -> None:
    """Also with tasks and functions in flight, and without being killed."""
    kernel.execute("task = asyncio.create_task(asyncio.sleep(1000))")
    process = kernel.manager.provisioner.process
    kernel.client.shutdown()
    assert 0 == process.wait(_DEADLINE_S)


@pytest.mark.filterwarnings("ignore")
def test_notebook_is_executed(kernel: Kernel) -> None:
    """By nbclient, as `jupyter nbconvert --execute` does."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    cells = [
        "import asyncio",
        "await asyncio.sleep(0.01)\ntype(asyncio.get_running_loop()).__name__",
    ]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="threadlets").execute()
    assert "'Loop'" == notebook.cells[1].outputs[0]["data"]["text/plain"]


def test_ipython_awaits_on_our_loop(tmp_path: Path) -> None:
    """`threadlets run -m IPython`: autoawait runs on our loop."""
    pytest.importorskip("IPython")
    statements = (
        "import asyncio, threadlets, time\n"
        "async def which(): return type(asyncio.get_running_loop()).__name__\n"
        "\n"
        "await which()\n"
        "await threadlets.call(time.sleep, 0.01)\n"
        "await asyncio.sleep(0.01, 6 * 7)\n"
    )
    argv = [sys.executable, "-m", "threadlets", "run", "-m", "IPython", "--simple-prompt"]
    done = subprocess.run(
        [*argv, "--no-banner", "--colors=NoColor"],
        input=statements,
        env=os.environ | {"IPYTHONDIR": str(tmp_path)},
        text=True,
        capture_output=True,
        timeout=100,
        check=True,
    )
    assert "'Loop'" in done.stdout
    assert "42" in done.stdout
    assert "Error" not in done.stdout
