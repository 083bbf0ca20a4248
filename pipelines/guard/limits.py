"""How much a site may ask: requests per second, tokens once, bytes per upload."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Limits", "Once", "Rates"]


@dataclass(frozen=True)
class Limits:
    """Bounds of the guard.

    Parameters
    ----------
    rate, burst : float
        Requests per second and site, and how many may come at once.
    upload : int
        Most bytes of one artefact.
    inside : int
        Requests that are with Airflow at once.  Each takes a connection to its database, and gives it
        back by a thread: more requests than connections (15) would wait for each other.
    """

    rate: float = 50.0
    burst: float = 300.0
    upload: int = 1 << 30
    inside: int = 8


class Rates:
    """A bucket of requests per site; O(1).

    Parameters
    ----------
    rate, burst : float
        As in :class:`Limits`.
    clock : callable
        Seconds, never backwards.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, site: str) -> bool:
        """Whether the site may make one more request now."""
        now = self._clock()
        left, since = self._buckets.get(site, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        allowed = left >= 1.0
        self._buckets[site] = (left - 1.0 if allowed else left, now)
        return allowed


class Once:
    """Numbers of tokens that were used, until they expire; O(1) amortised."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], float] = {}
        self._swept = 0.0

    def first(self, site: str, number: str, until: float) -> bool:
        """Whether this is the first use; remembered until ``until`` (Unix time)."""
        now = self._clock()
        if now - self._swept > 10.0:
            self._seen = {k: t for k, t in self._seen.items() if t > now}
            self._swept = now
        if (site, number) in self._seen:
            return False
        self._seen[site, number] = until
        return True
