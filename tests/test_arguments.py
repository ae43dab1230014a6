"""Public functions and classes, called with wrong types, in wrong states and in the wrong order.

Each message names what was wrong, and says what to do.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets import fp
from threadlets.atoms import close, openat

# What an error of the interpreter, or of the layer between it and native code, looks like: it names no argument.
_UNCLEAR = re.compile(
    r"object cannot be interpreted|is not an instance of|must be real number|cannot be converted|"
    r"has no attribute|not supported between|too big to convert|negative int to unsigned"
)

Case = tuple[Callable[[], Any], type[BaseException], str]


@threadlets.syslet
def _opens(path: Any) -> Any:
    fd = yield openat(path)
    yield close(fd)


async def _coroutine() -> None:
    pass


def _discard(awaitable: Any) -> None:
    if inspect.iscoroutine(awaitable):
        awaitable.close()


_NAN = float("nan")

# By the name of what is public; what is called, the error, and what its message has in it.
_OUTSIDE: dict[str, list[Case]] = {
    "BATCH": [],
    "INTERACTIVE": [],
    "NORMAL": [],
    "__build__": [],
    "__version__": [],
    "AsyncFile": [(lambda: threadlets.AsyncFile(), TypeError, "missing 3 required")],
    "BlockedFunction": [(lambda: threadlets.BlockedFunction(), TypeError, "missing 4 required")],
    "BufferPool": [
        (lambda: threadlets.BufferPool("x"), TypeError, "memory_max is 'x', of type str"),
        (
            lambda: threadlets.BufferPool(-1),
            ValueError,
            "memory_max is -1; it is a number of bytes",
        ),
        (lambda: threadlets.BufferPool(0), ValueError, "pass 1 or more"),
    ],
    "Call": [(lambda: threadlets.Call(), TypeError, "cannot create 'threadlets.Call' instances")],
    "Completion": [(lambda: threadlets.Completion(), TypeError, "'tag' and 'result'")],
    "CompletionRing": [
        (lambda: threadlets.CompletionRing("x"), TypeError, "size is 'x', of type str"),
        (lambda: threadlets.CompletionRing(0), ValueError, "size is 0; a ring has room for at"),
        (lambda: threadlets.CompletionRing(4).submit(len), TypeError, "program is <built-in"),
        (lambda: threadlets.CompletionRing(4).submit(_opens), TypeError, "misses argument 'path'"),
        (
            lambda: threadlets.CompletionRing(4).submit(_opens, "x", timeout="x"),
            TypeError,
            "timeout is 'x'",
        ),
        (lambda: threadlets.CompletionRing(4).submit(_opens, "x", pool=5), TypeError, "pool is 5"),
        (
            lambda: threadlets.CompletionRing(4).submit(_opens, "x", flags="x"),
            TypeError,
            "flags is",
        ),
        (lambda: threadlets.CompletionRing(4).wait("x"), TypeError, "min_events is 'x'"),
        (lambda: threadlets.CompletionRing(4).wait(5), ValueError, "min_events is 5; the ring has"),
        (lambda: threadlets.CompletionRing(4).wait(1, "x"), TypeError, "timeout is 'x'"),
    ],
    "DrainTimeoutError": [(lambda: threadlets.DrainTimeoutError(), TypeError, "'blocked'")],
    "Engine": [(lambda: threadlets.Engine(), TypeError, "missing 4 required")],
    "Lease": [(lambda: threadlets.Lease(), TypeError, "cannot create 'threadlets.Lease'")],
    "Ledger": [(lambda: threadlets.Ledger("x", y=1), TypeError, "'y'")],
    "Loop": [
        (lambda: threadlets.Loop(threads_max="4"), TypeError, "threads_max is '4', of type str"),
        (lambda: threadlets.Loop("threads"), TypeError, "positional argument"),
    ],
    "Path": [(lambda: threadlets.Path(5), TypeError, "os.PathLike object")],
    "Pool": [
        (lambda: threadlets.Pool(limit="x"), TypeError, "limit is 'x', of type str"),
        (lambda: threadlets.Pool(limit=1.5), TypeError, "limit is 1.5, of type float"),
        (lambda: threadlets.Pool(limit=0), ValueError, "at least 1, or None for any number"),
        (lambda: setattr(threadlets.Pool(), "limit", "x"), TypeError, "limit is 'x'"),
        (lambda: threadlets.Pool(priority="x"), ValueError, "threadlets.INTERACTIVE, NORMAL or"),
        (lambda: setattr(threadlets.Pool(), "priority", 9), ValueError, "priority is 9; it is"),
        (lambda: threadlets.Pool(start="x"), ValueError, "it must be 'auto', 'inline' or 'beside'"),
        (lambda: threadlets.Pool(start=5), TypeError, "start is 5, of type int"),
        (lambda: threadlets.Pool(fp=5), TypeError, "threadlets.fp.environment"),
        (lambda: threadlets.Pool().call(5), TypeError, "pass the function itself"),
        (
            lambda: threadlets.Pool().cancel(),
            RuntimeError,
            "loop.call_soon_threadsafe(pool.cancel)",
        ),
    ],
    "Priority": [(lambda: threadlets.Priority(9), ValueError, "9 is not a valid Priority")],
    "Result": [(lambda: threadlets.Result(), TypeError, "cannot create 'threadlets.Result'")],
    "Scope": [
        (lambda: threadlets.Scope("x"), TypeError, "deadline is 'x', of type str"),
        (lambda: threadlets.Scope(timeout="x"), TypeError, "timeout is 'x', of type str"),
        (lambda: threadlets.Scope(timeout=_NAN), ValueError, "timeout is NaN; it is a time"),
        (lambda: threadlets.Scope(1.0, timeout=1.0), ValueError, "a deadline or a timeout, not"),
        (lambda: threadlets.Scope().start(len, ""), RuntimeError, "inside of its `async with`"),
        (lambda: threadlets.Scope().cancel(), RuntimeError, "was not entered"),
    ],
    "Stay": [(lambda: threadlets.Stay(), TypeError, "cannot create 'threadlets.Stay' instances")],
    "Sweep": [(lambda: threadlets.Sweep(), TypeError, "missing 2 required")],
    "Syslet": [
        (lambda: threadlets.Syslet(), TypeError, "missing 2 required"),
        (lambda: _opens.run(5), TypeError, "argument 'path': expected str, bytes or os.PathLike"),
        (lambda: _opens.run(), TypeError, "misses argument 'path'"),
    ],
    "ThreadletExecutor": [
        (lambda: threadlets.ThreadletExecutor("x"), TypeError, "max_workers is 'x', of type str"),
        (lambda: threadlets.ThreadletExecutor(0), ValueError, "at least 1"),
        (lambda: threadlets.ThreadletExecutor(threads_max="x"), TypeError, "threads_max is 'x'"),
        (lambda: _after_shutdown().submit(len, ""), RuntimeError, "shutdown"),
    ],
    "ThreadletsError": [],
    "call": [
        (lambda: threadlets.call(), TypeError, "takes a function and its arguments"),
        (lambda: threadlets.call(5), TypeError, "pass the function itself, as in call(f, x)"),
        (lambda: threadlets.call(len, "").__await__().send(None), RuntimeError, "threadlets.run("),
    ],
    "copy_file": [(lambda: threadlets.copy_file(), TypeError, "'source' and 'target'")],
    "engine": [(lambda: threadlets.engine(5), TypeError, "takes 0 positional arguments")],
    "fp": [
        (lambda: fp.environment(rounding="x"), ValueError, "rounding is 'x'; it is 'nearest'"),
        (lambda: fp.environment(rounding=5), TypeError, "rounding is 5, of type int; it is"),
        (lambda: fp.environment(flush_to_zero="x"), TypeError, "flush_to_zero is 'x', of type str"),
        (lambda: fp.environment(denormals_are_zero=1), TypeError, "pass True, False or None"),
    ],
    "ledger": [(lambda: threadlets.ledger(), RuntimeError, "within threadlets.run(main())")],
    "new_event_loop": [
        (lambda: threadlets.new_event_loop(threads_max="4"), TypeError, "pass an int"),
        (lambda: threadlets.new_event_loop(threads_max=0), ValueError, "at least 1"),
        (
            lambda: threadlets.new_event_loop(threads_max=-1),
            ValueError,
            "threads_max is -1; it must",
        ),
        (lambda: threadlets.new_event_loop(threads_max=10**30), ValueError, "limit, 4194304"),
        (lambda: threadlets.new_event_loop(executor="x"), ValueError, "executor is 'x'; it is"),
        (
            lambda: threadlets.new_event_loop(preempt_ms="x"),
            TypeError,
            "preempt_ms is 'x', of type",
        ),
        (lambda: threadlets.new_event_loop(preempt_ms=-1), ValueError, "preempt_ms is -1; it is"),
        (lambda: threadlets.new_event_loop(tasks="x"), ValueError, "tasks is 'x'; it is 'native'"),
        (lambda: threadlets.new_event_loop(fp="x"), ValueError, "fp is 'x'; it is 'restore'"),
        (lambda: threadlets.new_event_loop(fp=5), TypeError, "fp is 5, of type int; it is"),
        (lambda: threadlets.new_event_loop(leaks="x"), ValueError, "leaks is 'x'; it is 'warn'"),
    ],
    "open": [
        (lambda: threadlets.open(5.0), TypeError, "os.PathLike object, not float"),
        (lambda: threadlets.open("x", "q"), ValueError, "invalid mode: 'q'"),
        (lambda: threadlets.open("x", 5), TypeError, "argument 'mode' must be str, not int"),
    ],
    "read_file": [(lambda: threadlets.read_file(), TypeError, "'path'")],
    "run": [
        (lambda: threadlets.run(), TypeError, "'main'"),
        (lambda: threadlets.run(5), (ValueError, TypeError), "a coroutine"),
    ],
    "sleep": [
        (lambda: threadlets.sleep("x"), TypeError, "delay is 'x', of type str; it is a time in"),
        (lambda: threadlets.sleep(None), TypeError, "pass a float or an int"),
        (lambda: threadlets.sleep(_NAN), ValueError, "delay is NaN; it is a time in seconds"),
        (lambda: threadlets.sleep(1), RuntimeError, "within threadlets.run(main())"),
    ],
    "stats": [(lambda: threadlets.stats(), RuntimeError, "within threadlets.run(main())")],
    "stay": [(lambda: threadlets.stay(), RuntimeError, "within threadlets.run(main())")],
    "sweep": [
        (lambda: threadlets.sweep(len, []), TypeError, "make one with @threadlets.syslet"),
        (lambda: threadlets.sweep(_opens, 5), TypeError, "inputs is 5, of type int"),
        (lambda: threadlets.sweep(_opens, [], depth="x"), TypeError, "depth is 'x', of type str"),
        (lambda: threadlets.sweep(_opens, [], depth=0), ValueError, "depth is 0; a sweep has at"),
        (lambda: threadlets.sweep(_opens, [], timeout="x"), TypeError, "timeout is 'x', of type"),
        (lambda: threadlets.sweep(_opens, [], pool=5), TypeError, "pass a BufferPool"),
        (lambda: list(threadlets.sweep(_opens, [5])), TypeError, "argument 'path': expected str"),
    ],
    "syslet": [
        (lambda: threadlets.syslet(5), TypeError, "function is 5, of type int; it is a generator"),
        (lambda: threadlets.syslet(len), TypeError, "write it with def and yield"),
        (lambda: threadlets.syslet(_coroutine), TypeError, "a syslet is a generator function"),
    ],
    "threadlet": [
        (lambda: threadlets.threadlet(5), TypeError, "function is 5, of type int"),
        (lambda: threadlets.threadlet(_coroutine), TypeError, "leave the decorator out"),
        (lambda: threadlets.threadlet(pool=5)(len), TypeError, "pass a threadlets.Pool"),
        (lambda: threadlets.threadlet(fp=5)(len), TypeError, "threadlets.fp.environment"),
    ],
    "walk": [(lambda: threadlets.walk(), TypeError, "'top'")],
    "write_file": [(lambda: threadlets.write_file("x"), TypeError, "'data'")],
}


def _after_shutdown() -> threadlets.ThreadletExecutor:
    executor = threadlets.ThreadletExecutor()
    executor.shutdown()
    return executor


def test_everything_public_is_in_the_table() -> None:
    """A new function or class gets its line here."""
    assert set(threadlets.__all__) == set(_OUTSIDE)


@pytest.mark.parametrize(
    ("call", "kind", "expected"),
    [case for cases in _OUTSIDE.values() for case in cases],
    ids=[f"{name}-{i}" for name, cases in _OUTSIDE.items() for i in range(len(cases))],
)
def test_wrong_use_is_named(
    call: Callable[[], Any], kind: type[BaseException], expected: str
) -> None:
    """By the argument, what it was given, and what it takes; not in the words of the interpreter."""
    with pytest.raises(kind) as caught:
        _discard(call())
    assert expected in str(caught.value)
    assert not _UNCLEAR.search(str(caught.value))


async def _started(what: Any, **options: Any) -> None:
    scope = threadlets.Scope()
    try:
        async with scope:
            scope.start(what, **options)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _after_its_end() -> None:
    async with threadlets.Scope() as scope:
        pass
    scope.start(len, "")


async def _entered_twice() -> None:
    async with threadlets.Scope() as scope:
        pass
    async with scope:
        pass


async def _drained(timeout: Any) -> None:
    await threadlets.Scope().drain(timeout)


async def _awaited_twice() -> None:
    call = threadlets.call(len, "")
    await call
    await call


async def _walked(top: Any) -> None:
    async for _ in threadlets.walk(top):
        pass


async def _read_after_close(path: Path) -> None:
    file = await threadlets.open(path)
    await file.close()
    await file.read()


async def _written_though_read(path: Path) -> None:
    async with threadlets.open(path) as file:
        await file.write("x")


_INSIDE: list[tuple[Callable[[Path], Any], type[BaseException], str]] = [
    (lambda _: threadlets.call(_coroutine), TypeError, "await it directly"),
    (lambda _: threadlets.sleep("x"), TypeError, "delay is 'x', of type str"),
    (lambda _: threadlets.run(_coroutine()), RuntimeError, "await the coroutine there instead"),
    (lambda _: _awaited_twice(), RuntimeError, "make another with threadlets.call()"),
    (lambda _: _started(5), TypeError, "a scope starts coroutines, functions, programs and"),
    (lambda _: _started(len, fp=5), TypeError, "threadlets.fp.environment"),
    (lambda _: _after_its_end(), RuntimeError, "has ended: requests are started inside"),
    (lambda _: _entered_twice(), RuntimeError, "Scope"),
    (lambda _: _drained("x"), TypeError, "timeout is 'x', of type str"),
    (lambda _: _opens(5), TypeError, "argument 'path': expected str, bytes or os.PathLike object"),
    (lambda _: _opens(), TypeError, "misses argument 'path'"),
    (lambda _: threadlets.read_file(5.0), TypeError, "argument 'path': expected str, bytes or"),
    (lambda _: threadlets.read_file("nowhere"), FileNotFoundError, "'nowhere'"),
    (lambda path: threadlets.write_file(path, "x"), TypeError, "pass encoding='utf-8', or bytes"),
    (lambda path: threadlets.write_file(path, 5), TypeError, "a bytes-like object is required"),
    (lambda _: threadlets.copy_file(5, 6), TypeError, "argument 'source': expected str"),
    (lambda path: threadlets.copy_file(path, path), OSError, "are the same file"),
    (lambda _: _walked(5.0), TypeError, "os.PathLike object, not float"),
    (_read_after_close, ValueError, "closed file"),
    (_written_though_read, OSError, "not writable"),
    (lambda _: asyncio.get_running_loop().run_forever(), RuntimeError, "already running"),
    (lambda _: asyncio.get_running_loop().close(), RuntimeError, "Cannot close a running"),
    (lambda _: asyncio.get_running_loop().create_task(5), TypeError, "a coroutine was expected"),
]


@pytest.mark.parametrize(("call", "kind", "expected"), _INSIDE)
def test_wrong_use_on_a_loop_is_named(
    tmp_path: Path,
    run: Callable[..., Any],
    call: Callable[[Path], Any],
    kind: type[BaseException],
    expected: str,
) -> None:
    """The same, of what needs a loop, in wrong states and in the wrong order."""
    path = tmp_path / "file"
    path.write_text("contents")

    async def main() -> None:
        result = call(path)
        if inspect.isawaitable(result):
            await result

    with pytest.raises(kind) as caught:
        run(main())
    assert expected in str(caught.value)
    assert not _UNCLEAR.search(str(caught.value))


def test_closed_loop_says_how_to_get_another() -> None:
    """The error has cause and remedy."""
    loop = threadlets.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match=r"make another with threadlets\.new_event_loop"):
        loop.call_soon(print)


def test_another_loop_is_named() -> None:
    """What needs a threadlets loop says so on the stock one."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"the running loop is .*threadlets\.run"):
            threadlets.stats()
        with pytest.raises(RuntimeError, match=r"threadlets\.run"):
            await threadlets.call(len, "")

    asyncio.run(main())
