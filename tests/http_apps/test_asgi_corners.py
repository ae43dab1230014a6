"""ASGI's corners, on the real command."""

from __future__ import annotations

import ast
import contextlib
import http.client
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from served_apps import APPS, Served
from waiting import wait_until

DEADLINE_S = 30.0
DATA = bytes(range(256)) * 1000


@pytest.fixture(scope="module", params=[(), ("--proxy-headers",)], ids=["direct", "proxied"])
def module_server(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Serve the corners, with and without the middleware for proxies."""
    started = Served("corners_asgi:app", *request.param, folder=APPS)
    yield started
    started.stop()


@pytest.fixture
def served(module_server: Served) -> Served:
    """Return the server, with nothing that has happened before."""
    _ask(module_server, "/forget")
    return module_server


def _ask(
    served: Served, path: str, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, fields)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def _events(served: Served) -> list[str]:
    found: list[str] = ast.literal_eval(_ask(served, "/happened")[2].decode())
    return found


def _connect(served: Served, head: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port), DEADLINE_S)
    connection.sendall(head + b"\r\nHost: a\r\n\r\n")
    return connection


def _leave(served: Served, path: str, *, after: str | None = None) -> None:
    """Ask, and leave once something has happened, or something was received."""
    with _connect(served, f"GET {path} HTTP/1.1".encode()) as connection:
        if after is None:
            assert connection.recv(1000)
        else:
            wait_until(lambda: after in _events(served))


# -- messages ------------------------------------------------------------------------------------------


def test_messages_out_of_order_are_refused(served: Served) -> None:
    """Each raises in the application, which can go on; after the last message, too."""
    status, _, body = _ask(served, "/out_of_order")
    assert 200 == status, served.output()
    before, _, within = body.decode().partition("|")
    misplaced = ["RuntimeError"] * 3
    unknown = ["ValueError", "ValueError", "KeyError", "KeyError"]
    heads = ["TypeError", "ValueError", "ValueError", "ValueError", "TypeError"]
    assert [*misplaced, *unknown, *heads] == before.split()
    assert ["RuntimeError", "TypeError", "RuntimeError"] == within.split()
    wait_until(lambda: _events(served))
    assert ["RuntimeError RuntimeError"] == _events(served)


@pytest.mark.parametrize("path", ["/fails_before", "/fails_after_start", "/returns_nothing"])
def test_a_failure_before_the_body_is_a_500_or_the_end(served: Served, path: str) -> None:
    """Once the head was given, the response can only break off; either is written to the log."""
    if path == "/fails_after_start":
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            _ask(served, path)
    else:
        assert 500 == _ask(served, path)[0]
    said = "without having sent a response" if path == "/returns_nothing" else "on purpose"
    wait_until(lambda: said in served.output())


@pytest.mark.parametrize("path", ["/fails_within", "/returns_early"])
def test_a_failure_within_the_body_breaks_it_off(served: Served, path: str) -> None:
    """The client can tell that the response is not whole."""
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        _ask(served, path)


def test_a_failure_after_the_response_is_only_logged(served: Served) -> None:
    """The client has its response, and the connection goes on."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    for _ in range(2):
        connection.request("GET", "/fails_afterwards")
        assert b"whole" == connection.getresponse().read()
    connection.close()
    wait_until(lambda: "on purpose, afterwards" in served.output())


# -- clients that leave --------------------------------------------------------------------------------


def test_work_after_the_response_goes_on(served: Served) -> None:
    """A client that leaves with its response cancels nothing."""
    assert b"sent" == _ask(served, "/goes_on")[2]
    _ask(served, "/publish")
    wait_until(lambda: "went on" in _events(served))
    assert "cancelled afterwards" not in _events(served)


def test_a_request_is_cancelled_with_its_client(served: Served) -> None:
    """An application that does not listen is cancelled, and that is no error."""
    _leave(served, "/waits", after="waits")
    wait_until(lambda: "cancelled" in _events(served))


def test_an_application_that_listens_is_told(served: Served) -> None:
    """It is not cancelled, `receive` says so again and again, and sending harms nothing."""
    _leave(served, "/listens", after="listens")
    wait_until(lambda: len(_events(served)) == 3)
    assert ["listens", "http.disconnect http.disconnect", "lives on"] == _events(served)


def test_an_application_may_ask_now_and_then(served: Served) -> None:
    """A call of `receive` that was cancelled takes no message, and is in the way of none."""
    _leave(served, "/streams")
    wait_until(lambda: "noticed" in _events(served))


def test_several_tasks_may_listen(served: Served) -> None:
    """All of them are told."""
    _leave(served, "/two_listen", after="two listen")
    wait_until(lambda: "http.disconnect and http.disconnect" in _events(served))


def test_sending_to_a_client_that_has_left_raises(served: Served) -> None:
    """ASGI 2.4 has it so; what a framework makes of it is no error of the application's."""
    n_logged = served.output().count("this is the client's doing")
    _leave(served, "/sends_blindly")
    wait_until(lambda: "send raised ClientDisconnected" in _events(served))
    assert n_logged == served.output().count("this is the client's doing")


@pytest.mark.parametrize("path", ["/uploads", "/upload_with_pauses"])
def test_an_upload_that_breaks_off(served: Served, path: str) -> None:
    """The application is told, in the place of more of the body; also if it does something else in between."""
    n_before = _events(served).count("upload broke off")
    head = f"POST {path} HTTP/1.1\r\nContent-Length: 1000".encode()
    n_uploads = 30
    for n_bytes in range(1, n_uploads + 1):
        with _connect(served, head) as connection:
            connection.sendall(b"x" * n_bytes)
    wait_until(lambda: _events(served).count("upload broke off") == n_before + n_uploads)


def test_a_websocket_that_is_asked_now_and_then_loses_nothing(served: Served) -> None:
    """Calls of `receive` that were cancelled are in the way of no message."""
    client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
    with client.connect(f"ws://127.0.0.1:{served.port}/patient", proxy=None) as connection:
        for number in range(3):
            n_before = len(_events(served))
            wait_until(lambda n=n_before: len(_events(served)) > n + 1)
            connection.send(str(number))
            assert str(number) == connection.recv(DEADLINE_S)


# -- bodies --------------------------------------------------------------------------------------------


def test_a_large_body_arrives_in_parts(served: Served) -> None:
    """No part is large, and none is missing."""
    status, _, body = _ask(served, "/uploads", "POST", b"x" * 20_000_000)
    n_bytes, largest = map(int, body.split())
    assert (200, 20_000_000) == (status, n_bytes)
    assert largest <= 1 << 20


def test_a_body_that_nobody_takes_is_not_read(served: Served) -> None:
    """The client waits: the server buffers no more than a socket and a part hold."""
    n_bytes = 64_000_000
    head = b"POST /slow_upload HTTP/1.1\r\nContent-Length: %d" % n_bytes
    with _connect(served, head) as connection:
        wait_until(lambda: "upload began" in _events(served))
        connection.settimeout(0.3)
        n_sent = 0
        data = memoryview(bytes(1 << 20))
        with contextlib.suppress(TimeoutError):
            while n_sent < n_bytes:
                n_sent += connection.send(data[: n_bytes - n_sent])
        assert n_sent < 32_000_000
        _ask(served, "/publish")
        connection.settimeout(DEADLINE_S)
        while n_sent < n_bytes:
            n_sent += connection.send(data[: n_bytes - n_sent])
        assert b"HTTP/1.1 200" == connection.recv(12)


def test_sending_lets_others_run(served: Served) -> None:
    """An application that only sends does not hold up the loop."""
    assert b"others ran" == _ask(served, "/hogs")[2]


def test_an_empty_part_sends_the_head(served: Served) -> None:
    """The client has the head before the body exists."""
    with _connect(served, b"GET /head_first HTTP/1.1") as connection:
        received = connection.recv(1000)
        assert received.startswith(b"HTTP/1.1 200")
        assert b"later" not in received
        _ask(served, "/publish")
        while b"later" not in received:
            received += connection.recv(1000)


def test_trailers_are_sent_to_those_who_take_them(served: Served) -> None:
    """Only a request with `TE: trailers` has them."""
    for fields, has_trailers in ((b"TE: trailers\r\n", True), (b"", False)):
        head = b"GET /trailers HTTP/1.1\r\n" + fields + b"Connection: close"
        with _connect(served, head) as connection:
            received = bytearray()
            while data := connection.recv(1000):
                received += data
        assert b"4\r\nbody\r\n0\r\n" in received
        assert has_trailers == (b"\r\nx-sum: 42\r\n" in received.lower())
        assert has_trailers == (b"\r\nx-more: 1\r\n" in received.lower())


# -- the scope -----------------------------------------------------------------------------------------


def test_the_state_is_shared_and_its_keys_are_not(served: Served) -> None:
    """Each request has a shallow copy of what the lifespan has put there."""
    n_before, has_own = _ask(served, "/state_of")[2].decode().split()
    assert "False" == has_own
    assert f"{int(n_before) + 1} False" == _ask(served, "/state_of")[2].decode()


def test_the_scope(served: Served) -> None:
    """Names and values are as the specification has them."""
    scope = ast.literal_eval(_ask(served, "/shows_scope?a=%20", X_Two="b")[2].decode())
    expected = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/shows_scope",
        "raw_path": b"/shows_scope",
        "query_string": b"a=%20",
        "root_path": "",
        "server": ("127.0.0.1", served.port),
    }
    assert expected == {name: scope[name] for name in expected}
    assert (b"x-two", b"b") in scope["headers"]
    assert "127.0.0.1" == scope["client"][0]
    extensions = {"http.response.trailers", "http.response.pathsend", "http.response.zerocopysend"}
    assert extensions <= set(scope["extensions"])


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["whole", "unannounced", "short"])
def test_a_file_is_sent_by_its_path(served: Served, kind: str) -> None:
    """All of it, or as much as the head announces, if it has grown; nothing may follow."""
    status, headers, body = _ask(served, f"/path_of?{kind}")
    expected = DATA[:300] if kind == "short" else DATA
    assert (200, expected) == (status, body)
    assert str(len(expected)) == headers["Content-Length"]
    wait_until(lambda: _events(served))
    assert ["RuntimeError"] == _events(served)


def test_a_path_of_no_file_is_an_error(served: Served) -> None:
    """Of the application's, which can send something else; so is a path within a body."""
    assert b"FileNotFoundError" == _ask(served, "/path_of?missing")[2]
    assert b"ValueError" == _ask(served, "/path_of?folder")[2]
    assert b"beginRuntimeError" == _ask(served, "/path_of?late")[2]


def test_head_of_a_file(served: Served) -> None:
    """The head says how long the file is, and nothing follows it."""
    status, headers, body = _ask(served, "/path_of?whole", "HEAD")
    assert (200, str(len(DATA)), b"") == (status, headers["Content-Length"], body)


def test_parts_of_files_are_sent_among_others(served: Served) -> None:
    """From the file's position, which moves on, or from an offset; to the end, or a number of bytes."""
    expected = DATA[10:15] + b"<between>" + DATA[15:20] + DATA[1000:1003] + DATA[-2:] + DATA[-10:]
    assert expected == _ask(served, "/zero_copy")[2]


def test_a_file_that_is_sent_often_takes_few_descriptors(served: Served) -> None:
    """Sending waits for the file before, and all descriptors are closed in the end."""
    assert DATA * 300 == _ask(served, "/many_copies")[2]
    numbers = [int(it.split()[0]) for it in _events(served) if "descriptors" in it]
    assert max(numbers) - min(numbers) <= 6


def test_what_is_no_file_is_refused(served: Served) -> None:
    """A pipe, a closed descriptor, and a message without a file."""
    assert b"ValueError OSError KeyError" == _ask(served, "/odd_files")[2]
