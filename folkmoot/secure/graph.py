"""Who masks with whom: everybody with everybody, or a sparse graph for hundreds of sites.

After Bell et al. 2020 (`doi:10.1145/3372297.3417885`): the sites stand on a ring in an order that
nobody chooses (a hash of all key messages), and each has the k/2 next on either side as neighbours
(a Harary graph).  Masks and shares then cost O(k) a site instead of O(n), with k = O(log n).

Degree and threshold follow from stated rates, by a union bound over the n sites and ring windows:

* at most a share ``colluding`` of the sites tells the coordinator all it knows, in places of the
  ring that it did not choose;
* at most a share ``failing`` of the sites is missing from a round.

``Neighbours.check`` is what a site demands of a list of survivors before it answers: see
``docs/secure-aggregation.md`` for why it keeps the survivors together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from folkmoot.errors import ConfigError, SecureError

__all__ = ["Neighbours", "complete", "default_threshold", "ring", "sparse"]

#: Probability of a failure of secrecy that is accepted, 2^-SECRECY; of availability, 2^-AVAILABLE.
SECRECY = 40
AVAILABLE = 20


def default_threshold(n: int) -> int:
    """``floor(2n/3) + 1``: shares that open a secret dealt to ``n`` sites, the dealer among them."""
    return 2 * n // 3 + 1 if n > 1 else 1


@dataclass(frozen=True)
class Neighbours:
    """The graph of one run.

    Parameters
    ----------
    order : tuple of str
        Sites in the order of the ring.
    degree : int
        Neighbours of each site, even; ``len(order) - 1`` for the complete graph.
    threshold : int
        Shares of a site's secret that open it; the dealer's own counts.
    present : int
        Fewest survivors among any ``degree / 2`` consecutive places of the ring (sparse only).
    """

    order: tuple[str, ...]
    degree: int
    threshold: int
    present: int = 0

    @property
    def complete(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return self.degree >= len(self.order) - 1

    @cached_property
    def _place(self) -> Mapping[str, int]:
        return {site: i for i, site in enumerate(self.order)}

    def of(self, site: str) -> tuple[str, ...]:
        """Sorted neighbours of a site, without itself."""
        if self.complete:
            return tuple(sorted(s for s in self.order if s != site))
        n, place = len(self.order), self._place[site]
        steps = range(1, self.degree // 2 + 1)
        near = {self.order[(place + sign * s) % n] for s in steps for sign in (1, -1)}
        return tuple(sorted(near - {site}))

    def check(self, survivors: Collection[str]) -> None:
        """Refuse survivors whose sum cannot be opened, or would not be one sum; O(n · degree).

        Raises
        ------
        SecureError
            ``secure.threshold``.
        """
        alive = set(survivors)
        if self.complete:
            if len(alive) < self.threshold:
                raise _few(len(alive), self.threshold, len(self.order))
            return
        for site in self.order:
            holders = len(alive.intersection(self.of(site))) + (site in alive)
            if holders < self.threshold:
                raise SecureError(
                    "secure.threshold",
                    f"Only {holders} sites that hold shares of site {site} are left, "
                    f"{self.threshold} are needed to open the sum.",
                    "Wait for more sites and run the round again; nothing of it was revealed.",
                )
        here = [site in alive for site in self.order]
        width = self.degree // 2
        count = sum(here[:width])
        for start in range(len(here)):
            if count < self.present:
                raise SecureError(
                    "secure.threshold",
                    f"Only {count} of {width} sites in a row of the ring are left, {self.present} "
                    "are needed to keep the sum in one piece.",
                    "Wait for more sites and run the round again; nothing of it was revealed.",
                )
            count += here[(start + width) % len(here)] - here[start]


def complete(sites: Collection[str], threshold: int | None = None) -> Neighbours:
    """Everybody masks with everybody.

    Raises
    ------
    ConfigError
        ``config.invalid`` for a threshold that more than half of the sites do not reach, or that
        all of them cannot.
    """
    n = len(sites)
    wanted = default_threshold(n) if threshold is None else threshold
    if not n / 2 < wanted <= n:
        raise ConfigError(
            "config.invalid",
            f"A threshold of {wanted} of {n} sites cannot be reached, or would let the coordinator "
            "open a site's keys twice.",
            "Choose more than half of the sites and at most all of them; "
            f"{default_threshold(n)} is the default.",
        )
    return Neighbours(tuple(sorted(sites)), n - 1, wanted)


def ring(sites: Collection[str], seed: str) -> tuple[str, ...]:
    """Sites in an order that a hash decides; ``seed`` is the digest of all key messages."""

    def place(site: str) -> bytes:
        return hashlib.sha256(f"folkmoot-secure-1 ring\0{seed}\0{site}".encode()).digest()

    return tuple(sorted(sites, key=place))


def sparse(sites: Collection[str], seed: str, *, colluding: float, failing: float) -> Neighbours:
    """A sparse graph of the smallest degree for these rates, or the complete one where none is.

    Parameters
    ----------
    sites : collection of str
    seed : str
        Decides the ring.
    colluding, failing : float
        Largest shares of sites, each at least 0, together below 1/2.

    Raises
    ------
    ConfigError
        ``config.invalid`` for rates out of range.
    """
    if not (colluding >= 0 and failing >= 0 and colluding + failing < 0.5):
        raise ConfigError(
            "config.invalid",
            "Rates of collusion and failure must be at least 0 and together below one half.",
            "Lower aggregation.colluding or aggregation.failing.",
        )
    n = len(sites)
    for degree in range(4, n - 1, 2):
        found = _thresholds(n, degree, colluding, failing)
        if found is not None:
            return Neighbours(ring(sites, seed), degree, *found)
    return complete(sites)


def _thresholds(n: int, k: int, colluding: float, failing: float) -> tuple[int, int] | None:
    """Threshold and windows' minimum for a degree, or None where it is too small."""
    bad, gone = math.ceil(colluding * n), math.ceil(failing * n)
    # Colluding neighbours c of a site may answer twice: 2 t > k + 1 + c keeps its keys apart.
    c = _largest(n, bad, k, SECRECY + math.log2(n))
    threshold = (k + 1 + c) // 2 + 1
    missing = _largest(n, gone, k, AVAILABLE + math.log2(n))
    # In a row of k/2 places not all that are present may collude, and `present` must be there.
    width = k // 2
    present = _largest(n, bad, width, SECRECY + math.log2(n)) + 1
    absent = _largest(n, gone, width, AVAILABLE + math.log2(n))
    if threshold > k - missing or present > width - absent:
        return None
    return threshold, present


def _largest(n: int, marked: int, drawn: int, bits: float) -> int:
    """Smallest x with P(more than x of ``drawn`` are marked) <= 2^-bits: hypergeometric tail."""
    total = math.comb(n, drawn)
    tail, x = 0, min(marked, drawn)
    limit = total >> math.ceil(bits)
    while x >= 0:
        tail += math.comb(marked, x) * math.comb(n - marked, drawn - x)
        if tail > limit:
            return x
        x -= 1
    return 0


def _few(alive: int, threshold: int, n: int) -> SecureError:
    return SecureError(
        "secure.threshold",
        f"Only {alive} of {n} sites are left, {threshold} are needed to open the sum.",
        "Wait for more sites and run the round again; nothing of it was revealed.",
    )
