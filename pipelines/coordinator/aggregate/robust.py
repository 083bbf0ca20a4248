"""Means that a minority of hostile sites cannot move at will.

Each rule takes the sites' changes as rows of a matrix.  A claimed number of rows must not buy
influence: all rules treat every site alike, but for the default one, where a claim counts for no more
than twice a middling site's rows (:func:`evened`).  ``n`` sites, at most ``f`` of them hostile, ``p``
parameters:

========================  ==================  ============  ==========================================
rule                      bears               time          paper
========================  ==================  ============  ==========================================
nearest_neighbour_mixing  2 f < n             n² · p        Allouah et al. 2023, arXiv 2302.01772
median                    2 f < n             n log n · p   Yin et al. 2018, arXiv 1803.01498
trimmed_mean              2 f < n             n log n · p   Yin et al. 2018, arXiv 1803.01498
krum, multi_krum          2 f + 2 < n         n² · p        Blanchard et al. 2017, arXiv 1703.02757
geometric_median          2 f < n             n · p a step  Pillutla et al. 2022, arXiv 1912.13445
centred_clipping          2 f < n             n · p a step  Karimireddy et al. 2021, arXiv 2012.10333
fltrust                   f < n, trusted one  n · p         Cao et al. 2021, arXiv 2012.13995
========================  ==================  ============  ==========================================

None of them stops a backdoor that many honest-looking updates carry, and all of them see each
site's update: with them there is no secure sum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import RoundError
from folkmoot.params import Params
from folkmoot.params.defence import Defence

__all__ = ["RULES", "combine", "evened"]

Floats = NDArray[np.float64]
_STEPS = 100
_CLOSE = 1e-10
_TINY = 1e-150
#: Most that a site counts for, in middling sites.
_MOST = 2.0


def evened(changes: Floats, weights: Floats, params: Params) -> tuple[Floats, Floats | None]:
    """Changes as if all sites had taken equally many steps, and what each counts for; O(n · p).

    A site with twice the rows takes twice the steps, and its change is about twice as long.  To a rule
    that compares changes it looks hostile although it only worked more, and leaving it out slows the
    model down.  So changes are divided by their steps, as FedNova does (Wang et al. 2020, arXiv
    2007.07481), and multiplied by what is usual.  A site that lies about its rows scales its own
    change, which it may choose anyway.

    For ``nearest_neighbour_mixing`` over single sites.  Where sites clip their updates these are of one
    length already, and noise of one size is on them: they are weighted, not divided.

    Parameters
    ----------
    changes : ndarray of float64, shape (n, p)
    weights : ndarray of float64, shape (n,)
        Rows as the sites claim them.
    params : Params
        Of the run.

    Returns
    -------
    changes : ndarray of float64, shape (n, p)
    rows : ndarray of float64, shape (n,), or None
        Claimed rows, no more than twice the median; None where all count alike.
    """
    aggregation = params.aggregation
    defence = aggregation.defence
    if (
        defence.rule != "nearest_neighbour_mixing"
        or defence.mode == "grouped"
        or aggregation.weighting == "uniform"
    ):
        return changes, None
    rows = np.minimum(weights, _MOST * np.median(weights))
    if params.privacy.mechanism != "none":
        return changes, rows
    steps = np.ceil(weights / params.model.linear.batch_size)
    usual = np.average(np.minimum(steps, _MOST * np.median(steps)), weights=rows)
    return changes * (usual / steps)[:, None], rows


def combine(
    changes: Floats, settings: Defence, trusted: int | None = None, rows: Floats | None = None
) -> Floats:
    """Combine the sites' changes by the rule of ``settings``.

    Parameters
    ----------
    changes : ndarray of float64, shape (n, p)
        One row a site, finite.
    settings : Defence
        ``rule``, ``hostile``, ``radius``.
    trusted : int, optional
        Row of the trusted site, for ``fltrust``.
    rows : ndarray of float64, shape (n,), optional
        What the sites count for in ``nearest_neighbour_mixing``, positive; all alike when None.

    Returns
    -------
    ndarray of float64, shape (p,)

    Raises
    ------
    RoundError
        ``round.quorum`` where more sites may be hostile than the rule bears among ``n``.
    """
    n, f = len(changes), settings.hostile
    if f > settings.bears(n):
        raise RoundError(
            "round.quorum",
            f"aggregation.defence.rule {settings.rule} bears {settings.bears(n)} hostile "
            f"sites among the {n} that contributed, {f} are planned for.",
            "Lower aggregation.defence.hostile, choose another rule, or raise federation.quorum.",
        )
    if settings.rule == "centred_clipping":
        return _centred_clipping(changes, settings.radius)
    if settings.rule == "fltrust":
        if trusted is None:
            raise RoundError(
                "round.quorum",
                f"The trusted site {settings.trusted_site} did not contribute, and fltrust measures "
                "every update by its own.",
                "Start again when it can take part, or name another aggregation.defence.trusted_site.",
                site=settings.trusted_site,
            )
        return _fltrust(changes, trusted)
    if rows is not None and settings.rule == "nearest_neighbour_mixing":
        return _nearest_neighbour_mixing(changes, f, rows)
    return RULES[settings.rule](changes, f)


def _median(changes: Floats, f: int) -> Floats:
    middle: Floats = np.median(changes, axis=0)
    return middle


def _trimmed_mean(changes: Floats, f: int) -> Floats:
    ordered = np.sort(changes, axis=0)
    mean: Floats = ordered[f : len(changes) - f].mean(axis=0)
    return mean


def _krum(changes: Floats, f: int) -> Floats:
    closest: Floats = changes[int(np.argmin(_crowd(changes, f)))].copy()
    return closest


def _multi_krum(changes: Floats, f: int) -> Floats:
    """Mean of the ``n - f`` updates that lie closest to their neighbours."""
    kept = np.sort(np.argsort(_crowd(changes, f), kind="stable")[: len(changes) - f])
    mean: Floats = changes[kept].mean(axis=0)
    return mean


def _nearest_neighbour_mixing(changes: Floats, f: int, rows: Floats | None = None) -> Floats:
    """Trimmed mean of every site's neighbourhood: the mean of the ``n - f`` changes nearest to it.

    Where populations differ, honest changes lie apart, and a rule that picks some of them leaves
    people out.  A mean of ``n - f`` has every honest site's neighbours in it instead: honest
    neighbourhoods lie closer together than honest changes, and a hostile site's own is a mean of honest
    changes as well, or lies so far out that it is trimmed.  With trimming the error is of the order
    ``f / n`` of the honest sites' spread, the least that any rule can have (theorem 1 of the paper, for
    sites that count alike; bounded weights move a mean within its own neighbourhood).
    """
    counts = np.ones(len(changes)) if rows is None else rows
    near = np.argsort(_apart(changes, 0.0), axis=1, kind="stable")[:, : len(changes) - f]
    # Summed in the order of sites, so that equal neighbourhoods are equal to the last bit.
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is hostile, and trimmed
        mixed = np.stack(
            [np.average(changes[own], axis=0, weights=counts[own]) for own in np.sort(near, axis=1)]
        )
    return _trimmed_mean(mixed, f)


def _crowd(changes: Floats, f: int) -> Floats:
    """Krum's score: summed squared distances to the ``n - f - 2`` nearest others."""
    apart = _apart(changes, np.inf)
    near = max(1, len(changes) - f - 2)
    score: Floats = np.sort(apart, axis=1)[:, :near].sum(axis=1)
    return score


def _apart(changes: Floats, own: float) -> Floats:
    """Squared distances (n, n), with ``own`` from a change to itself."""
    with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e154: sorted last, as the farthest
        square = np.square(changes).sum(axis=1)
        apart = np.maximum(square[:, None] + square[None, :] - 2 * changes @ changes.T, 0.0)
    np.fill_diagonal(apart, own)
    distances: Floats = apart
    return distances


def _geometric_median(changes: Floats, f: int) -> Floats:
    """Smoothed Weiszfeld iteration, begun at the coordinate median."""
    found = np.median(changes, axis=0)
    # Of the median distance: the largest is the attacker's to choose.
    floor = 1e-6 * max(float(np.median(np.linalg.norm(changes - found, axis=1))), _TINY)
    for _ in range(_STEPS):
        share = 1.0 / np.maximum(np.linalg.norm(changes - found, axis=1), floor)
        after = share @ changes / share.sum()
        moved = float(np.linalg.norm(after - found))
        found = after
        if moved <= _CLOSE * float(np.linalg.norm(found)):
            break
    return found


def _centred_clipping(changes: Floats, radius: float | None) -> Floats:
    """Mean of differences clipped about the centre, which starts at the coordinate median."""
    centre = np.median(changes, axis=0)
    for _ in range(_STEPS):
        away = changes - centre
        length = np.linalg.norm(away, axis=1)
        reach = float(np.median(length)) if radius is None else radius
        step = (away * np.minimum(1.0, reach / np.maximum(length, _TINY))[:, None]).mean(axis=0)
        centre = centre + step
        if float(np.linalg.norm(step)) <= _CLOSE * float(np.linalg.norm(centre)):
            break
    return centre


def _fltrust(changes: Floats, trusted: int) -> Floats:
    """Updates scaled to the trusted one's norm and weighted by their cosine with it, if positive."""
    root = changes[trusted]
    size = float(np.linalg.norm(root))
    length = np.maximum(np.linalg.norm(changes, axis=1), _TINY)
    trust = np.maximum(changes @ root / (length * max(size, _TINY)), 0.0)
    if trust.sum() == 0:
        return np.zeros_like(root)
    mean: Floats = (trust * size / length) @ changes / trust.sum()
    return mean


RULES: dict[str, Callable[[Floats, int], Floats]] = {
    "nearest_neighbour_mixing": _nearest_neighbour_mixing,
    "median": _median,
    "trimmed_mean": _trimmed_mean,
    "krum": _krum,
    "multi_krum": _multi_krum,
    "geometric_median": _geometric_median,
}
