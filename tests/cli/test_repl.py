"""`python -m threadlets`: a prompt at which code can be awaited, on our loop, in a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import COMMAND, DEADLINE_S, RunCommand

_CONTROL_CHARACTERS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]|\r")


class Terminal:
    """A prompt in a terminal of its own; what it shows is read as it comes."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self._fd, child_fd = pty.openpty()
        # Lines of the terminal are wrapped at its width.
        termios.tcsetwinsize(self._fd, (50, 200))

        def make_it_control() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        environment = {"HOME": str(folder), "TERM": "xterm", "NO_COLOR": "1", **variables}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env={it: value for it, value in os.environ.items() if it != "PYTHONSTARTUP"}
            | environment,
            stdin=child_fd,
            stdout=child_fd,
            stderr=child_fd,
            start_new_session=True,
            preexec_fn=make_it_control,
        )
        os.close(child_fd)
        self.shown = self.all_shown = ""

    def send(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def ask(self, statement: str, answer: str = ">>> ") -> None:
        """Enter a statement, and wait for its answer and the next prompt."""
        self.send(f"{statement}\n")
        self.expect(answer)
        if answer != ">>> ":
            self.expect(">>> ")

    def expect(self, text: str) -> None:
        """Wait until something is shown, and forget all up to its end."""
        deadline_s = time.monotonic() + DEADLINE_S
        while text not in self.shown:
            assert self._read(deadline_s - time.monotonic()), f"no {text!r} in:\n{self.shown}"
        self.shown = self.shown.partition(text)[2]

    def _read(self, timeout_s: float) -> bool:
        readable, _, _ = select.select([self._fd], [], [], max(timeout_s, 0))
        if not readable:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            # The end, as the kernel says it for terminals.
            return False
        shown = _CONTROL_CHARACTERS.sub("", data.decode())
        self.shown += shown
        self.all_shown += shown
        return bool(data)

    def end(self) -> int:
        """Read until the end, and return the exit status."""
        deadline_s = time.monotonic() + DEADLINE_S
        while self._read(deadline_s - time.monotonic()):
            pass
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


Open = Callable[..., Terminal]


@pytest.fixture
def open_prompt(tmp_path: Path) -> Iterator[Open]:
    """Open the prompt in a terminal, with a home folder of its own."""
    opened: list[Terminal] = []

    def open_prompt(*arguments: str, **variables: str) -> Terminal:
        opened.append(Terminal(tmp_path, *arguments, **variables))
        opened[-1].expect(">>> import asyncio, threadlets\n>>> ")
        return opened[-1]

    yield open_prompt
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize("arguments", [(), ("repl",)])
def test_statements_are_awaited_on_our_loop(open_prompt: Open, arguments: tuple[str, ...]) -> None:
    """With and without the name of the command; the loop is threadlets', and values are shown."""
    prompt = open_prompt(*arguments)
    prompt.ask("type(asyncio.get_running_loop())", "<class 'threadlets.Loop'>")
    prompt.ask("await asyncio.sleep(0.01, 40 + 2)", "42\n")
    prompt.ask("_ + 1", "43\n")
    prompt.ask("await threadlets.call(len, 'four')", "4\n")
    prompt.send("\x04")
    assert 0 == prompt.end()


def test_tasks_go_on_while_the_prompt_waits(open_prompt: Open) -> None:
    """Nothing is entered until the task has printed."""
    prompt = open_prompt()
    prompt.ask("async def later(): await asyncio.sleep(0.3); print('later' + 'on')\n")
    prompt.send("task = asyncio.create_task(later())\n")
    prompt.expect("lateron")


def test_interrupt_cancels_what_is_awaited(open_prompt: Open) -> None:
    """And nothing else: other tasks live, and the prompt goes on; also if the code does not await."""
    prompt = open_prompt()
    prompt.ask("other = asyncio.create_task(asyncio.sleep(1000))")
    for statement in (
        "print('begun'); await asyncio.sleep(1000)",
        "print('begun'); [1 for _ in iter(int, 1)]",
    ):
        prompt.send(f"{statement}\n")
        prompt.expect("begun\n")
        prompt.send("\x03")
        prompt.expect("KeyboardInterrupt\n>>> ")
    prompt.ask("other.done()", "False\n")


def test_traceback_begins_with_the_statement(open_prompt: Open) -> None:
    """None of our frames is in it, of a statement that awaits and of one that does not."""
    prompt = open_prompt()
    for statement in ("1 / 0", "await asyncio.sleep(0, 1 / 0)"):
        prompt.send(f"{statement}\n")
        prompt.expect('Traceback (most recent call last):\n  File "<')
        prompt.expect("ZeroDivisionError: ")
        prompt.expect(">>> ")


@pytest.mark.parametrize(
    ("statement", "status", "shown"),
    [
        ("exit()", 0, ""),
        ("exit(5)", 5, ""),
        ("raise SystemExit('no more')", 1, "no more"),
        ("await asyncio.sleep(0, exit(6))", 6, ""),
    ],
)
def test_exit_cancels_tasks_and_has_a_status(
    open_prompt: Open, statement: str, status: int, shown: str
) -> None:
    """Their `finally` runs; the status is that of `python`."""
    prompt = open_prompt()
    prompt.send(
        "async def wait():\n"
        "    try:\n"
        "        await asyncio.sleep(1000)\n"
        "    finally:\n"
        "        print('can' + 'celled')\n"
        "\n"
    )
    prompt.send("task = asyncio.create_task(wait()); await asyncio.sleep(0)\n")
    prompt.send(f"{statement}\n")
    prompt.expect("cancelled")
    assert status == prompt.end()
    assert shown in prompt.all_shown


def test_task_in_the_background_may_end_the_program(open_prompt: Open) -> None:
    """As under `python -m asyncio`; the thread that reads is left, and the terminal restored."""
    prompt = open_prompt()
    prompt.send("asyncio.get_running_loop().call_later(0.1, exit, 7)\n")
    assert 7 == prompt.end()


def test_context_variables_last(open_prompt: Open) -> None:
    """From one statement to the next."""
    prompt = open_prompt()
    prompt.ask("import contextvars; v = contextvars.ContextVar('v')")
    prompt.ask("async def f(): v.set(8); await asyncio.sleep(0)\n")
    prompt.ask("await f()")
    prompt.ask("v.get()", "8\n")


def test_startup_file_is_run(open_prompt: Open, tmp_path: Path) -> None:
    """Its names are there; its errors are shown, and the prompt comes all the same."""
    (tmp_path / "startup.py").write_text("mine = 70 + 7\n1 / 0\n")
    prompt = open_prompt(PYTHONSTARTUP=str(tmp_path / "startup.py"))
    prompt.ask("mine", "77\n")


def test_history_is_kept(open_prompt: Open, tmp_path: Path) -> None:
    """In the file of CPython's own prompt."""
    pytest.importorskip("readline")
    prompt = open_prompt()
    prompt.ask("'to be ' + 'remembered'", "to be remembered")
    prompt.send("exit()\n")
    assert 0 == prompt.end()
    assert "'to be ' + 'remembered'" in (tmp_path / ".python_history").read_text()


def test_input_may_be_a_pipe(command: RunCommand) -> None:
    """Statements are run, and the end of the input is the end."""
    done = command(input="await asyncio.sleep(0.01, 6 * 7)\nprint('the end')\n")
    assert 0 == done.returncode
    assert "42\n" in done.stdout
    assert "the end\n" in done.stdout


def test_prompt_needs_no_other_package(tmp_path: Path) -> None:
    """Neither typer nor rich."""
    (tmp_path / "typer.py").write_text("raise ImportError('typer is not there')\n")
    (tmp_path / "rich.py").write_text("raise ImportError('rich is not there')\n")
    done = subprocess.run(
        COMMAND,
        cwd=tmp_path,
        input="6 * 7\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert "42\n" in done.stdout
