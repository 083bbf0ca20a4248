"""Signatures over what a party publishes (Ed25519, RFC 8032).

Everything a site releases ends with a signature over its bytes, whose header names federation, run,
round, site and step.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from folkmoot.errors import ProtocolError

__all__ = ["sign", "verify"]

MARK = b"FOLKMOOT-SIGNATURE-1"
_TAIL = len(MARK) + 64
#: What this process signed lately, by the signature's first byte: public key and signed bytes.
_own: list[tuple[bytes, bytes] | None] = [None] * 256
_OWN_BYTES = 64 * 1024  # longer ones are not kept


def sign(data: bytes, key: Ed25519PrivateKey) -> bytes:
    """``data`` followed by a mark and its signature (84 bytes)."""
    signature = key.sign(MARK + data)
    signed = data + MARK + signature
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
    if len(signed) < _TAIL or signed[-_TAIL:-64] != MARK:
        raise ProtocolError(
            "protocol.truncated",
            f"{what} is empty, truncated or not signed.",
            "Run the site's step again; nothing was read from it.",
        )
    data = signed[:-_TAIL]
    if _own[signed[-64]] == (key.public_bytes_raw(), signed):
        return data
    try:
        key.verify(signed[-64:], MARK + data)
    except InvalidSignature:
        raise ProtocolError(
            "protocol.signature",
            f"The signature of {what} does not verify.",
            "Compare the roster's key with the site's public.toml; treat the update as forged.",
        ) from None
    return data
