"""Random bits for noise: AES-256 in counter mode, keyed from the operating system.

``os.urandom`` gives some 0.3 GB/s; a keystream of AES-256-CTR under a key that ``os.urandom`` gave
is as hard to tell from random as AES is to break, and gives several GB/s.  A key serves one call of
one sampler and is forgotten: there is no generator whose state could be kept, copied by a fork,
restored from a snapshot or guessed.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import DTypeLike, NDArray

__all__ = ["Entropy"]

_ZEROS = memoryview(bytes(1 << 18))


class Entropy:
    """A stream of uniform bits for one draw of noise.

    Make one where noise is drawn and let it go; never store it.  After a fork, the child's copy
    takes a new key, so parent and child never share a bit.

    Parameters
    ----------
    seed : bytes, optional
        Makes the stream reproducible and whatever is drawn from it NOT PRIVATE: tests and studies
        alone.

    Notes
    -----
    Privacy under a keystream is computational (Mironov et al. 2009), as that of secure sums.
    """

    __slots__ = ("_pid", "_seed", "_stream")

    def __init__(self, seed: bytes | None = None) -> None:
        self._seed = seed
        self._key()

    def _key(self) -> None:
        if self._seed is None:
            secret = os.urandom(48)
        else:
            secret = hashlib.shake_256(b"folkmoot-noise-1\0" + self._seed).digest(48)
        self._pid = os.getpid()
        self._stream = Cipher(algorithms.AES256(secret[:32]), modes.CTR(secret[32:])).encryptor()

    @property
    def seeded(self) -> bool:
        """Whether it came from a seed, which makes what is drawn from it not private."""
        return self._seed is not None

    def child(self) -> Entropy:
        """Another stream: under a fresh key, or, where this one is seeded, under a seed of its bits."""
        return Entropy(None if self._seed is None else self.words(32, "u1").tobytes())

    def words(self, n: int, dtype: DTypeLike) -> NDArray[Any]:
        """``n`` uniform unsigned integers of ``dtype``; O(n).

        Parameters
        ----------
        n : int
            How many.
        dtype : dtype
            ``"<u2"``, ``"<u8"`` and the like; the byte order is stated so that seeds mean the same
            everywhere.

        Returns
        -------
        ndarray, shape (n,)
        """
        if self._pid != os.getpid() and self._seed is None:
            self._key()
        out = np.empty(n, dtype)
        view = out.data.cast("B") if n else memoryview(b"")
        for start in range(0, len(view), len(_ZEROS)):
            part = view[start : start + len(_ZEROS)]
            self._stream.update_into(_ZEROS[: len(part)], part)
        return out

    def bits(self, n: int) -> int:
        """A uniform integer of ``n`` bits."""
        size = (n + 7) // 8
        return int.from_bytes(self.words(size, "u1").tobytes(), "little") >> (8 * size - n)

    def below(self, n: int) -> int:
        """A uniform integer in [0, n), exactly: draws of too many bits are rejected."""
        if n < 1:
            raise ValueError("below() needs a positive bound")
        width = (n - 1).bit_length()
        while True:
            value = self.bits(width)
            if value < n:
                return value
