"""Boosting steps on a site's rows: XGBoost's ``hist`` trees for gradients that sum exactly.

Gradients and Hessians of XGBoost's objectives are computed here and rounded to a grid on which
their sums are exact in float64 (:func:`on_grid`).  The histograms that XGBoost sums in float64 are
then free of rounding, so that the trees do not depend on the number of threads or the order in
which rows are summed: the same rows give the same bytes on every host.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.scores import gradients
from folkmoot.models.tree_format import Tree
from folkmoot.models.trees import OBJECTIVES
from folkmoot.params import Trees
from site_tasks.device import usable_device
from site_tasks.prepared import Prepared

if TYPE_CHECKING:
    import xgboost

__all__ = ["binned", "gradients", "grow", "on_grid"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
#: Rows whose gradients are computed at a time.
_BLOCK = 65_536


def binned(prepared: Prepared, max_bin: int, n_threads: int) -> xgboost.DMatrix:
    """A site's training rows in quantile bins, read in blocks; memory O(n · d) bytes; O(n · d).

    Parameters
    ----------
    prepared : Prepared
        The site's rows, whose weights also weigh the quantiles.
    max_bin : int
        Most bins per feature.
    n_threads : int
        Threads; changes nothing in the result.

    Returns
    -------
    xgboost.QuantileDMatrix
    """
    import xgboost

    class Blocks(xgboost.DataIter):  # type: ignore[misc]  # xgboost is untyped
        """XGBoost's view of the rows on disk."""

        def __init__(self) -> None:
            super().__init__()
            self.rows = prepared.blocks("train", _BLOCK)

        def next(self, input_data: Callable[..., Any]) -> bool:
            features, _, weights = next(self.rows, (None, None, None))
            if features is None:
                return False
            types = list(prepared.features.types)
            input_data(data=features, weight=weights, feature_types=types)
            return True

        def reset(self) -> None:
            self.rows = prepared.blocks("train", _BLOCK)

    return xgboost.QuantileDMatrix(
        Blocks(), max_bin=max_bin, nthread=n_threads, enable_categorical=True
    )


def grow(
    matrix: xgboost.DMatrix,
    labels: Array,
    weights: Floats | None,
    start: NDArray[np.float32],
    settings: Trees,
    task: str,
    *,
    seed: int,
    n_threads: int,
) -> list[Tree]:
    """Boosting steps of XGBoost's ``hist`` method; O(steps · K · n · d) for n rows, d features.

    Parameters
    ----------
    matrix : xgboost.QuantileDMatrix, n rows
        From :func:`binned`.
    labels : ndarray, shape (n,)
        Class codes, or numbers.
    weights : ndarray of float64, shape (n,), or None
        Sample weights.
    start : ndarray of float32, shape (n,) or (n, K)
        Margins that the first step improves on.
    settings : Trees
        ``model.trees``.
    task : {"binary", "multiclass", "regression"}
        The contract's.
    seed : int
        Of row and column sampling.
    n_threads : int
        Threads; changes nothing in the result.

    Returns
    -------
    list of dict
        ``settings.trees_per_round`` trees, times K for K classes, in XGBoost's own JSON.

    References
    ----------
    Chen and Guestrin (2016), "XGBoost: a scalable tree boosting system", KDD.
    """
    import xgboost

    # Every tree needs one draw per row at most, so the stream is the same on every host.
    generator = np.random.Generator(np.random.PCG64(seed))
    booster = xgboost.Booster(_xgboost_params(settings, task, start, seed, n_threads), [matrix])
    current = start
    for number in range(settings.trees_per_round):
        if number:
            matrix.set_base_margin(start)
            current = booster.predict(matrix, output_margin=True)
        grad, hess = np.empty_like(start), np.empty_like(start)
        for rows in _slices(len(labels)):
            g, h = gradients(task, current[rows], labels[rows])
            factor = np.ones(len(g)) if weights is None else np.array(weights[rows])
            if settings.subsample < 1:
                factor[generator.random(len(g)) >= settings.subsample] = 0.0
            factor = factor if g.ndim == 1 else factor[:, None]
            grad[rows], hess[rows] = g * factor, h * factor
        booster.boost(matrix, iteration=number, grad=on_grid(grad), hess=on_grid(hess))
    saved = json.loads(bytes(booster.save_raw("json")))
    trees: list[Tree] = saved["learner"]["gradient_booster"]["model"]["trees"]
    return trees


def on_grid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round in place to a grid on which any sum of the rows is exact in float64; O(n).

    With all values below 2**e and n <= 2**m rows, multiples of 2**(e + m - 52) add up below 2**52
    steps, which float64 holds without rounding, in any order.

    Parameters
    ----------
    values : ndarray of float32, shape (n,) or (n, K)
        Finite.  Each changes by at most 2**(e + m - 53), which only the smallest feel.

    Returns
    -------
    ndarray of float32
        The same array.
    """
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if largest == 0.0:
        return values
    exponent = int(np.frexp(largest)[1]) + max(len(values) - 1, 1).bit_length() - 52
    for rows in _slices(len(values)):
        exact = values[rows].astype(np.float64)
        values[rows] = np.ldexp(np.rint(np.ldexp(exact, -exponent)), exponent)
    return values


def _slices(rows: int) -> Iterator[slice]:
    for first in range(0, rows, _BLOCK):
        yield slice(first, first + _BLOCK)


def _xgboost_params(
    settings: Trees, task: str, start: Array, seed: int, n_threads: int
) -> Mapping[str, Any]:
    params: dict[str, Any] = settings.model_dump(
        include={
            "eta", "max_depth", "min_child_weight", "reg_lambda", "reg_alpha", "gamma",
            "colsample_bytree", "max_bin",
        }
    )  # fmt: skip
    params |= {
        "objective": OBJECTIVES[task],
        "tree_method": "hist",
        "base_score": 0.5 if task == "binary" else 0.0,
        "disable_default_eval_metric": True,
        "seed": seed,
        "seed_per_iteration": True,
        "device": usable_device(settings.device),
        "nthread": n_threads,
        "verbosity": 0,
    }
    if task == "multiclass":
        params["num_class"] = start.shape[1]
    return params
