"""Subprocesses: their pipes, their ends, their signals."""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
from asyncio.subprocess import PIPE

import pytest
from waiting import eventually

from .harness import Run


def test_process_answers_and_ends(run: Run) -> None:
    """Input, output, errors and exit status of a process arrive."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-Sc",
            "import sys; sys.stderr.write('e'); print(input()[::-1]); sys.exit(3)",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        assert (b"cba\n", b"e") == await process.communicate(b"abc\n")
        assert 3 == process.returncode

    run(main())


def test_megabytes_go_through_a_process(run: Run) -> None:
    """More data than a pipe holds goes in and comes out at the same time."""
    data = b"0123456789abcdef" * (1 << 16)

    async def main() -> None:
        process = await asyncio.create_subprocess_shell("cat", stdin=PIPE, stdout=PIPE)
        output, _ = await process.communicate(data)
        assert data == output

    run(main())


def test_many_processes_at_once(run: Run) -> None:
    """Ten processes end, each with its own status."""

    async def main() -> None:
        async def status(n: int) -> int:
            process = await asyncio.create_subprocess_shell(f"exit {n}")
            return await process.wait()

        assert list(range(10)) == await asyncio.gather(*map(status, range(10)))

    run(main())


def _is_gone(process: asyncio.subprocess.Process) -> bool:
    try:
        process.kill()
    except ProcessLookupError:
        return True
    return False


def test_process_is_ended_by_a_signal(run: Run) -> None:
    """`terminate` ends a process that waits; its status is the negated signal number."""

    async def main() -> None:
        process = await asyncio.create_subprocess_shell("echo ready; exec sleep 60", stdout=PIPE)
        assert process.stdout is not None
        assert b"ready\n" == await process.stdout.readline()
        process.terminate()
        assert (b"", None) == await process.communicate()
        assert -signal.SIGTERM == process.returncode
        # asyncio's own transport forgets the process a moment later.
        await eventually(functools.partial(_is_gone, process))

    run(main())


def test_missing_program_is_an_error(run: Run) -> None:
    """Starting a program that does not exist raises FileNotFoundError."""

    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/nowhere/to/be/found")

    run(main())
