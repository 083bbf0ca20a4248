"""What a private tree model says of itself: curves with bands that are true, importance, SHAP."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.models.tree_format import dump_trees
from folkmoot.models.trees import empty_model
from folkmoot.params import parse_params
from folkmoot.trees.booster import margins
from folkmoot.trees.export import contributions, importance, public_rows, shapes
from folkmoot.trees.private_splits import Grid, RandomTree, draw_round
from folkmoot.wire import Artefact
from pipelines.coordinator import tree_plots
from pipelines.coordinator.aggregate.private_trees import _grown

from .conftest import contract_of, settings

PARAMS = settings("model.trees.trees_per_round=10", "model.trees.max_depth=3")
CONTRACT = contract_of("binary")
CONTEXT: Any = SimpleNamespace(params=PARAMS, contract=CONTRACT)
DEVIATION = 20.0


def signal(drawn: list[RandomTree]) -> NDArray[np.float64]:
    """Sums over leaves in which the first column matters and no other."""
    rng = np.random.default_rng(0)
    parts = []
    for tree in drawn:
        leaves = len(tree.leaves)
        weight = 300.0 if tree.features == (0,) else 0.0
        parts += [weight * rng.normal(size=leaves), np.full(leaves, 200.0)]
    return np.concatenate(parts)


def model_of(seed: int) -> Artefact:
    drawn = draw_round(Grid.of(CONTRACT, PARAMS), PARAMS, 1)
    total = signal(drawn)
    total += DEVIATION * np.random.default_rng(seed).normal(size=total.size)
    trees, gain, noise = _grown(drawn, total, 1, DEVIATION, CONTEXT)
    empty = empty_model(CONTRACT, PARAMS, [0.5])
    arrays: dict[str, NDArray[Any]] = {
        "trees": np.frombuffer(dump_trees(trees), np.uint8),
        "gain": gain,
        "leaf_noise": noise,
    }
    return replace(empty, meta={**empty.meta, "trees": len(trees)}, arrays=arrays)


def test_bands_are_what_the_noise_does() -> None:
    found = [shapes(model_of(seed), CONTRACT, PARAMS) for seed in range(60)]
    for j, column in enumerate(CONTRACT.inputs):
        # Uncentred, as the band is: the level is part of what noise moves.
        curves = np.array([f[j].curve[:, 0] - f[j].curve[:1, 0] for f in found])
        bands = np.array([f[j].band[:, 0] for f in found]).mean(axis=0)
        assert found[0][j].feature == column.name
        spread = np.sqrt(bands**2 + bands[0] ** 2)
        moved = curves.std(axis=0)
        apart = moved > 1e-6  # cells that share all leaves with the first one stay with it
        assert apart.any()
        assert 0.75 < np.median(moved[apart] / spread[apart]) < 1.25
        assert (found[0][j].missing is not None) == column.missing


def test_the_curves_add_up_to_the_margin() -> None:
    from folkmoot.trees.export import _trees

    model = model_of(1)
    x = public_rows(CONTRACT, PARAMS, 300)
    margin = margins(_trees(model), x)
    total = np.zeros(300)
    for j, shape in enumerate(shapes(model, CONTRACT, PARAMS)):
        if isinstance(shape.at, tuple):
            at = x[:, j].astype(int)
        else:
            at = np.searchsorted(shape.at, x[:, j], side="right") - 1
        total += shape.curve[at, 0]
    assert np.ptp(total - margin) < 1e-5, "but for one constant"


def test_importance_finds_the_column_that_matters_and_not_the_noise() -> None:
    shares = importance(model_of(2))
    assert shares["age"] > 0.95
    assert sum(shares.values()) == pytest.approx(1.0)
    told = contributions(model_of(2), CONTRACT, PARAMS, 200)
    found = told.sizes()
    assert max(found, key=lambda name: found[name]) == "age"
    assert found.keys() == shares.keys()


def test_figures_and_tables_are_drawn_from_the_model_alone() -> None:
    drawn = tree_plots.figures(model_of(3), CONTEXT)
    assert drawn.keys() == {
        "plots/importance.png",
        "plots/contributions.png",
        "plots/shapes.png",
    }
    points = drawn["plots/contributions.png"].axes[0].collections
    assert len(points) == len(CONTRACT.inputs)  # every feature's rows are drawn
    titles = {axes.get_title() for axes in drawn["plots/shapes.png"].axes}
    assert titles == {column.name for column in CONTRACT.inputs}
    assert tree_plots.tables(model_of(3), CONTEXT).keys() == {
        "importance.json",
        "contributions.json",
    }
    whole = replace(model_of(3), arrays={"trees": model_of(3).arrays["trees"]})
    assert tree_plots.figures(whole, CONTEXT).keys() == {
        "plots/importance.png",
        "plots/contributions.png",
    }
    told = json.loads(tree_plots.tables(whole, CONTEXT)["importance.json"])
    assert told["what"].startswith("share of the splits"), "no gain was released"
    trees = json.loads(model_of(3).arrays["trees"].tobytes())
    splits = [
        f
        for t in trees
        for f, c in zip(t["split_indices"], t["left_children"], strict=True)
        if c != -1
    ]
    shares = np.bincount(splits, minlength=5) / len(splits)
    names = [column.name for column in CONTRACT.inputs]
    assert told["importance"] == pytest.approx(dict(zip(names, shares, strict=True)))


def test_made_up_rows_keep_to_the_contract() -> None:
    x = public_rows(CONTRACT, PARAMS, 400)
    kinds = [set(np.unique(x[:, j])) for j in (2, 3, 4)]
    assert kinds == [set(range(6)), {0.0, 1.0}, {0.0, 1.0}]
    assert x[:, 0].min() == 0
    assert x[:, 1].max() < 99999
    values = CONTRACT.model_dump(mode="json", exclude_defaults=True)
    values["columns"][2]["role"] = "quasi_identifier"
    levels = Contract.model_validate(values)
    local = parse_params({"anonymisation": {"recoding": "local", "k": 5}})
    cells = public_rows(levels, local, 50)
    assert cells.shape == (50, 4 + 6)
    assert (cells[:, 2:8].sum(axis=1) == 1).all(), "one category each"
