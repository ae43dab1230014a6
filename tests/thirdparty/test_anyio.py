"""anyio, whose primitives use parts of the loop that asyncio's own do not use."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

anyio = pytest.importorskip("anyio", reason="anyio is not installed")

from anyio import from_thread, to_process, to_thread  # noqa: E402  # After the skip.
from anyio.streams.buffered import BufferedByteReceiveStream  # noqa: E402
from anyio.streams.tls import TLSListener, TLSStream  # noqa: E402


async def echo(stream: Any) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk)


def port_of(server: Any) -> int:
    # A listener on several addresses holds one listener for each.
    one = getattr(server, "listeners", [server])[0]
    port: int = one.extra(anyio.abc.SocketAttribute.local_port)
    return port


def test_anyio_runs_on_the_loop_it_is_given(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """`anyio.run` takes a loop factory."""

    async def main(answer: int) -> tuple[int, type]:
        await anyio.lowlevel.checkpoint()
        return answer, type(asyncio.get_running_loop())

    answer, loop_type = anyio.run(main, 42, backend_options={"loop_factory": loop_factory})
    loop = loop_factory()
    loop.close()
    assert (answer, loop_type) == (42, type(loop))


def test_a_failing_child_cancels_its_siblings(run: Any) -> None:
    """The group raises the child's error after every sibling has cleaned up."""

    async def main() -> list[str]:
        journal: list[str] = []

        async def wait(name: str, *, task_status: Any) -> None:
            try:
                task_status.started()
                await anyio.sleep_forever()
            finally:
                journal.append(name)

        async def family() -> None:
            async with anyio.create_task_group() as group:
                await group.start(wait, "first")
                await group.start(wait, "second")
                raise LookupError("third")

        with pytest.raises(ExceptionGroup) as raised:
            await family()
        assert ["third"] == [str(error) for error in raised.value.exceptions]
        return sorted(journal)

    assert ["first", "second"] == run(main())


def test_a_shield_outlives_the_cancellation_around_it(run: Any) -> None:
    """Cleanup under a shield finishes although its scope is cancelled."""

    async def main() -> tuple[bool, str]:
        cleaned = ""
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.001)
                    cleaned = "cleaned"
        return scope.cancelled_caught, cleaned

    assert (True, "cleaned") == run(main())


def test_deadlines_nest(run: Any) -> None:
    """The inner deadline passes, the outer scope goes on."""

    async def main() -> tuple[bool, bool]:
        with anyio.move_on_after(60) as outer, anyio.move_on_after(0.01) as inner:
            await anyio.sleep_forever()
        return inner.cancelled_caught, outer.cancelled_caught

    assert (True, False) == run(main())


def test_memory_streams_hand_over(run: Any) -> None:
    """A rendezvous between one sender and one receiver keeps the order."""

    async def main() -> list[int]:
        send, receive = anyio.create_memory_object_stream[int](0)

        async def produce() -> None:
            async with send:
                for n in range(500):
                    await send.send(n)

        async with anyio.create_task_group() as group, receive:
            group.start_soon(produce)
            return [n async for n in receive]

    assert list(range(500)) == run(main())


def test_tcp_echoes(run: Any) -> None:
    """A megabyte crosses a TCP connection both ways at once, and the end is seen."""
    payload = os.urandom(1_000_000)

    async def main() -> bytes:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        received = bytearray()
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)

            async def send_all(stream: Any) -> None:
                await stream.send(payload)
                await stream.send_eof()

            async with await anyio.connect_tcp("127.0.0.1", port_of(listener)) as stream:
                group.start_soon(send_all, stream)
                async for chunk in stream:
                    received += chunk
            group.cancel_scope.cancel()
        return bytes(received)

    assert run(main()) == payload


def test_tls_echoes(run: Any, tls: Any) -> None:
    """TLS, which anyio runs on top of the plain stream, carries data both ways."""

    async def main() -> bytes:
        plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = port_of(plain)
        listener = TLSListener(plain, tls.server, standard_compatible=False)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            tcp = await anyio.connect_tcp("127.0.0.1", port)
            stream = await TLSStream.wrap(
                tcp, hostname="localhost", ssl_context=tls.client, standard_compatible=False
            )
            async with stream:
                await stream.send(b"secret" * 10_000)
                answer = await BufferedByteReceiveStream(stream).receive_exactly(60_000)
            group.cancel_scope.cancel()
        return bytes(answer)

    assert b"secret" * 10_000 == run(main())


def test_unix_sockets_pass_descriptors(run: Any, tmp_path: Path) -> None:
    """A file's descriptor crosses a UNIX socket and still reads."""
    path = tmp_path / "letter"
    path.write_text("enclosed")

    async def main() -> str:
        async def send_letter(stream: Any) -> None:
            async with stream:
                with path.open() as letter:
                    await stream.send_fds(b"see", [letter])

        async with (
            anyio.create_task_group() as group,
            await anyio.create_unix_listener(tmp_path / "socket") as listener,
        ):
            group.start_soon(listener.serve, send_letter)
            async with await anyio.connect_unix(tmp_path / "socket") as stream:
                message, fds = await stream.receive_fds(10, 1)
            group.cancel_scope.cancel()
        assert b"see" == message
        with os.fdopen(fds[0]) as letter:
            return letter.read()

    assert "enclosed" == run(main())


def test_datagrams_arrive(run: Any) -> None:
    """Twenty datagrams arrive, and each is answered to its sender."""

    async def main() -> list[bytes]:
        async with (
            await anyio.create_udp_socket(local_host="127.0.0.1") as server,
            await anyio.create_connected_udp_socket("127.0.0.1", port_of(server)) as client,
        ):
            answers = []
            for n in range(20):
                await client.send(b"%d" % n)
                packet, peer = await server.receive()
                await server.sendto(packet * 2, *peer)
                answers.append(await client.receive())
            return answers

    assert run(main()) == [b"%d" % n * 2 for n in range(20)]


def test_wait_readable_watches_a_socket(run: Any) -> None:
    """The wait ends when the peer has written, not before."""

    async def main() -> bytes:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.wait_readable, ours)
                await anyio.wait_all_tasks_blocked()
                theirs.send(b"now")
            return ours.recv(10)

    assert b"now" == run(main())


def test_a_process_runs_to_its_end(run: Any) -> None:
    """A child gets its input, and its output, errors and status come back."""
    code = (
        "import sys; print(sys.stdin.read().upper()); print('oops', file=sys.stderr); sys.exit(3)"
    )

    async def main() -> tuple[bytes, bytes, int]:
        done = await anyio.run_process([sys.executable, "-c", code], input=b"words", check=False)
        return done.stdout, done.stderr, done.returncode

    assert (b"WORDS\n", b"oops\n", 3) == run(main())


def test_a_process_converses_and_is_ended(run: Any) -> None:
    """A child answers while it runs; `terminate` ends it with the signal's status."""
    code = "import sys\nfor line in sys.stdin: print(line.strip()[::-1], flush=True)"

    async def main() -> tuple[bytes, int]:
        async with await anyio.open_process([sys.executable, "-c", code]) as process:
            await process.stdin.send(b"live\n")
            answer = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 100)
            process.terminate()
            return answer, await process.wait()

    assert (b"evil", -signal.SIGTERM) == run(main())


def test_threads_call_back_into_the_loop(run: Any) -> None:
    """A worker thread runs a coroutine and a function on the loop's thread."""

    async def main() -> tuple[bool, bool, str]:
        home = threading.get_ident()

        async def on_loop(text: str) -> str:
            await anyio.lowlevel.checkpoint()
            assert threading.get_ident() == home
            return text.upper()

        def in_thread() -> tuple[bool, bool, str]:
            away = threading.get_ident() != home
            back = from_thread.run_sync(threading.get_ident) == home
            return away, back, from_thread.run(on_loop, "shout")

        return await to_thread.run_sync(in_thread)

    assert (True, True, "SHOUT") == run(main())


def test_many_threads_return_their_results(run: Any) -> None:
    """Two hundred jobs share forty threads."""

    async def main() -> list[int]:
        results = [0] * 200

        async def square(n: int) -> None:
            results[n] = await to_thread.run_sync(pow, n, 2)

        async with anyio.create_task_group() as group:
            for n in range(200):
                group.start_soon(square, n)
        return results

    assert run(main()) == [n * n for n in range(200)]


def test_a_worker_process_returns_its_result(run: Any) -> None:
    """`to_process` keeps a child process alive between two calls."""

    async def main() -> tuple[int, bool]:
        first = await to_process.run_sync(os.getpid)
        second = await to_process.run_sync(os.getpid)
        return first, first == second

    pid, same = run(main())
    assert pid != os.getpid()
    assert same


def test_files_are_written_and_read(run: Any, tmp_path: Path) -> None:
    """Lines written through anyio are read back line by line."""

    async def main() -> list[str]:
        path = anyio.Path(tmp_path / "lines")
        async with await anyio.open_file(path, "w") as file:
            await file.writelines(f"line {n}\n" for n in range(100))
        assert (await path.stat()).st_size == (tmp_path / "lines").stat().st_size
        async with await anyio.open_file(path) as file:
            return [line.strip() async for line in file]

    assert run(main()) == [f"line {n}" for n in range(100)]


def test_signals_are_received(run: Any) -> None:
    """Signals sent to this process arrive in order; the handlers are restored afterwards."""
    before = signal.getsignal(signal.SIGUSR1)

    async def main() -> list[int]:
        received = []
        with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            async for number in signals:
                received.append(number)
                if len(received) == 2:
                    break
                os.kill(os.getpid(), signal.SIGUSR2)
        return received

    assert [signal.SIGUSR1, signal.SIGUSR2] == run(main())
    assert signal.getsignal(signal.SIGUSR1) is before
