"""A site's long-term X25519 key: the Montgomery form of the Ed25519 key that the roster lists.

Both curves are one (RFC 7748, section 4.1), so a listed signing key gives the key of Diffie–Hellman as
well, as in libsodium's ``crypto_sign_ed25519_pk_to_curve25519``: whoever signed the roster signed both,
and a rotation or revocation concerns both.  Using one pair for both is proven safe by Thormarker
(`eprint 2021/509`).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

__all__ = ["agreement_key", "agreement_public"]

_P = 2**255 - 19


def agreement_key(signing: Ed25519PrivateKey) -> X25519PrivateKey:
    """The X25519 private key of a signing key: its clamped scalar."""
    scalar = hashlib.sha512(signing.private_bytes_raw()).digest()[:32]
    return X25519PrivateKey.from_private_bytes(scalar)


@lru_cache(maxsize=4096)
def agreement_public(public: str) -> bytes:
    """The X25519 public key (32 bytes) of an Ed25519 public key (64 hex characters).

    Raises
    ------
    ValueError
        For a key of another length, or the neutral element.
    """
    data = bytes.fromhex(public)
    if len(data) != 32:
        raise ValueError("an Ed25519 public key has 32 bytes")
    y = int.from_bytes(data, "little") & (2**255 - 1)
    if y % _P == 1:
        raise ValueError("the neutral element has no X25519 key")
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(32, "little")
