"""Certificates and keys for the tests of TLS."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certified:
    """A key and its certificate."""

    key: Any
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """Return the certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, form: str = "PKCS8", password: bytes | None = None) -> bytes:
        """Return the key; the form "TraditionalOpenSSL" is PKCS#1 or SEC1."""
        encryption = BestAvailableEncryption(password) if password else NoEncryption()
        return bytes(self.key.private_bytes(Encoding.PEM, getattr(PrivateFormat, form), encryption))


def make_key(kind: str) -> Any:
    """Return a new key: "rsa", "p256", "p384" or "ed25519"."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if kind == "p256" else ec.SECP384R1())


def certify(
    *names: tuple[x509.ObjectIdentifier, str],
    by: Certified | None = None,
    is_authority: bool = False,
    kind: str = "p256",
) -> Certified:
    """Make a key, and have its certificate signed by an authority or by itself."""
    key = make_key(kind)
    subject = x509.Name([x509.NameAttribute(*name) for name in names])
    issuer = by.certificate.subject if by else subject
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        addresses = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    signing = by.key if by else key
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Certified(key, builder.sign(signing, algorithm))


COMMON_NAME = x509.NameOID.COMMON_NAME
ORGANIZATION = x509.NameOID.ORGANIZATION_NAME
COUNTRY = x509.NameOID.COUNTRY_NAME
