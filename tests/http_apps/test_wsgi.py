"""PEP 3333's corners, on the real command."""

from __future__ import annotations

import ast
import contextlib
import http.client
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from served_apps import APPS, Served
from waiting import wait_until

DEADLINE_S = 30.0
N_MEETING = 12


@pytest.fixture(scope="module", params=[(), ("--proxy-headers",)], ids=["direct", "proxied"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Serve the corners, with and without the middleware for proxies."""
    started = Served("corners_wsgi:app", *request.param, folder=APPS)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def validated() -> Iterator[Served]:
    """Serve an application inside wsgiref's validator."""
    started = Served("validated_wsgi:app", "--interface", "wsgi", folder=APPS)
    yield started
    started.stop()


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


def _body(served: Served, path: str, method: str = "GET", body: Any = None) -> str:
    status, _, answer = _ask(served, path, method, body)
    assert 200 == status, served.output()
    return answer.decode()


def _events(served: Served) -> list[str]:
    found: list[str] = ast.literal_eval(_body(served, "/happened"))
    return found


def _raw(served: Served, *sent: bytes) -> bytes:
    """Send pieces, and return everything until the server closes."""
    with socket.create_connection(("127.0.0.1", served.port), DEADLINE_S) as connection:
        for piece in sent:
            connection.sendall(piece)
        received = bytearray()
        # A response that breaks off may end by a reset.
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                received += data
        return bytes(received)


# -- start_response ------------------------------------------------------------------------------------


def test_a_second_start_is_refused(served: Served) -> None:
    """Without exc_info it is the application's mistake, which it is told of."""
    assert "refused" == _body(served, "/started_twice")


def test_exc_info_replaces_the_head_that_was_not_sent(served: Served) -> None:
    """The error's status and fields stand for those of the first head; the reason is the application's."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    connection.request("GET", "/replaced")
    response = connection.getresponse()
    assert (503, "Later", b"sorry") == (response.status, response.reason, response.read())
    assert (None, "2") == (response.headers["X-First"], response.headers["X-Second"])
    connection.close()


def test_exc_info_is_raised_once_the_head_was_sent(served: Served) -> None:
    """The response cannot be taken back: the exception is raised, and the response breaks off."""
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        _ask(served, "/replaced_too_late")
    wait_until(lambda: "raised on purpose" in _events(served))


@pytest.mark.parametrize(
    "path",
    ["/never_started", "/fails_at_first", "/text_parts", "/not_iterable"],
)
def test_an_error_before_the_head_is_a_500(served: Served, path: str) -> None:
    """Nothing was sent, so the client learns of the failure, and the connection can go on."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    for _ in range(2):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert 500 == response.status
    connection.close()


def test_a_response_is_started_by_its_first_part(served: Served) -> None:
    """A generator calls start_response when it first runs."""
    status, _, body = _ask(served, "/started_late")
    assert (202, b"late") == (status, body)


def test_bad_statuses_and_fields_are_refused(served: Served) -> None:
    """Each is an error in the application; fields of the connection are left out."""
    assert "taken" == _body(served, "/bad_status")
    _, headers, body = _ask(served, "/bad_headers")
    errors = "ValueError ValueError TypeError ValueError TypeError TypeError"
    assert errors == body.decode()
    assert "caf\xe9" == headers["X-Latin"]
    assert headers["Keep-Alive"] is None
    assert headers["Upgrade"] is None


# -- parts ---------------------------------------------------------------------------------------------


def test_written_parts_come_first(served: Served) -> None:
    """What `write` sends precedes what the application returns."""
    assert "one two three four" == _body(served, "/written")


def test_the_only_part_has_its_length_announced(served: Served) -> None:
    """A tuple or list of one part needs no chunks, and a reason of the application's is sent."""
    status, headers, body = _ask(served, "/tuple_of_one")
    assert (200, "4", b"only") == (status, headers["Content-Length"], body)


def test_an_iterable_is_closed_once(served: Served) -> None:
    """However it ends: at its end, by an error at first or in the middle, and for HEAD."""
    for path, method in (
        ("/closes", "GET"),
        ("/fails_in_the_middle", "GET"),
        ("/fails_at_first", "GET"),
        ("/closes", "HEAD"),
        ("/no_parts", "GET"),
        ("/text_parts", "GET"),
    ):
        n_before = _events(served).count("closed")
        with contextlib.suppress(http.client.IncompleteRead, ConnectionResetError):
            _ask(served, path, method)
        wait_until(lambda n=n_before: _events(served).count("closed") == n + 1)


def test_a_response_without_parts(served: Served) -> None:
    """No parts are an empty body."""
    status, headers, body = _ask(served, "/no_parts")
    assert (200, "0", b"") == (status, headers["Content-Length"], body)
    assert (204, b"") == _ask(served, "/empty_list")[::2]


def test_head_has_no_body(served: Served) -> None:
    """HEAD has GET's head; what the application yields is dropped."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    for path in ("/tuple_of_one", "/written", "/closes", "/wraps_file?file"):
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert (200, b"") == (response.status, response.read())
    connection.close()


@pytest.mark.parametrize("path", ["/too_long", "/too_short"])
def test_a_body_of_another_length_breaks_off(served: Served, path: str) -> None:
    """The client never takes a part of one response for a part of the next."""
    sent = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\nGET /written HTTP/1.1\r\nHost: a\r\n\r\n"
    received = _raw(served, sent.encode())
    assert b"one two" not in received
    assert b"cdef" not in received


def test_a_client_that_leaves_ends_the_iteration(served: Served) -> None:
    """An endless response ends when nobody is left who reads it."""
    n_before = _events(served).count("left")
    with socket.create_connection(("127.0.0.1", served.port), DEADLINE_S) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1000)
    wait_until(lambda: _events(served).count("left") == n_before + 1)


def test_a_client_that_ends_its_half_gets_the_response(served: Served) -> None:
    """Streaming goes on to a client that only reads."""
    with socket.create_connection(("127.0.0.1", served.port), DEADLINE_S) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        n_received = 0
        while n_received < 10_000_000:
            data = connection.recv(1 << 20)
            assert data
            n_received += len(data)


# -- the request ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [0, 1, 100_000, 8_000_000])
def test_a_body_is_read_to_its_end(served: Served, n_bytes: int) -> None:
    """Whether its length is announced or it comes in chunks; after it reads give nothing."""
    body = b"x" * n_bytes
    assert f"{n_bytes} 0" == _body(served, "/read_all", "POST", body)
    pieces = iter([body[at : at + 70_000] for at in range(0, n_bytes, 70_000)])
    assert f"{n_bytes} 0" == _body(served, "/read_all", "POST", pieces)


def test_each_way_to_read(served: Served) -> None:
    """read, readline, readlines and iteration take what follows, and no more than they are asked for."""
    body = b"abcdef\n123456\nx\ny\nz\nlast line\nend"
    found = ast.literal_eval(_body(served, "/read_parts", "POST", body))
    assert b"" == found[-1]
    assert body == b"".join(found)
    assert [b"", b"abc", b"def\n", b"1234", b"56\n"] == found[:5]


def test_a_line_may_be_as_long_as_the_body(served: Served) -> None:
    """Eight million bytes without an end of a line take no more than they should."""
    assert "8000000" == _body(served, "/long_line", "POST", b"x" * 8_000_000)


def test_a_slow_body_is_read_as_it_comes(served: Served) -> None:
    """Each line is answered before the next one is sent."""
    with socket.create_connection(("127.0.0.1", served.port), DEADLINE_S) as connection:
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head)
        received = bytearray()
        for line in (b"first\n", b"second\n", b"third\n"):
            connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            while line not in received:
                data = connection.recv(65536)
                assert data
                received += data
        connection.sendall(b"0\r\n\r\n")
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)


@pytest.mark.parametrize("n_bytes", [10, 5_000_000])
def test_a_body_that_is_not_read_harms_nothing(served: Served, n_bytes: int) -> None:
    """The response arrives, though the client may still be sending."""
    for _ in range(3):
        assert "not read" == _body(served, "/ignores_body", "POST", b"y" * n_bytes)


def test_the_environ(served: Served) -> None:
    """Names and values are as PEP 3333 has them."""
    path = "/environ_of?a=%20b&c"
    _, _, body = _ask(served, path, X_Two="one", Cookie="a=1", Content_Type="text/x")
    environ = ast.literal_eval(body.decode())
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ_of",
        "QUERY_STRING": "a=%20b&c",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(served.port),
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": f"127.0.0.1:{served.port}",
        "HTTP_X_TWO": "one",
        "HTTP_COOKIE": "a=1",
        "CONTENT_TYPE": "text/x",
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.run_once": False,
    }
    assert expected == {name: environ.get(name) for name in expected}
    assert "HTTP_CONTENT_TYPE" not in environ


def test_addresses_of_a_proxy() -> None:
    """With --proxy-headers, the environ tells the client and the scheme that the proxy saw."""
    served = Served("corners_wsgi:app", "--proxy-headers", folder=APPS)
    try:
        given = {"X_Forwarded_For": "198.51.100.7", "X_Forwarded_Proto": "https"}
        _, _, body = _ask(served, "/environ_of", **given)
        environ = ast.literal_eval(body.decode())
        assert ("198.51.100.7", "https") == (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"])
    finally:
        served.stop()


def test_errors_are_the_servers(served: Served) -> None:
    """What is written to wsgi.errors is printed."""
    _body(served, "/logs")
    assert "a line of the application\n" in served.output()


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "named", "bytes", "gzip", "pipe", "middle", "short"])
def test_a_wrapped_file_is_sent(served: Served, kind: str) -> None:
    """From its position to its end or Content-Length, whatever the file is made of."""
    data = bytes(range(256)) * 1000
    expected = {"middle": data[1000:], "short": data[:300]}.get(kind, data)
    assert expected == _ask(served, f"/wraps_file?{kind}")[2]


# -- threads -------------------------------------------------------------------------------------------


def test_many_requests_block_at_once(served: Served) -> None:
    """Each waits for all others, which takes as many threads."""
    with ThreadPoolExecutor(N_MEETING) as pool:
        met = list(pool.map(lambda _: _body(served, "/blocks"), range(N_MEETING)))
    assert ["met"] * N_MEETING == met


def test_contexts_and_thread_local_values_are_a_requests_own(served: Served) -> None:
    """What one request sets is not seen by those that run at the same time or after it."""
    with ThreadPoolExecutor(N_MEETING) as pool:
        answers = pool.map(lambda number: _body(served, f"/contexts?{number}"), range(200))
        assert {"unset same"} == set(answers)


# -- wsgiref's validator -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/lines", "/parts", "/all", "/written", "/unmodified"])
def test_the_validator_agrees(validated: Served, path: str, method: str) -> None:
    """Nothing that the server does is against the specification."""
    body = b"line\n" * 500 if method in ("POST", "PUT") else None
    connection = http.client.HTTPConnection("127.0.0.1", validated.port, timeout=DEADLINE_S)
    connection.request(method, path, body)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    is_unmodified = path == "/unmodified"
    assert (304 if is_unmodified else 200) == response.status, validated.output()
    if method != "HEAD" and not is_unmodified:
        written = b"written " if path == "/written" else b""
        assert written + b"%d bytes" % len(body or b"") == answer
    assert "AssertionError" not in validated.output()
