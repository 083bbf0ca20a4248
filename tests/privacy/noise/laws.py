"""The laws themselves, computed another way, and the tests of draws against them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def gaussian_pmf(sigma: float, most: int) -> Floats:
    x = np.arange(-most, most + 1, dtype=np.float64)
    weight = np.exp(-(x**2) / (2 * sigma**2))
    return weight / weight.sum()


def laplace_pmf(scale: float, most: int) -> Floats:
    x = np.arange(-most, most + 1, dtype=np.float64)
    p = np.exp(-1 / scale)
    return (1 - p) / (1 + p) * p ** np.abs(x)


def chi_square(draws: NDArray[np.int64], pmf: Floats, bins: int = 200) -> float:
    """p-value of draws against a law on ``-most … most``; neighbours merged to enough mass."""
    from scipy import stats

    most = len(pmf) // 2
    counts = np.bincount(np.clip(draws, -most, most) + most, minlength=len(pmf))
    least = max(1 / bins, 10 / len(draws))
    group = np.floor(np.cumsum(pmf) / least).astype(int)
    _, group = np.unique(np.minimum(group, int(1 / least) - 1), return_inverse=True)
    seen, due = np.bincount(group, counts), np.bincount(group, pmf) * len(draws)
    return float(stats.chisquare(seen, due * seen.sum() / due.sum()).pvalue)
