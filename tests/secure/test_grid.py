"""Fixed point: no overflow, exact sums, errors within the stated bound."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import ConfigError, SecureError
from folkmoot.secure.grid import Grid

SEED = bytes(range(32))
limits = st.floats(1e-6, 1e9)
sites = st.integers(1, 2000)


@given(limits, sites, st.sampled_from([32, 64]), st.integers(0, 1000))
def test_the_finest_step_without_overflow_is_taken(limit, n, bits, headroom):
    grid = Grid.fit(limit, n, bits=bits, headroom=headroom)
    assert n * grid.most <= 2 ** (bits - 1) - 1
    with pytest.raises(ConfigError):
        Grid(bits, grid.exponent + 1, limit, n, headroom)


@given(limits, sites)
def test_the_largest_contributions_add_up_without_overflow(limit, n):
    grid = Grid.fit(limit, n)
    one = grid.integers(np.array([limit, -limit]), "stochastic", seed=SEED)
    assert np.abs(one).max() <= grid.most
    total = [grid.ring(one * 0)[0], grid.ring(one * 0)[0]]
    exact = n * int(one[0])
    total = np.array([exact % 2**64, -exact % 2**64], np.uint64)
    assert grid.centred(total).tolist() == [exact, -exact]


@pytest.mark.parametrize("rounding", ["stochastic", "truncate", "nearest"])
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=40), st.integers(1, 8))
def test_quantisation_stays_below_its_bound(rounding, values, n):
    grid = Grid.fit(50.0, 8, bits=32)
    x = np.array(values)
    total, exact = grid.ring(np.zeros(x.size, np.int64)), [Fraction(0)] * x.size
    for site in range(n):
        part = x / (site + 1)
        total = total + grid.encode(part, rounding, seed=hashlib.sha256(bytes([site])).digest())
        exact = [e + Fraction(v) for e, v in zip(exact, part.tolist(), strict=True)]
    found = grid.decode(total)
    bound = Fraction(grid.error_bound(n, rounding))
    assert all(abs(Fraction(f) - e) <= bound for f, e in zip(found.tolist(), exact, strict=True))


def test_stochastic_rounding_is_unbiased_and_repeats():
    grid = Grid(64, 0, 10.0, 4)
    x = np.full(200_000, 2.25)
    drawn = grid.integers(x, "stochastic", seed=SEED)
    assert set(np.unique(drawn)) == {2, 3}
    assert abs(drawn.mean() - 2.25) < 5 * 0.433 / x.size**0.5
    assert (grid.integers(x, "stochastic", seed=SEED) == drawn).all()
    assert (grid.integers(x, "stochastic", seed=SEED[::-1]) != drawn).any()


def test_truncation_never_grows_a_number():
    grid = Grid(64, 3, 10.0, 4)
    x = np.array([0.99, -0.99, 0.124, -0.126, 1.0])
    assert grid.integers(x, "truncate").tolist() == [7, -7, 0, -1, 8]


@given(
    st.lists(
        st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3),
        min_size=1,
        max_size=6,
    ),
    st.floats(1e-3, 1e3),
    st.integers(0, 30),
)
def test_sensitivity_is_exact_for_any_row(rows, norm, exponent):
    grid = Grid(64, exponent, 1e3, 4)
    found = grid.clip_rows(np.array(rows), norm)
    bound = (Fraction(norm) * 2**exponent) ** 2
    assert all(sum(int(q) ** 2 for q in row) <= bound for row in found)


def test_short_rows_keep_their_length():
    grid = Grid(64, 40, 10.0, 4)
    rows = np.array([[0.3, -0.4], [30.0, 40.0], [0.0, 0.0]])
    found = grid.clip_rows(rows, 1.0) * grid.step
    np.testing.assert_allclose(found, [[0.3, -0.4], [0.6, 0.8], [0, 0]], atol=1e-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("outside", ["clip", "refuse"])
def test_what_is_not_finite_is_refused_before_it_is_encoded(bad, outside):
    values = np.zeros(100_000)
    values[70_000] = bad
    with pytest.raises(SecureError, match="not finite") as caught:
        Grid.fit(1.0, 4).encode(values, "truncate", outside=outside)
    assert caught.value.code == "secure.range"


def test_values_beyond_the_limit_are_clipped_or_refused():
    grid = Grid(64, 0, 5.0, 4)
    assert grid.integers(np.array([7.0, -9.0]), "nearest", outside="clip").tolist() == [5, -5]
    with pytest.raises(SecureError, match="beyond the limit") as caught:
        grid.integers(np.array([1.0, 7.123]), "nearest")
    assert "7.123" not in str(caught.value)


def test_32_bits_are_taken_where_they_are_enough():
    assert Grid.smallest(1.0, 16, step=2.0**-20).bits == 32
    assert Grid.smallest(1.0, 16, step=2.0**-40).bits == 64
    assert Grid.smallest(1.0, 16, step=2.0**-40).step == 2.0**-40
    with pytest.raises(ConfigError):
        Grid.smallest(1e9, 16, step=2.0**-60)


@pytest.mark.parametrize("bits", [32, 64])
def test_negative_sums_come_back(bits):
    grid = Grid(bits, 4, 100.0, 3)
    parts = [np.array([-99.5, 3.0]), np.array([-100.0, -7.25]), np.array([50.0, 4.0])]
    total = sum(grid.encode(p, "nearest") for p in parts)
    assert grid.decode(total).tolist() == [-149.5, -0.25]


@pytest.mark.parametrize(
    "arguments",
    [(16, 3, 1.0, 4), (64, 3, 0.0, 4), (64, 3, np.inf, 4), (64, 3, 1.0, 0), (64, 60, 16.0, 4)],
)
def test_a_grid_that_could_overflow_is_not_made(arguments):
    with pytest.raises(ConfigError):
        Grid(*arguments)
