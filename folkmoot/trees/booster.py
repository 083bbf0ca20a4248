"""From arrays of trees to an ordinary XGBoost model, and a predictor that shares no code with it.

:func:`tree_of` makes a travelling tree (:mod:`folkmoot.models.tree_format`) of arrays,
:func:`document` XGBoost's JSON schema of trees and a header, :func:`make_booster` and
:func:`export` a booster and its file.  What XGBoost stores beside structure and leaves (covers,
gains, base weights) is nominal unless the caller has figures that may be published:
``sum_hessian`` halves at every split, ``loss_changes`` are zero.

A header (``meta``) has ``features`` (names), ``feature_types`` (``q`` or ``c``), ``task``,
``objective``, ``num_class`` (0 but for several classes) and ``base_score`` as XGBoost means it: a
probability, one margin per class, or a value.  ``objective_params`` are the objective's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.tree_format import Tree, scale_leaves, strip

if TYPE_CHECKING:
    import xgboost

__all__ = ["document", "export", "leaves_of", "make_booster", "margins", "tree_of"]

Array = NDArray[Any]
Statistics = Sequence[Mapping[str, Sequence[float]]]

#: XGBoost model schema that is written; later versions of the library read it.
SCHEMA = [3, 2, 0]
#: Parent of a root.
NOBODY = 2147483647
#: Where XGBoost keeps an objective's own parameters, and what they are unless the header says.
_PARAMETERS: dict[str, tuple[str, dict[str, str]]] = {
    "binary:logistic": ("reg_loss_param", {"scale_pos_weight": "1"}),
    "reg:squarederror": ("reg_loss_param", {"scale_pos_weight": "1"}),
    "count:poisson": ("poisson_regression_param", {"max_delta_step": "0.7"}),
    "survival:aft": (
        "aft_loss_param",
        {"aft_loss_distribution": "normal", "aft_loss_distribution_scale": "1"},
    ),
}


def tree_of(
    left: Array,
    right: Array,
    feature: Array,
    value: Array,
    *,
    default_left: Array | None = None,
    categories: Mapping[int, Sequence[int]] | None = None,
) -> Tree:
    """A travelling tree of arrays, one entry per node; O(nodes).

    Parameters
    ----------
    left, right : ndarray of int, shape (n,)
        Children, -1 at a leaf; node 0 is the root and children stand behind their parents.
    feature : ndarray of int, shape (n,)
        Feature of a split; ignored at leaves.
    value : ndarray of float, shape (n,)
        Threshold of a split (rows with less go left), or a leaf's value; rounded to float32.
    default_left : ndarray of bool, shape (n,), optional
        Where missing values go left; right everywhere when omitted.
    categories : mapping of int to sequence of int, optional
        By node: the codes that go **right**, as XGBoost means it; the node's value is ignored.

    Returns
    -------
    dict
        As :func:`folkmoot.models.tree_format.parse_trees` gives it.
    """
    sets = {int(node): sorted(int(c) for c in codes) for node, codes in (categories or {}).items()}
    nodes = sorted(sets)
    sizes = [len(sets[node]) for node in nodes]
    kinds = np.zeros(len(left), np.int64)
    kinds[nodes] = 1
    shortest = [float(str(v)) for v in np.asarray(value).astype(np.float32)]
    nowhere = np.zeros(len(left), np.int64)
    return strip(
        {
            "left_children": np.asarray(left).tolist(),
            "right_children": np.asarray(right).tolist(),
            "split_indices": np.asarray(feature).tolist(),
            "split_conditions": shortest,
            "split_type": kinds.tolist(),
            "default_left": (nowhere if default_left is None else default_left).tolist(),
            "categories": [code for node in nodes for code in sets[node]],
            "categories_nodes": nodes,
            "categories_segments": [sum(sizes[:at]) for at in range(len(sizes))],
            "categories_sizes": sizes,
        }
    )


def document(
    meta: Mapping[str, Any],
    trees: Sequence[Tree],
    *,
    tree_weights: Sequence[float] | None = None,
    statistics: Statistics | None = None,
) -> dict[str, Any]:
    """XGBoost's JSON schema; O(nodes).

    Parameters
    ----------
    meta : mapping
        Header of the model, see above.
    trees : sequence of dict
        Checked trees, step by step and class by class.
    tree_weights : sequence of float, optional
        Factor of each tree's leaves.
    statistics : sequence of mapping, optional
        Per tree, figures per node that may be published: ``loss_changes`` (gain of the split),
        ``sum_hessian`` (cover), ``base_weights``.  Nominal where a name is missing.
    """
    if tree_weights is not None:
        pairs = zip(trees, tree_weights, strict=True)
        trees = [scale_leaves(tree, float(weight)) for tree, weight in pairs]
    known = statistics if statistics is not None else [{}] * len(trees)
    features, width = len(meta["features"]), max(int(meta["num_class"]), 1)
    pairs_of = enumerate(zip(trees, known, strict=True))
    model = {
        "gbtree_model_param": {"num_trees": str(len(trees)), "num_parallel_tree": "1"},
        "trees": [_tree(tree, found, at, features) for at, (tree, found) in pairs_of],
        "tree_info": [index % width for index in range(len(trees))],
        "iteration_indptr": list(range(0, len(trees) + 1, width)),
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
    }
    learner = {
        "feature_names": list(meta["features"]),
        "feature_types": list(meta["feature_types"]),
        "attributes": {},
        "learner_model_param": {
            "base_score": json.dumps(list(meta["base_score"])),
            "boost_from_average": "0",
            "num_class": str(meta["num_class"]),
            "num_feature": str(features),
            "num_target": "1",
        },
        "gradient_booster": {"name": "gbtree", "model": model},
        "objective": _objective(meta),
    }
    return {"version": SCHEMA, "learner": learner}


def make_booster(
    meta: Mapping[str, Any],
    trees: Sequence[Tree],
    *,
    threads: int | None = None,
    tree_weights: Sequence[float] | None = None,
    statistics: Statistics | None = None,
) -> xgboost.Booster:
    """Booster of checked trees under a model's header, as :func:`document`; O(nodes)."""
    import xgboost

    found = document(meta, trees, tree_weights=tree_weights, statistics=statistics)
    text = json.dumps(found, allow_nan=False)
    if threads is None:
        return xgboost.Booster(model_file=bytearray(text, "ascii"))
    # Loading takes every core unless the thread's own configuration says otherwise.
    with xgboost.config_context(nthread=threads):
        return xgboost.Booster({"nthread": threads}, model_file=bytearray(text, "ascii"))


def export(
    meta: Mapping[str, Any],
    trees: Sequence[Tree],
    raw_format: Literal["json", "ubj"] = "json",
    *,
    tree_weights: Sequence[float] | None = None,
    statistics: Statistics | None = None,
) -> bytes:
    """Bytes of a file that plain ``xgboost.Booster().load_model`` reads; O(nodes)."""
    booster = make_booster(meta, trees, threads=1, tree_weights=tree_weights, statistics=statistics)
    return bytes(booster.save_raw(raw_format))


def margins(
    trees: Sequence[Tree], rows: Array, base: Sequence[float] = (0.0,)
) -> NDArray[np.float32]:
    """Sums of leaves as XGBoost adds them (float32, tree by tree); O(n · trees · depth).

    Parameters
    ----------
    trees : sequence of dict
        Checked trees, step by step and class by class.
    rows : ndarray, shape (n, d)
        Encoded features; NaN where missing.
    base : sequence of float
        Margin that each class begins with (the link's image of ``base_score``).

    Returns
    -------
    ndarray of float32, shape (n,) or (n, K) for more than one class
    """
    x = np.asarray(rows, np.float32)
    out = np.tile(np.asarray(base, np.float32), (len(x), 1))
    for index, tree in enumerate(trees):
        values = np.asarray(tree["split_conditions"], np.float32)
        out[:, index % out.shape[1]] += values[leaves_of(tree, x)]
    return out[:, 0] if out.shape[1] == 1 else out


def leaves_of(tree: Tree, x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Node of the leaf that each row reaches, shape (n,); O(n · depth)."""
    left, right = np.asarray(tree["left_children"]), np.asarray(tree["right_children"])
    feature = np.asarray(tree["split_indices"])
    value = np.asarray(tree["split_conditions"], np.float32)
    kind, default = np.asarray(tree["split_type"]), np.asarray(tree["default_left"], bool)
    right_codes = {
        node: tree["categories"][start : start + size]
        for node, start, size in zip(
            tree["categories_nodes"],
            tree["categories_segments"],
            tree["categories_sizes"],
            strict=True,
        )
    }
    at = np.zeros(len(x), np.int64)
    each = np.arange(len(x))
    while True:
        inner = left[at] != -1
        if not inner.any():
            return at
        found = x[each, feature[at]]
        goes_left = found < value[at]
        for node in np.unique(at[kind[at] == 1]):
            here = at == node
            goes_left[here] = ~np.isin(found[here], right_codes[int(node)])
        goes_left = np.where(np.isnan(found), default[at], goes_left)
        at = np.where(inner, np.where(goes_left, left[at], right[at]), at)


def _objective(meta: Mapping[str, Any]) -> dict[str, Any]:
    name = str(meta["objective"])
    own = {key: str(value) for key, value in dict(meta.get("objective_params", {})).items()}
    if name.startswith("multi:"):
        own = {"num_class": str(meta["num_class"])}
        return {"name": name, "softmax_multiclass_param": own}
    if name not in _PARAMETERS:
        return {"name": name}
    place, usual = _PARAMETERS[name]
    return {"name": name, place: {**usual, **own}}


def _tree(
    tree: Tree, statistics: Mapping[str, Sequence[float]], index: int, features: int
) -> dict[str, Any]:
    """A tree of XGBoost's schema: parents and nominal covers are derived."""
    left, right = tree["left_children"], tree["right_children"]
    n = len(left)
    parents, covers = [NOBODY] * n, [1.0] * n
    for node, child in enumerate(left):
        if child != -1:
            for end in (child, right[node]):
                parents[end] = node
                covers[end] = covers[node] / 2
    nominal = {
        "sum_hessian": covers,
        "loss_changes": [0.0] * n,
        "base_weights": [
            value if child == -1 else 0.0
            for child, value in zip(left, tree["split_conditions"], strict=True)
        ],
    }
    return {
        **tree,
        **{name: list(statistics.get(name, values)) for name, values in nominal.items()},
        "id": index,
        "parents": parents,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(features),
            "num_nodes": str(n),
            "size_leaf_vector": "1",
        },
    }
