"""Draws against the laws they are named after."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise import (
    Entropy,
    discrete_gaussian,
    discrete_laplace,
    largest_draw,
    skellam,
)
from tests.privacy.noise.laws import chi_square, gaussian_pmf, laplace_pmf

N = 400_000


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.7, 60.0, 500.0, 513.0, 900.0])
def test_discrete_gaussian_law(sigma: float) -> None:
    draws = discrete_gaussian(sigma, N, Entropy(b"law"))
    assert draws.dtype == np.int64
    assert chi_square(draws, gaussian_pmf(sigma, int(16 * sigma) + 4)) > 1e-4


@pytest.mark.parametrize("sigma", [5e4, 3.3e7, 2.0**40, 2.0**56])
def test_large_discrete_gaussians_are_normal_in_bulk_and_in_their_low_bits(sigma: float) -> None:
    from scipy import stats

    draws = discrete_gaussian(sigma, N, Entropy(b"large"))
    assert stats.kstest(draws / sigma, "norm").pvalue > 1e-4
    assert np.abs(draws).max() <= largest_draw(sigma) < 2**62
    # On this scale the law is flat: every residue is as likely.
    for modulus in (2, 7, 128):
        seen = np.bincount(draws % modulus, minlength=modulus)
        assert stats.chisquare(seen).pvalue > 1e-4


@pytest.mark.parametrize("scale", [0.3, 2.0, 63.0, 65.0, 400.0])
def test_discrete_laplace_law(scale: float) -> None:
    draws = discrete_laplace(scale, N, Entropy(b"law"))
    assert chi_square(draws, laplace_pmf(scale, int(40 * scale) + 4)) > 1e-4


def test_large_discrete_laplace_is_laplace() -> None:
    from scipy import stats

    draws = discrete_laplace(1e9, N, Entropy(b"large"))
    assert stats.kstest(draws / 1e9, "laplace").pvalue > 1e-4


@pytest.mark.parametrize("variance", [0.3, 4.0, 1e3, 2.0**18 + 5])
def test_skellam_law(variance: float) -> None:
    from scipy import stats

    most = int(14 * math.sqrt(variance)) + 30
    x = np.arange(-most, most + 1)
    pmf = stats.skellam.pmf(x, variance / 2, variance / 2)
    if variance > 1e5:  # scipy's pmf gives up here; Gaussian to within 1 / variance
        pmf = gaussian_pmf(math.sqrt(variance), most)
    assert chi_square(skellam(variance, N, Entropy(b"law")), pmf) > 1e-4


def test_a_sum_of_skellams_is_a_skellam() -> None:
    from scipy import stats

    whole = sum(skellam(0.7, N, Entropy(bytes([i]))) for i in range(5))
    x = np.arange(-40, 41)
    assert chi_square(np.asarray(whole), stats.skellam.pmf(x, 1.75, 1.75)) > 1e-4


@pytest.mark.parametrize(
    ("draw", "bad"),
    [
        (draw, bad)
        for draw in (discrete_gaussian, discrete_laplace, skellam)
        for bad in (0, -1.0, math.nan, math.inf, 2.0**60, "x")
    ],
)
def test_impossible_noise_is_refused(draw: Any, bad: Any) -> None:
    with pytest.raises(PrivacyError) as caught:
        draw(bad, 3)
    assert caught.value.code == "privacy.mechanism"


def test_shapes_and_fractions() -> None:
    assert discrete_gaussian(Fraction(7, 3), (2, 3)).shape == (2, 3)
    assert discrete_laplace(Fraction(7, 3), ()).shape == ()
    assert skellam(Fraction(7, 3), 0).shape == (0,)
    same = [discrete_gaussian(s, 50, Entropy(b"s")) for s in (0.5, Fraction(1, 2))]
    np.testing.assert_array_equal(*same)


def test_no_two_calls_share_noise() -> None:
    one, two = discrete_gaussian(1e9, 1000), discrete_gaussian(1e9, 1000)
    assert len(np.intersect1d(one, two)) < 5
