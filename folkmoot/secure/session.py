"""What the parties of a set-up hold: the session that all know, a site's secrets, others' shares.

The messages that it is handed on with are in :mod:`folkmoot.secure.setup`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.secure import shamir
from folkmoot.secure.masks import SEED_BYTES, Binding

__all__ = ["SEED_WORDS", "WORDS", "Announced", "Dealt", "Held", "Keys", "Session", "Words"]

#: Numbers of 32 bits in a share of a seed, and of a seed and a key together.
SEED_WORDS = shamir.limbs(SEED_BYTES)
WORDS = SEED_WORDS + shamir.limbs(32)
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Session:
    """What all parties of a run know of its secure sums.

    Parameters
    ----------
    federation, run : str
        Names.
    plan : str
        Digest of ``run.json``: params, contract and roster.
    sums : tuple of (int, str)
        Round and step of every sum that the run may take, in order.
    threshold : int, optional
        Of the complete graph; ``floor(2n/3) + 1`` when None.
    rates : (float, float), optional
        Largest shares of colluding and of failing sites: makes the graph sparse.
    encrypted : bool
        Whether sums are encrypted instead of masked: then no site has keys of single sums.
    """

    federation: str
    run: str
    plan: str
    sums: tuple[tuple[int, str], ...]
    threshold: int | None = None
    rates: tuple[float, float] | None = None
    encrypted: bool = False

    @property
    def keyed(self) -> int:
        """Sums that each site has keys of its own for."""
        return 0 if self.encrypted else len(self.sums)

    def binding(self, index: int) -> Binding:
        """Of the sum at a place of ``sums``."""
        return Binding(self.federation, self.run, *self.sums[index])

    def bound(self, **more: object) -> dict[str, Any]:
        """What every message of the set-up states about itself."""
        return {
            "federation": self.federation,
            "run": self.run,
            "plan": self.plan,
            "sums": [list(one) for one in self.sums],
            **({"encrypted": True} if self.encrypted else {}),
            **more,
        }


@dataclass(frozen=True)
class Keys:
    """A site's secrets of one run: never leave it but as shares.

    Parameters
    ----------
    seal : bytes
        X25519 private key that boxes are sealed with.
    masks : tuple of bytes
        X25519 private key of every sum.
    seeds : tuple of bytes
        Seed of the self-mask of every sum, 16 bytes each.
    """

    seal: bytes
    masks: tuple[bytes, ...]
    seeds: tuple[bytes, ...]

    @staticmethod
    def draw(count: int) -> Keys:
        """New secrets for ``count`` sums, from the operating system."""
        return Keys(
            os.urandom(32),
            tuple(os.urandom(32) for _ in range(count)),
            tuple(os.urandom(SEED_BYTES) for _ in range(count)),
        )

    def to_bytes(self) -> bytes:
        """For the site's private folder."""
        return b"".join((self.seal, *self.masks, *self.seeds))

    @staticmethod
    def from_bytes(data: bytes) -> Keys:
        """Inverse of :meth:`to_bytes`."""
        count, rest = divmod(len(data) - 32, 32 + SEED_BYTES)
        if rest or count < 0:
            raise ValueError("not the keys of a run")
        end = 32 + 32 * count
        masks = tuple(data[i : i + 32] for i in range(32, end, 32))
        seeds = tuple(data[i : i + SEED_BYTES] for i in range(end, len(data), SEED_BYTES))
        return Keys(data[:32], masks, seeds)


@dataclass(frozen=True)
class Announced:
    """A site's public keys: of one run, and the long-term one that the roster lists."""

    seal: bytes
    masks: tuple[bytes, ...]
    static: bytes

    @property
    def sealing(self) -> bytes:
        """What boxes for the site are sealed with."""
        return self.seal + self.static


@dataclass(frozen=True)
class Dealt:
    """A site's share message, opened by the coordinator.

    Parameters
    ----------
    boxes : dict of str to bytes
        By receiver.
    commitments : tuple of bytes
        To the self-mask's seed of every sum.
    """

    boxes: Mapping[str, bytes]
    commitments: tuple[bytes, ...]


@dataclass(frozen=True)
class Held:
    """Shares that a site holds of others' secrets and its own.

    Parameters
    ----------
    shares : dict of str to ndarray of uint32, shape (sums, WORDS)
        By dealer; a dealer whose box could not be opened is absent.
    faults : dict of str to str
        Code of the error of each box that could not be opened, by dealer.
    pairs : dict of str to bytes
        Keys (32 bytes) with each neighbour alone, which tie answers together.
    """

    shares: Mapping[str, Words]
    faults: Mapping[str, str]
    pairs: Mapping[str, bytes]
