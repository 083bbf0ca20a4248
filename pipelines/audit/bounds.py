"""What an attack's success proves: lower bounds on epsilon from trials with known truth.

Under (epsilon, delta)-DP every test between "in" and "out" obeys
``TPR <= exp(epsilon) FPR + delta`` (Kairouz, Oh & Viswanath 2015), so rates that were observed bound
epsilon from below.  Bounds here hold with the stated confidence; the claim is refuted where one lies
above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from folkmoot.errors import ConfigError
from folkmoot.privacy.accountant import gaussian_epsilon

__all__ = ["Bound", "from_gaussian", "from_one_run", "from_rates"]

Floats = NDArray[np.float64]
_NORMAL = NormalDist()
#: One trial in so many chooses the threshold.
_LEARN = 5


@dataclass(frozen=True)
class Bound:
    """A lower bound on epsilon.

    Parameters
    ----------
    epsilon : float
        The bound, at least 0.
    method : str
        ``rates`` (no assumption), ``gaussian`` (the mechanism's noise is Gaussian) or ``one-run``.
    confidence : float
        With which it holds.
    detail : str
        What it was made of, for people.
    """

    epsilon: float
    method: str
    confidence: float
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


def from_rates(
    inside: ArrayLike, outside: ArrayLike, delta: float, confidence: float = 0.95
) -> Bound:
    """Bound from two sets of independent scores, with no assumption on their law.

    The threshold is chosen on every fifth trial and judged on the others; rates are bounded by
    Clopper & Pearson (1934), each with half of the error.  O(n log n).

    Parameters
    ----------
    inside, outside : array_like, shape (n,) and (m,)
        Scores of independent trials with and without the canary; high ones speak for it.
    delta : float
        Of the claim.
    confidence : float
        Of the bound.

    Raises
    ------
    ConfigError
        ``config.invalid`` for fewer than 20 trials of a kind.
    """
    scores = _scores(inside, outside)
    error = (1 - confidence) / 2
    cut, upper, expected = 0.0, True, -np.inf
    chosen = [np.arange(len(part)) % _LEARN == 0 for part in scores]
    learn = [np.sort(part[own]) for part, own in zip(scores, chosen, strict=True)]
    judge = [np.sort(part[~own]) for part, own in zip(scores, chosen, strict=True)]
    sizes = [len(part) for part in judge]
    both = np.concatenate(learn)
    ends = np.geomspace(1, len(both) // 2, 80).astype(int)
    ordered = np.sort(both)
    cuts = np.unique(np.concatenate([ordered[ends - 1], ordered[len(both) - ends]]))
    for side in (True, False):
        hits, alarms = (_beyond(part, cuts, side) for part in learn)
        # In the upper tail a member is guessed, in the lower one a non-member.
        found = _epsilons(hits, len(learn[0]), alarms, len(learn[1]), side, delta, error)
        best = int(np.argmax(found))
        if found[best] > expected:
            cut, upper, expected = float(cuts[best]), side, float(found[best])
    hits, alarms = (_beyond(part, np.array([cut]), upper) for part in judge)
    value = _epsilons(hits, sizes[0], alarms, sizes[1], upper, delta, error)[0]
    detail = (
        f"{hits[0]} of {len(judge[0])} with and {alarms[0]} of {len(judge[1])} without the canary "
        f"lie {'above' if upper else 'below'} the threshold"
    )
    return Bound(max(0.0, float(value)), "rates", confidence, detail)


def from_gaussian(
    inside: ArrayLike, outside: ArrayLike, delta: float, confidence: float = 0.95
) -> Bound:
    """Bound from scores of a mechanism whose trade-off function is known to be Gaussian.

    Both error rates at one threshold (the middle of the even trials) bound the distance mu of two
    unit normals, ``mu >= Phi^-1(1 - FPR) - Phi^-1(FNR)``, and mu gives epsilon at delta (Nasr et al.
    2023, *Tight auditing of differentially private machine learning*).  Far tighter than
    :func:`from_rates`, and only as true as that assumption.
    """
    scores = _scores(inside, outside)
    error = (1 - confidence) / 2
    cut = float(np.mean([part[::2].mean() for part in scores]))
    missed = int((scores[0][1::2] <= cut).sum())
    alarms = int((scores[1][1::2] > cut).sum())
    counts = len(scores[0][1::2]), len(scores[1][1::2])
    fnr = float(_upper(np.array([missed]), counts[0], error)[0])
    fpr = float(_upper(np.array([alarms]), counts[1], error)[0])
    mu = _NORMAL.inv_cdf(1 - fpr) - _NORMAL.inv_cdf(fnr) if max(fnr, fpr) < 1 else 0.0
    value = gaussian_epsilon(1 / mu, delta) if mu > 0 else 0.0
    detail = f"error rates below {fnr:.3g} and {fpr:.3g}: distance of the normals above {mu:.3g}"
    return Bound(value, "gaussian", confidence, detail)


def from_one_run(
    inside: ArrayLike,
    outside: ArrayLike,
    delta: float,
    confidence: float = 0.95,
    guesses: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4),
) -> Bound:
    """Bound from the canaries of a single run (Steinke, Nasr & Jagielski 2023, theorem 5.2).

    Canaries may depend on each other through the one model; what is needed is that each was put in
    by its own fair coin.  The highest scores are guessed to be in, as many of the lowest out.

    Parameters
    ----------
    inside, outside : array_like
        Scores of the canaries that were put in, and left out.
    delta : float
        Of the claim.
    confidence : float
        Of the bound, over all shares of guesses together (Bonferroni).
    guesses : tuple of float
        Shares of canaries that are guessed, fixed beforehand.
    """
    scores = _scores(inside, outside)
    m = sum(len(part) for part in scores)
    truth = np.repeat([True, False], [len(part) for part in scores])
    # Ties must not be broken by the truth.
    mixed = np.random.default_rng(m).permutation(m)
    order = mixed[np.argsort(np.concatenate(scores)[mixed], kind="stable")]
    best, detail = 0.0, "no guess was better than chance"
    for share in guesses:
        k = max(1, int(share * m / 2))
        right = int(truth[order[-k:]].sum() + (~truth[order[:k]]).sum())
        value = _one_run(m, 2 * k, right, delta, (1 - confidence) / len(guesses))
        if value > best:
            best, detail = value, f"{right} of {2 * k} guesses on {m} canaries were right"
    return Bound(best, "one-run", confidence, detail)


def _one_run(m: int, guesses: int, right: int, delta: float, p: float) -> float:
    """Largest epsilon whose p-value is below ``p``; bisection."""
    if _p_value(m, guesses, right, 0.0, delta) >= p:
        return 0.0
    low, high = 0.0, 1.0
    while _p_value(m, guesses, right, high, delta) < p:
        low, high = high, 2 * high
        if high > 100:
            return low
    for _ in range(40):
        middle = (low + high) / 2
        if _p_value(m, guesses, right, middle, delta) < p:
            low = middle
        else:
            high = middle
    return low


def _p_value(m: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Probability of so many right guesses under (epsilon, delta)-DP, at most."""
    from scipy import stats

    q = 1 / (1 + math.exp(-epsilon))
    beta = float(stats.binom.sf(right - 1, guesses, q))
    i = np.arange(1, right + 1)
    tail = np.cumsum(stats.binom.pmf(right - i, guesses, q))
    alpha = float((tail / i).max(initial=0.0))
    return min(1.0, beta + 2 * m * delta * alpha)


def _scores(inside: ArrayLike, outside: ArrayLike) -> list[Floats]:
    scores = [np.asarray(part, np.float64).ravel() for part in (inside, outside)]
    if min(len(part) for part in scores) < 20 or not all(np.isfinite(p).all() for p in scores):
        raise ConfigError(
            "config.invalid",
            "An audit needs at least 20 finite scores with and without the canary.",
            "Ask for more canaries or runs.",
        )
    return scores


def _beyond(ordered: Floats, cuts: Floats, upper: bool) -> NDArray[np.int64]:
    below = np.searchsorted(ordered, cuts, side="right" if upper else "left")
    return (len(ordered) - below if upper else below).astype(np.int64)


def _epsilons(
    hits: NDArray[np.int64],
    inside: int,
    alarms: NDArray[np.int64],
    outside: int,
    upper: bool,
    delta: float,
    error: float,
) -> Floats:
    """Bound at each threshold; in the lower tail the parts are exchanged."""
    if not upper:
        hits, inside, alarms, outside = alarms, outside, hits, inside
    true = _lower(hits, inside, error) - delta
    false = _upper(alarms, outside, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(true > 0, np.log(np.maximum(true, 1e-300) / false), -np.inf))


def _lower(hits: NDArray[np.int64], n: int, error: float) -> Floats:
    from scipy import stats

    with np.errstate(invalid="ignore"):
        found = stats.beta.ppf(error, hits, n - hits + 1)
    return np.asarray(np.where(hits == 0, 0.0, found), np.float64)


def _upper(hits: NDArray[np.int64], n: int, error: float) -> Floats:
    from scipy import stats

    with np.errstate(invalid="ignore"):
        found = stats.beta.ppf(1 - error, hits + 1, n - hits)
    return np.asarray(np.where(hits == n, 1.0, found), np.float64)
