"""One booster that grows: a round's trees, merged by site name, in pure JSON (no XGBoost here).

``bagging``
    Every site grew trees on the same global model.  With ``leaf_weighting: rows`` a site's leaves
    count by its share of the training rows, so that a round is one averaged boosting step; with
    ``sum`` they are added as they are, which multiplies the step by the number of sites.
``local_forests``
    Every site's private forest votes; sites count alike.
``cyclic``
    One site grew trees in this round; they are added as they are.

Sites are not trusted: trees are rebuilt from checked numbers before they enter the model, so that
no site can crash or corrupt the XGBoost library of another (``folkmoot.models.tree_format``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot import metrics
from folkmoot.errors import ProtocolError, RoundError
from folkmoot.models.tree_format import (
    Tree,
    TreeSpace,
    dump_trees,
    join_trees,
    parse_trees,
    scale_leaves,
)
from folkmoot.models.trees import empty_model, outputs, tree_bytes
from folkmoot.plan import RunContext
from folkmoot.updates import ReleasedUpdate, TreeUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order

__all__ = ["aggregate", "checked_trees", "initial", "progress"]

Arrays = dict[str, NDArray[Any]]


def initial(statistics: Sequence[ReleasedUpdate], context: RunContext) -> Artefact:
    """Model of round 0: no trees, a base score that is the same at all sites; O(sites · K).

    Parameters
    ----------
    statistics : sequence of ReleasedUpdate
        Label counts or sums of the sites that released them.
    context : RunContext
        The run.

    Returns
    -------
    Artefact
        With the label's prior (one row added per class) or mean, from the summed statistics; where
        none were released, the public 0.5, equal classes, or the midpoint of the label's bounds.
    """
    updates = in_order(statistics)
    parts = [u.parts["statistics"].arrays for u in updates if "statistics" in u.parts]
    make = {"binary": _prior, "multiclass": _log_priors, "regression": _mean}
    base_score = make[context.contract.task](parts, context)
    model = empty_model(context.contract, context.params, base_score)
    if context.params.model.trees.strategy == "summed_histograms":
        from pipelines.coordinator.aggregate.histograms import opening

        return opening(model, context)
    if context.params.model.trees.strategy == "xgboost_federated":
        from folkmoot.live.figures import figures_of

        return replace(model, arrays={**model.arrays, **figures_of([])})  # room for the sessions'
    return model


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[Arrays, dict[str, Any]]:
    """Append a round's trees to the global model; O(bytes of the model + nodes of the round).

    Parameters
    ----------
    previous : Artefact
        Global model before the round.
    updates : sequence of ReleasedUpdate
        One or more; each holds the part ``update`` with ``trees_per_round`` trees per class.
    context : RunContext
        The run.
    round : int
        The round that is closed.

    Returns
    -------
    arrays : dict
        ``trees``: its bytes start with those of ``previous``.
    changes : dict
        ``trees`` (count), ``losses`` (loss of the incoming model by site), ``change`` (its
        relative improvement over the model that each site evaluated before, None where unknown).

    Raises
    ------
    PrivacyError
        ``privacy.order`` for anything that is no released update.
    ProtocolError
        ``protocol.format`` or ``protocol.mismatch``, naming the site; nothing is merged.
    """
    updates = in_order(updates)
    settings = context.params.model.trees
    space = TreeSpace.of(context.contract, context.params)
    count = settings.trees_per_round * outputs(previous.meta)
    averaged = (
        settings.strategy in {"bagging", "local_forests"} and settings.leaf_weighting == "rows"
    )
    total = sum(u.parts["update"].weight for u in updates if "update" in u.parts)
    merged: list[Tree] = []
    for update in updates:
        found, weight = checked_trees(update, space, count)
        share = weight / total if averaged else 1.0
        merged += [scale_leaves(tree, share) for tree in found] if share != 1.0 else found
    data = join_trees(tree_bytes(previous), dump_trees(merged))
    trees = int(previous.meta["trees"]) + len(merged)
    return {"trees": np.frombuffer(data, np.uint8)}, {
        "trees": trees,
        **progress(previous, updates, context),
    }


def checked_trees(update: ReleasedUpdate, space: TreeSpace, count: int) -> tuple[list[Tree], float]:
    """A site's trees, rebuilt from checked numbers, and its weight; raises `ProtocolError`."""
    part = update.parts.get("update")
    if not isinstance(part, TreeUpdate):
        raise ProtocolError(
            "protocol.mismatch",
            f"The update of site {update.site} holds no trees.",
            "Check that the site runs the same version of folkmoot and the same params.",
            site=update.site,
        )
    what = f"The update of site {update.site}"
    try:
        found = parse_trees(part.trees, space, count=count, what=what)
    except ProtocolError as error:
        error.site = update.site
        raise
    return found, part.weight


def progress(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext
) -> dict[str, Any]:
    """Held-out loss of the incoming model by site, against what the same sites saw before."""
    task = context.contract.task
    name = "rmse" if task == "regression" else "log_loss"
    before: Mapping[str, float] = previous.meta.get("losses", {})
    losses = {}
    for update in updates:
        if "evaluation" in update.parts:
            found = metrics.metrics(task, update.parts["evaluation"].arrays)
            if name in found:
                losses[update.site] = found[name]
    both = [site for site in losses if before.get(site, 0.0) > 0.0]
    change = float(np.mean([1.0 - losses[site] / before[site] for site in both])) if both else None
    return {"losses": {**before, **losses}, "change": change}


def _prior(parts: Sequence[Mapping[str, Any]], context: RunContext) -> list[float]:
    priors = _priors(parts, 2)
    return [float(priors[1])]


def _log_priors(parts: Sequence[Mapping[str, Any]], context: RunContext) -> list[float]:
    margins = np.log(_priors(parts, len(context.contract.classes)))
    return [float(value) for value in margins - margins.mean()]


def _priors(parts: Sequence[Mapping[str, Any]], classes: int) -> NDArray[np.float64]:
    """Shares of the classes, with one row more in each so that none is 0."""
    counts = np.ones(classes)
    for arrays in parts:
        if "class_counts" in arrays:
            counts += _of_shape(arrays["class_counts"], (classes,))
    return np.asarray(counts / counts.sum())


def _mean(parts: Sequence[Mapping[str, Any]], context: RunContext) -> list[float]:
    lower, upper = context.contract.label.bounds or (0.0, 0.0)
    rows = total = 0.0
    centre = (lower + upper) / 2  # the sums are taken from the public midpoint
    for arrays in parts:
        if "label_sum" in arrays:
            rows += float(_of_shape(arrays["rows"], ()))
            total += float(_of_shape(arrays["label_sum"], ()))
    return [centre + total / rows if rows else centre]


def _of_shape(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.shape != shape:
        raise RoundError(
            "round.quorum",
            "A site's label statistics do not fit the contract.",
            "Check that every site runs the same version of folkmoot.",
        )
    return array
