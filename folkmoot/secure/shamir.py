"""Shamir's secret sharing of many seeds at once, over GF(2^31 - 1), vectorised.

A secret is split into limbs of 30 bits, each shared by a polynomial of its own (Shamir 1979): any
``threshold`` shares give it back, fewer say nothing, whatever the power of who holds them.  The
libraries at hand share one secret in pure Python, byte by byte over GF(2^8), which ends at 255
sites.  No branch or index depends on a secret.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PRIME", "combine", "limbs", "split"]

PRIME = 2**31 - 1
_LIMB = 30
Words = NDArray[np.uint32]
_P = np.uint64(PRIME)


def limbs(size: int) -> int:
    """Numbers of 32 bits in one share of a secret of ``size`` bytes."""
    return -(-8 * size // _LIMB)


def split(secrets: Sequence[bytes], points: Sequence[int], threshold: int) -> Words:
    """Shares of secrets of equal length; O(secrets · points · threshold).

    Parameters
    ----------
    secrets : sequence of bytes
        S secrets of the same length.
    points : sequence of int
        Where each holder's share is taken: distinct, from 1 to 2^31 - 2.
    threshold : int
        Shares that give a secret back.

    Returns
    -------
    ndarray of uint32, shape (len(points), S, limbs)
    """
    if not 1 <= threshold <= len(points):
        raise ValueError("a threshold lies between 1 and the number of shares")
    x = _points(points)[:, None]
    values = _to_limbs(secrets)
    flat = values.reshape(1, -1).astype(np.uint64)
    y = np.zeros((len(points), flat.shape[1]), np.uint64)
    for _ in range(threshold - 1):  # Horner, from the highest coefficient
        y = _mod(_mod(y + _random(flat.shape[1])) * x)
    y = _mod(y + flat)
    return y.astype(np.uint32).reshape((len(points), *values.shape))


def combine(shares: NDArray[Any], points: Sequence[int], size: int) -> list[bytes] | None:
    """Secrets of ``size`` bytes from shares; O(secrets · points + points²).

    Parameters
    ----------
    shares : ndarray of uint32, shape (len(points), S, limbs)
        As many as the threshold; more are used too, and give the same.
    points : sequence of int
        Where each was taken.
    size : int
        Bytes of a secret.

    Returns
    -------
    list of bytes, or None
        None where the shares are not those of secrets of this size: some are false.
    """
    weights = np.array(_lagrange(tuple(points)), np.uint64)[:, None, None]
    terms = _mod(weights * np.asarray(shares, np.uint64))
    total = _mod(terms.sum(axis=0, dtype=np.uint64))
    if (total >> np.uint64(_LIMB)).any():
        return None
    out = []
    for row in total.reshape(-1, total.shape[-1]).tolist():
        value = sum(limb << (_LIMB * i) for i, limb in enumerate(row))
        if value >> (8 * size):
            return None
        out.append(value.to_bytes(size, "little"))
    return out


def _to_limbs(secrets: Sequence[bytes]) -> NDArray[np.uint64]:
    size = len(secrets[0])
    if any(len(secret) != size for secret in secrets):
        raise ValueError("secrets that are shared together have one length")
    mask, count = 2**_LIMB - 1, limbs(size)
    numbers = [int.from_bytes(secret, "little") for secret in secrets]
    return np.array([[n >> (_LIMB * i) & mask for i in range(count)] for n in numbers], np.uint64)


def _points(points: Sequence[int]) -> NDArray[np.uint64]:
    if len(set(points)) != len(points) or not all(0 < p < PRIME for p in points):
        raise ValueError("shares are taken at distinct points above zero")
    return np.array(points, np.uint64)


@lru_cache(maxsize=4096)
def _lagrange(points: tuple[int, ...]) -> list[int]:
    """Weights of the shares in the value at zero; with 1000 sites the same points come often."""
    _points(points)
    weights = []
    for i, p in enumerate(points):
        above = below = 1
        for j, q in enumerate(points):
            if i != j:
                above = above * q % PRIME
                below = below * (q - p) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights


def _mod(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Modulo the Mersenne prime, for numbers below 2^62, without a division or a branch."""
    x = (x & _P) + (x >> np.uint64(31))
    x = (x & _P) + (x >> np.uint64(31))
    reduced: NDArray[np.uint64] = x - _P * (x == _P)  # p itself is zero
    return reduced


def _random(n: int) -> NDArray[np.uint64]:
    """Uniform numbers below the prime, from the operating system."""
    out = np.frombuffer(os.urandom(4 * n), np.uint32) & np.uint32(PRIME)
    while (again := np.flatnonzero(out == PRIME)).size:  # 2^31 - 1 is drawn once in 2^31
        fresh = np.frombuffer(os.urandom(4 * again.size), np.uint32)
        out[again] = fresh & np.uint32(PRIME)
    return out.astype(np.uint64)
