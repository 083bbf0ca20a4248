"""How far each site's updates lie from the others': suspicion, quarantine, and why.

A site is suspicious in a round where its change lies more than three times as far from the combined
change as the median site's.  After ``aggregation.defence.quarantine_after`` such rounds its updates
no longer count; they are still measured, and the record says how, so that its steward sees why and
can answer (``folkmoot site standing``).  An unusual population is no attack: a site is never judged by
one round, and nothing here leaves the federation's own records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAR", "measure", "quarantined"]

#: Distance from the combined change, over the median site's, beyond which a site is suspicious.
FAR = 3.0


def measure(
    before: Mapping[str, Any],
    sites: Sequence[str],
    changes: NDArray[np.float64],
    combined: NDArray[np.float64],
    quarantine_after: int,
) -> dict[str, dict[str, Any]]:
    """Standing of all sites after a round; O(sites · parameters).

    Parameters
    ----------
    before : dict
        Standing after the round before (``{}`` in the first).
    sites : sequence of str
        Who contributed, in the order of ``changes``.
    changes : ndarray of float64, shape (n, p)
    combined : ndarray of float64, shape (p,)
        What the rule made of those that count.
    quarantine_after : int
        Suspicious rounds that lead to quarantine; 0 never does.

    Returns
    -------
    dict
        Per site ``distance`` (1: as far as the median site), ``suspicious`` (rounds so far) and
        ``quarantined``.
    """
    apart = np.linalg.norm(changes - combined, axis=1)
    usual = float(np.median(apart))
    standing = {site: dict(entry) for site, entry in before.items()}
    for site, found in zip(sites, apart, strict=True):
        distance = float(found) / usual if usual > 0 else float(found > 0)
        earlier = standing.get(site, {"suspicious": 0, "quarantined": False})
        rounds = earlier["suspicious"] + (distance > FAR)
        out = earlier["quarantined"] or (quarantine_after > 0 and rounds >= quarantine_after)
        standing[site] = {
            "distance": round(distance, 6),
            "suspicious": int(rounds),
            "quarantined": bool(out),
        }
    return standing


def quarantined(standing: Mapping[str, Any]) -> set[str]:
    """Sites whose updates no longer count."""
    return {site for site, entry in standing.items() if entry["quarantined"]}
