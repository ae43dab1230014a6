"""Every test here runs the same body on the stock loop and on ours."""

from __future__ import annotations

import asyncio
import datetime
import functools
import ipaddress
import itertools
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import private_postgres
import pytest
import threadlets
from blocking import WAYS, Way

T = TypeVar("T")
DEADLINE_S = 30.0
_numbers = itertools.count()

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "threadlets": threadlets.new_event_loop,
}


class Run(Protocol):
    """Run a coroutine to its end on the loop under test and return its result."""

    def __call__(self, main: Coroutine[Any, Any, T]) -> T: ...


@pytest.fixture(params=sorted(LOOPS))
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the factory of this test's loops."""
    return LOOPS[request.param]


@pytest.fixture
def run(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Run:
    """Return a runner that fails if the body misses its deadline or its loop reports an exception."""
    return functools.partial(_run_on, loop_factory)


def _run_on(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    main: Coroutine[Any, Any, T],
    *,
    debug: bool | None = None,
) -> T:
    upsets: list[dict[str, Any]] = []

    async def body() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: upsets.append(context))
        async with asyncio.timeout(DEADLINE_S):
            return await main

    with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
        is_ours = isinstance(runner.get_loop(), threadlets.Loop)
        assert is_ours == (loop_factory is not LOOPS["asyncio"])
        result = runner.run(body())
    assert [] == upsets
    return result


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Return a way in which functions block, on our loop or on the stock one."""
    way: Way = request.param
    with way.in_use():
        yield way


@pytest.fixture
def run_way(way: Way) -> Run:
    """Return a runner like `run`, on the loop of the way."""
    return functools.partial(_run_on, way.loop_factory)


@pytest.fixture
def run_threadlets() -> Callable[..., Any]:
    """Return a runner like `run`, on our loop, with `debug` and the keywords of `new_event_loop`."""

    def run(main: Coroutine[Any, Any, T], *, debug: bool = False, **options: Any) -> T:
        loop_factory = functools.partial(threadlets.new_event_loop, **options)
        return _run_on(loop_factory, main, debug=debug)

    return run


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[private_postgres.Server]:
    """Start a server for this session."""
    with private_postgres.server() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: private_postgres.Server) -> dict[str, str]:
    """Return the parameters for connecting to an empty database for this test."""
    name = f"test_{next(_numbers)}"
    postgres_server.make_database(name)
    folder = str(postgres_server.folder)
    return {"host": folder, "user": private_postgres.USER, "database": name}


@dataclass(frozen=True)
class Tls:
    """TLS contexts that trust each other, with a certificate for 127.0.0.1 and localhost."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Return contexts with a certificate that is made for this session."""
    pytest.importorskip("cryptography", reason="cryptography makes the certificate")
    files = tmp_path_factory.mktemp("tls")
    certificate, key = files / "certificate.pem", files / "key.pem"
    _write_certificate(certificate, key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return Tls(server, ssl.create_default_context(cafile=certificate))


def _write_certificate(certificate: Path, key: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private_key, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Provide a port that is bound, so that no program takes it, but refuses connections."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
