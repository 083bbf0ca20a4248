"""Any table, any settings: the trees are those of XGBoost on the pooled rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.trees.grow import Columns
from folkmoot.trees.histograms import Grid, bin_rows, missing_code
from folkmoot.trees.objectives import derivatives
from folkmoot.trees.split import Rules

from .pooled import Table, pooled, same_structure, train

#: Objective, classes, XGBoost's base score and the margin that it stands for.
TASKS: dict[str, tuple[int, Any, float]] = {
    "binary:logistic": (1, 0.5, 0.0),
    "multi:softprob": (3, [0.0, 0.0, 0.0], 0.0),
    "reg:squarederror": (1, 0.25, 0.25),
    "count:poisson": (1, 1.5, float(np.log(np.float32(1.5)))),
}


@st.composite
def tables(draw: Any) -> tuple[Table, str, dict[str, Any]]:
    """Numbers with few or many values, categories, missing values, weights; and settings."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, objective = draw(st.integers(60, 300)), draw(st.sampled_from(sorted(TASKS)))
    levels = draw(st.sampled_from([(0, 0, 0), (0, 0, 3), (0, 9, 0), (0, 5, 12)]))
    grain = draw(st.sampled_from([0, 1, 2]))
    x = np.round(rng.normal(size=(n, 3)), grain)
    for j, size in enumerate(levels):
        if size:
            x[:, j] = rng.permutation(np.arange(n) % size)
    signal = x[:, 0] + (x[:, 1] > 1) + 0.3 * rng.normal(size=n)
    if draw(st.booleans()):
        x[rng.random(x.shape) < 0.15] = np.nan
        for j, size in enumerate(levels):  # XGBoost counts categories by the last it sees
            if size:
                x[0, j] = size - 1
    y: Any = signal
    if objective == "binary:logistic":
        y = (signal > 0.4).astype(np.int64)
    elif objective == "multi:softprob":
        y = np.digitize(signal, [0.0, 1.0])
    elif objective == "count:poisson":
        y = rng.poisson(np.exp(np.clip(signal, -2, 2)))
    weights = rng.integers(1, 5, n) / 2 if draw(st.booleans()) else None
    parts = np.array_split(rng.permutation(n), draw(st.integers(1, 4)))
    if draw(
        st.booleans()
    ):  # a feature that one site does not have, and that is constant at another
        x[parts[0], 0], x[parts[-1], 0] = np.nan, 1.0
    chosen = {
        "max_depth": draw(st.integers(1, 5)),
        "eta": 0.3,
        "reg_lambda": draw(st.sampled_from([0.0, 1.0, 2.5])),
        "reg_alpha": draw(st.sampled_from([0.0, 0.3])),
        "gamma": draw(st.sampled_from([0.0, 0.5])),
        "min_child_weight": draw(st.sampled_from([0.5, 1.0, 4.0])),
        "max_cat_to_onehot": draw(st.sampled_from([1, 4, 10])),
        "max_delta_step": draw(st.sampled_from([0.0, 0.0, 0.4])),
        "monotone_constraints": draw(st.sampled_from([(0, 0, 0), (1, 0, 0), (-1, 0, 0)])),
        "interaction_constraints": draw(st.sampled_from([[], [[0, 1], [2]]])),
    }
    return Table(x, y, weights, levels, parts), objective, chosen


@settings(max_examples=40, deadline=None, derandomize=True)
@given(tables())
def test_trees_are_those_of_pooled_rows(case: tuple[Table, str, dict[str, Any]]) -> None:
    table, objective, chosen = case
    classes, base, margin = TASKS[objective]
    cuts = table.cuts()
    groups = chosen["interaction_constraints"]
    rules = Rules(
        **{k: chosen[k] for k in (
            "reg_lambda", "reg_alpha", "gamma", "min_child_weight", "max_cat_to_onehot",
            "max_delta_step",
        )},
        constrained=any(chosen["monotone_constraints"]),
    )  # fmt: skip
    columns = Columns(chosen["monotone_constraints"], tuple(map(frozenset, groups)))
    trees, margins = train(
        table, cuts, objective, margin, rules, columns,
        steps=3, depth=chosen["max_depth"], classes=classes,
    )  # fmt: skip
    own = {"objective": objective, "base_score": base}
    if not rules.constrained:  # XGBoost computes gains in another way as soon as any is named
        del chosen["monotone_constraints"]
    if classes > 1:
        own["num_class"] = classes
    theirs, booster, matrix = pooled(
        table,
        cuts,
        chosen | own | {"interaction_constraints": str(groups) if groups else ""},
        3,
    )
    codes = bin_rows(table.x, cuts).astype(np.float32)
    codes[codes == missing_code(cuts)] = np.nan
    same_structure(trees, theirs, cuts, codes)
    expected = booster.predict(matrix, output_margin=True).reshape(margins.shape)
    assert np.abs(margins - expected).max() <= 1e-5


def test_split_of_rows_among_sites_changes_no_bit() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    whole = Table(x, y, None, (0, 0, 0))
    rows = rng.permutation(200)
    parted = Table(x, y, None, (0, 0, 0), [rows[:7], rows[7:7], rows[7:150], rows[150:]])
    rules, columns = Rules(), Columns((0, 0, 0))
    found = [
        train(table, whole.cuts(), "binary:logistic", 0.0, rules, columns, steps=3, depth=4)
        for table in (whole, parted)
    ]
    assert found[0][0] == found[1][0]
    assert found[0][1].tobytes() == found[1][1].tobytes()


def test_drawn_rows_and_columns_give_xgboosts_trees_of_the_same_draws() -> None:
    """Its own generator draws others: it is given rows of no weight, and columns without values."""
    rng = np.random.default_rng(4)
    x, y = np.round(rng.normal(size=(240, 6)), 1), rng.integers(0, 2, 240)
    table = Table(x, y, None, (0,) * 6, np.array_split(np.arange(240), 3))
    cuts, rules = table.cuts(), Rules()
    columns = Columns((0,) * 6, bytree=0.5, seed=1)
    drawn = [np.flatnonzero(rng.random(240) < 0.7) for _ in range(3)]

    def after(steps: int) -> Any:
        return train(table, cuts, "binary:logistic", 0.0, rules, columns, steps=steps, depth=3,
                     with_rows=lambda step: drawn[step])  # fmt: skip

    used = set()
    for step in range(3):
        g, h = derivatives("binary:logistic", after(step)[1], y, None)
        out = np.setdiff1d(np.arange(240), drawn[step])
        g[:, out] = h[:, out] = 0
        codes = bin_rows(x, cuts).astype(np.float32)
        codes[:, ~columns.allowed(step, 0, 0, ())] = np.nan
        matrix = xgboost.DMatrix(codes)
        booster = xgboost.Booster(
            {"max_depth": 3, "tree_method": "hist", "max_bin": 4096, "nthread": 1}, [matrix]
        )
        booster.boost(matrix, iteration=0, grad=g[0], hess=h[0])
        saved = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
        ours, theirs = after(3)[0][step], saved["model"]["trees"][0]
        for name in ("left_children", "right_children", "split_indices"):
            assert ours[name] == theirs[name], name
        leaves = np.asarray(ours["left_children"]) == -1
        values = [np.asarray(tree["split_conditions"])[leaves] for tree in (ours, theirs)]
        assert values[0] == pytest.approx(values[1], rel=1e-6)
        used |= {f for f, left in zip(ours["split_indices"], leaves, strict=True) if not left}
    assert len(used) > 3, "other columns in other trees"


def test_columns_are_drawn_by_a_public_seed() -> None:
    columns = Columns((0,) * 10, (), bytree=0.5, bylevel=0.6, bynode=0.7, seed=3)
    drawn = [columns.allowed(2, 1, node, ()) for node in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert drawn[0].sum() == 2  # half of 10, 0.6 of these, 0.7 of those
    trees = {tuple(np.flatnonzero(columns.allowed(t, 0, 0, ()))) for t in range(20)}
    assert len(trees) > 10


def test_grid_holds_its_own_bound() -> None:
    for sites, rows, bound in ((4, 2**20, 1.0), (64, 2_500_000, 0.25), (3, 1000, 80.0)):
        grid = Grid.fit(sites, rows, bound, bound)
        largest = int(np.rint(bound * 2.0**grid.gradient))
        assert rows * largest <= grid.most
        assert sites * grid.most < 2**63
        assert sites * grid.most > 2**57, "no bit is wasted"
    with pytest.raises(Exception, match="rows_limit"):
        Grid.fit(1000, 2**34, 1e6, 1.0)
