"""Making and reading the keys themselves: pure functions, no rows."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from pileus.kernel.faults import Invalid

_BITS = 2048
_YEARS = 10
_UPN = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")  # the principal that Windows maps the key to
_BAD = "Keypair data is invalid: failed to generate fingerprint"


@dataclass(frozen=True)
class Keys:
    public: str
    private: str
    fingerprint: str


def _colons(digest: str) -> str:
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def fingerprint(public_key: str, kind: str) -> str:
    """MD5 of an SSH key's blob, SHA-1 of a certificate, as Nova shows them. Raises Invalid."""
    if kind == "x509":
        try:
            certificate = x509.load_pem_x509_certificate(public_key.encode())
        except ValueError as e:
            raise Invalid(f"Keypair data is invalid: not a PEM certificate: {e}") from None
        return _colons(certificate.fingerprint(hashes.SHA1()).hex())
    parts = public_key.split()
    try:
        blob = base64.b64decode(parts[1], validate=True)
        serialization.load_ssh_public_key(public_key.encode())
    except (IndexError, binascii.Error, ValueError):
        raise Invalid(_BAD) from None
    except UnsupportedAlgorithm:
        pass  # a kind of key that the guest may know all the same
    return _colons(hashlib.md5(blob, usedforsecurity=False).hexdigest())


def make_ssh() -> Keys:
    """An RSA key. Takes a tenth of a second or more: call it in a thread."""
    key = rsa.generate_private_key(65537, _BITS)
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    public = f"{line.decode()} Generated-by-Nova"
    return Keys(public, _pem(key), fingerprint(public, "ssh"))


def make_x509(user_id: str, now: float) -> Keys:
    """A certificate for WinRM, signed by itself. `now` in epoch seconds."""
    key = rsa.generate_private_key(65537, _BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user_id)])
    start = dt.datetime.fromtimestamp(now, dt.UTC)
    principal = f"{user_id}@localhost".encode()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=365 * _YEARS))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .add_extension(x509.SubjectAlternativeName([x509.OtherName(_UPN, _utf8(principal))]), False)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM).decode()
    return Keys(public, _pem(key), fingerprint(public, "x509"))


def _utf8(text: bytes) -> bytes:
    """A DER UTF8String of fewer than 128 bytes."""
    return bytes((0x0C, len(text))) + text


def _pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()
