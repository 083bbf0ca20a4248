"""The discrete Gaussian: probability of x proportional to ``exp(-x² / (2 sigma²))`` on integers.

Canonne, Kamath & Steinke, *The discrete Gaussian for differential privacy* (2020).  Their sampler
rejects, one number at a time; here tables are looked up (:mod:`.tables`), and a variance that is too
large for one table is reached by convolution, ``X = A + K B`` with A, B discrete Gaussians of
variances a, b and ``a + K² b = sigma²``.  Given X = x, B is a discrete Gaussian of variance
``r² = a b / (a + K² b)`` about some real centre; completing the square shows

    P(X = x) = exp(-x² / (2 sigma²)) · sum over B of exp(-(B - centre)² / (2 r²)) · constant,

and by Poisson's summation formula that sum is the same for all centres to within a factor
``1 ± 2 exp(-2 pi² r²)`` (Micciancio & Peikert 2013, theorem 3.3; Micciancio & Walter 2017).  With
``r² >= 5`` this is 2^-141.  No number takes longer than another by more than a cell's search.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from itertools import repeat
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise.entropy import Entropy
from folkmoot.privacy.noise.tables import CHUNK, ONE, WORD, Table, exp_minus, positive, size_of

__all__ = ["SMOOTH", "discrete_gaussian", "largest_draw"]

#: Numbers of one keystream; more are drawn by as many threads as there are cores.
BLOCK = 1 << 18
#: Variance from which on a discrete Gaussian smooths the integers to within 2^-141.
SMOOTH = 5
#: Largest standard deviation of one table, and of the whole: 14 deviations must fit 64 bits.
_ONE_TABLE = 512
_LARGEST = 2**56


def discrete_gaussian(
    sigma: Fraction | float, size: int | tuple[int, ...], entropy: Entropy | None = None
) -> NDArray[np.int64]:
    """Draw from the discrete Gaussian; O(size · log sigma), 5 to 25 ns of one core per number.

    Parameters
    ----------
    sigma : Fraction or float
        Scale, in steps of the integer grid: the standard deviation, but for tiny values.  A float
        is taken as the fraction that it is.
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
        ``privacy.mechanism`` for a sigma that is not positive and finite, or above 2^56.

    Notes
    -----
    Privacy cost, added to an integer vector of L2 sensitivity S: S² / (2 sigma²)-zCDP (CKS 2020,
    theorem 14), and the epsilon of the continuous Gaussian of variance ``sigma² - 5`` (see
    :class:`folkmoot.privacy.events.DiscreteGaussian`), with 2^-128 per number added to delta.
    """
    exact = positive("sigma", sigma)
    if exact > _LARGEST:
        raise PrivacyError(
            "privacy.mechanism",
            "The noise would not fit 64-bit integers.",
            "Choose a coarser grid.",
        )
    entropy = entropy or Entropy()
    number, shape = size_of(size)
    tables = _tables(exact * exact)
    out = np.empty(number, np.int64)
    blocks = [out[start : start + BLOCK] for start in range(0, number, BLOCK)]
    if len(blocks) == 1:
        _fill(blocks[0], tables, entropy)
    elif blocks:
        # Each block has a keystream of its own, so that no thread waits for another's bits.
        streams = [entropy.child() for _ in blocks]
        with ThreadPoolExecutor(min(len(blocks), os.cpu_count() or 1)) as threads:
            list(threads.map(_fill, blocks, repeat(tables), streams))
    return out.reshape(shape)


def _fill(out: NDArray[np.int64], tables: tuple[tuple[int, Table], ...], entropy: Entropy) -> None:
    """Sums of the tables' scaled draws, in pieces that stay in a core's cache."""
    (_, first), *others = tables
    small = np.empty(min(len(out), CHUNK), np.int32)
    wide = np.empty(min(len(out), CHUNK), np.int64)
    for start in range(0, len(out), CHUNK):
        part = out[start : start + CHUNK]
        narrow, product = small[: len(part)], wide[: len(part)]
        first.fill(narrow, entropy)
        part[:] = narrow
        for scale, table in others:
            table.fill(narrow, entropy)
            np.multiply(narrow, scale, out=product, dtype=np.int64)
            part += product


def largest_draw(sigma: Fraction | float) -> int:
    """Bound on the absolute value of every draw, some 15 sigma: the headroom of a fixed-point sum."""
    exact = positive("sigma", sigma)
    return sum(scale * table.largest for scale, table in _tables(exact * exact))


@lru_cache(maxsize=32)
def _tables(variance: Fraction) -> tuple[tuple[int, Table], ...]:
    """Tables whose scaled sum has this variance."""
    split = _split(variance)
    if split is None:
        return ((1, _table(variance)),)
    factor, fine, coarse = split
    return (
        (1, _table(fine)),
        *((factor * scale, table) for scale, table in _tables(coarse)),
    )


def _split(variance: Fraction) -> tuple[int, Fraction, Fraction] | None:
    """``(K, a, b)`` with ``a + K² b = variance``; None where one table does.

    K is at most an 8.4th of sigma, so b is at least 64, and a is at least (2.35 K)²: then
    ``1 / r² <= K² / a + 1 / b <= 1/5.52 + 1/64 < 1/5``.
    """
    if variance <= _ONE_TABLE**2:
        return None
    factor = min(128, int(isqrt(int(variance)) / 8.4))
    fine = Fraction(553, 100) * factor**2
    # b in 16ths, so that one table of it serves many variances; a takes up the rest.
    coarse = Fraction(int((variance - fine) / factor**2 * 16), 16)
    fine = variance - coarse * factor**2
    if fine * coarse < SMOOTH * variance:  # r² < 5: cannot happen, and must not
        raise AssertionError("the convolution would not smooth")
    return factor, fine, coarse


@lru_cache(maxsize=64)
def _table(variance: Fraction) -> Table:
    """Weights ``exp(-x² / (2 v))`` by ``w(x + 1) = w(x) q^(2x + 1)``, cut at 2^-150."""
    q = exp_minus(1 / (2 * variance))
    ratio, square = q, q * q >> WORD
    half = []
    weight = ONE
    while weight >> (WORD - 150):
        weight = weight * ratio >> WORD
        ratio = ratio * square >> WORD
        half.append(weight)
    return Table([*reversed(half), ONE, *half], -len(half))
