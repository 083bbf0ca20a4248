"""Uniqueness in the population, by the estimators that this sample can carry.

Class sizes alone carry little where nearly every row of the sample is unique (a 1 % sample of
Adult: Pitman's formula errs by a quarter), and a model of the columns errs by what it simplifies,
however many rows it sees.  Dankar, El Emam, Neisa, Roffey (Estimating the re-identification risk of
clinical data sets, BMC Medical Informatics and Decision Making 12:66, 2012) choose an estimator by
the sampling fraction; here each counts by the inverse of its squared error: Pitman's standard error
is known from its likelihood, the model's is taken as :data:`SIMPLIFIED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.risk.generative import unique_share
from site_tasks.anonymise.risk.superpopulation import Frequencies, pitman, snb, zayatz

__all__ = ["SIMPLIFIED", "Uniqueness", "estimate"]

#: Error of the model of columns, whatever the sample.
SIMPLIFIED = 0.04
#: Pitman's formula is left out where its standard error is larger, or where fewer classes of more
#: than one row than this made it: the standard error is then itself a guess.
_USELESS = 0.1
_FEWEST = 100
#: Where Pitman's standard error is smaller, the model of columns could not change much.
_PRECISE = 0.01
#: No larger population is drawn from the model of columns.
_LARGEST = 2_000_000


@dataclass(frozen=True)
class Uniqueness:
    """Estimated share of unique people in the population, and how it came about.

    Parameters
    ----------
    population : int
        People that it is estimated for.
    share : float
        The estimate.
    method : str
        ``census`` (the sample is the population), ``pitman``, ``model`` or ``pitman and model``.
    estimates : dict of str to float or None
        What each estimator says; None where it has no answer.
    """

    population: int
    share: float
    method: str
    estimates: dict[str, float | None]


def estimate(
    sizes: NDArray[Any],
    population: int,
    codes: NDArray[Any] | None = None,
    ordered: tuple[bool, ...] = (),
) -> Uniqueness:
    """Estimate the share of unique people.

    Parameters
    ----------
    sizes : ndarray of int, shape (classes,)
        Rows of every class of the sample.
    population : int
        People of the population, at least the sample's rows.
    codes : ndarray of int, shape (n, q), optional
        Quasi-identifiers of the sample; without them the model of columns is left out.
    ordered : tuple of bool
        Which of them are ordered.
    """
    sample = Frequencies.of(sizes)
    n = sample.rows
    population = max(population, n)
    if population == n:
        return Uniqueness(n, sample.unique / max(n, 1), "census", {})
    by_law = {"pitman": pitman(sample, population), "zayatz": zayatz(sample, population)}
    by_law["snb"] = snb(sample, population)
    said = {name: None if found is None else found.share for name, found in by_law.items()}
    votes: dict[str, tuple[float, float]] = {}
    fitted = by_law["pitman"]
    enough = sample.count - sample.unique >= _FEWEST
    if fitted is not None and enough and fitted.error <= _USELESS:
        votes["pitman"] = (fitted.share, fitted.error)
    precise = "pitman" in votes and votes["pitman"][1] < _PRECISE
    if codes is not None and codes.shape[1] and population <= _LARGEST and not precise:
        drawn = unique_share(codes, ordered, population)
        votes["model"] = (drawn, SIMPLIFIED)
        said["model"] = drawn
    if not votes:
        usable = [share for share in (said["pitman"], said["zayatz"]) if share is not None]
        return Uniqueness(population, usable[0] if usable else 0.0, "pitman", said)
    weight = np.array([1 / max(error, 1e-6) ** 2 for _, error in votes.values()])
    share = float(weight @ np.array([share for share, _ in votes.values()]) / weight.sum())
    return Uniqueness(population, share, " and ".join(votes), said)
