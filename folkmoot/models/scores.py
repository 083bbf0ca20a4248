"""What margins mean: probabilities or predictions, and the derivatives of the loss; NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["gradients", "to_scores"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
#: Smallest Hessian of a row, as in XGBoost.
_EPS = 1e-16


def to_scores(margins: Array, task: str, objective: str | None = None) -> Array:
    """What metrics are computed of: probabilities (n,) or (n, K), or predictions (n,); O(n · K).

    Parameters
    ----------
    margins : ndarray of float32, shape (n,) or (n, K)
        Sums of leaves and base score.
    task : {"binary", "multiclass", "regression"}
        The contract's.
    objective : str, optional
        XGBoost's, where it is not the task's usual one: ``count:poisson`` predicts exponentials.

    Returns
    -------
    ndarray of float64
    """
    margins = margins.astype(np.float64)
    if objective == "count:poisson":
        return np.asarray(np.exp(margins))
    if task == "binary":
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margins)))  # logistic, without overflow
    if task == "multiclass":
        odds = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))
    return margins


def gradients(task: str, margins: Array, labels: Array) -> tuple[Floats, Floats]:
    """First and second derivative of a row's loss by its margin, as XGBoost defines them; O(n · K).

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
        Log loss of the logistic or softmax function, or half the squared error.
    margins : ndarray, shape (n,) or (n, K)
        Margins.
    labels : ndarray, shape (n,)
        Class codes, or numbers.

    Returns
    -------
    gradient, hessian : ndarray of float64, shape of ``margins``
        The Hessian of softmax is XGBoost's bound 2 p (1 - p).
    """
    p = to_scores(margins, task)
    if task == "regression":
        return p - labels, np.ones_like(p)
    if task == "binary":
        return p - labels, np.maximum(p * (1.0 - p), _EPS)
    hess = np.maximum(2.0 * p * (1.0 - p), _EPS)
    p[np.arange(len(p)), np.asarray(labels, np.int64)] -= 1.0
    return p, hess
