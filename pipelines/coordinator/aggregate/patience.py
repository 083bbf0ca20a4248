"""Early stopping of boosting: the best model so far, by the loss on all sites' held-out rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from folkmoot import metrics
from folkmoot.models.tree_format import dump_trees
from folkmoot.models.trees import outputs, tree_bytes
from folkmoot.plan import RunContext
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact

__all__ = ["cut_back", "worse_for_long"]


def worse_for_long(
    updates: Sequence[ReleasedUpdate], context: RunContext, status: dict[str, Any], step: int
) -> bool:
    """Whether the loss has not fallen for ``early_stopping_rounds`` steps; O(sites).

    Parameters
    ----------
    updates : sequence of ReleasedUpdate
        Those with a part ``evaluation`` counted the incoming model's losses.
    context : RunContext
        The run.
    status : dict
        Its ``best`` is the step and loss of the best model, or None; written to.
    step : int
        Boosting steps of the incoming model.
    """
    patience = context.params.model.trees.early_stopping_rounds
    parts = [u.parts["evaluation"].arrays for u in updates if "evaluation" in u.parts]
    if patience is None or not parts:
        return False
    name = "rmse" if context.contract.task == "regression" else "log_loss"
    found = metrics.metrics(context.contract.task, metrics.combine(parts))
    if name not in found:
        return False
    best = status["best"]
    if best is None or found[name] < best[1]:
        status["best"] = [step, found[name]]
        return False
    return bool(step - best[0] >= patience)


def cut_back(model: Artefact, steps: int) -> tuple[int, int, bytes]:
    """The first boosting steps of a model: trees, their nodes, and their JSON; O(bytes)."""
    kept = steps * outputs(model.meta)
    trees = json.loads(tree_bytes(model))[:kept]
    return kept, sum(len(tree["left_children"]) for tree in trees), dump_trees(trees)
