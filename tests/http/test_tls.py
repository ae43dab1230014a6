"""TLS: certificates and keys, handshakes whole, half and wrong, ends of connections, what applications learn."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

import servers
import threadlets
from certificates import COMMON_NAME, COUNTRY, ORGANIZATION, Certified, certify
from cryptography.hazmat.primitives.asymmetric import ec
from messages import Connection
from servers import Server, StartServer
from threadlets import _core
from waiting import wait_until

if servers.chosen_kind() != servers.OURS:
    pytest.skip("these are claims about our server", allow_module_level=True)

GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"
VERSIONS = {
    "1.2": (ssl.TLSVersion.TLSv1_2, 0x0303),
    "1.3": (ssl.TLSVersion.TLSv1_3, 0x0304),
}


@pytest.fixture(scope="module")
def authority() -> Certified:
    """Return an authority that clients' certificates are signed by."""
    return certify((COMMON_NAME, "Test authority"), is_authority=True)


@pytest.fixture(scope="module")
def server(shared_server: StartServer, tls_folder: Path) -> Server:
    """Return our server with TLS, and the application that echoes."""
    return shared_server(tls=tls_folder)


# The module's own server is shared by its tests; the session's fixture has the session's scope.
@pytest.fixture(scope="module")
def mutual(
    authority: Certified, tls_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Return a server that wants clients to show certificates."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    path.write_bytes(authority.pem)
    arguments = ("--ssl-ca-certs", str(path))
    server = servers.start(servers.OURS, *arguments, app="scope_app:app", tls=tls_folder)
    yield server
    server.stop()


def trusting(folder: Path, *protocols: str) -> ssl.SSLContext:
    """Return a client's settings that trust the server's certificate."""
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def secured(server: Server, context: ssl.SSLContext, **options: Any) -> ssl.SSLSocket:
    """Connect, and shake hands."""
    plain = socket.create_connection(server.address, timeout=10)
    return context.wrap_socket(plain, server_hostname="localhost", **options)


def ask(connection: Connection, request: bytes = GET) -> bytes:
    """Send a request, and return the body of its response."""
    connection.send(request)
    response = connection.read_response()
    assert 200 == response.status
    return response.body


# -- certificates and keys -----------------------------------------------------------------------------


def make(**tls: Any) -> None:
    """Make a server with these options of TLS."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        _core.HttpServer(
            loop,
            None,
            None,
            limits={},
            headers=[],
            logs=False,
            root_path="",
            scheme="http",
            state=None,
            extensions={},
            tls=tls,
        )

    threadlets.run(main())


@pytest.mark.parametrize("kind", ["rsa", "p256", "p384", "ed25519"])
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("password", [None, b"a pass phrase"])
def test_keys_of_each_kind_and_form_are_read(
    kind: str, form: str, password: bytes | None, tmp_path: Path
) -> None:
    if form == "TraditionalOpenSSL" and (kind == "ed25519" or password):
        pytest.skip("there is no such form, or it is refused: see below")
    own = certify((COMMON_NAME, "localhost"), kind=kind)
    make(certificates=own.pem, key=own.key_pem(form, password), key_password=password)
    both = tmp_path / "both.pem"
    both.write_bytes(own.key_pem(form) + own.pem)
    make(certificates=str(both))


def test_what_cannot_be_used_is_refused_with_a_reason(tmp_path: Path) -> None:
    own, other = certify((COMMON_NAME, "a")), certify((COMMON_NAME, "a"))
    encrypted = own.key_pem("PKCS8", b"right")
    old = own.key_pem("TraditionalOpenSSL", b"right")
    for message, tls in [
        ("no certificate", {"certificates": own.key_pem()}),
        ("no private key", {"certificates": own.pem}),
        ("does not belong to", {"certificates": own.pem, "key": other.key_pem()}),
        ("there is no password", {"certificates": own.pem, "key": encrypted}),
        ("cannot be decrypted", {"certificates": own.pem, "key": encrypted, "key_password": "x"}),
        ("openssl pkcs8", {"certificates": own.pem, "key": old, "key_password": "right"}),
        (
            "no authority",
            {
                "certificates": own.pem,
                "key": own.key_pem(),
                "requires_client_certificate": True,
            },
        ),
        (
            "client authorities",
            {"certificates": own.pem, "key": own.key_pem(), "client_authorities": b"none"},
        ),
        ("no option", {"certificate": own.pem}),
    ]:
        with pytest.raises(ValueError, match=message):
            make(**tls)
    missing = tmp_path / "missing.pem"
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        make(certificates=str(missing))


# -- what peers agree on -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_scope_says_what_peers_have_agreed_on(
    version: str, shared_server: StartServer, tls_folder: Path
) -> None:
    server = shared_server(app="scope_app:app", tls=tls_folder)
    context = trusting(tls_folder)
    context.minimum_version, number = VERSIONS[version]
    context.maximum_version = context.minimum_version
    with Connection(server.address, tls=context) as connection:
        told = json.loads(ask(connection))
        assert "https" == told["scheme"]
        assert "1.1" == told["http_version"]
        assert number == told["tls"]["tls_version"]
        assert isinstance(connection.socket, ssl.SSLSocket)
        cipher = connection.socket.cipher()
        assert cipher is not None
        numbers = {it["name"]: it["id"] & 0xFFFF for it in context.get_ciphers()}
        assert numbers[cipher[0]] == told["tls"]["cipher_suite"]
    assert (tls_folder / "cert.pem").read_text() == told["tls"]["server_cert"]
    assert [] == told["tls"]["client_cert_chain"]
    assert told["tls"]["client_cert_name"] is None
    assert told["tls"]["client_cert_error"] is None


def test_a_scope_without_tls_does_not_speak_of_it(shared_server: StartServer) -> None:
    with Connection(shared_server(app="scope_app:app").address) as connection:
        told = json.loads(ask(connection))
    assert told["tls"] is None
    assert "http" == told["scheme"]


def test_versions_before_1_2_are_refused(server: Server, tls_folder: Path) -> None:
    context = trusting(tls_folder)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.deprecated_call():
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        Connection(server.address, tls=context)


def test_protocols_that_we_do_not_speak_are_refused(server: Server, tls_folder: Path) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        Connection(server.address, tls=trusting(tls_folder, "spdy/3"))


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_are_resumed(version: str, server: Server, tls_folder: Path) -> None:
    context = trusting(tls_folder)
    context.minimum_version = context.maximum_version = VERSIONS[version][0]
    with secured(server, context) as first:
        first.sendall(GET)
        first.recv(1000)
        session = first.session
        assert session is not None
    with secured(server, context, session=session) as second:
        assert second.session_reused
        second.sendall(GET)
        assert second.recv(1000).startswith(b"HTTP/1.1 200")


# -- clients' certificates -----------------------------------------------------------------------------


def shown(folder: Path, own: Certified, path: Path) -> ssl.SSLContext:
    """Return a client's settings that show a certificate."""
    path.write_bytes(own.key_pem() + own.pem)
    context = trusting(folder)
    context.load_cert_chain(str(path))
    return context


def test_an_application_learns_who_its_client_is(
    mutual: Server, authority: Certified, tls_folder: Path, tmp_path: Path
) -> None:
    name = ((COUNTRY, "DE"), (ORGANIZATION, "Ärzte, Bären & Co"), (COMMON_NAME, "a client"))
    own = certify(*name, by=authority)
    context = shown(tls_folder, own, tmp_path / "own.pem")
    with Connection(mutual.address, tls=context) as connection:
        for _ in range(2):
            told = json.loads(ask(connection))["tls"]
            assert [own.pem.decode()] == told["client_cert_chain"]
            assert own.certificate.subject.rfc4514_string() == told["client_cert_name"]
            assert told["client_cert_error"] is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shows", ["nothing", "another authority's"])
def test_clients_without_the_right_certificate_are_refused(
    version: str, shows: str, mutual: Server, tls_folder: Path, tmp_path: Path
) -> None:
    stranger = certify((COMMON_NAME, "Test authority"), is_authority=True)
    own = certify((COMMON_NAME, "x"), by=stranger)
    context = (
        trusting(tls_folder) if shows == "nothing" else shown(tls_folder, own, tmp_path / "own.pem")
    )
    context.minimum_version = context.maximum_version = VERSIONS[version][0]
    with (
        pytest.raises(ssl.SSLError, match="alert"),
        Connection(mutual.address, tls=context) as connection,
    ):
        # In TLS 1.3 a client learns it when it reads.
        connection.socket.recv(1)


@pytest.mark.parametrize(("mode", "is_asked"), [(0, False), (1, True)])
def test_certificates_of_clients_can_be_optional(
    mode: int,
    is_asked: bool,
    authority: Certified,
    tls_folder: Path,
    tmp_path: Path,
) -> None:
    """With 1 a client without one is served, and one is checked; with 0 none is asked for."""
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    arguments = ("--ssl-ca-certs", str(tmp_path / "ca.pem"), "--ssl-cert-reqs", str(mode))
    server = servers.start(servers.OURS, *arguments, app="scope_app:app", tls=tls_folder)
    own = certify((COMMON_NAME, "a client"), by=authority)
    stranger = certify((COMMON_NAME, "x"), by=certify((COMMON_NAME, "y"), is_authority=True))

    def chain(context: ssl.SSLContext) -> Any:
        with Connection(server.address, tls=context) as connection:
            return json.loads(ask(connection))["tls"]["client_cert_chain"]

    try:
        assert [] == chain(trusting(tls_folder))
        known = chain(shown(tls_folder, own, tmp_path / "own.pem"))
        assert ([own.pem.decode()] if is_asked else []) == known
        unknown = shown(tls_folder, stranger, tmp_path / "other.pem")
        if is_asked:
            with (
                pytest.raises(ssl.SSLError, match="alert"),
                Connection(server.address, tls=unknown) as connection,
            ):
                connection.socket.recv(1)
        else:
            assert [] == chain(unknown)
    finally:
        server.stop()


# -- handshakes that come to nothing -------------------------------------------------------------------


def everything(plain: socket.socket) -> bytes:
    """Read to the end."""
    parts = []
    while part := plain.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_http_at_the_port_of_https_is_told_so(server: Server) -> None:
    with socket.create_connection(server.address, timeout=10) as plain:
        plain.sendall(GET)
        answer = everything(plain)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\nThis port speaks HTTPS. Use a https:// address")
    length = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert length == len(answer.split(b"\r\n\r\n", 1)[1])


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x00\x05hello", b"\x15\x03\x01\x00\x02\x02\x28", b"\x80" * 70_000, b"\0"]
)
def test_nonsense_ends_the_connection(server: Server, data: bytes) -> None:
    with socket.create_connection(server.address, timeout=10) as plain:
        plain.sendall(data)
        plain.shutdown(socket.SHUT_WR)
        try:
            answer = everything(plain)
        except ConnectionResetError:
            return
        assert b"" == answer or 0x15 == answer[0]
    assert server.process is not None
    assert server.process.poll() is None


def test_a_handshake_byte_by_byte(server: Server, tls_folder: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(tls_folder).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(server.address, timeout=10) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def go_on(step: Any) -> Any:
            while True:
                try:
                    result = step()
                    wanting = False
                except ssl.SSLWantReadError:
                    wanting = True
                for byte in outgoing.read():
                    plain.sendall(bytes([byte]))
                if not wanting:
                    return result
                incoming.write(plain.recv(1))

        go_on(tls.do_handshake)
        go_on(lambda: tls.write(GET))
        assert go_on(lambda: tls.read(1000)).startswith(b"HTTP/1.1 200")


def test_half_a_handshake_is_given_up(tls_folder: Path) -> None:
    server = servers.start(servers.OURS, "--timeout-request-head", "0.5", tls=tls_folder)
    try:
        tls = trusting(tls_folder).wrap_bio(
            ssl.MemoryBIO(), out := ssl.MemoryBIO(), server_hostname="localhost"
        )
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = out.read()
        for sent in (b"", hello[:3], hello[:-1], hello):
            with socket.create_connection(server.address, timeout=10) as plain:
                plain.sendall(sent)
                # What comes is our half of the handshake at most.
                assert not everything(plain).startswith(b"HTTP")
        # After the handshake, it is told as without TLS.
        with Connection(server.address, tls=trusting(tls_folder)) as connection:
            connection.send(b"GET /x HT")
            assert 408 == connection.read_response().status
    finally:
        server.stop()


def test_clients_that_leave_within_the_handshake_leave_nothing(tls_folder: Path) -> None:
    server = servers.start(servers.OURS, tls=tls_folder)
    try:
        with Connection(server.address, tls=trusting(tls_folder)) as connection:
            ask(connection)
            n_before = server.n_sockets() - 1
        tls = trusting(tls_folder).wrap_bio(
            ssl.MemoryBIO(), out := ssl.MemoryBIO(), server_hostname="localhost"
        )
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = out.read()
        for n_bytes in range(0, len(hello), 7):
            plain = socket.create_connection(server.address)
            plain.sendall(hello[:n_bytes])
            if n_bytes % 2:
                reset = b"\1\0\0\0\0\0\0\0"
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            plain.close()
        wait_until(lambda: server.n_sockets() <= n_before)
    finally:
        server.stop()


# -- ends ----------------------------------------------------------------------------------------------


def test_the_last_response_ends_in_order(server: Server, tls_folder: Path) -> None:
    with secured(server, trusting(tls_folder), suppress_ragged_eofs=False) as tls:
        tls.sendall(b"GET /large?bytes=1000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        # Without a close_notify, this would raise.
        assert everything(tls).endswith(b"x" * 1_000_000)


def test_a_response_that_breaks_off_does_not_end_in_order(server: Server, tls_folder: Path) -> None:
    with secured(server, trusting(tls_folder), suppress_ragged_eofs=False) as tls:
        tls.sendall(b"GET /raises-within HTTP/1.0\r\n\r\n")
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            everything(tls)


def n_left(server: Server, folder: Path) -> int:
    """Return how many clients have left within a body."""
    with Connection(server.address, tls=trusting(folder)) as connection:
        return int(ask(connection, GET.replace(b"/x", b"/counts")).split()[1])


def test_an_end_within_a_body_is_no_end_of_the_body(server: Server, tls_folder: Path) -> None:
    n_before = n_left(server, tls_folder)
    with Connection(server.address, tls=trusting(tls_folder)) as connection:
        connection.send(
            b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello"
        )
    wait_until(lambda: n_left(server, tls_folder) == n_before + 1)


def test_a_client_that_has_said_all_gets_its_response(server: Server, tls_folder: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(tls_folder).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(server.address, timeout=10) as plain:

        def go_on(step: Any) -> Any:
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
                else:
                    plain.sendall(outgoing.read())
                    return result

        go_on(tls.do_handshake)
        tls.write(GET)
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        plain.sendall(outgoing.read())
        plain.shutdown(socket.SHUT_WR)
        # What is encrypted is not looked into: alerts and tickets are shorter than a response.
        assert len(everything(plain)) > 100


# -- bodies and many requests --------------------------------------------------------------------------


def test_large_bodies_both_ways(server: Server, tls_folder: Path) -> None:
    body = os.urandom(1 << 20) * 8
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with Connection(server.address, tls=trusting(tls_folder)) as connection:
        for _ in range(2):
            answer = ask(connection, head + body)
            assert answer == b"POST /x %d\n" % len(body) + body


def test_a_reader_that_is_slow_gets_all(server: Server, tls_folder: Path) -> None:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(server.address)
    with trusting(tls_folder).wrap_socket(plain, server_hostname="localhost") as tls:
        tls.sendall(b"GET /large?bytes=3000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        n_bytes = 0
        while n_bytes < 3_000_000:
            part = tls.recv(1000)
            assert part
            n_bytes += part.count(b"x")
        tls.sendall(GET)
        assert tls.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("secure", [False, True])
def test_a_reader_may_take_longer_than_a_connection_may_be_idle(
    secure: bool, tls_folder: Path
) -> None:
    server = servers.start(
        servers.OURS, "--timeout-keep-alive", "0.2", tls=tls_folder if secure else None
    )
    try:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        plain.connect(server.address)
        reader = (
            trusting(tls_folder).wrap_socket(plain, server_hostname="localhost")
            if secure
            else plain
        )
        with reader:
            body = b"y" * 8_000_000
            head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            reader.sendall(head + body)
            time.sleep(2)  # Not to wait for something: to be slow.
            n_bytes = 0
            while n_bytes < len(body):
                part = reader.recv(65536)
                assert part, n_bytes
                n_bytes += part.count(b"y")
    finally:
        server.stop()


def test_a_thousand_requests_on_one_connection(server: Server, tls_folder: Path) -> None:
    with Connection(server.address, tls=trusting(tls_folder, "http/1.1")) as connection:
        for number in range(1000):
            answer = ask(connection, GET.replace(b"/x", b"/%d" % number))
            assert answer == b"GET /%d 0\n" % number
        # A hundred at once.
        connection.send(GET * 100)
        for _ in range(100):
            assert 200 == connection.read_response().status


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_curl(option: str, server: Server, tls_folder: Path) -> None:
    url = f"https://localhost:{server.address[1]}/large?bytes=100000"
    command = ["curl", "-sS", option, "--cacert", str(tls_folder / "cert.pem")]
    try:
        done = subprocess.run(
            [*command, "-w", "%{http_version}", url], capture_output=True, timeout=30, text=True
        )
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    if "does not support this" in done.stderr:
        pytest.skip("this curl does not speak HTTP/2")
    assert 0 == done.returncode, done.stderr
    assert "x" * 100_000 + option.removeprefix("--http") == done.stdout


def test_keys_of_other_kinds_are_refused_with_the_kinds_there_are() -> None:
    own = certify((COMMON_NAME, "x"))
    other = Certified(ec.generate_private_key(ec.SECP256K1()), own.certificate)
    with pytest.raises(ValueError, match="ECDSA key on P-256 or P-384"):
        make(certificates=own.pem, key=other.key_pem())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_certificate_that_cannot_be_used_stops_the_command_at_once(
    workers: str, tls_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(certify((COMMON_NAME, "x")).key_pem())
    command = [sys.executable, "-m", "threadlets", "serve", "scope_app:app", "--port", "0"]
    command += ["--ssl-certfile", str(tls_folder / "cert.pem"), "--workers", workers]
    for key, cause in (("key.pem", "does not belong to the certificate"), ("none", "No such file")):
        done = subprocess.run(
            [*command, "--ssl-keyfile", str(tmp_path / key)],
            capture_output=True,
            cwd=Path(__file__).parent,
            text=True,
            timeout=30,
        )
        assert done.returncode not in (0, None)
        assert "error: TLS cannot be set up\n" in done.stderr
        assert cause in done.stderr
        assert "Traceback" not in done.stderr
