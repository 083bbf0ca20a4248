"""The compiled kernels against plain NumPy: sums by bin, rows in nodes, finer cells, nodes as leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from folkmoot.trees.cuts import CELLS, Cuts, refine, start
from folkmoot.trees.histograms import add, bin_rows, build, leaves, missing_code
from folkmoot.trees.route import Route
from folkmoot.trees.split import Rules, settle

ROWS, FEATURES = 3000, 5


@pytest.mark.parametrize(("bins", "gaps"), [(256, False), (256, True), (40, True), (300, True)])
def test_sums_by_bin_are_those_of_numpy(bins: int, gaps: bool) -> None:
    """One byte or two per bin, with and without a code for missing values."""
    rng = np.random.default_rng(bins + gaps)
    cuts = start(np.zeros(FEATURES), np.full(FEATURES, 9.0), [0] * FEATURES, bins)
    x = rng.uniform(0, 9, (ROWS, FEATURES))
    if gaps:
        x[rng.random(x.shape) < 0.2] = np.nan
    codes, missing = bin_rows(x, cuts), missing_code(cuts)
    assert codes.dtype == (np.uint8 if bins == 40 or not gaps else np.uint16)
    gradient, hessian = rng.integers(-(2**40), 2**40, ROWS), rng.integers(1, 2**40, ROWS)
    hessian[:50] = gradient[:50] = 0  # not sampled
    nodes = rng.integers(0, 9, ROWS).astype(np.int32)
    wanted = [7, 3, 8]
    out = np.zeros((len(wanted), cuts.bins, 2), np.int64)
    build(codes, cuts.first, missing, nodes, wanted, gradient, hessian, out)
    expected = np.zeros_like(out)
    for s, node in enumerate(wanted):
        for j in range(FEATURES):
            own = (nodes == node) & (codes[:, j] != missing)
            place = cuts.first[j] + codes[own, j]
            np.add.at(expected[s, :, 0], place, gradient[own])
            np.add.at(expected[s, :, 1], place, hessian[own])
    assert np.array_equal(out, expected)


def test_rows_come_to_the_leaf_that_the_splits_say() -> None:
    """By threshold, by a set of categories, and missing values by default, from any level on."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 6, (ROWS, FEATURES)).astype(np.uint8)
    missing = 5
    sets = np.zeros((5, 6), bool)
    sets[2, [0, 3]] = True
    route = Route(
        left=np.array([1, -1, 3, -1, -1]),
        right=np.array([2, -1, 4, -1, -1]),
        feature=np.array([1, 0, 4, 0, 0]),
        place=np.array([2, 0, -2, 0, 0]),
        default_left=np.array([True, False, False, False, False]),
        codes=sets,
    )

    def node(row: NDArray[Any]) -> int:
        if row[1] == missing or row[1] <= 2:
            return 1
        return 4 if row[4] == missing or row[4] in {0, 3} else 3

    found = leaves(codes, missing, route)
    assert found.tolist() == [node(row) for row in codes]
    assert set(found.tolist()) == {1, 3, 4}
    stump = Route(
        *(np.array(v) for v in ([1, -1, -1], [2, -1, -1], [1, 0, 0], [2, 0, 0])),
        default_left=np.array([True, False, False]),
        codes=np.zeros((1, 6), bool),
    )
    assert np.array_equal(leaves(codes, missing, route, leaves(codes, missing, stump)), found)


def test_cells_are_divided_by_their_share() -> None:
    """As the definition says, cell by cell; no cell without rows is divided."""
    rng = np.random.default_rng(5)
    cuts = start(np.array([-5.0, 0.0]), np.array([5.0, 3.0]), [0, 4], 8 * CELLS)
    counts = rng.poisson(rng.pareto(1, cuts.bins) * 5).astype(np.int64)
    found = refine(cuts, counts, 8 * CELLS)
    own, rows = cuts.values[: cuts.first[1]], counts[: cuts.first[1]]
    edges: list[float] = []
    low = np.float64(cuts.lowest[0])
    for high, n in zip(own.astype(np.float64), rows, strict=True):
        pieces = 1 + int(n) * 8 * CELLS // int(rows.sum())
        step = [low + (high - low) * k / pieces for k in range(1, pieces + 1)]
        edges += step if pieces > 1 else [high]
        low = high
    expected = np.unique(np.array(edges, np.float64).astype(np.float32))
    assert np.array_equal(found.values[: found.first[1]], expected)
    assert np.array_equal(found.values[found.first[1] :], cuts.values[cuts.first[1] :])


def test_nodes_as_leaves_follow_the_rules() -> None:
    """Newton's weight and gain, none below the least Hessian, and weights held to their bounds."""
    sums = np.array([[-8, 12], [30, 2], [5, 1]])
    free = np.array([[-np.inf, np.inf]] * 3, np.float32)
    weights, gains = settle(sums, free, (0.5, 0.5), Rules(reg_lambda=2.0, reg_alpha=1.0))
    g, h = np.array([-4.0, 15.0]), np.array([6.0, 1.0])
    shrunk = np.sign(g) * (np.abs(g) - 1)
    assert weights.tolist() == [*(-shrunk / (h + 2)).astype(np.float32), 0.0]
    assert (
        gains[:2].tolist() == ((shrunk**2).astype(np.float32) / (h + 2).astype(np.float32)).tolist()
    )
    bounds = np.array([[-1, 0.25]] * 3, np.float32)
    held, _ = settle(
        sums, bounds, (0.5, 0.5), Rules(reg_lambda=2.0, reg_alpha=1.0, constrained=True)
    )
    assert held.tolist() == [0.25, -1.0, 0.0]


def test_a_part_is_added_and_its_reach_told() -> None:
    total = np.arange(6).reshape(2, 3)
    assert add(total, np.array([[1, -7, 2], [0, 5, 6]])) == 7
    assert total.tolist() == [[1, -6, 4], [3, 9, 11]]
    assert add(total, np.zeros((2, 3), np.int64)) == 0
    least = np.array([[-(2**63), 0, 0], [0, 0, 1]])
    assert add(np.zeros((2, 3), np.int64), least) == 2**63


def test_edges_stay_one_object_while_models_bring_the_same() -> None:
    cuts = start(np.zeros(2), np.ones(2), [0, 3], 8)
    arrays = cuts.to_arrays()
    assert cuts.same(arrays)
    assert Cuts.from_arrays(arrays, 2).digest == cuts.digest
    for name in arrays:
        other = arrays[name].copy()
        other[-1] += 1
        assert not cuts.same({**arrays, name: other})
        assert not cuts.same({**arrays, name: arrays[name].astype(np.float64)})
        assert not cuts.same({k: v for k, v in arrays.items() if k != name})
