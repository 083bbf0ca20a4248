"""diffprivlib's forests at each site: the trees that travel vote as the library's own do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from folkmoot.models.tree_format import TreeSpace, dump_trees, parse_trees
from folkmoot.trees.booster import margins
from folkmoot.wire import decode
from site_tasks.train_forest import fit_forest, voting_trees

from .conftest import rows_of, settings

UPPER = np.array([100.0, 99999.0, 5.0, 1.0, 1.0])
KINDS = (False, False, True, False, True)


@pytest.mark.parametrize("classes", [2, 3])
def test_travelling_trees_vote_as_the_forest_does(classes: int) -> None:
    x = rows_of(400, 1)
    y = (np.nan_to_num(x[:, 2]) * classes / 6).astype(np.int64)
    forest = fit_forest(
        x, y, np.zeros(5), UPPER, classes, epsilon=50.0, trees=7, max_depth=4, random_state=3
    )
    assert forest.accountant.total()[0] == pytest.approx(25.0), "half of what is charged"
    trees = [
        tree
        for grown in forest.estimators_
        for tree in voting_trees(grown.tree_, UPPER / 2, UPPER, KINDS)
    ]
    space = TreeSpace(tuple("c" if k else "q" for k in KINDS), (0, 0, 6, 0, 2), 4)
    count = 7 * (classes if classes > 2 else 1)
    assert parse_trees(dump_trees(trees), space, count=count, what="it") == trees
    at = np.array([t.tree_.threshold[0] for t in forest.estimators_], np.float32)
    x[: len(at), 0] = at  # thresholds themselves
    filled = np.where(np.isnan(x), UPPER / 2, x)
    votes = np.array([grown.predict(filled) for grown in forest.estimators_])
    if classes == 2:
        assert np.array_equal(margins(trees, x), (2 * votes - 1).sum(axis=0))
    else:
        counted = np.array([(votes == k).sum(axis=0) for k in range(classes)]).T
        assert np.array_equal(margins(trees, x, [0.0] * classes), counted)


def test_a_federation_of_forests_charges_the_ledger(workspace_of: Callable[..., Path]) -> None:
    from pipelines.hosts.embedded import run

    params = settings(
        "model.trees={strategy: local_forests, rounds: 1, trees_per_round: 4, max_depth: 3}",
        "privacy={mechanism: diffprivlib, epsilon: 9.0}",
    )
    workspace = workspace_of(params)
    result = run(params, run="r", workspace=workspace)
    assert result["private"]
    assert {site["epsilon"] for site in result["privacy"].values()} == {9.0}
    assert result["metrics"] in ({}, {"overall": {}, "sites": {}}), "exact counts stay"
    data = (workspace / "exchange/demo/runs/r" / result["model"]).read_bytes()
    model = decode(data, kind="model")
    assert model.meta["trees"] == 12
