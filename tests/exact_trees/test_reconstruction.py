"""What gives rows back: whole trees and plain histograms do, a sum under masks does not.

In small after TimberStrike (arXiv 2506.07605).  A site has a few rows beside three large ones.  The
attacker is the coordinator and knows all that it is sent.  It guesses for every row of the small
site and every feature the bin, or the interval between thresholds, that the row lies in.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from folkmoot.trees.cuts import Cuts
from folkmoot.trees.grow import Columns, advance, begin, complete
from folkmoot.trees.histograms import Grid, bin_rows, build, leaves, missing_code
from folkmoot.trees.objectives import derivatives, on_grid
from folkmoot.trees.split import Rules

from .pooled import Table

Array = NDArray[Any]
SMALL, LARGE, FEATURES = 12, 200, 4


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(5)
    x = np.round(rng.normal(size=(SMALL + 3 * LARGE, FEATURES)), 1)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * rng.normal(size=len(x)) > 0).astype(np.int64)
    ends = [0, SMALL, SMALL + LARGE, SMALL + 2 * LARGE, len(x)]
    parts = [np.arange(a, b) for a, b in pairwise(ends)]
    return Table(x, y, None, (0,) * FEATURES, parts)


def histograms(table: Table, sites: list[int], depth: int = 6) -> tuple[Array, Cuts]:
    """Histograms of all nodes of one tree, siblings by subtraction, as some sites' sums show them."""
    cuts, grid = table.cuts(), Grid.fit(4, 2**12, 1.0, 0.25)
    bins, missing = bin_rows(table.x, cuts), missing_code(cuts)
    g, h = derivatives("binary:logistic", np.zeros(len(table.y)), table.y, None)
    gradient, hessian = on_grid(g, grid.gradient)[0], on_grid(h, grid.hessian)[0]
    growing, seen = begin(0, 1), []
    full: list[Array | None] = [None, None]  # of all sites, and of those that are looked at
    while growing.wanted:
        wanted = [node for _, node in growing.wanted]
        nodes = leaves(bins, missing, growing.trees[0].route(missing))
        sums = np.zeros((2, len(wanted), cuts.bins, 2), np.int64)
        for site, rows in enumerate(table.parts):
            for out in (sums[0], sums[1]) if site in sites else (sums[0],):
                own = np.zeros_like(out)
                build(bins[rows], cuts.first, missing, nodes[rows], wanted,
                      gradient[rows], hessian[rows], own)  # fmt: skip
                out += own
        totals = np.array([[gradient.sum(), hessian.sum()]]) if growing.level == 0 else None
        asked = []
        for who in (0, 1):
            asked, full[who] = complete(growing, sums[who], full[who])
        seen.append(np.asarray(full[1]))
        growing = advance(
            growing, asked, np.asarray(full[0]), cuts, grid, Rules(min_child_weight=0.1),
            Columns((0,) * FEATURES), 0.3, depth, totals,
        )  # fmt: skip
    return np.concatenate(seen), cuts


def recovered(sums: Array, cuts: Cuts, table: Table) -> float:
    """Share of the small site's rows whose every bin is read off: nodes that one row alone is in."""
    codes = {tuple(row) for row in bin_rows(table.x[:SMALL], cuts).tolist()}
    found = set()
    for node in sums:
        places = [
            np.flatnonzero(node[cuts.first[f] : cuts.first[f + 1], 1]) for f in range(FEATURES)
        ]
        if all(len(p) == 1 for p in places):
            found.add(tuple(int(p[0]) for p in places))
    return len(found & codes) / len(codes)


def test_plain_histograms_give_rows_back(table: Table) -> None:
    """The small site's own histograms: many of its nodes hold one row, and name its every bin."""
    assert recovered(*histograms(table, [0]), table) >= 0.25


def test_summed_histograms_hide_whose_rows_they_hold(table: Table) -> None:
    """Of the sum of all sites the same reading gives next to nothing of the small site."""
    alone = recovered(*histograms(table, [0]), table)
    summed = recovered(*histograms(table, [0, 1, 2, 3]), table)
    assert summed <= alone / 3


def test_bagged_trees_narrow_values_down(table: Table) -> None:
    """Thresholds of a site's own trees are its own values: they part its rows into small intervals."""
    import json

    import xgboost

    x, y = table.x[:SMALL], table.y[:SMALL]
    settings = {"max_depth": 6, "min_child_weight": 0, "reg_lambda": 0, "tree_method": "hist",
                "objective": "binary:logistic", "nthread": 1}  # fmt: skip
    booster = xgboost.train(settings, xgboost.QuantileDMatrix(x, y), 10)
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    named = {
        (f, np.float32(value))
        for tree in model["trees"]
        for left, f, value in zip(
            tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True
        )
        if left != -1
    }
    values = {(f, np.float32(v)) for f in range(FEATURES) for v in x[:, f]}
    assert named
    assert len(named & values) / len(named) > 0.8, "thresholds are values of the site's rows"
