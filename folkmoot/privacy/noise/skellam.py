"""The symmetric Skellam law: the difference of two Poisson numbers of mean ``variance / 2`` each.

Sums of Skellam numbers are Skellam numbers *exactly*, whatever their variances (Agarwal, Kairouz &
Liu 2021): the noise for secure sums on grids so coarse that the sum of few discrete Gaussians is
not quite one (share variance below 10; see :mod:`folkmoot.privacy.shares`).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise.entropy import Entropy
from folkmoot.privacy.noise.tables import CHUNK, ONE, Table, positive, size_of

__all__ = ["skellam"]

#: Largest variance of one table, and how many may be summed.
_ONE_TABLE = 2**18
_PARTS = 64


def skellam(
    variance: Fraction | float, size: int | tuple[int, ...], entropy: Entropy | None = None
) -> NDArray[np.int64]:
    """Draw from the Skellam law; O(size · (1 + variance / 2^18)).

    Parameters
    ----------
    variance : Fraction or float
        In squared steps of the integer grid.  A float is taken as the fraction that it is.
    size : int or tuple of int
        Shape of the result.
    entropy : Entropy, optional
        Where the bits come from; the operating system's, under a fresh key, by default.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for a variance that is not positive and finite, or above 2^24.

    Notes
    -----
    Privacy cost: Renyi divergences of Agarwal, Kairouz & Liu (2021), theorem 3.5; see
    :class:`folkmoot.privacy.events.Skellam`.
    """
    exact = positive("variance", variance)
    parts = ceil(exact / _ONE_TABLE)
    if parts > _PARTS:
        raise PrivacyError(
            "privacy.mechanism",
            "Skellam noise is drawn up to a variance of 2^24 grid steps.",
            "Use discrete Gaussian noise on a grid this fine: its sums are as good there.",
        )
    entropy = entropy or Entropy()
    number, shape = size_of(size)
    table = _table(exact / parts)
    out = np.zeros(number, np.int64)
    small = np.empty(min(number, CHUNK), np.int32)
    for start in range(0, number, CHUNK):
        part = out[start : start + CHUNK]
        for _ in range(parts):
            table.fill(small[: len(part)], entropy)
            part += small[: len(part)]
    return out.reshape(shape)


@lru_cache(maxsize=32)
def _table(variance: Fraction) -> Table:
    """Weights I_k(variance), modified Bessel functions, by Miller's backward recurrence.

    ``I_(k-1) = I_(k+1) + (2k / variance) I_k`` is stable downwards; started where I_k is below
    2^-300 of I_0, with 256 bits, the start no longer matters where the tail is cut, at 2^-150.
    """
    deep = ceil(21 * sqrt(variance)) + 320
    values = [0, ONE]
    for k in range(deep, 0, -1):
        values.append(values[-2] + 2 * k * variance.denominator * values[-1] // variance.numerator)
    centre = values.pop()
    half = [value for value in reversed(values) if value > centre >> 150]
    return Table([*reversed(half), centre, *half], -len(half))
