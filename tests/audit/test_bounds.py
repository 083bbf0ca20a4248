"""Bounds must hold where the truth is known, and come close to it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from folkmoot.errors import ConfigError
from folkmoot.privacy.accountant import gaussian_epsilon
from pipelines.audit.bounds import from_gaussian, from_one_run, from_rates


def normals(mu: float, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(mu, 1, n), rng.normal(0, 1, n)


@pytest.mark.parametrize("mu", [0.3, 1.0])
def test_bounds_of_a_gaussian_are_below_its_epsilon_and_not_far(mu: float) -> None:
    true = gaussian_epsilon(1 / mu, 1e-5)
    inside, outside = normals(mu, 200_000)
    rates = from_rates(inside, outside, 1e-5).epsilon
    gaussian = from_gaussian(inside, outside, 1e-5).epsilon
    assert 0.3 * true < rates < gaussian < true
    assert gaussian > 0.93 * true


def test_randomised_response_is_bounded_by_its_epsilon() -> None:
    rng = np.random.default_rng(0)
    q = 1 / (1 + math.exp(-2.0))
    inside = (rng.random(40_000) < q) + 1e-9 * rng.random(40_000)
    outside = (rng.random(40_000) > q) + 1e-9 * rng.random(40_000)
    assert 1.9 < from_rates(inside, outside, 1e-9).epsilon < 2.0


def test_the_bounds_have_their_confidence() -> None:
    """Of 400 audits of nothing at all, 5 % may claim something; and the same for one run."""
    rng = np.random.default_rng(1)
    wrong = {"rates": 0, "gaussian": 0, "one-run": 0}
    for _ in range(400):
        inside, outside = rng.normal(size=(2, 400))
        for bound in (from_rates, from_gaussian, from_one_run):
            found = bound(inside, outside, 0.0 if bound is from_rates else 1e-9)
            wrong[found.method] += found.epsilon > 0
    assert all(count <= 35 for count in wrong.values()), wrong


@pytest.mark.parametrize("true", [1.0, 4.0])
def test_one_run_against_randomised_response(true: float) -> None:
    """The mechanism of the paper's tightness result: every canary answers for itself."""
    rng = np.random.default_rng(2)
    q = 1 / (1 + math.exp(-true))
    found = []
    for _ in range(20):
        put_in = rng.random(1000) < 0.5
        said = np.where(rng.random(1000) < q, put_in, ~put_in) + 0.01 * rng.random(1000)
        found.append(from_one_run(said[put_in], said[~put_in], 1e-9).epsilon)
    assert sum(epsilon > true for epsilon in found) <= 2
    assert np.median(found) > 0.6 * true


def test_the_lower_tail_proves_as_much_as_the_upper_one() -> None:
    """Scores that only betray who was left out."""
    rng = np.random.default_rng(3)
    inside = rng.random(20_000)
    outside = np.where(rng.random(20_000) < 0.3, -1.0, rng.random(20_000)) - rng.random(20_000) / 9
    inside = inside - rng.random(20_000) / 9
    found = from_rates(inside, outside, 1e-5)
    assert found.epsilon > 5
    assert "below" in found.detail
    # High scores speak for membership: an attack that points the wrong way proves nothing.
    assert from_gaussian(-inside - 5, -outside, 1e-5).epsilon == 0.0


def test_what_is_certain_proves_much_and_chance_proves_nothing() -> None:
    inside, outside = np.ones(500), np.zeros(500)
    assert from_rates(inside, outside, 1e-5).epsilon > 3
    assert from_gaussian(inside, outside, 1e-5).epsilon > 10
    assert from_one_run(inside, outside, 1e-5).epsilon > 3
    same = np.zeros(500)
    for bound in (from_rates, from_gaussian, from_one_run):
        assert bound(same, same, 1e-5).epsilon == 0.0


def test_too_few_or_broken_scores_are_refused() -> None:
    for bad in (np.zeros(5), np.full(50, np.nan)):
        with pytest.raises(ConfigError):
            from_rates(bad, np.zeros(50), 1e-5)
