"""Losses of linear models over scaled rows: value, gradient, Hessian, prediction.  NumPy alone.

Parameters are one matrix ``w`` of shape (K, d + 1): a row per class (one row for binary labels and
for regression), the intercept in the last column.  Losses are *summed* over rows, as scikit-learn
sums them, and without the penalty, which belongs to the federation and not to a site:

===========  ==============================================  =======================
task         loss of a row                                   equals
===========  ==============================================  =======================
binary       log(1 + exp(z)) - y z                           LogisticRegression
multiclass   logsumexp(z) - z[y] (softmax, K rows)           multinomial ditto
regression   (z - y)^2 / 2                                   LinearRegression, Ridge
===========  ==============================================  =======================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sums", "gradient", "predict", "sums"]

Floats = NDArray[np.float64]
Chunk = tuple[Floats, NDArray[Any], Floats | None]


@dataclass
class Sums:
    """Sums over rows at one point.

    Attributes
    ----------
    loss : float
    gradient : ndarray of float64, shape (K, d + 1)
    hessian : ndarray of float64, shape (K, d + 1, K, d + 1)
    weight : float
        Summed sample weights; rows where there are none.
    """

    loss: float
    gradient: Floats
    hessian: Floats
    weight: float


def predict(task: str, w: Floats, x: Floats) -> Floats:
    """Probabilities or predictions of scaled rows.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
    w : ndarray of float64, shape (K, d + 1)
    x : ndarray of float64, shape (n, d)

    Returns
    -------
    ndarray of float64, shape (n,) or (n, K)
        Binary: probability of the positive class; multiclass: per class; regression: prediction.
    """
    if task == "multiclass":
        return _softmax(x @ w[:, :-1].T + w[:, -1])[0]
    z = x @ w[0, :-1] + w[0, -1]
    return _sigmoid(z)[0] if task == "binary" else z


def gradient(task: str, w: Floats, x: Floats, y: NDArray[Any], weights: Floats | None) -> Floats:
    """Gradient of the summed loss, shape (K, d + 1); O(n · d · K)."""
    if task == "multiclass":
        slope = _softmax(x @ w[:, :-1].T + w[:, -1])[0]
        slope[np.arange(len(y)), y] -= 1.0
    else:
        slope = predict(task, w, x) - y
    if weights is not None:
        slope *= weights if slope.ndim == 1 else weights[:, None]
    return _outer(slope, x, w.shape)


def sums(task: str, w: Floats, chunks: Iterable[Chunk]) -> Sums:
    """Add up loss, gradient and Hessian over chunks of rows.

    O(n · d² · K²) in matrix products; memory is one chunk and the sums.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
    w : ndarray of float64, shape (K, d + 1)
    chunks : iterable of (x, y, weights)
        Scaled rows (n, d), labels (n,) and sample weights (n,) or None.

    Returns
    -------
    Sums
    """
    loss, weight = 0.0, 0.0
    total = np.zeros_like(w)
    second = np.zeros((*w.shape, *w.shape))
    for x, y, weights in chunks:
        rows, slope, curvature = _slope(task, w, x, y)
        if weights is None:
            loss += float(rows.sum())
            weight += len(y)
        else:
            loss += float(rows @ weights)
            weight += float(weights.sum())
            slope *= weights if slope.ndim == 1 else weights[:, None]
        total += _outer(slope, x, w.shape)
        _add_hessian(second, x, curvature, weights)
    return Sums(loss, total, second, weight)


def _slope(
    task: str, w: Floats, x: Floats, y: NDArray[Any]
) -> tuple[Floats, Floats, Floats | None]:
    """Per row: loss, its derivative by z, and what the second derivative is made of.

    The last is z'' of a binary row (n,), the probabilities of a multiclass row (n, K), and None
    for regression, where it is 1.
    """
    if task == "multiclass":
        p, log_sum, z = _softmax(x @ w[:, :-1].T + w[:, -1])
        at = np.arange(len(y)), y
        slope = p.copy()
        slope[at] -= 1.0
        return log_sum - z[at], slope, p
    z = x @ w[0, :-1] + w[0, -1]
    if task == "regression":
        residual = z - y
        return 0.5 * residual * residual, residual, None
    p, decay = _sigmoid(z)
    loss = np.log1p(decay) + np.maximum(z, 0.0) - y * z
    return loss, p - y, decay / np.square(1.0 + decay)


def _sigmoid(z: Floats) -> tuple[Floats, Floats]:
    """Probability and exp(-|z|), without overflow."""
    decay = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, decay) / (1.0 + decay), decay


def _softmax(z: Floats) -> tuple[Floats, Floats, Floats]:
    """Probabilities; log of the summed exponentials and z, both shifted by the row's maximum."""
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z)
    total = p.sum(axis=1)
    p /= total[:, None]
    return p, np.log(total), z


def _outer(slope: Floats, x: Floats, shape: tuple[int, ...]) -> Floats:
    out = np.empty(shape)
    out[:, :-1] = slope.T @ x
    out[:, -1] = slope.sum(axis=0)
    return out


def _add_hessian(
    second: Floats, x: Floats, curvature: Floats | None, weights: Floats | None
) -> None:
    classes = second.shape[0]
    ones = np.ones(len(x)) if weights is None else weights
    if curvature is None or curvature.ndim == 1:
        _add_block(second[0, :, 0, :], x, ones if curvature is None else ones * curvature)
        return
    for k in range(classes):
        for j in range(k + 1):
            block = np.zeros((second.shape[1], second.shape[1]))
            sign = 1.0 if j == k else -1.0
            _add_block(block, x, ones * curvature[:, k] * abs((j == k) - curvature[:, j]))
            second[k, :, j, :] += sign * block
            if j != k:
                second[j, :, k, :] += sign * block


def _add_block(block: Floats, x: Floats, diagonal: Floats) -> None:
    """``block += [x 1]' diag [x 1]`` for a diagonal >= 0, without ever building ``[x 1]``."""
    scaled = x * np.sqrt(diagonal)[:, None]
    block[:-1, :-1] += scaled.T @ scaled  # symmetric: BLAS does half the work
    edge = diagonal @ x
    block[:-1, -1] += edge
    block[-1, :-1] += edge
    block[-1, -1] += float(diagonal.sum())
