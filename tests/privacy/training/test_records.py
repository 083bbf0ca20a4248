"""Sensitivity is exact on the grid: no record's integers are longer than the plan's norm."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from folkmoot.contract import Contract
from folkmoot.models.design import Design
from folkmoot.params import Anonymisation
from folkmoot.privacy.bins import Layout, edges_of, moments_of
from folkmoot.privacy.planned import COUNT_EXPONENT, FACTOR_EXPONENT, ROW_EXPONENT
from site_tasks.private.histograms import record_counts
from site_tasks.private.records import Records, gradient_sum, gram_sum, integer_rows

ANY = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1e-9, 1e300, math.inf, math.nan])
ROWS = arrays(np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=ANY)
CONTRACT = Contract.model_validate(
    {
        "name": "t",
        "task": "binary",
        "columns": [
            {"name": "a", "bounds": [0, 5000], "missing": True},
            {"name": "b", "type": "category", "categories": ["u", "v", "w"], "missing": True},
            {"name": "c", "bounds": [-1, 1]},
            {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]},
        ],
    }
)


def plain(d: int = 3) -> Design:
    return Design(np.zeros(d), np.ones(d))


def squares(values: np.ndarray[Any, Any]) -> int:
    """Sum of squares in Python's integers: no rounding anywhere."""
    return sum(int(v) ** 2 for v in np.asarray(values).ravel())


@given(ROWS, st.floats(0.05, 50))
@settings(max_examples=200, deadline=None)
def test_no_row_is_longer_than_its_norm(rows: np.ndarray[Any, Any], norm: float) -> None:
    whole = integer_rows(rows, norm)
    bound = Fraction(norm) ** 2 * 4**ROW_EXPONENT
    for row in whole:
        assert (row == np.trunc(row)).all()
        assert squares(row) <= bound


@given(
    arrays(np.float64, (1, 3), elements=ANY),
    arrays(np.float64, (2, 4), elements=st.floats(-50, 50)),
    st.integers(0, 1),
    st.floats(0.05, 5),
)
@settings(max_examples=200, deadline=None)
def test_no_gradient_is_longer_than_the_clip(
    row: np.ndarray[Any, Any], w: np.ndarray[Any, Any], label: int, clip: float
) -> None:
    records = Records(row, np.array([label]), plain(), 2.0)
    bound = Fraction(clip) ** 2 * 4 ** (ROW_EXPONENT + FACTOR_EXPONENT)
    for task, parameters in (("binary", w[:1]), ("multiclass", w)):
        assert squares(gradient_sum(task, parameters, records, clip)) <= bound


@given(
    arrays(np.float64, (1, 3), elements=ANY),
    st.integers(0, 1),
    st.floats(0.01, 5),
    st.floats(0.01, 0.9),
)
@settings(max_examples=200, deadline=None)
def test_a_counted_gradient_has_a_norm_of_one_and_tells_the_quantile(
    row: np.ndarray[Any, Any], label: int, clip: float, counted: float
) -> None:
    records = Records(row, np.array([label]), plain(), 2.0)
    found = gradient_sum("binary", np.full((1, 4), 0.3), records, clip, counted)
    assert found.shape == (5,)
    assert squares(found) <= 4 ** (ROW_EXPONENT + FACTOR_EXPONENT)


@given(arrays(np.float64, (1, 3), elements=ANY), st.floats(0.05, 20))
@settings(max_examples=200, deadline=None)
def test_no_product_is_longer_than_the_norm_squared(row: np.ndarray[Any, Any], norm: float) -> None:
    gram = gram_sum(Records(row, np.array([1]), plain(), norm))
    assert squares(gram) <= Fraction(norm) ** 4 * 16**ROW_EXPONENT


def test_sums_are_the_sums_of_single_records() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((700, 3)) * 3, rng.integers(0, 2, 700)
    w = rng.standard_normal((1, 4))
    whole = Records(rows, labels, plain(), 1.7)
    each = [Records(rows[i : i + 1], labels[i : i + 1], plain(), 1.7) for i in range(700)]
    assert (gram_sum(whole) == sum(gram_sum(one) for one in each)).all()
    summed = sum(gradient_sum("binary", w, one, 0.6) for one in each)
    assert (gradient_sum("binary", w, whole, 0.6) == summed).all()


def test_gradients_follow_the_loss_where_nothing_is_clipped() -> None:
    rng = np.random.default_rng(1)
    rows, labels = rng.standard_normal((50, 3)) / 4, rng.integers(0, 2, 50)
    w = rng.standard_normal((1, 4))
    found = gradient_sum("binary", w, Records(rows, labels, plain(), 10.0), 10.0)
    x = np.column_stack([rows, np.ones(50)])
    exact = (1 / (1 + np.exp(-(x @ w[0]))) - labels) @ x
    assert found * 2.0 ** -(ROW_EXPONENT + FACTOR_EXPONENT) == pytest.approx(exact, abs=0.03)


def test_a_record_adds_at_most_one_to_every_column() -> None:
    layout = Layout.of(CONTRACT, Anonymisation())
    rows = np.array(
        [
            [12.0, 0, 1, 0, 0, 0.3],
            [math.nan, 1, 0, 0, 1, -1.0],
            [9e9, 0, 1, 1, 1, math.nan],  # no encoded row is like this; it must not count twice
        ]
    )
    counts = record_counts(rows, layout)
    assert len(layout.groups) == 3
    for record in counts:
        assert all(record[group].sum() <= 1 for group in layout.groups)
        assert squares(record) <= len(CONTRACT.inputs) + 1
    assert (counts[:, -1] == 1).all()
    assert counts[2].sum() == 2  # its number and the count of rows


def test_moments_and_bins_follow_the_counts() -> None:
    layout = Layout.of(CONTRACT, Anonymisation())
    rng = np.random.default_rng(2)
    n = 4000
    rows = np.zeros((n, 6))
    rows[:, 0] = np.where(rng.random(n) < 0.9, 0.0, rng.uniform(500, 4000, n))
    rows[:, 2] = rng.random(n) < 0.3
    rows[:, 5] = np.clip(rng.standard_normal(n) / 4, -1, 1)
    counts = record_counts(rows, layout).sum(0).astype(np.float64)
    mean, deviation, lower, upper = moments_of(layout, counts, 0.02)
    assert mean[2] == pytest.approx(0.3, abs=0.03)
    assert mean[5] == pytest.approx(0.0, abs=0.03)
    assert deviation[5] == pytest.approx(0.25, abs=0.03)
    assert (layout.lower <= lower).all()
    assert (upper <= layout.upper).all()
    assert upper[0] < 5000
    assert lower[5] > -0.8
    edges = edges_of(layout, 0, counts, 6, 20.0)
    assert 3 <= len(edges) <= 5
    share = np.diff([0, *[np.mean(rows[:, 0] < e) for e in edges], 1])
    assert share[0] == pytest.approx(0.9, abs=0.02)  # the heavy value has a bin of its own
    assert share[1:].max() < 0.05
    assert len(edges_of(layout, 0, counts, 6, 1e9)) == 0


def test_noise_alone_gives_a_usable_design() -> None:
    layout = Layout.of(CONTRACT, Anonymisation())
    rng = np.random.default_rng(3)
    for _ in range(50):
        counts = rng.standard_normal(layout.size) * 100
        mean, deviation, lower, upper = moments_of(layout, counts, 0.02)
        assert np.isfinite([mean, deviation, lower, upper]).all()
        assert (lower <= upper).all()
        assert (deviation >= 0).all()
        assert (np.diff(edges_of(layout, 0, counts, 8, 1.0)) > 0).all()


def test_counts_have_whole_steps_to_spare(tmp_path: Path) -> None:
    assert 2**COUNT_EXPONENT * 2**32 < 2**53
