"""A certificate authority of one coordinator's own, for federations without a public one.

Sites hold the coordinator to it: it comes with their invitation.  Real deployments give a certificate
of their own instead (``folkmoot coordinator up --certificate --key``).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from folkmoot.errors import ConfigError

__all__ = ["ensure_certificate"]

_YEARS, _DAYS = 10, 397


def ensure_certificate(folder: Path, host: str) -> tuple[Path, Path, Path]:
    """Authority, certificate and key for a host name or address; made anew a month before the end.

    Parameters
    ----------
    folder : Path
        Where they lie (keys with mode 0600).
    host : str
        What sites call the coordinator.

    Returns
    -------
    tuple of Path
        ``ca.pem``, ``server.pem``, ``server.key``.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, own, key = (folder / name for name in ("ca.pem", "server.pem", "server.key"))
    issuer, issuer_key = _authority(folder / "ca.key", authority)
    if not _good(own, key, host):
        private = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = (
            _builder(host, issuer.subject, private, _DAYS)
            .add_extension(x509.SubjectAlternativeName([_name(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
                critical=False,
            )
        )
        made = builder.sign(issuer_key, hashes.SHA256())
        _write(key, _pem(private))
        _write(own, made.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM))
    return authority, own, key


def _authority(key: Path, certificate: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if not (key.exists() and certificate.exists()):
        private = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Folkmoot coordinator")])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        made = (
            _builder("Folkmoot coordinator", name, private, 365 * _YEARS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(private, hashes.SHA256())
        )
        _write(key, _pem(private))
        _write(certificate, made.public_bytes(Encoding.PEM))
    loaded = load_pem_private_key(key.read_bytes(), None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            "config.invalid", f"{key} is not the authority's key.", "Restore it from the backup."
        )
    return x509.load_pem_x509_certificate(certificate.read_bytes()), loaded


def _builder(
    common: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _good(certificate: Path, key: Path, host: str) -> bool:
    if not (certificate.exists() and key.exists()):
        return False
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return _name(host) in list(names) and left > datetime.timedelta(days=30)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    os.replace(part, path)
