"""Least squares from noised second moments: AdaSSP (Wang 2018, arXiv 1803.02596, algorithm 2).

The moments of ``[x, 1, y]`` leave as one noised matrix, so that one release gives ``X'X`` and
``X'y``.  The ridge follows from the noise and from the smallest eigenvalue of the noised matrix: it
vanishes where the data are well conditioned, and costs nothing, as it is post-processing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["adassp", "symmetric"]

Floats = NDArray[np.float64]
#: Chance with which the noise may exceed what the ridge is sized for.
FAILURE = 0.05


def symmetric(upper: Floats, width: int) -> Floats:
    """The symmetric matrix of an upper triangle, shape (width, width)."""
    matrix = np.zeros((width, width))
    matrix[np.triu_indices(width)] = upper
    return matrix + np.triu(matrix, 1).T


def adassp(moments: Floats, deviation: float, l2: float) -> Floats:
    """Coefficients from noised moments; O(D³).

    Parameters
    ----------
    moments : ndarray, shape (D + 1, D + 1)
        Noised sums of products of the columns of ``[x, 1, y]``.
    deviation : float
        Standard deviation of the noise per number.
    l2 : float
        The plan's own penalty, not on the constant.

    Returns
    -------
    ndarray of float64, shape (D,)
        The constant's last.
    """
    gram, cross = moments[:-1, :-1], moments[:-1, -1]
    width = len(gram)
    values, vectors = np.linalg.eigh(gram)
    smallest = max(float(values[0]), 0.0)
    size = deviation * math.sqrt(width * math.log(2 * width * width / FAILURE))
    ridge = max(0.0, size - smallest)
    repaired = (vectors * np.maximum(values, 0.0)) @ vectors.T
    penalty = np.full(width, ridge)
    penalty[:-1] += l2
    return np.linalg.solve(repaired + np.diag(penalty), cross)
