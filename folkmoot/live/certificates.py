"""Certificates of one session: made for it, self-signed, and vouched for by a signed message.

gRPC knows no Ed25519, so every party makes an ECDSA key (P-256) that lives as long as the session, and
sends the certificate in a message under its roster key.  The tracker lets in exactly those
certificates, the sites trust the tracker's alone: no authority is needed.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from folkmoot.errors import ProtocolError

__all__ = ["checked", "issue", "write"]

_MOST_BYTES = 4096


def issue(name: str, host: str, seconds: float) -> tuple[str, str]:
    """A self-signed certificate and its private key, both PEM.

    Parameters
    ----------
    name : str
        Common name: the site, or ``coordinator``.
    host : str
        Host name or address that others reach it by.
    seconds : float
        How long it is good for.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(hours=1, seconds=seconds))
        .add_extension(x509.SubjectAlternativeName([_host(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM).decode(), private.decode()


def checked(text: object, who: str) -> str:
    """One certificate and nothing else, written anew; raises `ProtocolError` for anything else."""
    try:
        if not isinstance(text, str) or len(text) > _MOST_BYTES:
            raise ValueError
        (found,) = x509.load_pem_x509_certificates(text.encode("ascii"))
        return found.public_bytes(Encoding.PEM).decode()
    except ValueError:
        raise ProtocolError(
            "protocol.format",
            f"{who} sent no certificate for its session.",
            "Check that both sides run the same version of folkmoot.",
        ) from None


def write(folder: Path, texts: dict[str, str]) -> dict[str, str]:
    """Files (mode 0600) of PEM texts, by name; returns their paths."""
    paths = {}
    for name, text in texts.items():
        paths[name] = str(folder / f"{name}.pem")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(paths[name], flags, 0o600), "w", encoding="ascii") as file:
            file.write(text)
    return paths


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
