"""Tasks: their steps, contexts, names and ends, and what is seen of them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import io
import sys
import threading
import weakref
from typing import Any

import pytest
import threadlets
from waiting import eventually

from .harness import Raw, Run, Script, collect, native_only, note_failures, ticks


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_each_task_has_a_context_of_its_own(run: Run) -> None:
    """A context variable that a task sets is seen by its own next steps, and by no other task."""

    async def main() -> list[Any]:
        variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

        async def body(number: int) -> int:
            variable.set(number)
            await asyncio.sleep(0)
            return variable.get()

        got: list[Any] = await asyncio.gather(*(body(number) for number in range(1, 4)))
        return [*got, variable.get()]

    assert [1, 2, 3, 0] == run(main())


def test_a_given_context_is_used_as_it_is(run: Run) -> None:
    """`context=` is not copied: it holds afterwards what the task has set."""

    async def main() -> tuple[str, bool]:
        variable = contextvars.ContextVar("variable", default="none")
        context = contextvars.copy_context()

        async def body() -> None:
            await asyncio.sleep(0)
            variable.set("set")

        task = asyncio.get_running_loop().create_task(body(), context=context)
        await task
        is_same = sys.version_info < (3, 12) or task.get_context() is context
        return context[variable], is_same

    assert ("set", True) == run(main())


def test_the_current_task_is_the_one_whose_code_runs(run: Run) -> None:
    """In a step the task is current, in a callback none; another thread has none of its own."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        seen: list[Any] = []

        async def body() -> None:
            seen.append(asyncio.current_task() is task)
            await asyncio.sleep(0)
            seen.append(asyncio.current_task() is task)

        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        task = asyncio.create_task(body())
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        await task

        def other() -> None:
            with contextlib.suppress(RuntimeError):
                seen.append(asyncio.current_task())
            seen.append(asyncio.current_task(loop) is outer)

        outer = asyncio.current_task()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return seen

    assert [None, True, None, True, True] == run(main())


def test_no_task_is_current_in_a_protocol(run: Run) -> None:
    """No task is current in a protocol's methods."""

    async def main() -> list[Any]:
        seen: list[Any] = []
        lost = asyncio.Event()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                seen.append(asyncio.current_task())
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                seen.append(asyncio.current_task())
                self.transport.close()

            def connection_lost(self, error: BaseException | None) -> None:
                seen.append(asyncio.current_task())
                lost.set()

        server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            await lost.wait()
            writer.close()
            await writer.wait_closed()
        return seen

    assert [None, None, None] == run(main())


def test_all_tasks_are_those_that_have_not_ended(run: Run) -> None:
    """`all_tasks` has each task once, wherever it waits."""

    async def main() -> list[int]:
        tasks = [asyncio.create_task(forever()) for _ in range(3)]
        quick = asyncio.create_task(asyncio.sleep(0))
        counts = [len(asyncio.all_tasks() & {*tasks, quick})]
        await quick
        counts.append(len(asyncio.all_tasks() & {*tasks, quick}))
        tasks.pop().cancel()
        await ticks(2)
        counts.append(len(asyncio.all_tasks()) - 1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return [*counts, len(asyncio.all_tasks()) - 1]

    # `all_tasks` has the runner's own task, too.
    assert [4, 3, 2, 0] == run(main())


def test_names(run: Run) -> None:
    """A name is given, generated, or changed, and is always a string."""

    async def main() -> list[Any]:
        given = asyncio.create_task(asyncio.sleep(0), name="given")
        number: Any = 7
        numbered = asyncio.create_task(asyncio.sleep(0), name=number)
        made_up = asyncio.create_task(asyncio.sleep(0))
        names = [given.get_name(), numbered.get_name(), made_up.get_name().startswith("Task-")]
        given.set_name(["x"])
        return [*names, given.get_name(), "name=\"['x']\"" in repr(given)]

    assert ["given", "7", True, "['x']", True] == run(main())


def test_its_repr_tells_where_it_is(run: Run) -> None:
    """The repr says pending and what is awaited, cancelling, or done and with which outcome."""

    async def main() -> list[bool]:
        async def returns() -> int:
            return 1

        async def fails() -> None:
            raise KeyError("x")

        waits = asyncio.create_task(forever(), name="w")
        ends, breaks = asyncio.create_task(returns()), asyncio.create_task(fails())
        await ticks(2)
        shown = [
            "<Task pending name='w' coro=<forever() running at" in repr(waits),
            "wait_for=<Future pending cb=[Task" in repr(waits),
            "result=1>" in repr(ends),
            "exception=KeyError('x')>" in repr(breaks),
        ]
        breaks.exception()
        waits.cancel()
        shown.append("<Task cancelling name='w'" in repr(waits))
        await asyncio.wait([waits])
        return [*shown, "<Task cancelled name='w'" in repr(waits)]

    assert [True] * 6 == run(main())


def test_its_stack(run: Run) -> None:
    """A suspended task has its frame, a failed one its traceback's, an ended one none."""

    async def main() -> list[Any]:
        async def fails() -> None:
            raise KeyError("x")

        waits, breaks = asyncio.create_task(forever()), asyncio.create_task(fails())
        ends = asyncio.create_task(asyncio.sleep(0))
        await ticks(2)
        me = asyncio.current_task()
        assert me is not None
        stacks = [
            [frame.f_code.co_name for frame in task.get_stack(limit=3)]
            for task in (waits, breaks, ends)
        ]
        text = io.StringIO()
        waits.print_stack(file=text)
        breaks.print_stack(file=text)
        ends.print_stack(file=text)
        breaks.exception()
        waits.cancel()
        shown = text.getvalue()
        return [*stacks, "Stack for" in shown, "KeyError: 'x'" in shown, "No stack for" in shown]

    assert [["forever"], ["fails"], [], True, True, True] == run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_loop_leaves_the_task_failed(
    loop: asyncio.AbstractEventLoop, error: type[BaseException]
) -> None:
    """KeyboardInterrupt and SystemExit leave the loop, and are the task's exception."""

    async def body() -> None:
        await asyncio.sleep(0)
        raise error("x")

    task = loop.create_task(body())
    with pytest.raises(error):
        loop.run_forever()
    assert type(task.exception()) is error
    assert "goes on" == loop.run_until_complete(asyncio.sleep(0, "goes on"))


@pytest.mark.parametrize("error", [GeneratorExit, BaseException, StopAsyncIteration])
def test_other_base_exceptions_are_the_tasks_own(run: Run, error: type[BaseException]) -> None:
    """These exceptions are raised where the task is awaited, and do not end the loop."""

    async def main() -> bool:
        async def body() -> None:
            await asyncio.sleep(0)
            raise error("x")

        task = asyncio.create_task(body())
        await asyncio.wait([task])
        return type(task.exception()) is error

    assert run(main())


def test_stop_iteration_in_a_coroutine(run: Run) -> None:
    """Python converts it to RuntimeError; a coroutine of another type ends with its value."""

    async def main() -> tuple[str, Any]:
        async def body() -> None:
            raise StopIteration("x")

        class Ends(Raw):
            def send(self, value: Any) -> Any:
                raise StopIteration("result")

        task = asyncio.create_task(body())
        await asyncio.wait([task])
        raw: Any = Ends(it for it in ())
        return type(task.exception()).__name__, await asyncio.create_task(raw)

    assert ("RuntimeError", "result") == run(main())


def test_coroutines_of_another_make(run: Run) -> None:
    """An object with send, throw and close is run like a coroutine, and can be cancelled."""

    async def main() -> tuple[Any, list[str]]:
        caught: list[str] = []

        async def body() -> str:
            await asyncio.sleep(0)
            try:
                await forever()
            except asyncio.CancelledError:
                caught.append("cancelled")
            await asyncio.sleep(0.001)
            return "result"

        raw: Any = Raw(body().__await__())
        task: Any = asyncio.create_task(raw)
        await ticks(2)
        task.cancel()
        return await task, caught

    assert ("result", ["cancelled"]) == run(main())


@native_only
def test_another_coroutine_is_resumed_instead(run: Run) -> None:
    """`_coro` may be set while the task runs or waits: its next step resumes the new coroutine."""

    async def first() -> str:
        await asyncio.sleep(0)
        return "first"

    async def around(coroutine: Any) -> str:
        return f"around {await coroutine}"

    async def replaces_itself() -> str:
        task: Any = asyncio.current_task()
        inner = first()
        task._coro = around(inner)
        await asyncio.sleep(0)
        return "not resumed"

    async def main() -> list[str]:
        waits: Any = asyncio.create_task(first())
        outer = around(waits.get_coro())
        waits._coro = outer
        assert waits.get_coro() is outer
        return await asyncio.gather(waits, asyncio.create_task(replaces_itself()))

    assert ["around first"] * 2 == run(main())


@pytest.mark.parametrize("wrong", [1, lambda: None, forever, None], ids=lambda it: str(type(it)))
def test_only_coroutines_make_tasks(run: Run, wrong: Any) -> None:
    """Anything but a coroutine is refused with TypeError at once."""

    async def main() -> None:
        with pytest.raises(TypeError, match="a coroutine was expected"):
            await asyncio.create_task(wrong)

    run(main())


def test_a_pending_task_that_goes_is_reported_once(run: Run) -> None:
    """A pending task that nothing can wake any more is collected, and the handler is called."""

    async def main() -> tuple[list[str], bool]:
        failures = note_failures()
        task = asyncio.create_task(forever(), name="lost")
        await ticks(1)
        reference = weakref.ref(task)
        del task
        collect()
        messages = [it["message"] for it in failures]
        assert "lost" in repr(failures[0]["task"])
        failures.clear()
        collect()
        return messages, reference() is None

    assert (["Task was destroyed but it is pending!"], True) == run(main())


def test_an_ended_task_keeps_nothing_alive(run: Run) -> None:
    """Arguments and locals of a coroutine are freed at its end, without the collector."""

    async def main() -> list[bool]:
        class Thing:
            pass

        async def body(thing: Thing) -> None:
            await asyncio.sleep(0)

        gc.disable()
        try:
            thing = Thing()
            reference = weakref.ref(thing)
            task = asyncio.create_task(body(thing))
            del thing
            await task
            gone = [reference() is None]
            task_reference = weakref.ref(task)
            del task
            await ticks(1)
            return [*gone, task_reference() is None]
        finally:
            gc.enable()

    assert [True, True] == run(main())


def test_rounds_of_tasks_leave_nothing(run: Run) -> None:
    """After a hundred thousand tasks there are as many objects as before."""

    async def main() -> int:
        async def body(future: asyncio.Future[None]) -> None:
            await future

        async def rounds(n_rounds: int) -> None:
            for _ in range(n_rounds):
                futures = [asyncio.get_running_loop().create_future() for _ in range(100)]
                tasks = [asyncio.create_task(body(it)) for it in futures]
                await ticks(1)
                for future in futures:
                    future.set_result(None)
                await asyncio.gather(*tasks)

        await rounds(10)
        collect()
        before = len(gc.get_objects())
        await rounds(1000)
        collect()
        return len(gc.get_objects()) - before

    assert abs(run(main())) < 100


def test_set_result_is_not_for_tasks(run: Run) -> None:
    """A task's result comes from its coroutine: `set_result` and `set_exception` are refused."""

    async def main() -> None:
        task: Any = asyncio.create_task(asyncio.sleep(0))
        for refuse in (task.set_result, task.set_exception):
            with pytest.raises(RuntimeError, match="Task does not support"):
                refuse(KeyError("x"))
        await task

    run(main())


def test_foreign_tasks_and_ours_wait_for_each_other(run: Run) -> None:
    """Tasks of a task factory's class and the loop's own can await each other."""

    class Mine(asyncio.Task):  # type: ignore[type-arg]
        pass

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def inner() -> Any:
            assert isinstance(asyncio.current_task(), Mine)
            return await future

        async def outer(task: Any) -> Any:
            assert asyncio.current_task() is not None
            return await task

        plain = asyncio.create_task(outer(future))
        loop.set_task_factory(lambda loop, coro, **kw: Mine(coro, loop=loop, **kw))
        first = asyncio.create_task(inner())
        loop.set_task_factory(None)
        second = asyncio.create_task(outer(first))
        loop.set_task_factory(lambda loop, coro, **kw: Mine(coro, loop=loop, **kw))
        third = asyncio.create_task(outer(second))
        loop.set_task_factory(None)
        await ticks(3)
        assert asyncio.all_tasks() >= {plain, first, second, third}
        future.set_result(5)
        results = [await third, await plain]
        # A cancellation passes through both kinds.
        waits = Mine(forever(), loop=loop)
        chain = asyncio.create_task(outer(waits))
        await ticks(2)
        chain.cancel("stop")
        await asyncio.wait([chain])
        return [*results, isinstance(third, Mine), waits.cancelled(), chain.cancelled()]

    assert [5, 5, True, True, True] == run(main())


def test_a_task_that_awaits_itself(run: Run) -> None:
    """A task that awaits itself gets RuntimeError instead of waiting for ever."""

    async def main() -> str:
        async def body() -> None:
            await task

        task = asyncio.create_task(body())
        with pytest.raises(RuntimeError, match="Task cannot await on itself"):
            await task
        return "refused"

    assert "refused" == run(main())


def test_debug_mode_knows_the_source(run: Run) -> None:
    """A task and a future that are made in debug mode know where they were made."""

    async def main() -> list[bool]:
        task: Any = asyncio.create_task(asyncio.sleep(0))
        future: Any = asyncio.get_running_loop().create_future()
        return [
            "main" in {frame.name for frame in it._source_traceback} for it in (task, future)
        ] + ["created at" in repr(task)]

    assert [True, True, True] == run(main(), debug=True)


def test_interpreter_ends_with_pending_tasks(script: Script) -> None:
    """A loop that still has pending tasks neither crashes the interpreter's end nor hangs it."""
    code, output, _ = script("""
        async def forever():
            await asyncio.get_running_loop().create_future()

        loop = new_loop()
        tasks = [loop.create_task(forever()) for _ in range(3)]
        loop.run_until_complete(asyncio.sleep(0))
        print("end")
    """)
    assert (0, "end\n") == (code, output)


def test_a_forked_child_runs_a_loop_of_its_own(script: Script) -> None:
    """In the child the parent's tasks do not run, and a new loop works."""
    code, output, errors = script("""
        import warnings
        warnings.simplefilter("ignore")

        async def child():
            await asyncio.sleep(0)
            return "child"

        async def main():
            pid = os.fork()
            if pid == 0:
                asyncio.events._set_running_loop(None)
                loop = new_loop()
                print(loop.run_until_complete(child()), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            print("parent", flush=True)

        loop = new_loop()
        loop.run_until_complete(main())
        loop.close()
    """)
    assert (0, "child\nparent\n") == (code, output), errors


@native_only
def test_cancelled_during_a_call_that_lost_the_role(run: Run) -> None:
    """The task is cancelled once its function has returned; the function is not disturbed."""

    async def main() -> tuple[list[str], bool]:
        opened, entered = threading.Event(), threading.Event()
        ran: list[str] = []

        def blocks() -> None:
            entered.set()
            opened.wait(10)
            ran.append("function")

        async def body() -> None:
            await threadlets.call(blocks)
            await asyncio.sleep(0)
            ran.append("task")

        task = asyncio.create_task(body())
        await eventually(entered.is_set)
        task.cancel()
        opened.set()
        await asyncio.wait([task])
        return ran, task.cancelled()

    assert (["function"], True) == run(main())


@native_only
def test_a_task_is_initialised_once(run: Run) -> None:
    """A second `__init__` is refused in any state: the loop would list the task twice."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        coroutine = asyncio.sleep(0)
        task = loop.create_task(coroutine)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a task runs one coroutine"):
                type(task).__init__(task, coroutine, loop=loop)
        assert {task} == asyncio.all_tasks() - {asyncio.current_task()}
        await task
        with pytest.raises(RuntimeError, match="a task runs one coroutine"):
            type(task).__init__(task, coroutine, loop=loop)

    run(main())
