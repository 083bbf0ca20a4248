"""Private choices, and real values on a grid."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise import Entropy
from folkmoot.privacy.noise.choices import bernoulli_exp, exponential, permute_and_flip
from folkmoot.privacy.noise.grid import (
    add_gaussian,
    add_laplace,
    on_grid,
    rounded_sensitivity,
    step_below,
)

SCORES = [0, 1.5, Fraction(7, 2), 3, 3]


@pytest.mark.parametrize("gamma", [0, Fraction(1, 3), 1, Fraction(5, 2)])
def test_coins(gamma: Fraction) -> None:
    entropy, n = Entropy(b"coins"), 20_000
    heads = sum(bernoulli_exp(Fraction(gamma), entropy) for _ in range(n))
    assert abs(heads / n - math.exp(-gamma)) < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize(("monotonic", "rate"), [(False, 0.5), (True, 1.0)])
def test_the_exponential_mechanism_has_its_law(monotonic: bool, rate: float) -> None:
    from scipy import stats

    entropy = Entropy(b"exp")
    draws = [exponential(SCORES, 0.8, 1, monotonic=monotonic, entropy=entropy) for _ in range(8000)]
    law = np.exp(np.array([float(s) for s in SCORES]) * 0.8 * rate)
    seen = np.bincount(draws, minlength=5)
    assert stats.chisquare(seen, law / law.sum() * len(draws)).pvalue > 1e-4


def test_permute_and_flip_has_its_law() -> None:
    """Against the law summed over all orders of the candidates."""
    from itertools import permutations

    from scipy import stats

    coins = np.exp((np.array([float(s) for s in SCORES]) - 3.5) * 0.4)
    law = np.zeros(5)
    for order in permutations(range(5)):
        left = 1.0
        for i in order:
            law[i] += left * coins[i] / 120
            left *= 1 - coins[i]
    entropy = Entropy(b"flip")
    draws = [permute_and_flip(SCORES, 0.8, entropy=entropy) for _ in range(8000)]
    assert stats.chisquare(np.bincount(draws, minlength=5), law * 8000).pvalue > 1e-4


@pytest.mark.parametrize("choose", [exponential, permute_and_flip])
def test_choices_far_below_the_best_end_and_bad_input_is_refused(choose: object) -> None:
    assert callable(choose)
    assert choose([0, 10**9], 1.0) == 1
    for scores, epsilon, sensitivity in (
        ([], 1.0, 1),
        ([math.nan, 1], 1.0, 1),
        ([1, math.inf], 1.0, 1),
        ([1], 0.0, 1),
        ([1], math.nan, 1),
        ([1], 1.0, 0),
    ):
        with pytest.raises(PrivacyError):
            choose(scores, epsilon, sensitivity)


def test_noised_values_lie_on_the_grid_whatever_they_were() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    step = step_below(0.01)
    for add in (add_gaussian, add_laplace):
        out = add(values, 2.0, step, Entropy(b"g"))
        assert (out / step == np.rint(out / step)).all()
        assert 1.5 < np.std(out - values) < 3.2
    assert step == 2.0**-7
    gaussian = add_gaussian(np.zeros(200_000), 2.0, step, Entropy(b"g"))
    assert gaussian.std() == pytest.approx(2.0, rel=0.01)


def test_rounding_widens_no_more_than_stated() -> None:
    rng = np.random.default_rng(1)
    step, d = 2.0**-3, 20
    for _ in range(300):
        a = rng.normal(size=d)
        b = a + rng.normal(size=d) * rng.choice([0.01, 1.0])
        moved = (on_grid(a, step) - on_grid(b, step)) * step
        for norm in (1, 2):
            before = float(np.linalg.norm(a - b, norm))
            assert np.linalg.norm(moved, norm) <= rounded_sensitivity(before, step, d, norm=norm)
    assert rounded_sensitivity(1.0, 0.5, 4, random=True) == 3.0


def test_impossible_grids_are_refused() -> None:
    for step in (0.3, 0.0, -1.0, math.inf):
        with pytest.raises(PrivacyError, match="power of two"):
            on_grid([1.0], step)
    for value in (math.nan, math.inf, 2.0**60):
        with pytest.raises(PrivacyError, match="fit"):
            on_grid([value], 1.0)
    with pytest.raises(PrivacyError, match="step"):
        add_gaussian([0.0], 0.1, 1.0)
