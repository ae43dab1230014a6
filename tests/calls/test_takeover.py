"""The role: there is one dispatcher at a time, whatever functions block, compute or return."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import threadlets
from waiting import eventually

from .harness import Gate, n_takeovers

pytestmark = pytest.mark.starts("inline")

# The full test makes millions of calls: `THREADLETS_STRESS=100 pytest -k at_once`.
_STRESS = int(os.environ.get("THREADLETS_STRESS", "1"))


@pytest.mark.starts("inline", "beside", "auto")
@pytest.mark.timeout(120 * max(1, _STRESS))
def test_no_two_requests_run_at_once(run: Any) -> None:
    """Under random blocking, computing, failing and cancelling, no update is lost between awaits.

    Each task reads a shared number, does something that gives others every chance to run, and
    writes it back: without mutual exclusion updates are lost.
    """
    n_tasks, n_rounds = 50, 300 * _STRESS
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    shared = {"number": 0, "inside": 0}

    def work(kind: float) -> float:
        if kind < 0.02:
            time.sleep(kind / 10)
        elif kind < 0.10:
            os.stat("/")
        elif kind < 0.12:
            hashlib.sha256(b"x" * 20_000).digest()
        elif kind < 0.13:
            raise KeyError(kind)
        return kind

    def exclusive() -> None:
        shared["inside"] += 1
        assert 1 == shared["inside"]
        number = shared["number"]
        for _ in range(20):
            pass
        shared["number"] = number + 1
        shared["inside"] -= 1

    async def worker() -> None:
        for _ in range(n_rounds):
            exclusive()
            kind = choice.random()
            try:
                assert await threadlets.call(work, kind) == kind
            except KeyError:
                assert 0.12 <= kind < 0.13
            exclusive()
            if kind < 0.2:
                await asyncio.sleep(0 if kind < 0.15 else choice.random() / 1000)
            elif kind < 0.21:
                await asyncio.to_thread(time.sleep, 0.0001)
            elif kind < 0.22:
                await threadlets.call(work, kind, abandon_on_cancel=True)

    async def main() -> None:
        async with asyncio.timeout(100 * _STRESS):
            await asyncio.gather(*(worker() for _ in range(n_tasks)))

    threadlets.run(main())
    assert shared == {"number": 2 * n_tasks * n_rounds, "inside": 0}


@pytest.mark.starts("inline", "beside")
def test_blocking_clients_are_served_by_their_own_loop(run: Any) -> None:
    """Ten blocking clients and their server share one loop."""
    import socket

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
        writer.close()

    def client(address: tuple[str, int]) -> int:
        n_bytes = 0
        with socket.create_connection(address) as connection:
            for number in range(50):
                connection.sendall(b"%d" % number)
                n_bytes += len(connection.recv(100))
        return n_bytes

    async def main() -> list[int]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        async with server:
            return await asyncio.gather(*(threadlets.call(client, address) for _ in range(10)))

    assert [90] * 10 == run(main())


@pytest.mark.starts("inline", "beside")
def test_a_thousand_functions_block_at_once_and_their_threads_go_away(run: Any) -> None:
    """There are as many threads as blocked functions, and all of them end afterwards."""

    async def main() -> None:
        gates = [Gate() for _ in range(1000)]
        tasks = [asyncio.create_task(threadlets.call(gate)) for gate in gates]
        for gate in gates:
            await gate.entered.wait()
        stats = threadlets.stats()
        assert 1000 == stats["blocked"]
        assert stats["threads"] >= 1000
        for gate in gates:
            gate.open()
        await asyncio.gather(*tasks)
        await eventually(lambda: threadlets.stats()["threads"] == 0)
        assert threadlets.stats()["threads_peak"] >= 1000

    run(main())


def test_at_the_limit_of_threads_calls_wait_and_the_loop_does_not(run: Any) -> None:
    """A call does not begin if no worker could take over from it."""

    async def main() -> None:
        gates = [Gate() for _ in range(10)]
        tasks = [asyncio.create_task(threadlets.call(gate)) for gate in gates]
        for gate in gates[:3]:
            await gate.entered.wait()
        await asyncio.sleep(0)
        assert [True] * 3 + [False] * 7 == [gate.thread is not None for gate in gates]
        assert 3 == threadlets.stats()["threads"]
        assert threadlets.stats()["calls_held"] >= 7
        for gate in gates:
            gate.open()
        await asyncio.gather(*tasks)
        assert 3 == threadlets.stats()["threads_peak"]

    run(main(), threads_max=3)


def test_function_that_computes_lets_the_loop_go_on(run: Any) -> None:
    """Python code that never blocks loses the role after `preempt_ms`."""
    stop = threading.Event()

    def compute() -> int:
        number = 0
        while not stop.is_set():
            number += 1
        return number

    async def main() -> None:
        task = asyncio.create_task(threadlets.call(compute))
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        stop.set()
        assert await task > 0
        assert threadlets.stats()["takeovers_overdue"] >= 1

    run(main(), preempt_ms=1)


def test_function_that_computes_without_the_gil_lets_the_loop_go_on(run: Any) -> None:
    """C code that computes is noticed although its thread never sleeps."""

    async def main() -> None:
        task = asyncio.create_task(
            threadlets.call(hashlib.pbkdf2_hmac, "sha256", b"password", b"salt", 1_000_000)
        )
        await asyncio.sleep(0)
        assert not task.done()
        await task
        assert n_takeovers(threadlets.stats()) >= 1

    run(main(), preempt_ms=None)


def test_threads_have_names(run: Any) -> None:
    """Workers have names for the interpreter and for the kernel, which `py-spy` and `top` show."""

    async def main() -> None:
        gate, second = Gate(), Gate()
        first = asyncio.create_task(threadlets.call(gate))
        await gate.entered.wait()
        # Another worker has the role now, and is blocked as well.
        task = asyncio.create_task(threadlets.call(second))
        await second.entered.wait()
        names = {thread.name for thread in threading.enumerate()}
        kernel_names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
        assert {"threadlets-1", "threadlets-2"} <= names
        assert {"threadlets-1", "threadlets-2"} <= kernel_names
        gate.open()
        second.open()
        await asyncio.gather(first, task)
        await eventually(lambda: threadlets.stats()["threads"] == 0)
        assert not any(thread.name.startswith("threadlets") for thread in threading.enumerate())

    run(main())


def test_home_gets_the_role_back_between_requests(run: Any) -> None:
    """Objects of the home thread are of use again once its function has returned."""

    async def main() -> None:
        home = threading.get_ident()
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate))
        await gate.entered.wait()
        assert threading.get_ident() != home
        gate.open()
        await task
        await eventually(lambda: threading.get_ident() == home)

    async def at_home() -> None:
        # The task that blocks is not the one that asks.
        await asyncio.create_task(main())

    run(at_home())


@pytest.mark.starts("inline", "beside")
def test_tasks_that_share_a_context_take_turns(run: Any) -> None:
    """While one task is blocked inside the context, the other waits instead of failing."""

    async def main() -> None:
        import contextvars

        loop = asyncio.get_running_loop()
        failures: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: failures.append(context))
        context = contextvars.copy_context()
        gate = Gate()
        first = loop.create_task(threadlets.call(gate, 1), context=context)
        await gate.entered.wait()
        second = loop.create_task(threadlets.call(int, 2), context=context)
        timer = loop.create_future()
        loop.call_later(0, timer.set_result, 3, context=context)
        # Long enough for both to run, if they could.
        await asyncio.sleep(0.01)
        assert not second.done()
        assert not timer.done()
        gate.open()
        assert [1, 2, 3] == await asyncio.gather(first, second, timer)
        assert [] == failures

    run(main())
    run(main(), debug=True)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="needs eager tasks (3.12)")
def test_protocol_that_is_blocked_is_not_called_again_until_it_returns(run: Any) -> None:
    """An eager task blocks inside `data_received`; more data waits until that is over."""

    class Protocol(asyncio.Protocol):
        def __init__(self, gate: Gate) -> None:
            self.gate = gate
            self.log: list[bytes] = []
            self.inside = False

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert not self.inside
            self.inside = True
            asyncio.get_running_loop().create_task(self.handle(data))
            self.inside = False

        async def handle(self, data: bytes) -> None:
            if data == b"block":
                await threadlets.call(self.gate)
            self.log.append(data)

    async def main() -> None:
        import socket

        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        gate = Gate()
        ours, theirs = socket.socketpair()
        with theirs:
            _, protocol = await loop.create_connection(lambda: Protocol(gate), sock=ours)
            theirs.send(b"block")
            await gate.entered.wait()
            theirs.send(b"more")
            # Long enough for the data to be received, if it could.
            await asyncio.sleep(0.01)
            assert [] == protocol.log
            gate.open()
            await eventually(lambda: len(protocol.log) == 2)
            assert [b"block", b"more"] == protocol.log
            protocol.transport.abort()
            await asyncio.sleep(0)

    run(main())


@pytest.mark.starts("inline", "beside")
def test_lock_that_is_acquired_in_a_threadlet_does_not_stop_the_loop(run: Any) -> None:
    """A threading lock may be held across a call if others acquire it in a call as well."""
    lock = threading.Lock()

    async def hold(gate: Gate) -> None:
        with lock:
            await threadlets.call(gate)

    async def main() -> None:
        gate = Gate()
        holder = asyncio.create_task(hold(gate))
        await gate.entered.wait()
        waiter = asyncio.create_task(threadlets.call(lock.acquire))
        await eventually(lambda: threadlets.stats()["blocked"] == 2)
        assert not waiter.done()
        gate.open()
        await holder
        assert await waiter
        lock.release()

    run(main())
