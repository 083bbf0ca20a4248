"""Derivatives of XGBoost's objectives in its own float32 arithmetic, on a grid of whole numbers.

A row's gradient and Hessian are computed as XGBoost 3.2 does (``src/objective``), to the last bit
where the machine's ``expf`` is the one that XGBoost calls, and put on the grid whose sums cannot
overflow (:class:`~folkmoot.trees.histograms.Grid`): sums are then exact in any order, under masks
as without.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.trees.compiled import compiled, still

__all__ = ["OBJECTIVES", "derivatives", "on_grid"]

Array = NDArray[Any]
_F = np.float32
#: Number of the kernel of each objective.
OBJECTIVES = {
    "binary:logistic": 0,
    "multi:softprob": 1,
    "reg:squarederror": 2,
    "count:poisson": 3,
}


def derivatives(
    objective: str,
    margins: NDArray[np.float32],
    labels: Array,
    weights: Array | None,
    *,
    max_delta_step: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gradient and Hessian of every row; O(n · K).

    Parameters
    ----------
    objective : str
        A key of :data:`OBJECTIVES`.
    margins : ndarray of float32, shape (n,) or (n, K)
    labels : ndarray, shape (n,)
        Class codes, or numbers.
    weights : ndarray, shape (n,), or None
        Sample weights; 1 where None.
    max_delta_step : float
        Of ``count:poisson``, whose Hessian it enlarges.

    Returns
    -------
    gradient, hessian : ndarray of float32, shape (K, n)
    """
    rows = len(margins)
    wide = np.ascontiguousarray(margins, np.float32).reshape(rows, -1)
    grad, hess = (np.empty((wide.shape[1], rows), np.float32) for _ in range(2))
    factor = np.ones(0, np.float32) if weights is None else np.asarray(weights, np.float32)
    code = OBJECTIVES[objective]
    numbers = (still(wide), still(np.asarray(labels, np.float32)), still(factor))
    _derive(code, *numbers, _F(max_delta_step), grad, hess)
    return grad, hess


def on_grid(values: NDArray[np.float32], exponent: int) -> NDArray[np.int64]:
    """Whole steps of ``2**-exponent``, to the nearest: exact above 2**(24 - exponent); O(n)."""
    out = np.empty(values.shape, np.int64)
    _round(still(values.ravel()), 2.0**exponent, out.reshape(-1))
    return out


@compiled
def _round(values: Array, scale: float, out: Array) -> None:
    for i in range(len(values)):
        out[i] = np.int64(np.rint(np.float64(values[i]) * scale))


@compiled
def _derive(
    code: int, margins: Array, labels: Array, weights: Array, step: Any, grad: Array, hess: Array
) -> None:
    one, two, least = _F(1.0), _F(2.0), _F(1e-16)
    classes = margins.shape[1]
    for i in range(margins.shape[0]):
        w = weights[i] if len(weights) else one
        y = labels[i]
        if code == 1:
            largest = _F(1.1754944e-38)  # as XGBoost begins: the smallest positive float
            for k in range(classes):
                largest = max(largest, margins[i, k])
            total = 0.0
            for k in range(classes):
                total += np.float64(_F(math.exp(margins[i, k] - largest)))
            for k in range(classes):
                p = _F(math.exp(margins[i, k] - largest)) / _F(total)
                hess[k, i] = max(two * p * (one - p) * w, least)
                grad[k, i] = (p - one if y == k else p) * w
            continue
        m = margins[i, 0]
        if code == 0:
            p = one / (_F(math.exp(min(-m, _F(88.7)))) + one + least)
            grad[0, i] = (p - y) * w
            hess[0, i] = max(p * (one - p), least) * w
        elif code == 2:
            grad[0, i] = (m - y) * w
            hess[0, i] = one * w
        else:
            grad[0, i] = (_F(math.exp(m)) - y) * w
            hess[0, i] = _F(math.exp(m + step)) * w
