"""Random trees: from seed and contract alone, on the public grid, and read alike by XGBoost."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from folkmoot.models.tree_format import TreeSpace, dump_trees, parse_trees
from folkmoot.models.trees import OBJECTIVES
from folkmoot.trees.booster import leaves_of, make_booster, margins
from folkmoot.trees.private_splits import Grid, draw, draw_round

from .conftest import contract_of, rows_of, settings

PARAMS = settings("model.trees.max_depth=4")
CONTRACT = contract_of("binary")
GRID = Grid.of(CONTRACT, PARAMS)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_trees_are_well_formed_and_predict_the_same_everywhere(width: int) -> None:
    space = TreeSpace.of(CONTRACT, PARAMS)
    rng = np.random.default_rng(3)
    drawn = [draw(GRID, 4, width, 0, step) for step in range(12)]
    trees = [tree.with_leaves(rng.normal(size=len(tree.leaves))) for tree in drawn]
    assert parse_trees(dump_trees(trees), space, count=12, what="it") == trees
    x = rows_of(500, 4)
    x[:200, 0] = 100 / 64 * rng.integers(0, 65, 200)  # on the edges themselves
    meta = {
        "features": [c.name for c in CONTRACT.inputs],
        "feature_types": list(space.types),
        "task": "binary",
        "objective": OBJECTIVES["binary"],
        "num_class": 0,
        "base_score": [0.5],
    }
    found = make_booster(meta, trees).inplace_predict(x, predict_type="margin")
    assert np.abs(found - margins(trees, x)).max() < 1e-6
    for tree, grown in zip(drawn, trees, strict=True):
        assert len(tree.features) == min(width, 4)
        assert set(tree.tree["split_indices"]) <= {0, *tree.features}
        places = tree.places(x.astype(np.float32))
        assert np.array_equal(tree.leaves[places], leaves_of(grown, x.astype(np.float32)))
    if width == 1:
        assert max(len(tree.leaves) for tree in drawn) == 16


def test_thresholds_lie_on_the_public_grid_and_every_feature_has_its_turn() -> None:
    for first in (0, 5, 10):
        turn = [draw(GRID, 4, 1, 7, first + n) for n in range(5)]
        assert sorted(tree.features[0] for tree in turn) == [0, 1, 2, 3, 4]
        for tree in turn:
            edges = GRID.edges[tree.features[0]]
            inner = np.asarray(tree.tree["left_children"]) != -1
            values = np.asarray(tree.tree["split_conditions"])[inner].astype(np.float32)
            assert edges is None or np.isin(values, edges).all()


def test_edges_are_drawn_one_per_even_stretch_of_the_grid() -> None:
    edges = np.asarray(GRID.edges[0])
    ends = np.arange(16) * len(edges) // 15
    drawn = set()
    for step in range(60):
        tree = draw(GRID, 4, 1, 7, step)
        if tree.features == (0,):
            inner = np.asarray(tree.tree["left_children"]) != -1
            values = np.asarray(tree.tree["split_conditions"], np.float32)[inner]
            places = np.searchsorted(edges, np.sort(values))
            assert np.array_equal(np.searchsorted(ends, places, side="right"), np.arange(1, 16))
            drawn.add(tuple(places))
    assert len(drawn) == 12, "other edges in every tree"


def test_draws_do_not_depend_on_the_version_of_numpy() -> None:
    """Frozen: sites and coordinators of one run may have different versions."""
    trees = [draw(GRID, 4, 2, 3, step).tree for step in range(4)]
    found = hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()
    assert found == "cc5457f84f2350c3623fab666b1be07bda9e09c0dccfd9fdc981f5efeb837a14"
    again = draw_round(GRID, settings("model.trees.seed=3", "model.trees.max_depth=4"), 1)
    other = draw_round(GRID, settings("model.trees.seed=4", "model.trees.max_depth=4"), 1)
    assert [tree.tree for tree in again] != [tree.tree for tree in other]
