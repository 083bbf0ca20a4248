"""How many people of the population are unique, from the class sizes of a sample alone.

Three classical estimators.  Each sees the sample's classes as drawn from a population whose class
sizes follow a law, fits the law, and asks it for the classes of one person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "Frequencies", "pitman", "snb", "zayatz"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Share of the population's people that are unique.

    Parameters
    ----------
    share : float
        Between 0 and 1.
    error : float
        Standard error of the fit; ∞ where there is none.
    """

    share: float
    error: float = float("inf")


@dataclass(frozen=True)
class Frequencies:
    """How many classes have how many rows.

    Parameters
    ----------
    sizes : ndarray of int64, shape (distinct sizes,)
        Rising.
    classes : ndarray of int64, shape (distinct sizes,)
        Classes of each size.
    """

    sizes: NDArray[np.int64]
    classes: NDArray[np.int64]

    @classmethod
    def of(cls, sizes: NDArray[Any]) -> Frequencies:
        """From the rows of every class."""
        found, classes = np.unique(sizes, return_counts=True)
        return cls(found.astype(np.int64), classes.astype(np.int64))

    @property
    def rows(self) -> int:
        """Rows of the sample."""
        return int(self.sizes @ self.classes)

    @property
    def count(self) -> int:
        """Classes of the sample."""
        return int(self.classes.sum())

    @property
    def unique(self) -> int:
        """Rows that are alone in the sample."""
        return int(self.classes[self.sizes == 1].sum())


def pitman(sample: Frequencies, population: int) -> Estimate | None:
    """Ewens-Pitman sampling formula, fitted by maximum likelihood.

    Hoshino: Applying Pitman's sampling formula to microdata disclosure risk assessment (Journal of
    Official Statistics 17(4), 2001).  What is returned is the expectation given the sample, with
    the delta method's standard error.

    Parameters
    ----------
    sample : Frequencies
        Of the sample; rows drawn without replacement.
    population : int
        People of the population.

    Returns
    -------
    Estimate or None
        None where the likelihood has no maximum inside: all rows alone, or all together.
    """
    from scipy.optimize import minimize
    from scipy.special import gammaln

    n, classes = sample.rows, sample.count
    if not 1 < classes < n:
        return None

    def loss(x: Floats) -> float:
        theta, a = np.exp(x[0]), 1 / (1 + np.exp(-x[1]))
        seats = sample.classes * (gammaln(sample.sizes - a) - gammaln(1 - a))
        tables = (classes - 1) * np.log(a) + gammaln(theta / a + classes) - gammaln(theta / a + 1)
        found = tables - gammaln(theta + n) + gammaln(theta + 1) + seats.sum()
        return -float(found) if np.isfinite(found) else 1e300

    def share(x: Floats) -> float:
        theta, a = np.exp(x[0]), 1 / (1 + np.exp(-x[1]))
        stay = gammaln(theta + population - 1 + a) - gammaln(theta + population)
        was = gammaln(theta + n - 1 + a) - gammaln(theta + n)
        new = gammaln(theta + n) - gammaln(theta + n + a)
        rest = np.log(theta + a * classes) + np.log(max(population - n, 1e-300)) + new
        old = np.log(sample.unique) - was if sample.unique else -np.inf
        return float(np.exp(stay + np.logaddexp(old, rest)) / population)

    best = min(
        (
            minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-7})
            for start in ([np.log(n / 10 + 1), 0.0], [np.log(n + 1.0), -2.0])
        ),
        key=lambda fit: float(fit.fun),
    )
    if abs(best.x[1]) > 12 or best.x[0] < -12:
        return None
    value = min(share(best.x), 1.0)
    return Estimate(value, _error(loss, share, np.asarray(best.x, np.float64)))


def _error(loss: Any, share: Any, at: Floats, step: float = 1e-3) -> float:
    """Standard error of ``share`` where ``loss`` is least (observed information)."""
    unit = np.eye(2) * step
    hessian = np.empty((2, 2))
    for i in range(2):
        for j in range(2):
            a, b = unit[i], unit[j]
            mixed = loss(at + a + b) - loss(at + a - b) - loss(at - a + b) + loss(at - a - b)
            hessian[i, j] = mixed / (4 * step * step)
    slope = np.array([(share(at + a) - share(at - a)) / (2 * step) for a in unit])
    if np.linalg.eigvalsh(hessian).min() <= 1e-9:
        return float("inf")
    return float(np.sqrt(slope @ np.linalg.solve(hessian, slope)))


def zayatz(sample: Frequencies, population: int) -> Estimate | None:
    """Zayatz: Estimation of the percent of unique population elements (US Census Bureau, 1991).

    Population classes are taken to have the sizes that the sample's have; Bayes' rule then says how
    often a class that shows one row in the sample has one person.  Too high for small samples.
    """
    from scipy.special import gammaln

    n = sample.rows
    if not sample.unique or n >= population:
        return Estimate(sample.unique / max(population, 1))
    # The hypergeometric law but for factors that all classes share; scipy.stats takes 0.4 s to load.
    rest = np.maximum(population - sample.sizes, n - 1)
    odds = np.log(sample.sizes) + gammaln(rest + 1) - gammaln(rest - n + 2)
    alone = np.where(population - sample.sizes >= n - 1, np.exp(odds - odds.max()), 0.0)
    alone *= sample.classes
    stays = alone[sample.sizes == 1].sum() / alone.sum()
    return Estimate(min(float(sample.unique * stays / n), 1.0))


def snb(sample: Frequencies, population: int) -> Estimate | None:
    """Slide negative binomial (Chen & McNulty: Journal of Official Statistics 14(1), 1998).

    A class has one person more than a negative binomial number.  The three parameters follow from
    the population's size, the sample's classes and the sample's unique rows.
    """
    from scipy.optimize import least_squares

    n, fraction = sample.rows, sample.rows / population
    if not sample.unique or not 1 < sample.count < n or fraction >= 1:
        return None

    def law(x: Floats) -> tuple[float, float, float, float]:
        a, b = np.exp(x[0]), 1 / (1 + np.exp(-x[1]))
        z = 1 - fraction
        at = ((1 - b) / (1 - b * z)) ** a
        alone = fraction * at * (1 + z * a * b / (1 - b * z))
        return 1 - z * at, alone, 1 + a * b / (1 - b), float((1 - b) ** a)

    def gaps(x: Floats) -> list[float]:
        seen, alone, mean, _ = law(x)
        classes = sample.count / seen
        return [np.log(classes * mean / population), np.log(classes * alone / sample.unique)]

    fit = least_squares(gaps, [-1.0, 2.0], bounds=([-15, -15], [10, 15]))
    if float(np.abs(fit.fun).max()) > 1e-6:
        return None
    seen, _, _, one = law(fit.x)
    return Estimate(min(float(sample.count / seen * one / population), 1.0))
