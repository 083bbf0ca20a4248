"""A site's part of a tree round: boosting steps on top of the global booster, on its own rows.

Gradients and Hessians of XGBoost's objectives are computed here and rounded to a grid on which
their sums are exact in float64 (:func:`on_grid`).  The histograms that XGBoost sums in float64 are
then free of rounding, so that the trees do not depend on the number of threads or the order in
which rows are summed: the same rows give the same bytes on every host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import RoundError
from folkmoot.exchange import ArtifactRef
from folkmoot.models.tree_format import Tree, TreeSpace, dump_trees, parse_trees, strip
from folkmoot.models.trees import OBJECTIVES, to_scores
from folkmoot.params import Trees
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import Part, TreeUpdate
from folkmoot.wire import Artefact
from site_tasks.evaluate import counts_of, due, load_model
from site_tasks.home import SiteHome
from site_tasks.margins import margins, threads
from site_tasks.prepared import Prepared, load_prepared
from site_tasks.release import release

if TYPE_CHECKING:
    import xgboost

__all__ = ["gradients", "grow", "on_grid", "scores", "train"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
#: Smallest Hessian of a row, as in XGBoost.
_EPS = 1e-16


def train(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Grow ``trees_per_round`` boosting steps on the incoming global model and release them.

    Returns
    -------
    list of ArtifactRef
        ``round-RRR/update-<site>`` with the part ``update`` and, every
        ``aggregation.evaluate_every`` rounds, ``evaluation`` of the incoming model.

    Raises
    ------
    RoundError
        ``round.diverged`` where the incoming model's margins are not finite.
    ProtocolError
        Where the incoming model is missing, damaged or of another run or shape.

    Notes
    -----
    Whole trees leave the site: thresholds near its own values and leaves that may be the mean of a
    few rows.  No epsilon covers them (``privacy.mechanism`` must be ``none``); numbers of rows per
    node and gains are taken off (:mod:`folkmoot.models.tree_format`).
    """
    site = step.place
    home = SiteHome.find(site, context.workspace)
    prepared = load_prepared(context, home)
    model, model_digest = load_model(context, keys.model(step.round - 1), prepared)

    def make() -> dict[str, Part]:
        update = _update(step, context, home, prepared, model)
        parts: dict[str, Part] = {"update": update}
        if due(context.params, step.round):
            parts["evaluation"] = counts_of(model, prepared, context, home)
        return parts

    ref = release(
        step,
        context,
        home,
        key=keys.update(step.round, site),
        inputs=[model_digest, prepared.digest],
        make=make,
        fingerprint=prepared.fingerprint,
    )
    return [ref]


def scores(
    model: Artefact,
    prepared: Prepared,
    part: Literal["train", "test"],
    context: RunContext,
    home: SiteHome,
) -> Floats:
    """Probabilities (n,) or (n, K), or predictions (n,), of a site's rows; they stay at the site.

    Complexity is that of :func:`site_tasks.margins.margins`.
    """
    return to_scores(margins(model, prepared, part, context, home), context.contract.task)


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
        Features with their types; its own label and weight are not used for training.
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
        grad, hess = gradients(task, current, labels)
        if weights is not None:
            factor = weights if task != "multiclass" else weights[:, None]
            grad, hess = grad * factor, hess * factor
        if settings.subsample < 1:
            left_out = generator.random(len(labels)) >= settings.subsample
            grad[left_out] = hess[left_out] = 0.0
        booster.boost(matrix, iteration=number, grad=on_grid(grad), hess=on_grid(hess))
    saved = json.loads(bytes(booster.save_raw("json")))
    trees: list[Tree] = saved["learner"]["gradient_booster"]["model"]["trees"]
    return trees


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


def on_grid(values: Floats) -> NDArray[np.float32]:
    """Round to float32 on a grid fine enough for any sum of the rows to be exact in float64; O(n).

    With all values below 2**e and n <= 2**m rows, multiples of 2**(e + m - 52) add up below 2**52
    steps, which float64 holds without rounding, in any order.

    Parameters
    ----------
    values : ndarray of float64, shape (n,) or (n, K)
        Finite.

    Returns
    -------
    ndarray of float32
        Changes a value by at most 2**(e + m - 53) beyond its rounding to float32.
    """
    single = values.astype(np.float32).astype(np.float64)
    largest = float(np.abs(single).max(initial=0.0))
    if largest == 0.0:
        return single.astype(np.float32)
    exponent = int(np.frexp(largest)[1]) + max(len(values) - 1, 1).bit_length() - 52
    return np.ldexp(np.rint(np.ldexp(single, -exponent)), exponent).astype(np.float32)


def _update(
    step: Step, context: RunContext, home: SiteHome, prepared: Prepared, model: Artefact
) -> TreeUpdate:
    settings, task = context.params.model.trees, context.contract.task
    weights = prepared.weights("train")
    start = margins(model, prepared, "train", context, home)
    if not np.isfinite(start).all():
        raise RoundError(
            "round.diverged",
            f"The global model that comes into round {step.round} is not finite.",
            "Lower model.trees.eta, or set model.trees.leaf_weighting to rows.",
            site=home.name,
        )
    trees = grow(
        _quantiles(context, home, prepared),
        prepared.labels("train"),
        weights,
        start,
        settings,
        task,
        seed=_seed(settings.seed, step.round, home.name),
        n_threads=threads(context, prepared),
    )
    data = dump_trees([strip(tree) for tree in trees])
    space = TreeSpace.of(context.contract, context.params)
    checked = parse_trees(data, space, count=len(trees), what="The site's update")
    uniform = context.params.aggregation.weighting == "uniform"
    rows = float(prepared.rows["train"]) if weights is None else float(np.sum(weights))
    return TreeUpdate(dump_trees(checked), 1.0 if uniform else rows)


def _quantiles(context: RunContext, home: SiteHome, prepared: Prepared) -> xgboost.DMatrix:
    """The site's binned training rows, kept between rounds by a process that lives that long."""
    import xgboost

    max_bin = context.params.model.trees.max_bin
    name = ("quantiles", home.name, prepared.digest, max_bin)
    if name not in context.cache:
        context.cache[name] = xgboost.QuantileDMatrix(
            prepared.matrix("train"),
            weight=prepared.weights("train"),
            feature_types=list(prepared.features.types),
            max_bin=max_bin,
            nthread=threads(context, prepared),
            enable_categorical=True,
        )
    return context.cache[name]


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
        "nthread": n_threads,
        "verbosity": 0,
    }
    if task == "multiclass":
        params["num_class"] = start.shape[1]
    return params


def _seed(seed: int, round: int, site: str) -> int:
    """Seed of a site's sampling in a round: 31 bits, as XGBoost takes them."""
    found = hashlib.sha256(f"{seed}/{round}/{site}".encode()).digest()
    return int.from_bytes(found[:4], "little") >> 1
