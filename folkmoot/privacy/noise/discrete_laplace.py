"""The discrete Laplace (two-sided geometric): probability of x proportional to ``exp(-|x| / t)``.

Ghosh, Roughgarden & Sundararajan (2009).  The difference of two geometric numbers has this law, and
a geometric number's digits in base 256 are independent: each is drawn from a table of its own
(:mod:`.tables`), so that any scale takes a few look-ups and no rejection.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise.entropy import Entropy
from folkmoot.privacy.noise.tables import CHUNK, ONE, WORD, Table, exp_minus, positive, size_of

__all__ = ["discrete_laplace"]

_BASE = 256
#: Largest scale of the leading digit, whose tail is cut at 2^-150 (104 scales), and of the whole.
_LEADING = 64
_LARGEST = 2**54


def discrete_laplace(
    scale: Fraction | float, size: int | tuple[int, ...], entropy: Entropy | None = None
) -> NDArray[np.int64]:
    """Draw from the discrete Laplace law; O(size · log scale).

    Parameters
    ----------
    scale : Fraction or float
        t, in steps of the integer grid.  A float is taken as the fraction that it is.
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
        ``privacy.mechanism`` for a scale that is not positive and finite, or above 2^54.

    Notes
    -----
    Privacy cost, added to an integer vector of L1 sensitivity S: epsilon ``S / t``, up to a total
    variation of 2^-128 per number, which is charged to delta.
    """
    exact = positive("scale", scale)
    if exact > _LARGEST:
        raise PrivacyError(
            "privacy.mechanism",
            "The noise would not fit 64-bit integers.",
            "Choose a coarser grid.",
        )
    entropy = entropy or Entropy()
    number, shape = size_of(size)
    digits = _digits(exact)
    out = np.zeros(number, np.int64)
    small = np.empty(min(number, CHUNK), np.int32)
    wide = np.empty(min(number, CHUNK), np.int64)
    for start in range(0, number, CHUNK):
        part = out[start : start + CHUNK]
        narrow, product = small[: len(part)], wide[: len(part)]
        for sign in (1, -1):
            for place, table in digits:
                table.fill(narrow, entropy)
                np.multiply(narrow, sign * place, out=product, dtype=np.int64)
                part += product
    return out.reshape(shape)


@lru_cache(maxsize=32)
def _digits(scale: Fraction) -> tuple[tuple[int, Table], ...]:
    """Tables of a geometric number's digits with their places, the leading digit last."""
    ratio = exp_minus(1 / scale)
    weights = [ONE]
    leading = scale <= _LEADING
    while (weights[-1] >> (WORD - 150)) if leading else (len(weights) < _BASE):
        weights.append(weights[-1] * ratio >> WORD)
    table = Table(weights, 0)
    if leading:
        return ((1, table),)
    higher = _digits(scale / _BASE)
    return ((1, table), *((place * _BASE, digit) for place, digit in higher))
