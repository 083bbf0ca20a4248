"""What gives rows back: whole trees and plain histograms do, masked sums and noised leaves do not.

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


def occupied(sums: Array, sizes: list[int], taken: list[int]) -> float:
    """Share of leaves with rows that are found among those of the largest Hessian, tree by tree.

    The attacker is even told how many leaves of each tree hold rows.
    """
    start, right, total = 0, 0, 0
    for leaves_of_tree, truth in zip(sizes, np.split(taken, np.cumsum(sizes)[:-1]), strict=True):
        hessian = sums[start + leaves_of_tree : start + 2 * leaves_of_tree]
        start += 2 * leaves_of_tree
        guessed = np.argsort(-hessian)[: int(np.sum(truth))]
        right += int(np.sum(np.asarray(truth)[guessed]))
        total += int(np.sum(truth))
    return right / total


def test_private_trees_tell_next_to_nothing_of_a_small_site(table: Table) -> None:
    """Which leaves hold rows of the site: exact sums name all of them, noised ones chance's share.

    The release is the site's own, with the noise that it adds to its part at epsilon 1
    (``noise: site``, so that the coordinator sees it alone), and the trees are read together.
    """
    from folkmoot.contract import Contract
    from folkmoot.params import parse_params
    from folkmoot.trees.private import LEAF_EXPONENT, tree_schedule
    from folkmoot.trees.private_splits import Grid as PublicGrid
    from folkmoot.trees.private_splits import draw_round
    from site_tasks.private.trees import leaf_sum

    columns: list[dict[str, Any]] = [
        {"name": f"x{j}", "bounds": [-4.0, 4.0]} for j in range(FEATURES)
    ]
    label = {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]}
    contract = Contract.model_validate(
        {"name": "t", "task": "binary", "columns": [*columns, label]}
    )
    trees = {"strategy": "private_trees", "rounds": 6, "trees_per_round": 8, "max_depth": 4}
    params = parse_params(
        {
            "data": {"scaling": "bounds"},
            "model": {"kind": "trees", "trees": trees},
            "privacy": {
                "mechanism": "gaussian",
                "clipping": "record",
                "epsilon": 1.0,
                "rows": 100_000,  # of the whole federation: plans, and changes no noise
            },
            "aggregation": {"weighting": "uniform", "evaluate_every": 0},
        }
    )
    release = tree_schedule(params, contract).of(2)
    deviation = release.noise_multiplier * release.sensitivity
    rng, rows = np.random.default_rng(1), table.parts[0]
    margin = np.zeros(SMALL, np.float32)
    found = []
    for round in range(1, 6):
        drawn = draw_round(PublicGrid.of(contract, params), params, round)
        sizes = [len(tree.leaves) for tree in drawn]
        exact = leaf_sum(drawn, table.x[rows], table.y[rows], margin, contract) / 2**LEAF_EXPONENT
        taken: list[int] = []
        for tree in drawn:
            places = tree.places(table.x[rows].astype(np.float32))
            taken += list(np.bincount(places, minlength=len(tree.leaves)) > 0)
        noised = [exact + deviation * rng.normal(size=exact.size) for _ in range(20)]
        share = float(np.mean(taken))
        found.append(
            (occupied(exact, sizes, taken), share, [occupied(n, sizes, taken) for n in noised])
        )
    told, shares, guesses = zip(*found, strict=True)
    assert min(told) == 1.0, "without noise every leaf with a row is named"
    assert np.mean(shares) < 0.6
    assert np.mean(guesses) < np.mean(shares) + 0.05, "as good as any guess"
