"""Calls whose task has gone: files that they have opened are closed, those they made are removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets._files import copying, whole

from .conftest import Run


def _open_files() -> set[str]:
    """Return the paths of the regular files that are open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {it for it in found if it.startswith("/") and not it.startswith("/dev/")}


class _Opener:
    """Opens a file, but not before `go` is called."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._may_go = threading.Event()
        self.entered = asyncio.Event()

    def __call__(self, path: Any, flags: int) -> int:
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._may_go.wait(20)
        return os.open(path, flags, 0o600)

    def go(self) -> None:
        self._may_go.set()


@pytest.mark.starts("inline", "beside")
@pytest.mark.parametrize("n_cancellations", [1, 2])
@pytest.mark.parametrize("mode", ["r", "rb", "w+b"])
def test_an_openers_descriptor_that_is_lost_is_closed(
    run: Run, tmp_path: Path, mode: str, n_cancellations: int
) -> None:
    """The descriptor is closed even while the exception is kept."""
    path = tmp_path / "file"
    path.touch()

    async def main() -> None:
        opener = _Opener()

        async def enter() -> None:
            async with threadlets.open(path, mode, opener=opener):
                raise AssertionError("it was cancelled")

        task = asyncio.create_task(enter())
        await opener.entered.wait()
        for _ in range(n_cancellations):
            task.cancel()
            await asyncio.sleep(0)
        opener.go()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert str(path) not in _open_files()
        del raised

    run(main())


def test_a_failure_of_an_opener_leaves_nothing(run: Run, tmp_path: Path) -> None:
    """An opener may return what is refused or useless: a folder, or no open descriptor."""

    async def main() -> None:
        for opener, expected in (
            (lambda _path, flags: os.open("/", flags), IsADirectoryError),
            (lambda _path, _flags: 10_000, OSError),
            (lambda _path, _flags: 2**70, OverflowError),
            (lambda _path, _flags: None, TypeError),
        ):
            with pytest.raises(expected):
                await threadlets.open(tmp_path / "file", opener=opener)

    run(main())


@pytest.mark.starts("inline", "beside")
def test_an_opener_outlives_its_loop(engine: str, tmp_path: Path) -> None:
    """The loop is closed while the opener blocks on another thread; its descriptor is closed, too."""
    path = tmp_path / "file"
    path.touch()
    openers: list[_Opener] = []

    async def main() -> None:
        # The first one blocks the home thread, which the loop waits for; the other one a worker.
        for _ in range(2):
            openers.append(_Opener())
            opening = threadlets.open(path, opener=openers[-1])
            tasks.append(asyncio.ensure_future(_awaited(opening)))
            await openers[-1].entered.wait()
        openers[0].go()
        await (await tasks[0]).close()

    async def _awaited(opening: Any) -> Any:
        return await opening

    tasks: list[asyncio.Task[Any]] = []
    loop = threadlets.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(main())
    with pytest.warns(ResourceWarning):
        loop.close()
    openers[1].go()
    while str(path) in _open_files() or any(
        it.name.startswith("threadlets-") for it in threading.enumerate()
    ):
        threading.Event().wait(0.001)


@pytest.mark.parametrize("n_ticks", range(4))
def test_a_cancelled_open_leaves_nothing_while_its_exception_is_kept(
    run: Run, tmp_path: Path, n_ticks: int
) -> None:
    """A traceback keeps frames and their objects alive, but no descriptor."""
    source, path = tmp_path / "source", tmp_path / "fifo"
    source.write_bytes(b"x" * 1000)
    os.mkfifo(path)

    async def main() -> None:
        for call in (_opened(path), threadlets.copy_file(source, tmp_path / "target")):
            task = asyncio.ensure_future(call)
            await asyncio.sleep(0)
            writer = os.open(path, os.O_RDWR)
            for _ in range(n_ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            os.close(writer)
            with contextlib.suppress(asyncio.CancelledError):
                if (file := await task) is not None:
                    await file.close()
            assert not {it for it in _open_files() if it.startswith(str(tmp_path))}

    async def _opened(path: Path) -> Any:
        return await threadlets.open(path, "rb")

    run(main())


@contextlib.asynccontextmanager
async def _no_threads_left() -> AsyncIterator[None]:
    """Block every thread of a loop (two, or one beside the loop's), and have one more call wait."""
    gate = threading.Event()
    calls = [asyncio.create_task(threadlets.call(gate.wait, 20)) for _ in range(3)]
    while True:
        stats = threadlets.stats()
        if stats["calls_held"] or (stats["calls_beside"] >= len(calls) and stats["blocked"]):
            break
        await asyncio.sleep(0)
    try:
        yield
    finally:
        gate.set()
        await asyncio.wait(calls)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Event]:
    """Stop atomic writes and large copies at the point where they have all files open."""
    reached: list[asyncio.Event] = []

    async def hold(*_args: Any) -> Any:
        reached[0].set()
        await asyncio.Event().wait()

    monkeypatch.setattr(whole, "_fill", hold)
    monkeypatch.setattr(copying, "_copy_content", hold)
    return reached


@pytest.mark.starts("inline", "beside")
@pytest.mark.parametrize("n_cancellations", [1, 2, 5])
def test_clean_up_needs_no_thread(
    engine: str, tmp_path: Path, held: list[asyncio.Event], n_cancellations: int
) -> None:
    """At the limit of threads, cancelled calls never begin, but clean-up is done."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 300_000)

    async def main() -> None:
        for call in (
            threadlets.write_file(tmp_path / "target", b"x", atomic=True),
            threadlets.copy_file(source, "/dev/shm/threadlets-copy"),
        ):
            held[:] = [asyncio.Event()]
            task = asyncio.create_task(call)
            await held[0].wait()
            async with _no_threads_left():
                for _ in range(n_cancellations):
                    task.cancel()
                    await asyncio.sleep(0)
                await asyncio.wait([task])
                assert task.cancelled()
                assert ["source"] == os.listdir(tmp_path)
                assert not {it for it in _open_files() if "threadlets-copy" in it}
                assert not {it for it in _open_files() if it.startswith(str(tmp_path))}

    try:
        threadlets.run(main(), threads_max=1)
    finally:
        os.unlink("/dev/shm/threadlets-copy")


@pytest.mark.starts("inline", "beside")
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_closing_needs_no_thread(engine: str, tmp_path: Path, mode: str) -> None:
    """A close that is cancelled at the limit of threads writes the data and closes the file."""
    path = tmp_path / "file"

    async def main() -> None:
        file = await threadlets.open(path, mode)
        await file.write("kept" if mode == "w" else b"kept")
        async with _no_threads_left():
            task = asyncio.create_task(file.close())
            await asyncio.sleep(0)
            for _ in range(3):
                task.cancel()
            await asyncio.wait([task])
            assert b"kept" == path.read_bytes()
            assert str(path) not in _open_files()

    threadlets.run(main(), threads_max=1)


def test_what_closed_coroutines_have_made_is_removed(
    engine: str, tmp_path: Path, held: list[asyncio.Event]
) -> None:
    """Without a loop that could wait for the clean-up, it is done at once."""

    async def main() -> None:
        held[:] = [asyncio.Event()]
        tasks.append(
            asyncio.create_task(threadlets.write_file(tmp_path / "target", b"x", atomic=True))
        )
        await held[0].wait()

    tasks: list[asyncio.Task[int]] = []
    loop = threadlets.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(main())
    coroutine = tasks[0].get_coro()
    with pytest.warns(ResourceWarning):
        loop.close()
    assert 1 == len(os.listdir(tmp_path))
    coroutine.close()  # type: ignore[union-attr]
    assert [] == os.listdir(tmp_path)
    assert not {it for it in _open_files() if it.startswith(str(tmp_path))}
