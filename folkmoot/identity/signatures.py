"""Signatures over what a party publishes (Ed25519, RFC 8032).

Everything a site releases ends with a signature over its bytes, whose header names federation, run,
round, site and step.  Of more than 4 KiB the SHA-256 is signed: Ed25519 itself reads what it signs
twice, by SHA-512, which took half the time of a run of histograms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from folkmoot.errors import ProtocolError
from folkmoot.identity.keys import public_bytes
from folkmoot.wire import remember

__all__ = ["sign", "verified", "verify"]

MARK = b"FOLKMOOT-SIGNATURE-1"
#: Stands before a signature of the data's SHA-256.
LONG_MARK = b"FOLKMOOT-SIGNATURE-2"
_TAIL = len(MARK) + 64
#: Longer data is signed by its SHA-256.
_LONG = 4 * 1024
#: What this process signed lately, by the signature's first byte: public key and signed bytes.
_own: list[tuple[bytes, bytes] | None] = [None] * 256
_OWN_BYTES = 64 * 1024  # longer ones are kept apart, fewer of them
#: Longer ones by their signature, with their digest, until they are asked for once.
_long: dict[bytes, tuple[bytes, bytes, str]] = {}
_LONG_OWN = 8
_LONG_BYTES = 4 * 1024 * 1024


def sign(data: bytes | Sequence[bytes | memoryview], key: Ed25519PrivateKey) -> bytes:
    """``data``, whole or in pieces, followed by a mark and its signature (84 bytes); reads it once."""
    parts: list[bytes | memoryview] = [data] if isinstance(data, bytes) else list(data)
    if sum(map(len, parts)) <= _LONG:
        data = b"".join(parts)
        signed = b"".join((data, MARK, key.sign(MARK + data)))
    else:
        read = hashlib.sha256()
        for part in parts:
            read.update(part)
        tail = LONG_MARK + key.sign(LONG_MARK + read.digest())
        read.update(tail)
        signed = b"".join((*parts, tail))
        remember(signed, read.hexdigest())
        if _OWN_BYTES < len(signed) <= _LONG_BYTES:
            _keep(public_bytes(key), signed, read.hexdigest())
    if len(signed) <= _OWN_BYTES:
        _own[signed[-64]] = public_bytes(key), signed
    return signed


def verify(signed: bytes, key: Ed25519PublicKey, *, what: str) -> bytes:
    """As :func:`verified`, as bytes of their own."""
    return bytes(verified(signed, key, what=what))


def verified(signed: bytes, key: Ed25519PublicKey, *, what: str) -> memoryview:
    """The data of :func:`sign`, where the signature holds; O(bytes), without a copy.

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
    data = memoryview(signed)[:-_TAIL]
    if _own[signed[-64]] == (key.public_bytes_raw(), signed):
        return data
    known = _long.pop(bytes(signed[-64:]), None)
    if known is not None and known[:2] == (key.public_bytes_raw(), signed):
        remember(signed, known[2])
        return data
    message = bytes(data) if mark == MARK else b""
    if mark == LONG_MARK:
        read = hashlib.sha256(data)
        message = read.digest()
        read.update(signed[-_TAIL:])
        remember(signed, read.hexdigest())
    try:
        key.verify(signed[-64:], mark + message)
    except InvalidSignature:
        raise ProtocolError(
            "protocol.signature",
            f"The signature of {what} does not verify.",
            "Compare the roster's key with the site's public.toml; treat the update as forged.",
        ) from None
    return data


def _keep(public: bytes, signed: bytes, digest: str) -> None:
    _long[signed[-64:]] = public, signed, digest
    while len(_long) > _LONG_OWN:
        _long.pop(next(iter(_long), b""), None)
