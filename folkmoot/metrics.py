"""Metrics from counts: every site counts its own held-out rows, the counts are added, never scores.

:func:`count` turns labels and scores into sums, :func:`combine` adds the sums of chunks or sites,
:func:`metrics` turns sums into metrics, so that pooled counts give the metrics of the pooled rows.

What binning costs
    Probabilities are counted in :data:`BINS` bins of equal width.  Rows that share a bin are
    treated as tied, so ROC AUC is off by at most half the share of (positive, negative) pairs that
    share a bin (:func:`auc_error` states that bound for given counts); PR AUC is the average
    precision of the binned scores.  Calibration error is the expected calibration error over
    :data:`CALIBRATION_BINS` bins of equal width (Naeini et al. 2015).  Accuracy, Brier score, log
    loss, RMSE, MAE and R² come from sums and are exact but for rounding.

A metric that the rows cannot define (AUC with one class only, R² of a constant label) is left out,
so that results are always finite numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BINS",
    "CALIBRATION_BINS",
    "HIGHER_IS_BETTER",
    "PRIMARY",
    "Task",
    "auc_error",
    "combine",
    "count",
    "fits",
    "metrics",
]

Task = Literal["binary", "multiclass", "regression"]
Counts = dict[str, NDArray[Any]]

#: Bins of a probability for ROC AUC and PR AUC.
BINS = 1024
#: Bins of a probability for the calibration error.
CALIBRATION_BINS = 10
#: The metric that models of a task are compared by.
PRIMARY: dict[str, str] = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse"}
#: Metrics of which more is better; less is better for the others.
HIGHER_IS_BETTER = frozenset({"auc", "pr_auc", "accuracy", "r2"})
#: Probabilities are kept this far from 0 and 1 in the log loss, so that it stays finite.
_EPS = 1e-15
#: What ``ndarray.sum`` calls: counts are small, and most of their time is the way to it.
_sum = np.add.reduce


def count(
    task: Task, y: ArrayLike, scores: ArrayLike, n_classes: int, *, origin: float = 0.0
) -> Counts:
    """Count rows; O(n) and O(n · K) for K > 2 classes.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
        What the label asks for.
    y : array_like of int or float, shape (n,)
        Class codes 0 … K - 1 (binary: 1 is the positive class), or numbers.
    scores : array_like of float, shape (n,) or (n, K)
        Binary: probability of the positive class; multiclass: probability per class; regression:
        predictions.
    n_classes : int
        K; ignored for regression.
    origin : float, default 0
        Public point near the labels that regression's sums are taken from, for precision alone:
        every site must use the same.

    Returns
    -------
    dict of str to ndarray
        Sums, int64 counts and float64 totals; add them with :func:`combine`.
    """
    if task == "regression":
        return _count_regression(np.asarray(y, np.float64), np.asarray(scores, np.float64), origin)
    codes = np.asarray(y).astype(np.int64, copy=False)
    p = np.asarray(scores, np.float64)
    if task == "binary":
        return _count_binary(codes, p.reshape(len(codes)))
    return _count_multiclass(codes, p, n_classes)


def combine(counts: Sequence[Mapping[str, NDArray[Any]]]) -> Counts:
    """Add the counts of chunks or sites, in the order given.

    Raises
    ------
    ValueError
        Where there is nothing to add, or names or shapes differ.
    """
    if not counts:
        raise ValueError("no counts to combine")
    first = counts[0]
    total = {name: np.array(array) for name, array in first.items()}
    for other in counts[1:]:
        if other.keys() != first.keys():
            raise ValueError("counts of different tasks cannot be combined")
        for name, array in other.items():
            if array.shape != total[name].shape:
                raise ValueError(f"counts {name} differ in shape")
            total[name] += array
    return total


def fits(task: Task, counts: Mapping[str, NDArray[Any]], n_classes: int) -> bool:
    """Whether counts of another party have the names, shapes and types that :func:`count` gives."""
    expected = _layout(task, n_classes)
    return counts.keys() == expected.keys() and all(
        (array.shape, array.dtype) == expected[name] for name, array in counts.items()
    )


@lru_cache(maxsize=64)
def _layout(task: Task, n_classes: int) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array of :func:`count`; a coordinator asks once per site and round."""
    empty = count(task, [], np.zeros((0, max(1, n_classes))), n_classes)
    return MappingProxyType({name: (array.shape, array.dtype) for name, array in empty.items()})


def metrics(task: Task, counts: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Metrics of the rows that were counted.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
        As for :func:`count`.
    counts : dict of str to ndarray
        From :func:`count` or :func:`combine`.

    Returns
    -------
    dict of str to float
        Binary: ``auc``, ``pr_auc``, ``brier``, ``accuracy``, ``log_loss``, ``calibration_error``;
        multiclass: ``auc`` (one against the rest, mean over classes), ``brier`` (summed over
        classes), ``accuracy``, ``log_loss``, ``calibration_error`` (of the predicted class);
        regression: ``rmse`` and ``mae`` in the label's unit, ``r2``.  All finite; what the rows
        cannot define is left out.
    """
    rows = int(counts["rows"])
    if rows == 0:
        return {}
    makers: dict[str, Callable[[Mapping[str, NDArray[Any]], int], dict[str, float]]] = {
        "binary": _classes,
        "multiclass": _classes,
        "regression": _numbers,
    }
    found = makers[task](counts, rows)
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def auc_error(counts: Mapping[str, NDArray[Any]]) -> float:
    """Largest error that binning can have caused in ``auc`` for these counts; 0 where undefined."""
    bounds = []
    for negative, positive in counts["histogram"]:
        pairs = float(negative.sum()) * float(positive.sum())
        if pairs:
            bounds.append(float(negative.astype(np.float64) @ positive) / pairs / 2)
    return float(np.mean(bounds)) if bounds else 0.0


def _bins(p: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    return np.minimum((p * bins).astype(np.int64), bins - 1)


def _calibration(p: NDArray[np.float64], hit: NDArray[Any]) -> NDArray[np.float64]:
    """Per bin: sum of probabilities and number of hits, shape (2, bins)."""
    where = _bins(p, CALIBRATION_BINS)
    sums = np.empty((2, CALIBRATION_BINS))
    for out, values in zip(sums, (p, hit), strict=True):
        out[:] = np.bincount(where, weights=values, minlength=CALIBRATION_BINS)
    return sums


def _count_binary(y: NDArray[np.int64], p: NDArray[np.float64]) -> Counts:
    p = p.clip(0.0, 1.0)
    histogram = np.bincount(_bins(p, BINS) + BINS * y, minlength=2 * BINS).reshape(1, 2, BINS)
    positive = y == 1
    chosen = np.maximum(np.where(positive, p, 1.0 - p), _EPS)
    return {
        "rows": np.array(len(y), np.int64),
        "correct": np.array(np.count_nonzero((p > 0.5) == positive), np.int64),
        "histogram": histogram,
        "calibration": _calibration(p, y),
        "brier": np.array(_sum(np.square(p - y))),
        "log_loss": np.array(-_sum(np.log(chosen))),
    }


def _count_multiclass(y: NDArray[np.int64], p: NDArray[np.float64], n_classes: int) -> Counts:
    n = len(y)
    p = np.clip(p.reshape(n, n_classes), 0.0, 1.0)
    truth = y[:, None] == np.arange(n_classes)
    # One bincount for all classes: class, then rest or class, then bin.
    where = _bins(p, BINS) + BINS * truth + 2 * BINS * np.arange(n_classes)
    histogram = np.bincount(where.ravel(), minlength=2 * BINS * n_classes)
    predicted = p.argmax(axis=1) if n else np.zeros(0, np.int64)
    confidence = p[np.arange(n), predicted]
    hit = predicted == y
    return {
        "rows": np.array(n, np.int64),
        "correct": np.array(np.count_nonzero(hit), np.int64),
        "histogram": histogram.reshape(n_classes, 2, BINS),
        "calibration": _calibration(confidence, hit),
        "brier": np.array(np.square(p - truth).sum()),
        "log_loss": np.array(-np.log(np.maximum(p[np.arange(n), y], _EPS)).sum()),
    }


def _count_regression(
    y: NDArray[np.float64], predicted: NDArray[np.float64], origin: float
) -> Counts:
    error = predicted.reshape(len(y)) - y
    shifted = y - origin
    return {
        "rows": np.array(len(y), np.int64),
        "squared_error": np.array(np.square(error).sum()),
        "absolute_error": np.array(np.abs(error).sum()),
        "label": np.array(shifted.sum()),
        "label_square": np.array(np.square(shifted).sum()),
    }


def _classes(counts: Mapping[str, NDArray[Any]], rows: int) -> dict[str, float]:
    histogram = counts["histogram"].astype(np.float64)
    probability, hits = counts["calibration"]
    found = {
        "accuracy": float(counts["correct"]) / rows,
        "brier": float(counts["brier"]) / rows,
        "log_loss": float(counts["log_loss"]) / rows,
        "calibration_error": float(_sum(np.abs(probability - hits))) / rows,
    }
    sizes = _sum(histogram, axis=2).tolist()  # rows per class, outside and inside
    both = [(*pair, *size) for pair, size in zip(histogram, sizes, strict=True) if all(size)]
    if both:
        areas = [_auc(*one) for one in both]
        found["auc"] = areas[0] if len(areas) == 1 else float(np.mean(areas))
        if len(histogram) == 1:
            found["pr_auc"] = _average_precision(*histogram[0])
    return found


def _auc(
    negative: NDArray[np.float64], positive: NDArray[np.float64], negatives: float, positives: float
) -> float:
    """Share of (positive, negative) pairs in the right order, ties counted half."""
    below = negative.cumsum()
    below -= negative / 2
    return float(_sum(positive * below)) / positives / negatives


def _average_precision(negative: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    true = positive[::-1].cumsum()
    taken = true + negative[::-1].cumsum()
    precision = np.divide(true, taken, out=np.zeros_like(true), where=taken > 0)
    return float(_sum(precision * positive[::-1]) / true[-1])


def _numbers(counts: Mapping[str, NDArray[Any]], rows: int) -> dict[str, float]:
    squared, label = float(counts["squared_error"]), float(counts["label"])
    spread = float(counts["label_square"]) - label * label / rows
    found = {"rmse": float(np.sqrt(squared / rows)), "mae": float(counts["absolute_error"]) / rows}
    if spread > 1e-12 * float(counts["label_square"]):
        found["r2"] = 1.0 - squared / spread
    return found
