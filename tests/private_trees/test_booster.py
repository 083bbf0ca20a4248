"""The common way into XGBoost: arrays of trees in, an ordinary model out, by two implementations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from folkmoot.models.tree_format import Tree, TreeSpace, dump_trees, parse_trees, strip
from folkmoot.trees.booster import export, make_booster, margins, tree_of

TYPES, LEVELS = ("q", "q", "c", "q"), (0, 0, 7, 0)
OBJECTIVES = {
    "binary": ("binary:logistic", 0, [0.3]),
    "multiclass": ("multi:softprob", 3, [0.1, -0.2, 0.4]),
    "regression": ("reg:squarederror", 0, [1.75]),
}


def rows(n: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    x[:, 2] = rng.integers(0, 7, n)
    x[rng.random(x.shape) < 0.15] = np.nan
    return x


def random_tree(rng: np.random.Generator, depth: int) -> Tree:
    """A full tree with every kind of split, thresholds that rows meet exactly, both defaults."""
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    at = np.arange(nodes)
    leaf = at >= inner
    feature = rng.integers(0, 4, nodes)
    value = np.where(leaf, rng.normal(size=nodes), np.round(rng.normal(size=nodes), 1))
    sets = {
        int(node): rng.choice(7, rng.integers(1, 6), replace=False).tolist()
        for node in np.flatnonzero(~leaf & (feature == 2))
    }
    return tree_of(
        np.where(leaf, -1, 2 * at + 1),
        np.where(leaf, -1, 2 * at + 2),
        feature,
        value,
        default_left=rng.random(nodes) < 0.5,
        categories=sets,
    )


def header(task: str) -> dict[str, Any]:
    objective, classes, base = OBJECTIVES[task]
    return {
        "features": ["age", "dose", "ward", "time"],
        "feature_types": list(TYPES),
        "task": task,
        "objective": objective,
        "num_class": classes,
        "base_score": base,
    }


def base_margin(meta: dict[str, Any]) -> list[float]:
    if meta["task"] == "binary":
        p = meta["base_score"][0]
        return [float(np.log(p / (1 - p)))]
    return list(meta["base_score"])


@pytest.mark.parametrize("task", OBJECTIVES)
def test_our_predictor_and_xgboost_agree(task: str) -> None:
    rng = np.random.default_rng(5)
    meta = header(task)
    trees = [random_tree(rng, 1 + index % 4) for index in range(30)]
    x = rows(800, 1)
    x[:300, [0, 1, 3]] = np.round(x[:300, [0, 1, 3]], 1)  # on the thresholds
    booster = make_booster(meta, trees)
    found = booster.inplace_predict(x, predict_type="margin")
    assert np.abs(margins(trees, x, base_margin(meta)) - found).max() < 1e-6
    assert len(np.unique(found)) > 500, "rows reach different leaves"
    parsed = parse_trees(dump_trees(trees), TreeSpace(TYPES, LEVELS, 4), count=30, what="it")
    assert parsed == trees, "the arrays make travelling trees"


def test_weights_of_trees_multiply_leaves() -> None:
    rng = np.random.default_rng(6)
    meta = header("regression")
    trees = [random_tree(rng, 2) for _ in range(4)]
    x, weights = rows(200, 2), [0.5, 2.0, 0.0, -1.0]
    found = make_booster(meta, trees, tree_weights=weights).inplace_predict(x)
    wanted = 1.75 + sum(w * margins([tree], x) for w, tree in zip(weights, trees, strict=True))
    assert np.abs(found - wanted).max() < 1e-6


def test_nothing_of_rows_is_left_unless_the_caller_gives_it() -> None:
    tree = random_tree(np.random.default_rng(7), 2)
    plain, told = (
        json.loads(export(header("binary"), [tree], statistics=statistics))
        for statistics in (None, [{"loss_changes": [3.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]}])
    )
    written = plain["learner"]["gradient_booster"]["model"]["trees"][0]
    assert written["loss_changes"] == [0.0] * 7
    assert written["sum_hessian"] == [1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert told["learner"]["gradient_booster"]["model"]["trees"][0]["loss_changes"][0] == 3.0
    assert plain["learner"]["learner_model_param"]["boost_from_average"] == "0"


@pytest.mark.parametrize("raw_format", ["json", "ubj"])
def test_plain_xgboost_reads_the_file_in_a_fresh_process(
    raw_format: Literal["json", "ubj"], tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)
    meta = header("binary")
    trees = [random_tree(rng, 3) for _ in range(10)]
    (tmp_path / f"model.{raw_format}").write_bytes(export(meta, trees, raw_format))
    x = rows(100, 3)
    np.save(tmp_path / "rows.npy", x)
    code = (
        "import sys, numpy as np, xgboost\n"
        "folder, name = sys.argv[1:]\n"
        "booster = xgboost.Booster(); booster.load_model(f'{folder}/{name}')\n"
        "rows = xgboost.DMatrix(np.load(f'{folder}/rows.npy'), feature_types=booster.feature_types,"
        " feature_names=booster.feature_names, enable_categorical=True)\n"
        "np.save(f'{folder}/found.npy', booster.predict(rows, output_margin=True))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), f"model.{raw_format}"]
    subprocess.run(command, check=True, cwd=tmp_path, env={"PATH": "", "OMP_NUM_THREADS": "1"})
    found = np.load(tmp_path / "found.npy")
    assert np.abs(found - margins(trees, x, base_margin(meta))).max() < 1e-6


@pytest.mark.parametrize("objective", ["count:poisson", "survival:aft", "survival:cox"])
def test_other_objectives_keep_their_parameters(objective: str) -> None:
    x, rng = rows(300, 4), np.random.default_rng(9)
    y = np.exp(rng.normal(size=300)).round(1) + 0.1
    data = xgboost.DMatrix(x, y, feature_types=list(TYPES), enable_categorical=True)
    if objective == "survival:aft":
        data.set_float_info("label_lower_bound", y)
        data.set_float_info("label_upper_bound", y * 2)
    booster = xgboost.train({"objective": objective, "max_depth": 3, "base_score": 0.5}, data, 5)
    saved = json.loads(bytes(booster.save_raw("json")))["learner"]
    own = {k: v for k, v in saved["objective"].items() if k != "name"}
    meta = {
        **header("regression"),
        "objective": objective,
        "objective_params": next(iter(own.values()), {}),
        "base_score": [0.5],
    }
    trees = [strip(tree) for tree in saved["gradient_booster"]["model"]["trees"]]
    again = make_booster(meta, trees)
    written = json.loads(bytes(again.save_raw("json")))["learner"]["objective"]
    assert written == saved["objective"]
    assert np.array_equal(again.inplace_predict(x), booster.inplace_predict(x))
