"""Edges from summed counts: even bins, whatever the range, and nothing of a row in them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.trees.cuts import CELLS, Cuts, choose, refine, start
from folkmoot.trees.histograms import bin_rows, count, missing_code

MAX_BIN = 16


def sketched(x: NDArray[np.float64], lower: float, upper: float, exchanges: int) -> Cuts:
    """Edges of one column, counted by three sites that only add up."""
    cuts = start(np.array([lower]), np.array([upper]), [0], CELLS * MAX_BIN)
    for number in range(exchanges):
        counts = np.zeros(cuts.bins, np.int64)
        for part in np.array_split(x[:, None], 3):
            counts += count(bin_rows(part, cuts), cuts, None)
        if number + 1 < exchanges:
            cuts = refine(cuts, counts, CELLS * MAX_BIN)
    return choose(cuts, counts, MAX_BIN)


def shares(x: NDArray[np.float64], cuts: Cuts) -> NDArray[np.float64]:
    return count(bin_rows(x[:, None], cuts), cuts, None) / len(x)


def test_bins_are_even_even_where_rows_are_dense() -> None:
    x = np.random.default_rng(0).lognormal(0, 2, 6000).clip(0, 100_000)
    even = shares(x, sketched(x, 0.0, 100_000.0, 3))
    assert len(even) <= MAX_BIN
    assert even.max() < 1.6 / MAX_BIN
    once = shares(x, sketched(x, 0.0, 100_000.0, 1))
    assert once.max() > 3 * even.max(), "counting again is what makes them even"


def test_few_values_have_a_bin_each() -> None:
    x = np.random.default_rng(1).integers(20, 30, 500).astype(np.float64)
    cuts = sketched(x, 0.0, 120.0, 2)
    assert np.count_nonzero(shares(x, cuts)) == 10


def test_edges_depend_on_counts_alone() -> None:
    """Rows moved within their cells give the same edges: no value is an edge."""
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 1, 2000)
    cuts = start(np.array([0.0]), np.array([1.0]), [0], CELLS * MAX_BIN)
    cells = bin_rows(x[:, None], cuts)[:, 0]
    low = np.append(0.0, cuts.values[:-1])
    moved = low[cells] + (np.minimum(cuts.values[cells], 1.0) - low[cells]) * rng.random(2000) * 0.9
    one, other = sketched(x, 0.0, 1.0, 1), sketched(moved, 0.0, 1.0, 1)
    assert np.array_equal(one.values, other.values)


def test_a_feature_absent_or_constant_everywhere_has_one_bin() -> None:
    for column in (np.full(50, np.nan), np.full(50, 0.25)):
        cuts = sketched(column, 0.0, 1.0, 2)
        assert 1 <= cuts.bins <= 2
    assert (bin_rows(np.full((3, 1), np.nan), cuts) == missing_code(cuts)).all()


@pytest.mark.parametrize("fault", ["order", "nan", "features", "absent", "kind"])
def test_edges_of_another_party_are_checked(fault: str) -> None:
    cuts = start(np.zeros(2), np.ones(2), [0, 3], 8)
    arrays = {name: np.array(array) for name, array in cuts.to_arrays().items()}
    back = Cuts.from_arrays(arrays, 2)
    assert all(np.array_equal(back.to_arrays()[name], arrays[name]) for name in arrays)
    if fault == "order":
        arrays["cuts.values"][:2] = arrays["cuts.values"][:2][::-1]
    elif fault == "nan":
        arrays["cuts.lowest"][0] = np.nan
    elif fault == "absent":
        del arrays["cuts.first"]
    elif fault == "kind":
        arrays["cuts.values"] = arrays["cuts.values"].astype(np.float64)
    with pytest.raises(ProtocolError, match="bin edges"):
        Cuts.from_arrays(arrays, 3 if fault == "features" else 2)
