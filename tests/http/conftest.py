"""Fixtures of the protocol tests: servers, which are shared by all tests that start them alike, and certificates."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from servers import Server, StartServer


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Return a server of the chosen kind that was started with these arguments, once for the session."""
    kind = servers.chosen_kind()
    why_not = servers.missing(kind)
    started: dict[tuple[str, ...], Server] = {}

    def get(*arguments: str, app: str = "echo_app:app", tls: Path | None = None) -> Server:
        if why_not is not None:
            pytest.skip(why_not)
        key = (app, str(tls), *arguments)
        if key not in started:
            started[key] = servers.start(kind, *arguments, app=app, tls=tls)
        return started[key]

    yield get
    for server in started.values():
        server.stop()


@pytest.fixture
def server(shared_server: StartServer) -> Server:
    """Return a server of the chosen kind with its usual limits."""
    return shared_server(*servers.usual_options(servers.chosen_kind()))


@pytest.fixture(scope="session")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certificate of 127.0.0.1 that signs itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder
