"""From budgets to noise, and budgets that promise nothing."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import PrivacyError
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.calibrate import check_budget, noise_multiplier, smallest_scale
from folkmoot.privacy.events import DiscreteGaussian, Gaussian, PoissonSampled


def test_the_reference_run() -> None:
    assert noise_multiplier(1.0, 1e-5, 20) == pytest.approx(16.6839, abs=1e-3)
    assert noise_multiplier(2.9432, 1e-5, 50) == pytest.approx(10, abs=1e-3)


@given(
    budget=st.floats(0.01, 50),
    delta=st.floats(1e-12, 0.01),
    rounds=st.integers(1, 1000),
)
def test_the_budget_is_kept_and_not_wasted(budget: float, delta: float, rounds: int) -> None:
    multiplier = noise_multiplier(budget, delta, rounds)
    spent, _ = epsilon({Gaussian(multiplier): rounds}, delta)
    assert budget * (1 - 1e-6) < spent <= budget
    discrete, _ = epsilon({DiscreteGaussian(multiplier, steps=2.0**18): rounds}, delta)
    assert spent < discrete
    if budget < 10:  # beyond, and at the smallest deltas, more of delta is kept back
        assert discrete <= budget


def test_sampling_needs_less_noise() -> None:
    multiplier = noise_multiplier(1.5154, 1e-5, 1000, q=0.01)
    assert multiplier == pytest.approx(1.1, abs=2e-3)
    event = PoissonSampled(0.01, Gaussian(multiplier, relation="add-or-remove"))
    assert 1.51 < epsilon({event: 1000}, 1e-5)[0] <= 1.5154


def test_runs_of_unlike_releases() -> None:
    def run(scale: float) -> dict[Any, int]:
        return {Gaussian(3 * scale): 1, Gaussian(scale): 10}

    scale = smallest_scale(run, 1.0, 1e-5, tolerance=1e-9)
    assert epsilon(run(scale), 1e-5)[0] == pytest.approx(1.0, abs=1e-6)
    assert scale == pytest.approx(noise_multiplier(1.0, 1e-5, 1) * math.sqrt(10 + 1 / 9), rel=1e-6)


def test_the_closed_form_loads_no_library() -> None:
    code = (
        "import sys\n"
        "from folkmoot.privacy.calibrate import noise_multiplier\n"
        "noise_multiplier(1.0, 1e-5, 20)\n"
        "print([m for m in ('scipy', 'dp_accounting', 'numpy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan, True, "1"])
def test_epsilons_that_promise_nothing(bad: Any) -> None:
    with pytest.raises(PrivacyError, match="epsilon"):
        check_budget(bad, 1e-5)
    with pytest.raises(PrivacyError, match="clip_norm"):
        check_budget(1.0, 1e-5, clip_norm=bad)


@pytest.mark.parametrize("bad", [0.0, 1.0, -1e-9, math.nan, 2.0])
def test_deltas_that_promise_nothing(bad: float) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        noise_multiplier(1.0, bad, 3)


def test_delta_is_held_against_the_rows() -> None:
    check_budget(1.0, 1e-3, rows=1000)
    with pytest.raises(PrivacyError, match="1/1001"):
        check_budget(1.0, 1e-3, rows=1001)
    with pytest.raises(PrivacyError, match="delta"):
        noise_multiplier(1.0, 1e-5, 3, rows=200_000)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.0001, math.nan])
def test_sampling_probabilities(bad: float) -> None:
    with pytest.raises(PrivacyError, match="sampling"):
        noise_multiplier(1.0, 1e-5, 3, q=bad)


@pytest.mark.parametrize("bad", [0, -3, 1.5, True])
def test_rounds(bad: Any) -> None:
    with pytest.raises(PrivacyError, match="rounds"):
        noise_multiplier(1.0, 1e-5, bad)
