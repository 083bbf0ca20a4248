"""Noise in shares: what is left when sites drop out or subtract theirs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from folkmoot.errors import PrivacyError
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import DiscreteGaussian, Gaussian, Skellam, from_dict
from folkmoot.privacy.noise import Entropy
from folkmoot.privacy.shares import Shares
from tests.privacy.noise.laws import chi_square, gaussian_pmf


@pytest.mark.parametrize("law", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize(("n", "d", "c"), [(4, 0, 0), (4, 1, 0), (5, 1, 2), (7, 0, 6)])
def test_the_worst_case_keeps_the_plan(law: str, n: int, d: int, c: int) -> None:
    shares = Shares(30.0, n, d, c, law=law)  # type: ignore[arg-type]
    assert shares.honest == n - d - c
    assert Fraction(30) ** 2 <= shares.honest * shares.variance
    assert math.sqrt(shares.honest * shares.variance) == pytest.approx(30.0, rel=1e-12)
    left = sum(shares.draw(200_000, Entropy(bytes([i]))) for i in range(shares.honest))
    assert np.std(np.asarray(left)) == pytest.approx(30.0, rel=0.01)
    shares.check(n - d)
    with pytest.raises(PrivacyError, match="left"):
        shares.check(n - d - 1)


def test_the_sum_of_the_smallest_shares_is_a_discrete_gaussian() -> None:
    sigma = math.sqrt(30.0)
    shares = Shares(sigma, 3)
    assert float(shares.variance) == pytest.approx(10.0)
    draws = sum(shares.draw(400_000, Entropy(bytes([i]))) for i in range(3))
    assert chi_square(np.asarray(draws), gaussian_pmf(sigma, 90)) > 1e-4
    # And exactly: the convolution of the laws, in floats.
    one = gaussian_pmf(math.sqrt(10.0), 100)
    both = np.convolve(np.convolve(one, one), one)
    whole = gaussian_pmf(sigma, 300)
    assert np.abs(both - whole).max() < 1e-15


def test_shares_too_small_for_that_are_refused_unless_skellam() -> None:
    with pytest.raises(PrivacyError, match="Skellam"):
        Shares(4.0, 4)
    assert Shares(4.0, 4, law="skellam").variance == 4
    assert Shares(1.0, 1).variance == 1  # nothing is summed


@pytest.mark.parametrize(
    "bad",
    [(0.0, 3), (math.nan, 3), (9.0, 0), (9.0, 3, 3), (9.0, 3, 1, 2), (9.0, 3, -1), (9.0, 9999)],
)
def test_impossible_plans_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(PrivacyError):
        Shares(*bad)  # type: ignore[arg-type]


def test_events_of_shares_say_what_the_sum_costs() -> None:
    event = Shares(400.0, 4, 1).event(2.0, 0.01, 50, relation="add-or-remove")
    assert isinstance(event, DiscreteGaussian)
    assert event.noise_multiplier == pytest.approx(2.0)
    assert (event.steps, event.relation) == (400.0, "add-or-remove")
    assert from_dict(event.to_dict()) == event
    value, method = epsilon([event], 1e-5)
    plain, _ = epsilon([Gaussian(2.0)], 1e-5)
    assert method == "analytic-gaussian"
    assert plain <= value < plain * 1.001
    coarse = Shares(4.0, 4, law="skellam").event(2.0, 1.0, 50)
    assert isinstance(coarse, Skellam)
    assert from_dict(coarse.to_dict()) == coarse
    value, method = epsilon([coarse], 1e-5)
    assert method == "rdp"
    assert plain < value < 1.5 * plain
