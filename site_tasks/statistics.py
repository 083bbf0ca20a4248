"""Sums over a site's training rows, from which the federation computes its mean and variance.

Every feature is clipped to its public bounds and centred on their public midpoint before it is
summed, so that sums of squares do not cancel and every site's sums add up exactly as pooled rows
would: mean = midpoint + sum / count, variance = square / count - (sum / count)^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.features import FeatureSpace
from folkmoot.generalisation import bounds_of

__all__ = ["STABILITY", "sums"]

#: Rows of the input that one row of the output stands for: each adds to every sum once.
STABILITY = 1

Block = tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]


def sums(
    blocks: Iterable[Block], space: FeatureSpace, contract: Contract
) -> dict[str, NDArray[Any]]:
    """Summed statistics of rows; O(rows · d), memory O(block).

    Parameters
    ----------
    blocks : iterable of (features (n, d), labels (n,), weights)
        Rows in blocks, as :meth:`site_tasks.prepared.Prepared.blocks` yields them.
    space : FeatureSpace
        Public bounds.
    contract : Contract
        Task, classes, bounds of a numeric label.

    Returns
    -------
    dict of str to ndarray
        ``rows`` int64 (); ``count`` int64 (d,), values that are not missing; ``sum`` and
        ``square`` float64 (d,), centred; for classes ``class_counts`` int64 (K,), for regression
        ``label_sum`` and ``label_square`` float64 (), centred on the label's public midpoint;
        ``weight`` float64 (), the summed sample weights, where there are any.

    Notes
    -----
    Privacy: these are exact sums.  They are released under mechanisms ``none`` and ``clip`` only;
    under differential privacy features are scaled by public bounds instead.
    """
    d = len(space)
    rows = 0
    count = np.zeros(d, np.int64)
    partial: list[tuple[NDArray[Any], NDArray[Any]]] = []
    classes = np.zeros(len(contract.classes), np.int64)
    label: list[tuple[float, float]] = []
    weight: list[float] = []
    for features, labels, weights in blocks:
        rows += len(labels)
        if weights is not None:
            weight.append(float(weights.sum()))
        # Feature by feature in contiguous memory: numpy then sums pairwise.
        x = np.array(features.T, np.float64, order="C")
        np.clip(x, space.lower[:, None], space.upper[:, None], out=x)
        x -= space.centre[:, None]
        present = ~np.isnan(x)
        count += present.sum(axis=1)
        x[~present] = 0.0
        partial.append((x.sum(axis=1), np.square(x).sum(axis=1)))
        if contract.classes:
            classes += np.bincount(labels, minlength=len(classes))
        else:
            lower, upper = bounds_of(contract.label)
            y = np.clip(labels, lower, upper) - (lower + upper) / 2
            label.append((float(y.sum()), float(np.square(y).sum())))
    out: dict[str, NDArray[Any]] = {
        "rows": np.array(rows, np.int64),
        "count": count,
        "sum": np.array([math.fsum(p[0][j] for p in partial) for j in range(d)]),
        "square": np.array([math.fsum(p[1][j] for p in partial) for j in range(d)]),
    }
    if weight:
        out["weight"] = np.array(math.fsum(weight))
    if contract.classes:
        out["class_counts"] = classes
    else:
        out["label_sum"] = np.array(math.fsum(p[0] for p in label))
        out["label_square"] = np.array(math.fsum(p[1] for p in label))
    return out
