"""Sealed shares: authenticated encryption from one site to another, bound to run, sender, receiver.

X25519 between the two sites' sealing keys of the run, and between the long-term keys that the roster
lists; HKDF-SHA256 of both, AES-128-GCM.  The sealing keys are signed by their sites, so a box that
opens was sealed by its sender for this receiver and run; the coordinator that carries it can withhold
it, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from folkmoot.errors import SecureError
from folkmoot.secure.masks import agree, hkdf
from folkmoot.wire import canonical_json

__all__ = ["OVERHEAD", "Sealer", "open_box", "pair_secret", "seal_box"]

#: Bytes that a box is longer than its content.
OVERHEAD = 16


@dataclass(frozen=True)
class Sealer:
    """A site's own keys: of the run, and its long-term one. The other's are two public keys in a row."""

    run: X25519PrivateKey
    site: X25519PrivateKey


Own = X25519PrivateKey | Sealer


def seal_box(
    content: bytes, own: Own, other: bytes, context: object, sender: str, receiver: str
) -> bytes:
    """Encrypt ``content`` for one receiver; O(bytes).

    Parameters
    ----------
    content : bytes
        Sealed once per context, sender and receiver: the nonce is part of the derived key.
    own, other : Sealer or X25519PrivateKey, bytes
        The sender's sealing keys, the receiver's public ones.
    context : JSON value
        What the box is bound to besides: federation, run, round, digest of the set-up's key list.
    sender, receiver : str
        Names of the sites.
    """
    key, nonce, bound = _key(own, other, context, sender, receiver, receiver)
    return AESGCM(key).encrypt(nonce, content, bound)


def open_box(
    box: bytes, own: Own, other: bytes, context: object, sender: str, receiver: str
) -> bytes:
    """Content of :func:`seal_box`; ``own`` is the receiver's key, ``other`` the sender's.

    Raises
    ------
    SecureError
        ``secure.share``, naming the sender, for a box that was changed, swapped, reflected or
        sealed for another run or receiver.
    """
    key, nonce, bound = _key(own, other, context, sender, receiver, sender)
    try:
        return AESGCM(key).decrypt(nonce, box, bound)
    except InvalidTag:
        raise SecureError(
            "secure.share",
            f"The share that site {sender} sealed for site {receiver} cannot be opened: it was "
            "altered, or sealed for another run, round or site.",
            "Find out who carried it; the set-up must be done again in a new run.",
            site=sender,
        ) from None


def pair_secret(
    own: Own, other: bytes, context: object, pair: tuple[str, str], whose: str
) -> bytes:
    """Key (32 bytes) that two sites have with each other for a run, and nobody else; no box's key.

    Parameters
    ----------
    own, other : Sealer or X25519PrivateKey, bytes
        Sealing keys of one, public ones of the other, which is site ``whose``.
    context : JSON value
        As of :func:`seal_box`.
    pair : (str, str)
        Both names, in any order.
    """
    values = {"context": context, "pair": sorted(pair)}
    return hkdf(_shared(own, other, whose), "together", values)


def _shared(own: Own, other: bytes, whose: str) -> bytes:
    if isinstance(own, Sealer):
        return agree(own.run, other[:32], whose) + agree(own.site, other[32:], whose)
    return agree(own, other, whose)


def _key(
    own: Own, other: bytes, context: object, sender: str, receiver: str, whose: str
) -> tuple[bytes, bytes, bytes]:
    values = {"context": context, "sender": sender, "receiver": receiver}
    derived = hkdf(_shared(own, other, whose), "box", values, 28)
    return derived[:16], derived[16:], canonical_json(values)
