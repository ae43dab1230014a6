"""Run each test on the stock loop and on ours: a test that is wrong fails on both."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import threadlets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .harness import DEADLINE_S, Contexts, LoopFactory, Run, Script, end_connections

FACTORIES: dict[str, LoopFactory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "threadlets": threadlets.new_event_loop,
}
FACTORY_EXPRESSIONS = {
    asyncio.SelectorEventLoop: "asyncio.SelectorEventLoop",
    threadlets.new_event_loop: "threadlets.new_event_loop",
}


@pytest.fixture(params=list(FACTORIES))
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    """Return the factory of the loops under test: asyncio's, then ours."""
    return FACTORIES[request.param]


@pytest.fixture
def loop(loop_factory: LoopFactory) -> Iterator[asyncio.AbstractEventLoop]:
    """Return a loop that does not run yet; it is closed afterwards."""
    loop = loop_factory()
    yield loop
    loop.close()


@pytest.fixture
def run(loop_factory: LoopFactory) -> Run:
    """Run a coroutine on a new loop, within the deadline."""

    def run(main: Coroutine[Any, Any, Any], *, deadline_s: float = DEADLINE_S) -> Any:
        async def within_deadline() -> Any:
            try:
                async with asyncio.timeout(deadline_s):
                    return await main
            finally:
                await end_connections()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(within_deadline())

    return run


@pytest.fixture
def script(loop_factory: LoopFactory) -> Iterator[Script]:
    """Start a Python program; in it, `new_loop` makes the loop under test."""
    started: list[subprocess.Popen[str]] = []
    expression = FACTORY_EXPRESSIONS[loop_factory]

    def start(source: str) -> subprocess.Popen[str]:
        prelude = f"import asyncio, threadlets\nnew_loop = {expression}\n"
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", prelude + textwrap.dedent(source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a fresh key and its self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def contexts(certificate: Path) -> Contexts:
    """Return the server's TLS context, and a client's that trusts it."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    return server, client
