"""Masks that cancel in the sum: X25519 → HKDF-SHA256 → AES-128-CTR over Z_2^64 or Z_2^32.

Sites i < j agree on a seed per sum; i adds its mask and j subtracts it (Bonawitz et al. 2017,
`doi:10.1145/3133956.3133982`).  Every site adds a self-mask besides.  Federation, run, sum and pair
are bound into every derived key, so that no mask is of use anywhere else.

Seeds have 128 bits and more, and all of them reach the key: 16 bytes of HKDF's output are the AES
key, 16 the first counter block.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from folkmoot.errors import SecureError
from folkmoot.wire import canonical_json

__all__ = [
    "SEED_BYTES",
    "Binding",
    "add_masks",
    "agree",
    "commitment",
    "hkdf",
    "own_masks",
    "pair_key",
    "self_key",
]

#: Bytes of a self-mask's seed: 128 bits.
SEED_BYTES = 16
#: Bytes masked at a time: with its keystream it stays in a core's cache.
CHUNK = 1 << 17
_ZEROS = memoryview(bytes(CHUNK))


@dataclass(frozen=True)
class Binding:
    """What every key of one sum is bound to.

    Parameters
    ----------
    federation, run : str
        Names.
    round : int
        Round of the run.
    step : str
        Task whose contributions are summed, such as ``train``.
    """

    federation: str
    run: str
    round: int
    step: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "federation": self.federation,
            "run": self.run,
            "round": self.round,
            "step": self.step,
        }


def hkdf(secret: bytes, purpose: str, values: object, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869) with the purpose as salt and canonical JSON as info; ≤ 255 blocks."""
    pseudo = hmac.digest(f"folkmoot-secure-1 {purpose}".encode(), secret, "sha256")
    info, block, out = canonical_json(values), b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudo, block + info + bytes([counter]), "sha256")
        out += block
    return out[:length]


def agree(own: X25519PrivateKey, other: bytes, site: str) -> bytes:
    """X25519 shared secret (RFC 7748).

    Raises
    ------
    SecureError
        ``secure.key``, naming the site, for a key of low order or another length.
    """
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise SecureError(
            "secure.key",
            f"The key that site {site} announced is not a usable X25519 key.",
            "The site must set up anew with a key of its own; treat the message as forged.",
            site=site,
        ) from None


def pair_key(
    own: X25519PrivateKey, other: bytes, binding: Binding, pair: tuple[str, str], site: str
) -> bytes:
    """Key (32 bytes) of the mask of a pair of sites in one sum.

    Parameters
    ----------
    own : X25519PrivateKey
        Of the sum, of one of the pair.
    other : bytes
        The other's public key of the sum.
    binding : Binding
        The sum.
    pair : (str, str)
        Both names, in any order.
    site : str
        Whose key ``other`` is, for errors.
    """
    return hkdf(agree(own, other, site), "pair", {**binding.to_dict(), "pair": sorted(pair)})


def self_key(seed: bytes, binding: Binding, site: str) -> bytes:
    """Key (32 bytes) of a site's self-mask in one sum, from its 128-bit seed."""
    if len(seed) != SEED_BYTES:
        raise ValueError("a self-mask's seed has 16 bytes")
    return hkdf(seed, "self", {**binding.to_dict(), "site": site})


def own_masks(
    binding: Binding, site: str, key: bytes, seed: bytes, peers: Mapping[str, bytes]
) -> tuple[list[bytes], list[bytes]]:
    """Keys of the masks that a site adds to its vector, and of those it subtracts; O(peers).

    Parameters
    ----------
    binding : Binding
        The sum.
    site : str
        The site's name.
    key, seed : bytes
        Its X25519 private key and self-mask's seed of this sum.
    peers : mapping of str to bytes
        Public keys of this sum of its neighbours among the members.
    """
    own = X25519PrivateKey.from_private_bytes(key)
    add = [self_key(seed, binding, site)]
    subtract: list[bytes] = []
    for other in sorted(peers):
        shared = pair_key(own, peers[other], binding, (site, other), other)
        (add if site < other else subtract).append(shared)
    return add, subtract


def commitment(seed: bytes, binding: Binding, site: str) -> bytes:
    """Hash (32 bytes) by which a recovered self-mask's seed is known to be the one that was dealt."""
    content = canonical_json({**binding.to_dict(), "site": site})
    return hashlib.sha256(b"folkmoot-secure-1 commitment\0" + seed + content).digest()


def add_masks(
    vector: NDArray[Any] | Mapping[str, NDArray[Any]],
    add: Iterable[bytes] = (),
    subtract: Iterable[bytes] = (),
) -> None:
    """Add and subtract masks in place, modulo the ring; O(masks · bytes).

    Parameters
    ----------
    vector : ndarray of uint64 or uint32, shape (m,), or several by name
        C-contiguous; changed in place, chunk by chunk with all masks of a chunk at a time.  Several are
        masked one after the other, by name, from one stream: no bit of it is used twice.
    add, subtract : iterables of bytes
        Keys of 32 bytes.
    """
    vectors = [vector[name] for name in sorted(vector)] if isinstance(vector, Mapping) else [vector]
    if any(
        v.dtype not in (np.uint64, np.uint32) or not v.flags.c_contiguous or not v.ndim
        for v in vectors
    ):
        raise ValueError("masks are added to contiguous uint64 or uint32 numbers")
    streams: Sequence[tuple[Any, Any]] = [
        *((np.add, _stream(key)) for key in add),
        *((np.subtract, _stream(key)) for key in subtract),
    ]
    for one in vectors:
        _add(one, streams)


def _add(vector: NDArray[Any], streams: Sequence[tuple[Any, Any]]) -> None:
    size = vector.dtype.itemsize
    step = CHUNK // size
    raw = np.empty(CHUNK, np.uint8)
    mask = raw.view(vector.dtype)
    flat = vector.reshape(-1)
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        zeros, into, numbers = (
            _ZEROS[: part.size * size],
            raw[: part.size * size].data,
            mask[: part.size],
        )
        for combine, stream in streams:
            stream.update_into(zeros, into)
            combine(part, numbers, out=part)


def _stream(key: bytes) -> Any:
    if len(key) != 32:
        raise ValueError("a mask's key has 32 bytes")
    return Cipher(AES(key[:16]), CTR(key[16:])).encryptor()
