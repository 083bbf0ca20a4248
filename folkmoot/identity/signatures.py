"""Signatures over what a party publishes (Ed25519, RFC 8032).

Everything a site releases ends with a signature over its bytes, whose header names federation, run,
round, site and step.  Of more than 4 KiB the SHA-256 is signed: Ed25519 itself reads what it signs
twice, by SHA-512, which took half the time of a run of histograms.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from folkmoot.errors import ProtocolError

__all__ = ["sign", "verify"]

MARK = b"FOLKMOOT-SIGNATURE-1"
#: Stands before a signature of the data's SHA-256.
LONG_MARK = b"FOLKMOOT-SIGNATURE-2"
_TAIL = len(MARK) + 64
#: Longer data is signed by its SHA-256.
_LONG = 4 * 1024
#: What this process signed lately, by the signature's first byte: public key and signed bytes.
_own: list[tuple[bytes, bytes] | None] = [None] * 256
_OWN_BYTES = 64 * 1024  # longer ones are not kept


def sign(data: bytes, key: Ed25519PrivateKey) -> bytes:
    """``data`` followed by a mark and its signature (84 bytes)."""
    mark = LONG_MARK if len(data) > _LONG else MARK
    signature = key.sign(_message(mark, data))
    signed = b"".join((data, mark, signature))
    if len(signed) <= _OWN_BYTES:
        _own[signature[0]] = key.public_key().public_bytes_raw(), signed
    return signed


def verify(signed: bytes, key: Ed25519PublicKey, *, what: str) -> bytes:
    """The data of :func:`sign`, where the signature holds.

    Bytes that this very process signed with the key asked about, compared whole, are not put to the
    curve again: in the embedded host most of what is read was signed a moment ago.

    Raises
    ------
    ProtocolError
        ``protocol.truncated`` or ``protocol.signature``.
    """
    mark = signed[-_TAIL:-64]
    if len(signed) < _TAIL or mark not in (MARK, LONG_MARK):
        raise ProtocolError(
            "protocol.truncated",
            f"{what} is empty, truncated or not signed.",
            "Run the site's step again; nothing was read from it.",
        )
    data = signed[:-_TAIL]
    if _own[signed[-64]] == (key.public_bytes_raw(), signed):
        return data
    try:
        key.verify(signed[-64:], _message(mark, data))
    except InvalidSignature:
        raise ProtocolError(
            "protocol.signature",
            f"The signature of {what} does not verify.",
            "Compare the roster's key with the site's public.toml; treat the update as forged.",
        ) from None
    return data


def _message(mark: bytes, data: bytes) -> bytes:
    """What is signed: the mark, and the data or its SHA-256."""
    return mark + (hashlib.sha256(data).digest() if mark == LONG_MARK else data)
