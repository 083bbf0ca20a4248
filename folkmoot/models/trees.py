"""The global tree model: one XGBoost booster that grows over the rounds.

A model artefact of kind ``trees`` holds the trees in order (round by round, within a round by site
name, within a site step by step and class by class) as the bytes of one JSON list, so that the
model after a round starts with the bytes of the model before it.  :func:`to_xgboost` makes a plain
``xgboost.Booster`` of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import ProtocolError
from folkmoot.features import feature_space
from folkmoot.models.library import import_xgboost
from folkmoot.models.scores import to_scores
from folkmoot.models.tree_format import Tree, TreeSpace, parse_trees
from folkmoot.params import Params
from folkmoot.trees.booster import make_booster
from folkmoot.wire import Artefact

if TYPE_CHECKING:
    import xgboost

__all__ = [
    "OBJECTIVES",
    "empty_model",
    "import_xgboost",
    "make_booster",
    "outputs",
    "to_scores",
    "to_xgboost",
    "tree_bytes",
    "tree_count",
    "usable_cores",
]

Array = NDArray[Any]

#: XGBoost's objective per task of the contract.
OBJECTIVES = {
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
    "regression": "reg:squarederror",
}


def empty_model(contract: Contract, params: Params, base_score: Sequence[float]) -> Artefact:
    """The model of round 0: no trees, the same ``base_score`` at every site.

    Parameters
    ----------
    contract, params : Contract, Params
        The federation's.
    base_score : sequence of float
        As XGBoost means it: a probability (binary), one margin per class (multiclass), a value of
        the label (regression).

    Returns
    -------
    Artefact
        Of kind ``model``; ``meta`` describes the booster, ``arrays["trees"]`` is ``[]``.
    """
    features = feature_space(contract, params.anonymisation, "trees")
    space = TreeSpace.of(contract, params)
    meta: dict[str, Any] = {
        "kind": "trees",
        "strategy": params.model.trees.strategy,
        "task": contract.task,
        "classes": list(contract.classes),
        "features": list(features.names),
        "feature_types": list(space.types),
        "levels": list(space.levels),
        "max_depth": space.max_depth,
        "objective": params.model.trees.objective or OBJECTIVES[contract.task],
        **_objective_params(params),
        "num_class": len(contract.classes) if contract.task == "multiclass" else 0,
        "base_score": [float(str(np.float32(value))) for value in base_score],
        "trees": 0,
        "participants": {},
        "private": params.privacy.private,
    }
    return Artefact("model", meta, {"trees": np.frombuffer(b"[]", np.uint8)})


def _objective_params(params: Params) -> dict[str, Any]:
    """Parameters of the objective itself, which XGBoost keeps with the model."""
    trees = params.model.trees
    if trees.objective != "count:poisson":
        return {}
    step = 0.7 if trees.max_delta_step is None else trees.max_delta_step
    return {"objective_params": {"max_delta_step": str(step)}}


def outputs(meta: Mapping[str, Any]) -> int:
    """Trees per boosting step: classes of a multiclass model, else 1."""
    return max(int(meta["num_class"]), 1)


def tree_bytes(model: Artefact) -> bytes:
    """JSON list of the model's trees."""
    return model.arrays["trees"].tobytes()


def tree_count(model: Artefact) -> int:
    """Number of trees."""
    return int(model.meta["trees"])


def to_xgboost(model: Artefact, *, threads: int | None = None) -> xgboost.Booster:
    """A real XGBoost booster of a global model; O(nodes).

    Parameters
    ----------
    model : Artefact
        Of kind ``model`` and model kind ``trees``.
    threads : int, optional
        Threads for prediction; XGBoost's own choice when omitted.

    Returns
    -------
    xgboost.Booster
        With feature names and types.  Categorical features take the position of the category in
        the contract (``folkmoot.features.encode_frame`` writes it).

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a model of another kind, ``protocol.format`` for malformed trees.

    Notes
    -----
    Gain and cover are the federation's where splits were chosen from sums over all sites
    (``summed_histograms``, ``xgboost_federated``).  With whole or private trees sites do not release
    how many rows reach a node, so the model has nominal covers: every split counts as sending half of
    its rows each way.  SHAP contributions by path still sum to the margin, relative to that nominal
    background; for SHAP against real rows give the explainer background data.  Importance by
    ``weight`` is exact.
    """
    if model.meta.get("kind") != "trees":
        raise ProtocolError(
            "protocol.mismatch",
            "The model is not a tree model.",
            "Use folkmoot.models.linear for linear models.",
        )
    space = TreeSpace.from_meta(model.meta)
    trees = parse_trees(tree_bytes(model), space, count=tree_count(model), what="The global model")
    return make_booster(model.meta, trees, threads=threads, statistics=_figures(model, trees))


def _figures(model: Artefact, trees: Sequence[Tree]) -> list[dict[str, list[float]]] | None:
    """Gain and cover per node where they follow from sums over all sites that were released."""
    if not trees or "gain" not in model.arrays or "hessian" not in model.arrays:
        return None
    ends = np.cumsum([len(tree["left_children"]) for tree in trees])[:-1]
    gains, covers = (np.split(model.arrays[name], ends) for name in ("gain", "hessian"))
    return [
        {"loss_changes": gain.tolist(), "sum_hessian": cover.tolist()}
        for gain, cover in zip(gains, covers, strict=True)
    ]


def usable_cores() -> int:
    """Cores that this process may use, at most ``OMP_NUM_THREADS`` where that is set."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) else cores
