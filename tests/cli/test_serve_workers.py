"""`threadlets serve --workers`: a supervisor that restarts, reloads and drains; orphans; systemd."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import eventually, wait_until

from .conftest import COMMAND, DEADLINE_S, RunCommand, Served
from .load import Load

Serve = Callable[..., Served]

# Answers with its version and its process; what it does else is asked for by path.
_APP = """
import asyncio, os, sys, time
VERSION = 1
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        message = await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("lifespan closed", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/forever":
        print("request in flight", flush=True)
        await asyncio.Event().wait()
    if scope["path"] == "/wait":
        print("request in flight", flush=True)
        await scope["state"]["threadlets.stopping"].wait()
    if scope["path"] == "/exit":
        os._exit(3)
    body = f"{VERSION} {os.getpid()}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
_TO = ("workers_app:app", "--port", "0", "--no-access-log")


def _version(number: int) -> str:
    """Return the application's next version, of another size: bytecode is found by size and second."""
    return _APP.replace("VERSION = 1", f"VERSION = {number}{' ' * number}")


@pytest.fixture(autouse=True)
def _app(tmp_path: Path) -> None:
    (tmp_path / "workers_app.py").write_text(_APP)


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)


def _ask(port: int, path: str = "/") -> tuple[int, int]:
    """Return the version and the process that answer."""
    with _connected(port) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())
        received = b""
        while not (found := re.search(rb"\r\n\r\n(\d+) (\d+)$", received)):
            data = client.recv(65536)
            assert data, received
            received += data
    return int(found[1]), int(found[2])


def _workers(port: int, n_workers: int) -> set[int]:
    """Ask until so many processes have answered."""
    found: set[int] = set()
    wait_until(lambda: found.add(_ask(port)[1]) or len(found) >= n_workers)
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that has ended is there until its parent has been told.
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_each_worker_serves_and_all_drain(serve: Serve) -> None:
    """SIGTERM ends all of them, once requests in flight have been answered, with status 0."""
    server = serve(*_TO, "--workers", "2")
    port = server.port()
    server.wait_for(r"by 2 workers \(Ctrl-C stops, SIGHUP reloads\)")
    workers = _workers(port, 2)
    assert server.process.pid not in workers
    with _connected(port) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nhost: test\r\n\r\n")
        server.wait_for("request in flight")
        server.process.send_signal(signal.SIGTERM)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert 0 == server.end()
    assert 2 == server.output.count("lifespan closed")
    assert not any(map(_is_alive, workers))
    assert "Traceback" not in server.output


def test_one_worker_has_a_supervisor_if_asked_for(serve: Serve) -> None:
    """So that it is restarted, and reloads."""
    server = serve(*_TO, "--workers", "1")
    assert server.process.pid != _ask(server.port())[1]
    server.wait_for(r"by 1 worker \(")


def test_auto_is_one_worker_for_each_cpu(serve: Serve) -> None:
    """That this process may use."""
    server = serve(*_TO, "--workers", "auto")
    n_workers = int(server.wait_for(r"by (\d+) workers?")[1])
    assert 1 <= n_workers <= len(os.sched_getaffinity(0))


def test_reload_loses_no_request(serve: Serve, tmp_path: Path) -> None:
    """On SIGHUP, under load, each request is answered: by the old workers, then by the new ones."""
    server = serve(*_TO, "--workers", "2")
    port = server.port()

    async def reload_twice() -> Load:
        async with Load.on(port) as load:
            for version in (2, 3):
                (tmp_path / "workers_app.py").write_text(_version(version))
                n_wanted = 100 * version
                await eventually(functools.partial(load.has_answers, n_wanted))
                server.output = ""
                server.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(server.wait_for, "Reloaded")
            n_wanted = load.answers.total() + 200
            await eventually(functools.partial(load.has_answers, n_wanted))
        return load

    load = asyncio.run(reload_twice())
    assert [] == load.failures
    assert load.n_closes > 0
    assert {"1", "2", "3"} == {answer.split()[0] for answer in load.answers}
    # Each worker of each version has answered.
    assert 6 == len(load.answers)
    assert 3 == _ask(port)[0]
    server.process.send_signal(signal.SIGTERM)
    assert 0 == server.end()


def test_reload_during_a_reload_is_another_one(serve: Serve, tmp_path: Path) -> None:
    """What was changed after the first one began is served in the end."""
    server = serve(*_TO, "--workers", "2")
    port = server.port()
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("Reloading")
    (tmp_path / "workers_app.py").write_text(_version(2))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: all(_ask(port)[0] == 2 for _ in range(20)))


def test_reload_of_what_does_not_start_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    """The workers that serve go on, and a later reload is tried again."""
    server = serve(*_TO, "--workers", "2")
    port = server.port()
    workers = _workers(port, 2)
    (tmp_path / "workers_app.py").write_text("1 / 0\n")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("ZeroDivisionError")
    server.wait_for("Not reloaded: the first new worker ended with status 1")
    assert workers == _workers(port, 2)
    (tmp_path / "workers_app.py").write_text(_version(2))
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("Reloaded")
    # Old workers end what has come to them.
    wait_until(lambda: _ask(port)[0] == 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_is_replaced(serve: Serve, number: signal.Signals) -> None:
    """What waits in its backlog meanwhile is answered by its successor."""
    server = serve(*_TO, "--workers", "2")
    port = server.port()
    first, second = _workers(port, 2)
    os.kill(first, number)
    server.wait_for(rf"Worker \d \({first}\) (was ended by SIGKILL|ended with status 0)")
    workers = _workers(port, 2)
    assert first not in workers
    assert second in workers


def test_workers_that_keep_ending_wait_longer_and_longer(serve: Serve) -> None:
    """A worker that ends at once is no busy loop, and the server comes back."""
    server = serve(*_TO, "--workers", "1")
    port = server.port()
    for _ in range(3):
        with _connected(port) as client:
            client.sendall(b"GET /exit HTTP/1.1\r\nhost: test\r\n\r\n")
            assert b"" == client.recv(65536)
    assert 1 == _ask(port)[0]
    server.wait_for(r"(?s)(ended with status 3.*){3}")


def test_orphans_end(serve: Serve) -> None:
    """When the supervisor is killed, its workers drain and end."""
    server = serve(*_TO, "--workers", "2")
    workers = _workers(server.port(), 2)
    server.process.kill()
    server.wait_for("The supervisor has gone")
    wait_until(lambda: not any(map(_is_alive, workers)))


def test_second_interrupt_drops_what_is_left(serve: Serve) -> None:
    """A second Ctrl-C does not wait for a request that never ends; the status is 130."""
    server = serve(*_TO, "--workers", "2", "--timeout-graceful-shutdown", "600")
    with _connected(server.port()) as client:
        client.sendall(b"GET /forever HTTP/1.1\r\nhost: test\r\n\r\n")
        server.wait_for("request in flight")
        server.process.send_signal(signal.SIGINT)
        server.wait_for("Stopping on SIGINT")
        server.process.send_signal(signal.SIGINT)
        assert 130 == server.end()


def test_grace_is_bounded(serve: Serve) -> None:
    """A request that outlasts the graceful timeout is cancelled, and the stop is still clean."""
    server = serve(*_TO, "--workers", "2", "--timeout-graceful-shutdown", "0")
    with _connected(server.port()) as client:
        client.sendall(b"GET /forever HTTP/1.1\r\nhost: test\r\n\r\n")
        server.wait_for("request in flight")
        server.process.send_signal(signal.SIGTERM)
        assert 0 == server.end()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("missing:app", 2, "there is no module 'missing'"),
        ("workers_app:VERSION", 2, "it is a int and cannot be called"),
        ("failing:app", 1, "remedy: fix the module"),
        ("refusing:app", 1, "no database"),
    ],
)
def test_what_cannot_start_ends_the_supervisor(
    command: RunCommand, tmp_path: Path, target: str, status: int, message: str
) -> None:
    """With the worker's message, once, and its status: no loop of restarts."""
    (tmp_path / "failing.py").write_text("1 / 0\n")
    (tmp_path / "refusing.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    done = command("serve", target, "--port", "0", "--workers", "3")
    assert status == done.returncode, done.stderr
    assert 1 == done.stderr.count(message)
    assert "/threadlets/" not in done.stderr


def test_a_worker_that_exits_in_its_import_ends_the_supervisor(
    command: RunCommand, tmp_path: Path
) -> None:
    """Even with status 0: nothing serves."""
    (tmp_path / "leaving.py").write_text("raise SystemExit(0)\n")
    done = command("serve", "leaving:app", "--port", "0", "--workers", "2")
    assert 1 == done.returncode
    assert "The first worker ended with status 0 before it was ready" in done.stderr


@pytest.mark.parametrize("is_shared", [False, True])
def test_taken_port_is_refused(command: RunCommand, is_shared: bool) -> None:
    """Even if who has it would share it: the connections would be spread among both servers."""
    with socket.socket() as other:
        if is_shared:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = command("serve", "workers_app:app", "--port", port, "--workers", "2")
    assert 1 == done.returncode
    assert "EADDRINUSE" in done.stderr


# -- sockets that others have bound ----------------------------------------------------------------


def test_unix_socket_is_shared_and_removed(serve: Serve, tmp_path: Path) -> None:
    """By all workers; its file is gone in the end."""
    path = tmp_path / "web.sock"
    server = serve("workers_app:app", "--uds", str(path), "--workers", "2")
    server.wait_for("Serving workers_app:app on unix:.* by 2 workers")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    server.process.send_signal(signal.SIGTERM)
    assert 0 == server.end()
    assert not path.exists()


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_socket_can_be_inherited(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """--fd serves on a socket that the parent has bound."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        fd = listener.fileno()
        process = subprocess.Popen(
            [*COMMAND, "serve", "workers_app:app", "--fd", str(fd), *workers],
            cwd=tmp_path,
            pass_fds=[fd],
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            assert f":{listener.getsockname()[1]}".encode() in process.stderr.readline()
            assert 1 == _ask(listener.getsockname()[1])[0]
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(DEADLINE_S)
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("fd", "cause"), [("999", "is not open"), ("0", "is no socket"), ("unbound", "not bound")]
)
def test_a_descriptor_that_cannot_listen_is_refused(
    command: RunCommand, fd: str, cause: str
) -> None:
    """With the reason."""
    with socket.socket() as unbound:
        number = str(unbound.fileno()) if fd == "unbound" else fd
        done = command(
            *("serve", "workers_app:app", "--fd", number),
            pass_fds=[unbound.fileno()],
            stdin=subprocess.DEVNULL,
        )
    assert 1 == done.returncode
    assert f"cannot listen on descriptor {number}" in done.stderr
    assert cause in done.stderr


class _Manager:
    """What systemd does for a service: binds its socket, and hears how it is."""

    def __init__(self, folder: Path) -> None:
        self.notes: list[str] = []
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while note := self._socket.recv(4096):
            self.notes += note.decode().splitlines()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto(b"", self.path)
        self._socket.close()


_ACTIVATE = """
import os, sys
os.dup2({fd}, 3)
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "NOTIFY_SOCKET": {path!r}}}
os.execv(sys.executable, [sys.executable, "-m", "threadlets", "serve", *sys.argv[1:]])
"""


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_systemd_passes_its_sockets_and_is_told(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Sockets by LISTEN_FDS; READY=1, RELOADING=1 and STOPPING=1 by NOTIFY_SOCKET."""
    manager = _Manager(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        program = _ACTIVATE.format(fd=listener.fileno(), path=manager.path)
        process = subprocess.Popen(
            [sys.executable, "-c", program, "workers_app:app", *workers],
            cwd=tmp_path,
            pass_fds=[listener.fileno(), 3],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: manager.notes == ["READY=1"])
            assert 1 == _ask(port)[0]
            if workers:
                process.send_signal(signal.SIGHUP)
                wait_until(lambda: manager.notes[-1] == "READY=1" and len(manager.notes) == 4)
                assert "RELOADING=1" == manager.notes[1]
                assert re.fullmatch(r"MONOTONIC_USEC=\d+", manager.notes[2])
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(DEADLINE_S)
            wait_until(lambda: manager.notes[-1] == "STOPPING=1")
        finally:
            process.kill()
            process.wait()
            manager.close()


# -- --reload --------------------------------------------------------------------------------------


def test_changed_files_are_served(serve: Serve, tmp_path: Path) -> None:
    """--reload starts the application again, once; requests wait meanwhile."""
    server = serve(*_TO, "--reload")
    port = server.port()
    version, first = _ask(port)
    assert 1 == version
    (tmp_path / "workers_app.py").write_text(_version(22))
    server.wait_for("Reloading: workers_app.py has changed")
    # The old process may accept until it hears that it is to stop.
    wait_until(lambda: _ask(port)[0] == 22)
    assert first != _ask(port)[1]
    assert 1 == server.output.count("Reloading")
    server.process.send_signal(signal.SIGINT)
    assert 0 == server.end()


def test_a_broken_application_waits_for_a_change(serve: Serve, tmp_path: Path) -> None:
    """With --reload, a mistake is shown, and its correction is served."""
    (tmp_path / "workers_app.py").write_text("1 / 0\n")
    server = serve(*_TO, "--reload")
    server.wait_for("ZeroDivisionError")
    server.wait_for("waiting for a change of its files")
    (tmp_path / "workers_app.py").write_text(_APP)
    assert 1 == _ask(server.port())[0]
    (tmp_path / "workers_app.py").write_text("2 / 0 # again\n")
    server.wait_for("(?s)waiting for a change.*waiting for a change")
    server.process.send_signal(signal.SIGTERM)
    assert 0 == server.end()
