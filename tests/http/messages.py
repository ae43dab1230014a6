"""A client that sends bytes as they stand and reads what a server answers, without repairing either."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field

DEADLINE_S = 10.0

# In place of a status: the server closed without an answer; it answered in HTTP/0.9, a body alone.
NO_ANSWER = 0
HTTP_0_9 = 9

Address = tuple[str, int]


class Closed(Exception):
    """The server closed the connection before the message was whole."""


class NotHttp(Exception):
    """What came is no response of HTTP/1.x."""


@dataclass(frozen=True)
class Response:
    """One response; the names of headers are in lower case."""

    status: int
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of a header, in order."""
        return [value for key, value in self.headers if key == name]

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header."""
        return next(iter(self.all(name)), None)


@dataclass
class Outcome:
    """What became of a connection: the responses, and how it ended.

    `ended` is "closed", "reset" or "waits": the server neither answered nor closed by the deadline.
    """

    responses: list[Response] = field(default_factory=list)
    ended: str = "waits"
    rest: bytes = b""

    @property
    def status(self) -> int:
        """Return the status of the first final response, `NO_ANSWER` or `HTTP_0_9`."""
        final = [it.status for it in self.responses if it.status >= 200]
        if final:
            return final[0]
        return HTTP_0_9 if self.rest else NO_ANSWER


class Connection:
    """A connection to a server; every read has a deadline and raises `TimeoutError` after it."""

    def __init__(
        self, address: Address, *, tls: ssl.SSLContext | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        plain = socket.create_connection(address, timeout=deadline_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: socket.socket = plain
        if tls is not None:
            self.socket = tls.wrap_socket(plain, server_hostname=address[0])
        self._unread = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it, in one call as long as the kernel takes it."""
        self.socket.sendall(data)

    def send_if_open(self, data: bytes) -> bool:
        """Send to a server that may have closed already; return whether it took all."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def half_close(self) -> None:
        """End the sending side alone."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset instead of an orderly end."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def more(self) -> bytes:
        """Return what comes next; empty at the end of the connection."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        return self.socket.recv(65536)

    def unread(self, data: bytes) -> None:
        """Put bytes back that the next read returns."""
        self._unread = data + self._unread

    def read_exactly(self, n_bytes: int) -> bytes:
        """Return that many bytes, or raise `Closed`."""
        data = b""
        while len(data) < n_bytes:
            chunk = self.more()
            if not chunk:
                raise Closed(data)
            data += chunk
        self.unread(data[n_bytes:])
        return data[:n_bytes]

    def read_line(self) -> bytes:
        """Return what comes before CRLF."""
        data = b""
        while b"\r\n" not in data:
            chunk = self.more()
            if not chunk:
                raise Closed(data)
            data += chunk
            if len(data) > 1 << 20:
                raise NotHttp(data[:80])
        line, _, rest = data.partition(b"\r\n")
        self.unread(rest)
        return line

    def read_to_end(self) -> bytes:
        """Return all that comes until the server ends the connection."""
        data = b""
        while chunk := self.more():
            data += chunk
        return data

    def read_response(self, method: bytes = b"GET") -> Response:
        """Return the next response, which may be an interim one.

        Errors: `Closed` before its end, `NotHttp`, `TimeoutError`, `ConnectionResetError`.
        """
        first = self.more()
        if not first:
            raise Closed(b"")
        self.unread(first)
        while len(first) < 7:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise NotHttp(first)
            first += chunk
            self._unread = first
        if not first.startswith(b"HTTP/1."):
            raise NotHttp(first)
        version, _, rest = self.read_line().partition(b" ")
        status = int(rest[:3])
        headers = self._read_fields()
        body, trailers = self._read_body(method, status, dict(headers))
        return Response(status, version, headers, body, trailers)

    def _read_fields(self) -> tuple[tuple[bytes, bytes], ...]:
        fields = []
        while line := self.read_line():
            name, colon, value = line.partition(b":")
            assert colon, f"a header without a colon: {line!r}"
            assert b"\r" not in line, f"a header with a bare CR: {line!r}"
            assert b"\n" not in line, f"a header with a bare LF: {line!r}"
            fields.append((name.lower(), value.strip(b" \t")))
        return tuple(fields)

    def _read_body(
        self, method: bytes, status: int, headers: dict[bytes, bytes]
    ) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
        if method == b"HEAD" or status < 200 or status in (204, 304):
            return b"", ()
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            assert b"content-length" not in headers, "a response with both lengths"
            body = b""
            while n_bytes := int(self.read_line().partition(b";")[0], 16):
                body += self.read_exactly(n_bytes)
                assert b"\r\n" == self.read_exactly(2)
            return body, self._read_fields()
        if b"content-length" in headers:
            return self.read_exactly(int(headers[b"content-length"])), ()
        return self.read_to_end(), ()


def exchange(
    address: Address,
    sent: bytes | Iterable[bytes],
    *,
    methods: tuple[bytes, ...] = (),
    half_close: bool = False,
    deadline_s: float = DEADLINE_S,
) -> Outcome:
    """Send bytes over one connection, and read until the server ends it or the deadline is over.

    `methods` are those of the requests, since a response to HEAD has no body; beyond them it is GET.
    """
    outcome = Outcome()
    with Connection(address, deadline_s=deadline_s) as connection:
        for part in [sent] if isinstance(sent, bytes) else sent:
            if not connection.send_if_open(part):
                break
        if half_close:
            connection.half_close()
        n_final = 0
        try:
            while True:
                method = methods[n_final] if n_final < len(methods) else b"GET"
                response = connection.read_response(method)
                outcome.responses.append(response)
                n_final += response.status >= 200
        except Closed as error:
            outcome.ended = "closed"
            outcome.rest = error.args[0]
        except NotHttp:
            outcome.rest, outcome.ended = _rest(connection)
        except ConnectionResetError:
            outcome.ended = "reset"
        except TimeoutError:
            outcome.ended = "waits"
    return outcome


def _rest(connection: Connection) -> tuple[bytes, str]:
    data = b""
    try:
        while chunk := connection.more():
            data += chunk
    except TimeoutError:
        return data, "waits"
    except ConnectionResetError:
        return data, "reset"
    return data, "closed"
