"""Proof, for who decrypts, that a ciphertext is the sum of exactly the listed contributions.

The sites share a key that the coordinator does not know.  Site *i* appends to its numbers, as one more,

    ``t_i = <r, digits of its numbers> + F(i)   (mod p = 2^61 - 1)``

with weights *r* and the site's own ``F(i)`` from that key and the sum's binding (a homomorphic MAC,
Agrawal and Boneh 2009, `doi:10.1007/978-3-642-01957-9_18`).  Tags add up as the numbers do.  A
coordinator that adds other contributions than those of the list, the same twice, or numbers of its own
would have to know ``F`` or *r*: it passes with a probability of ``1/p`` per attempt, and a site lets it
try once a sum.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from folkmoot.secure.masks import Binding, hkdf

__all__ = ["PRIME", "holds", "tag", "tag_key"]

PRIME = 2**61 - 1
_BLOCK = 1 << 15


def tag_key(shared: bytes, binding: Binding) -> bytes:
    """Key of a sum's tags (32 bytes), from what all sites share and nobody else knows."""
    return hkdf(shared, "tag", binding.to_dict())


def tag(key: bytes, digits: NDArray[np.int64], site: str) -> int:
    """Tag of a site's digits, shape (digits, numbers), each below ``2^48``; O(digits)."""
    return (_product(key, digits) + _own(key, site)) % PRIME


def holds(key: bytes, digits: NDArray[np.int64], tags: int, sites: Iterable[str]) -> bool:
    """Whether summed digits are those of the sites' contributions together; O(digits).

    Parameters
    ----------
    tags : int
        The sum of their tags.
    """
    expected = (_product(key, digits) + sum(_own(key, site) for site in sites)) % PRIME
    return hmac.compare_digest((tags % PRIME).to_bytes(8, "big"), expected.to_bytes(8, "big"))


def _own(key: bytes, site: str) -> int:
    made = hmac.digest(key, b"site\0" + site.encode(), "sha256")
    return int.from_bytes(made, "big") % PRIME


def _product(key: bytes, digits: NDArray[np.int64]) -> int:
    """``<r, digits>`` modulo the prime, in limbs whose products of a block fit 64 bits."""
    values = digits.ravel().astype(np.uint64)
    stream = Cipher(AES(key[:16]), CTR(key[16:])).encryptor()
    total = 0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        drawn = np.frombuffer(stream.update(bytes(8 * block.size)), np.uint64)
        weights = drawn & np.uint64(PRIME)  # 2^61 - 1 itself is zero
        for i in range(2):
            high = weights >> np.uint64(31 * i) & np.uint64(2**31 - 1)
            for j in range(3):  # 31 + 16 bits, summed over 2^15
                low = block >> np.uint64(16 * j) & np.uint64(2**16 - 1)
                total += int((high * low).sum(dtype=np.uint64)) << (31 * i + 16 * j)
    return total % PRIME
