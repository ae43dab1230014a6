"""asyncio's tools show which tasks await which, in the process and from outside."""

from __future__ import annotations

import asyncio
import io
import sys
from typing import Any

import pytest
import threadlets

from .harness import Run, Script, ticks

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="call graphs came with Python 3.14"
)


def _names(graph: Any) -> dict[str, Any]:
    """Return the names of the tasks that await a future, each with those that await it."""
    return {
        getattr(it.future, "get_name", lambda: "a future")(): _names(it) for it in graph.awaited_by
    }


def _graph(future: asyncio.Future[Any]) -> dict[str, Any]:
    graph = asyncio.capture_call_graph(future)  # type: ignore[attr-defined]
    assert graph is not None
    return _names(graph)


@pytest.mark.parametrize("debug", [False, True])
def test_tasks_that_await_a_task_are_in_its_call_graph(run: Run, debug: bool) -> None:
    async def main() -> list[dict[str, Any]]:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]
        leaf = asyncio.create_task(asyncio.sleep(10), name="leaf")

        async def wait() -> None:
            await leaf

        graphs = [_graph(leaf)]
        one = asyncio.create_task(wait(), name="one")
        await asyncio.sleep(0)
        graphs.append(_graph(leaf))
        two = asyncio.create_task(wait(), name="two")
        await asyncio.sleep(0)
        graphs.append(_graph(leaf))
        leaf.cancel()
        await asyncio.gather(one, two, return_exceptions=True)
        assert not leaf._asyncio_awaited_by  # type: ignore[attr-defined]
        return graphs

    assert [{}, {"one": {}}, {"one": {}, "two": {}}] == run(main(), debug=debug)


@pytest.mark.parametrize("debug", [False, True])
def test_awaiters_by_a_group_or_by_gather_are_in_the_call_graph(run: Run, debug: bool) -> None:
    async def main() -> list[dict[str, Any]]:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]
        loop = asyncio.get_running_loop()
        gate = loop.create_future()

        async def leaf() -> None:
            await gate

        async def gather() -> None:
            await asyncio.gather(asyncio.create_task(leaf(), name="gathered"), leaf())

        async def shield() -> None:
            await asyncio.shield(gate)

        graphs = []

        async def look() -> None:
            # Let all other tasks reach their waits.
            await ticks(5)
            tasks = {it.get_name(): it for it in asyncio.all_tasks()}
            graphs.extend(_graph(tasks[name]) for name in ("grouped", "gathered"))
            graphs.append(_graph(gate))
            gate.set_result(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(leaf(), name="grouped")
            group.create_task(gather(), name="gathering")
            group.create_task(shield(), name="shielding")
            group.create_task(look(), name="looking")
        return graphs

    grouped, gathered, gate = run(main(), debug=debug)
    assert {"main": {}} == grouped
    assert {"gathering": {"main": {}}} == gathered
    assert {"grouped", "gathered", "shielding"} <= set(gate)
    assert {"main": {}} == gate["shielding"]


@pytest.mark.parametrize("debug", [False, True])
def test_future_that_was_awaited_has_no_awaiter(run: Run, debug: bool) -> None:
    async def main() -> Any:
        me = asyncio.current_task()
        loop = asyncio.get_running_loop()
        stock: asyncio.Future[None] = asyncio.Future(loop=loop)
        for future in (loop.create_future(), stock):
            loop.call_later(0.001, future.set_result, None)
            await future
            assert not future._asyncio_awaited_by
        task = asyncio.create_task(asyncio.sleep(10))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.001)
        async with asyncio.TaskGroup() as group:
            inner = group.create_task(asyncio.sleep(0))
        task.cancel()
        await asyncio.wait([task])
        return [it._asyncio_awaited_by for it in (task, inner, me)]

    assert [None, None, None] == [it or None for it in run(main(), debug=debug)]


def test_task_that_a_cancelled_scope_leaves_behind_has_no_awaiter() -> None:
    """A shielded task goes on, and the task that was cancelled no longer awaits it."""

    async def main() -> list[Any]:
        gate, in_shield = asyncio.Event(), asyncio.Event()

        async def shielded() -> None:
            async with threadlets.Scope(shield=True):
                in_shield.set()
                await gate.wait()

        async def waits() -> None:
            await inner

        async with threadlets.Scope() as scope:
            inner = asyncio.create_task(shielded())
            outer = scope.start(waits())
            await in_shield.wait()
            awaited_by = [inner._asyncio_awaited_by]  # type: ignore[attr-defined]
            scope.cancel()
        assert outer.cancelled()
        awaited_by.append(inner._asyncio_awaited_by)  # type: ignore[attr-defined]
        gate.set()
        await inner
        return [awaited_by[0] == {outer}, awaited_by[1]]

    assert [True, None] == threadlets.run(main(), debug=True)


def test_a_task_that_awaits_goes_with_what_it_awaits(run: Run) -> None:
    import gc
    import weakref

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        gone = []
        for future in (loop.create_future(), asyncio.Future(loop=loop)):

            async def wait(future: Any = future) -> None:
                await future

            task = asyncio.create_task(wait())
            await asyncio.sleep(0)
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            gone.append(weakref.ref(task))
            del task, future, wait
        gc.collect()
        return [it() for it in gone]

    assert [None, None] == run(main(), debug=True)


@pytest.mark.parametrize("debug", [False, True])
def test_a_call_graph_is_printed(run: Run, debug: bool) -> None:
    """`print_call_graph` shows a task's coroutines, and those of the tasks that await it."""

    async def main() -> str:
        gate = asyncio.get_running_loop().create_future()

        async def leaf() -> None:
            await gate

        async def branch() -> None:
            await inner

        inner = asyncio.create_task(leaf(), name="the leaf")
        outer = asyncio.create_task(branch(), name="the branch")
        await ticks(2)
        printed = io.StringIO()
        asyncio.print_call_graph(inner, file=printed)  # type: ignore[attr-defined]
        gate.set_result(None)
        await outer
        return printed.getvalue()

    printed = run(main(), debug=debug)
    order = [printed.index(it) for it in ("'the leaf'", ".leaf()", "'the branch'", ".branch()")]
    assert sorted(order) == order, printed


LOOKED_AT = """
import json, subprocess

LOOK = '''
import json, sys
from asyncio.tools import build_task_table, get_all_awaited_by
rows = build_task_table(get_all_awaited_by(int(sys.argv[1])))
print(json.dumps([[name, stack, awaiter] for _, _, name, stack, _, awaiter, *_ in rows]))
'''

def look():
    # Reading the state of a running process may fail.
    for _ in range(20):
        seen = subprocess.run([sys.executable, "-c", LOOK, str(os.getpid())], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if seen.returncode == 0:
            return sorted(map(tuple, json.loads(seen.stdout)))
    raise SystemExit(seen.stderr)

async def leaf():
    await asyncio.Event().wait()

async def wait(task):
    await task

async def gather():
    await asyncio.gather(asyncio.create_task(leaf(), name="gathered"))

async def main():
    asyncio.current_task().set_name("main")
    done = asyncio.create_task(asyncio.sleep(0), name="done")
    await done
    renamed = asyncio.create_task(leaf(), name="?")
    renamed.set_name("renamed")
    async with asyncio.TaskGroup() as group:
        group.create_task(wait(renamed), name="one")
        group.create_task(wait(renamed), name="two")
        group.create_task(gather(), name="gathering")
        for _ in range(5):
            await asyncio.sleep(0)
        for row in await asyncio.to_thread(look):
            print(*row, sep="|")
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

with asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
    runner.run(main())
print("over")
"""


def test_tasks_are_seen_from_outside_in_debug_mode(script: Script) -> None:
    status, out, err = script(LOOKED_AT)
    assert 0 == status, err
    rows = {tuple(it.split("|")) for it in out.splitlines()}
    assert ("over",) in rows
    assert ("main", "to_thread -> main", "") in rows
    assert {
        ("renamed", "Event.wait -> leaf", "one"),
        ("renamed", "Event.wait -> leaf", "two"),
        ("one", "wait", "main"),
        ("two", "wait", "main"),
        ("gathering", "gather", "main"),
        ("gathered", "Event.wait -> leaf", "gathering"),
    } <= rows
    assert "done" not in {name for name, *_ in rows}


@pytest.mark.parametrize(
    ("kind", "debug"),
    [("asyncio", True), ("native", True), ("switched", True), ("switched", False)],
    indirect=["kind"],
)
def test_the_commands_that_look_from_outside_show_tasks(script: Script, debug: bool) -> None:
    """`python -m asyncio ps` and `pstree` do in debug mode, and with asyncio's tasks in any mode."""
    status, out, err = script(
        f"""
        import subprocess

        async def leaf():
            await asyncio.Event().wait()

        async def branch(task):
            await task

        def look(command):
            # Reading the state of a running process may fail.
            for _ in range(20):
                argv = [sys.executable, "-m", "asyncio", command, str(os.getpid())]
                seen = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                if seen.returncode == 0 and "the leaf" in seen.stdout:
                    return seen.stdout
            raise SystemExit(seen.stdout + seen.stderr)

        async def main():
            inner = asyncio.create_task(leaf(), name="the leaf")
            outer = asyncio.create_task(branch(inner), name="the branch")
            await asyncio.sleep(0)
            seen = [await asyncio.to_thread(look, it) for it in ("ps", "pstree")]
            inner.cancel()
            await asyncio.wait([outer])
            return seen

        with asyncio.Runner(loop_factory=new_loop, debug={debug}) as runner:
            print(*runner.run(main()), sep="=====")
        """
    )
    assert 0 == status, err
    table, tree = out.split("=====")
    [row] = [it for it in table.splitlines() if "the leaf" in it and "the branch" in it]
    assert row.index("the leaf") < row.index("Event.wait -> leaf") < row.index("the branch")
    order = [tree.index(it) for it in ("the branch", " branch", "the leaf", " leaf", "Event.wait")]
    assert sorted(order) == order, tree


@pytest.mark.skipif(
    sys.version_info < (3, 15), reason="the sampling profiler came with Python 3.15"
)
def test_the_sampling_profiler_sees_tasks_in_debug_mode(script: Script) -> None:
    status, out, err = script(
        """
        import subprocess, threading

        async def leaf():
            await asyncio.Event().wait()

        async def branch():
            await asyncio.create_task(leaf(), name="the leaf")

        def look():
            command = ["-m", "profiling.sampling", "dump", "--async-aware", "--async-mode", "all"]
            for _ in range(20):
                seen = subprocess.run([sys.executable, *command, str(os.getpid())], stdout=subprocess.PIPE, text=True)
                if "in leaf" in seen.stdout:
                    break
            return seen.stdout

        async def main():
            task = asyncio.create_task(branch(), name="the branch")
            seen = await asyncio.to_thread(look)
            task.cancel()
            return seen

        with asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
            print(runner.run(main()))
        """
    )
    assert 0 == status, err
    stack = [it.rpartition(", in ")[2] for it in out.splitlines() if ", in " in it]
    at = stack.index("the branch")
    assert ["the branch", "branch", "the leaf", "leaf"] == stack[at : at + 4]


def test_many_tasks_join_and_leave_the_lists_that_are_seen(script: Script) -> None:
    """Tasks of several threads that were cancelled, destroyed or collected are not listed."""
    status, out, err = script(
        """
        import random, threading

        async def work(n):
            if n % 3:
                await asyncio.sleep(random.random() / 100)

        async def main():
            for _ in range(5):
                tasks = [asyncio.create_task(work(n), name=str(n)) for n in range(500)]
                for task in tasks[::7]:
                    task.cancel()
                await asyncio.wait(tasks[::2])
                for task in tasks[1::14]:
                    task._log_destroy_pending = False
                del task, tasks
                gc.collect()
                assert all(not it.done() for it in asyncio.all_tasks())
            return len(asyncio.all_tasks())

        def run():
            with asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
                assert 1 <= runner.run(main()) <= 501

        threads = [threading.Thread(target=run) for _ in range(3)]
        for it in threads: it.start()
        for it in threads: it.join()
        run()
        gc.collect()
        print("over")
        """
    )
    assert (0, "over") == (status, out.strip()), err
