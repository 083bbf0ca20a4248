"""Metrics from noised held-out counts: post-processing, free.

Each held-out row adds one to one bin (:mod:`site_tasks.private.evaluation`): for two classes by
label and predicted probability, for more by label and predicted class, for numbers by the size of
the error relative to the label's public range.  Noise of single bins is not rounded away, so the
metrics are unbiased but for their bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.privacy.held_out import BINS, shape_of
from folkmoot.privacy.planned import COUNT_EXPONENT
from folkmoot.updates import Part, Statistics

__all__ = ["noised_fits", "noised_metrics"]

Floats = NDArray[np.float64]


def noised_fits(part: Part, contract: Contract) -> bool:
    """Whether a part holds noised counts of the contract's shape, and nothing else."""
    if not isinstance(part, Statistics) or part.arrays.keys() != {"counts"}:
        return False
    counts = part.arrays["counts"]
    return bool(counts.dtype == np.int64 and counts.shape == (int(np.prod(shape_of(contract))),))


def noised_metrics(contract: Contract, counts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics overall and per site from noised counts; O(sites x bins).

    Returns
    -------
    dict
        ``overall``, ``sites`` as :func:`pipelines.coordinator.close_round.combined_metrics`; each
        says ``noised``: 1.0.  A metric that noise leaves undefined is left out.
    """
    arrays = {site: counts[site]["counts"] for site in sorted(counts)}
    pooled = np.sum(list(arrays.values()), axis=0)
    return {
        "overall": _metrics(contract, pooled),
        "sites": {site: _metrics(contract, array) for site, array in arrays.items()},
    }


def _metrics(contract: Contract, counts: NDArray[Any]) -> dict[str, float]:
    table = counts.astype(np.float64).reshape(shape_of(contract)) * 2.0**-COUNT_EXPONENT
    rows = float(table.sum())
    if rows <= 0:
        return {"noised": 1.0}
    if contract.task == "regression":
        low, high = contract.label.bounds or (0.0, 1.0)
        size = (np.arange(BINS) + 0.5) / BINS * (high - low)
        square = float(table[0] @ np.square(size)) / rows
        found = {"mae": max(0.0, float(table[0] @ size) / rows)}
        return {**found, "rmse": float(np.sqrt(max(square, 0.0))), "rows": rows, "noised": 1.0}
    if contract.task == "multiclass":
        accuracy = float(np.trace(table)) / rows
        return {"accuracy": min(max(accuracy, 0.0), 1.0), "rows": rows, "noised": 1.0}
    right = float(table[0, : BINS // 2].sum() + table[1, BINS // 2 :].sum())
    found = {"accuracy": min(max(right / rows, 0.0), 1.0), "rows": rows, "noised": 1.0}
    negatives, positives = (float(n) for n in table.sum(axis=1))
    if negatives > 0 and positives > 0:
        below = np.cumsum(table[0]) - table[0] / 2
        found["auc"] = min(max(float(table[1] @ below) / negatives / positives, 0.0), 1.0)
    return found
