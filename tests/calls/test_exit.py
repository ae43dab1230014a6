"""The interpreter exits at once, silently, with the main thread's status, whatever threads do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .harness import line, outcome

pytestmark = pytest.mark.starts("inline", "beside")

Begin = Callable[[str], "subprocess.Popen[str]"]

# CPython before 3.14 ends a thread that wants the GIL during the exit by unwinding its stack. Whether
# a thread wants it at that moment is chance. The programs make it all but sure: their threads do
# nothing but take and release the GIL.
_PRELUDE = """
import asyncio, concurrent.futures, gc, logging, os, signal, sys, threading, time, warnings
import threadlets
from threadlets import CompletionRing, atoms, read_file, sweep, syslet

ready = threading.Event()

def busy(*_):
    ready.set()
    while True:
        time.sleep(0)

def block(*_):
    ready.set()
    time.sleep(1000)

def background(main, debug=False, daemon=True):
    def run():
        loop = threadlets.new_event_loop()
        loop.set_debug(debug)
        main(loop)
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=daemon)
    thread.start()
    assert ready.wait(10)
    return thread

def tasks(step, n=5):
    async def work():
        while True:
            await step()

    def main(loop):
        for _ in range(n):
            kept.append(loop.create_task(work()))
        # All tasks have begun by then.
        loop.call_later(0.02, ready.set)

    return main

kept = []
"""

_PROGRAMS = {
    "a task computes": """
        async def main():
            busy()
        background(lambda loop: kept.append(loop.create_task(main())))
    """,
    "a callback computes": "background(lambda loop: loop.call_soon(busy))",
    "a callback computes in debug mode": "background(lambda loop: loop.call_soon(busy), debug=True)",
    "a timer computes": "background(lambda loop: loop.call_later(0, busy))",
    "a reader computes": """
        fd = os.eventfd(1)
        background(lambda loop: loop.add_reader(fd, busy))
    """,
    "a callback blocks": "background(lambda loop: loop.call_soon(block))",
    "a threadlet computes": """
        async def main():
            await threadlets.call(busy)
        background(lambda loop: kept.append(loop.create_task(main())))
    """,
    "a threadlet blocks": """
        async def main():
            await threadlets.call(block)
        background(lambda loop: kept.append(loop.create_task(main())))
    """,
    "tasks switch": "background(tasks(lambda: asyncio.sleep(0)))",
    "threadlets return": "background(tasks(lambda: threadlets.call(time.sleep, 0.0001), 20))",
    "threadlets return in debug mode": """
        background(tasks(lambda: threadlets.call(time.sleep, 0.0001), 20), debug=True)
    """,
    "functions of an executor return": """
        executor = threadlets.ThreadletExecutor()
        def again(done=None):
            try:
                executor.submit(time.sleep, 0.0001).add_done_callback(again)
            except RuntimeError:
                pass  # The executor takes nothing more.
        for _ in range(10):
            again()
    """,
    "functions of a thread pool return": """
        logging.disable()  # The pool takes nothing more once the main thread ends, so tasks fail.
        background(tasks(lambda: asyncio.to_thread(time.sleep, 0.0001)))
    """,
    "files are read": "background(tasks(lambda: read_file('/proc/self/status')))",
    "a syslet waits": """
        reading, writing = os.pipe()
        async def read():
            async with await threadlets.open(reading, "rb", buffering=0) as file:
                await file.read(1)
        background(tasks(read, 1))
    """,
    "sweeps run": """
        @syslet
        def read(path):
            fd = yield atoms.openat(path)
            yield atoms.close(fd)
        async def work():
            async for _ in sweep(read, ["/proc/self/status"] * 100):
                pass
        background(tasks(work))
    """,
    "a ring waits for completions": """
        @syslet
        def wait(seconds):
            yield atoms.timeout(seconds)
        def work():
            with CompletionRing() as ring:
                ring.submit(wait, 1000)
                ready.set()
                ring.wait()
        threading.Thread(target=work, daemon=True).start()
        ready.wait()
    """,
    "other threads call the loop": """
        loop = threadlets.new_event_loop()
        loop.set_debug(True)
        def poke():
            while True:
                loop.call_soon_threadsafe(int)
                ready.set()
        for _ in range(3):
            threading.Thread(target=poke, daemon=True).start()
        ready.wait()
    """,
    "other threads run coroutines": """
        loops = []
        background(lambda loop: loops.append(loop) or loop.call_soon(ready.set))
        ready.clear()
        async def work():
            return await threadlets.call(len, "abc")
        def poke():
            while True:
                asyncio.run_coroutine_threadsafe(work(), loops[0]).result(1000)
                ready.set()
        for _ in range(3):
            threading.Thread(target=poke, daemon=True).start()
        ready.wait()
    """,
    "objects ask what they are": """
        class Odd:
            def give_way(self, *_):
                ready.set()
                time.sleep(0)
                return 1
            __hash__ = __eq__ = __index__ = give_way
            def __bool__(self):
                return bool(self.give_way())
            def __repr__(self):
                return f"odd{self.give_way()}"
        async def main():
            loop = asyncio.get_running_loop()
            while True:
                future = loop.create_future()
                future.set_result(Odd())
                repr(future)
                await loop.create_task(asyncio.sleep(0), name=Odd())
                loop._debug = Odd()
                loop._debug = False
                await asyncio.wait([future])
        background(lambda loop: kept.append(loop.create_task(main())))
    """,
    "garbage is collected wherever something is made": """
        gc.set_threshold(3)
        class Cycle:
            def __init__(self):
                self.self = self
            def __del__(self):
                ready.set()
                for _ in range(5):
                    time.sleep(0)
        class Future(threadlets._core.Future):
            pass
        async def main():
            loop = asyncio.get_running_loop()
            while True:
                for _ in range(20):
                    Cycle(), loop.create_future(), Future(loop=loop), loop.call_soon(int)
                    loop.call_later(1000, int).cancel()
                await asyncio.sleep(0)
        background(lambda loop: kept.append(loop.create_task(main())))
    """,
    "a loop was left open": """
        loop = threadlets.new_event_loop()
        async def main():
            await asyncio.gather(*(threadlets.call(time.sleep, 0.001) for _ in range(5)))
        loop.run_until_complete(main())
    """,
    "a loop is closed by a finalizer": """
        class Owner:
            def __init__(self):
                self.loop = threadlets.new_event_loop()
            def __del__(self):
                self.loop.close()
        owner = Owner()
        async def main():
            await asyncio.gather(*(threadlets.call(time.sleep, 0.001) for _ in range(5)))
        owner.loop.run_until_complete(main())
    """,
    "a child of a fork exits": """
        warnings.simplefilter("ignore")
        background(tasks(lambda: threadlets.call(time.sleep, 0.0001)))
        if not (pid := os.fork()):
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """,
}


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start a program; kill its process at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(source: str) -> subprocess.Popen[str]:
        path = tmp_path / "program.py"
        path.write_text(source)
        process = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("program", _PROGRAMS.values(), ids=_PROGRAMS)
def test_exit_is_clean(begin: Begin, start_prelude: str, program: str) -> None:
    """No thread is unwound through frames that are not C."""
    process = begin(_PRELUDE + start_prelude + textwrap.dedent(program) + "\nprint('end')\n")
    assert (0, "end\n", "") == outcome(process)


@pytest.mark.parametrize("how", ["a callback blocks", "a threadlet blocks", "a syslet waits"])
def test_exit_is_at_once(begin: Begin, start_prelude: str, how: str) -> None:
    """The exit does not wait for blocked threads."""
    program = start_prelude + textwrap.dedent(_PROGRAMS[how])
    process = begin(_PRELUDE + program + "\nprint('end', flush=True)\n")
    assert "end" == line(process)
    began = time.monotonic()
    assert (0, "", "") == outcome(process)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("ending", "status", "last_words"),
    [
        ("sys.exit(3)", 3, ""),
        ("raise ValueError('of the main thread')", 1, "ValueError: of the main thread"),
        ("os._exit(4)", 4, ""),
        ("signal.raise_signal(signal.SIGINT)", -2, "KeyboardInterrupt"),
    ],
)
def test_exit_has_the_main_threads_status(
    begin: Begin, start_prelude: str, ending: str, status: int, last_words: str
) -> None:
    """The status is the main thread's, however it ends, while a loop works in another thread."""
    work = "background(tasks(lambda: threadlets.call(time.sleep, 0.0001)))\n"
    ended, stdout, stderr = outcome(begin(_PRELUDE + start_prelude + work + ending))
    assert (status, "", last_words) == (ended, stdout, "".join(stderr.splitlines()[-1:]))


@pytest.mark.parametrize("order", ["registered before", "registered after"])
@pytest.mark.parametrize("daemon", [True, False])
def test_loop_works_while_callbacks_of_the_exit_run(
    begin: Begin, start_prelude: str, order: str, daemon: bool
) -> None:
    """A clean-up can use the loop, stop it, join its thread and close it, whenever registered."""
    # The interpreter waits for threads that are no daemons before it calls the functions of atexit.
    register = "atexit.register(clean_up)" if daemon else "threading._register_atexit(clean_up)"
    imports = "import threadlets; from threadlets import read_file"
    process = begin(f"""
import asyncio, atexit, threading, time

def clean_up():
    print(asyncio.run_coroutine_threadsafe(work(), loop).result(10))
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
    print("closed", thread.is_alive())

{register if order == "registered before" else imports}
{register if order == "registered after" else imports}
{start_prelude}

async def work():
    blocked = asyncio.gather(*(threadlets.call(time.sleep, 0.001) for _ in range(3)))
    return len(await blocked), len(await read_file("/proc/self/status")) > 0

loop = threadlets.new_event_loop()
thread = threading.Thread(target=loop.run_forever, daemon={daemon})
thread.start()
asyncio.run_coroutine_threadsafe(work(), loop).result(10)
""")
    assert (0, "(3, True)\nclosed False\n", "") == outcome(process)
