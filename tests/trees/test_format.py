"""The format of trees: what leaves a site, and what a malicious site cannot get past the check."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folkmoot.errors import ProtocolError
from folkmoot.models.tree_format import (
    FIELDS,
    TreeSpace,
    dump_trees,
    join_trees,
    parse_trees,
    scale_leaves,
    strip,
)
from folkmoot.models.trees import OBJECTIVES, make_booster

from .conftest import LEVELS, TYPES, rows_of

SPACE = TreeSpace(TYPES, LEVELS, 4)


def grown(task: str = "binary", steps: int = 3) -> tuple[xgboost.Booster, list[dict[str, Any]]]:
    x, y = rows_of(task, 400, 1)
    matrix = xgboost.QuantileDMatrix(x, y, feature_types=list(TYPES))
    params = {
        "objective": OBJECTIVES[task],
        "max_depth": 4,
        "base_score": 0.5,
        "max_cat_to_onehot": 1,
    }
    if task == "multiclass":
        params |= {"num_class": 3, "base_score": 0.0}
    booster = xgboost.train(params, matrix, steps)
    saved = json.loads(bytes(booster.save_raw("json")))
    return booster, saved["learner"]["gradient_booster"]["model"]["trees"]


RAW = grown()[1]
GOOD = [strip(tree) for tree in RAW]


def test_nothing_but_the_structure_leaves() -> None:
    data = dump_trees(GOOD)
    for name in (b"sum_hessian", b"loss_changes", b"base_weights"):
        assert name not in data
    assert all(set(tree) == FIELDS for tree in json.loads(data))


def test_reading_is_canonical() -> None:
    once = dump_trees(parse_trees(dump_trees(GOOD), SPACE, count=3, what="it"))
    assert dump_trees(parse_trees(once, SPACE, count=3, what="it")) == once
    assert any(tree["categories"] for tree in json.loads(once)), "the rows give categorical splits"


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_stripped_trees_predict_as_the_original(task: str) -> None:
    booster, raw = grown(task)
    trees = parse_trees(dump_trees([strip(t) for t in raw]), SPACE, count=len(raw), what="it")
    meta = {
        "features": list("abcde"),
        "feature_types": list(TYPES),
        "objective": OBJECTIVES[task],
        "task": task,
        "num_class": 3 if task == "multiclass" else 0,
        "base_score": [0.0, 0.0, 0.0] if task == "multiclass" else [0.5],
    }
    x, _ = rows_of(task, 500, 2)
    assert np.array_equal(make_booster(meta, trees).inplace_predict(x), booster.inplace_predict(x))


def test_joined_lists_start_with_the_first() -> None:
    first, second = dump_trees(GOOD[:1]), dump_trees(GOOD[1:])
    joined = join_trees(first, second)
    assert joined == dump_trees(GOOD)
    assert joined.startswith(first[:-1])
    assert join_trees(b"[]", second) == second
    assert join_trees(first, b"[]") == first


def test_scaling_touches_leaves_alone() -> None:
    tree = GOOD[0]
    scaled = scale_leaves(tree, 0.25)
    before, after = np.array(tree["split_conditions"]), np.array(scaled["split_conditions"])
    leaf = np.array(tree["left_children"]) == -1
    assert np.array_equal(after[~leaf], before[~leaf])
    quarter = before[leaf].astype(np.float32) * np.float32(0.25)
    assert np.array_equal(after[leaf].astype(np.float32), quarter)


def _set(name: str, index: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        tree[name][index] = value

    return change


def _whole(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        tree[name] = value

    return change


def _leaf(tree: dict[str, Any]) -> int:
    return int(tree["left_children"].index(-1))


def _split_leaf(tree: dict[str, Any]) -> None:
    tree["split_type"][_leaf(tree)] = 1


def _deeper(tree: dict[str, Any]) -> None:
    """A chain of six splits on one number."""
    n = 13
    tree["left_children"] = [-1] * n
    tree["right_children"] = [-1] * n
    node = 0
    for depth in range(6):
        tree["left_children"][node], tree["right_children"][node] = 2 * depth + 1, 2 * depth + 2
        node = 2 * depth + 2
    for name, value in (
        ("split_indices", 0),
        ("split_conditions", 0.0),
        ("split_type", 0),
        ("default_left", 0),
    ):
        tree[name] = [value] * n
    for name in ("categories", "categories_nodes", "categories_segments", "categories_sizes"):
        tree[name] = []


ATTACKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "a cycle to the root": _set("left_children", 0, 0),
    "a child out of range": _set("left_children", 0, 10**6),
    "a negative child": _set("right_children", 0, -7),
    "two parents of one node": _set("right_children", 0, 1),
    "a child without its twin": _set("right_children", 0, -1),
    "an index beyond int64": _set("left_children", 0, 2**70),
    "a feature that is none": _set("split_indices", 0, 5),
    "a negative feature": _set("split_indices", 0, -1),
    "an infinite leaf": _set("split_conditions", -1, 1e300),
    "a threshold in text": _set("split_conditions", 0, "0.5"),
    "a Boolean index": _whole("split_indices", [True]),
    "a fractional index": _set("left_children", 0, 1.5),
    "a default of 2": _set("default_left", 0, 2),
    "a leaf that splits": _split_leaf,
    "lists of different length": _whole("default_left", [0]),
    "no nodes": _whole("left_children", []),
    "nested lists": _whole("left_children", [[1, -1, -1]]),
    "a list that is an object": _whole("categories", {}),
    "categories of no node": _whole("categories_nodes", []),
    "an unknown category": _set("categories", -1, 6),
    "a negative category": _set("categories", 0, -1),
    "an empty set of categories": _set("categories_sizes", 0, 0),
    "a set beyond its end": _set("categories_sizes", 0, 10**9),
    "sets that overlap": _set("categories_segments", -1, 0),
    "a field too many": _whole("sum_hessian", []),
    "a tree too deep": _deeper,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_malformed_trees_are_refused(attack: str) -> None:
    categorical = [t for t in GOOD if len(t["categories_nodes"]) > 1]
    tree = copy.deepcopy(categorical[0])
    ATTACKS[attack](tree)
    with pytest.raises(ProtocolError, match="malformed tree") as caught:
        parse_trees(json.dumps([tree]).encode(), SPACE, count=1, what="The update of site a")
    assert caught.value.code == "protocol.format"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[null]",
        b"[1]",
        b"[" * 100_000,
        b"[{}]",
        b"\xff",
        b"[NaN]",
        b" " * 10_000_000,
        b"[]",
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_trees(data, SPACE, count=1, what="The update of site a")


def test_a_numeric_split_on_a_category_is_refused() -> None:
    tree = copy.deepcopy(GOOD[0])
    inner = zip(tree["left_children"], tree["split_type"], strict=True)
    number = next(i for i, (left, kind) in enumerate(inner) if left != -1 and not kind)
    tree["split_indices"][number] = 2
    with pytest.raises(ProtocolError, match="type"):
        parse_trees(dump_trees([tree]), SPACE, count=1, what="it")


_JSON = st.one_of(st.integers(-3, 20), st.floats(allow_nan=False), st.booleans(), st.just([]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2),
    st.sampled_from(sorted(FIELDS)),
    st.integers(0, 200),
    _JSON,
)
def test_whatever_passes_can_be_loaded(which: int, field: str, position: int, value: Any) -> None:
    """Any single change is refused, or gives a tree that XGBoost loads and predicts with."""
    tree = copy.deepcopy(GOOD[which])
    if tree[field]:
        tree[field][position % len(tree[field])] = value
    else:
        tree[field] = [value]
    try:
        trees = parse_trees(json.dumps([tree]).encode(), SPACE, count=1, what="it")
    except ProtocolError:
        return
    meta = {
        "features": list("abcde"),
        "feature_types": list(TYPES),
        "objective": "reg:squarederror",
        "task": "regression",
        "num_class": 0,
        "base_score": [0.0],
    }
    x, _ = rows_of("regression", 50, 3)
    assert np.isfinite(make_booster(meta, trees).inplace_predict(x)).all()
