"""Epsilon against published reference values, and against the definition itself."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import PrivacyError
from folkmoot.privacy.accountant import epsilon, gaussian_epsilon, pld_epsilon, rdp_epsilon
from folkmoot.privacy.events import (
    Event,
    Exact,
    Gaussian,
    Laplace,
    PoissonSampled,
    PureDP,
    from_dict,
)

# noise multiplier, sampling probability, rounds, delta, epsilon by RDP, by PLD (or exact)
REFERENCE = [
    (1.0, 1.0, 1, 1e-5, 4.7285, 4.3772),
    (4.0, 1.0, 10, 1e-5, 3.6171, 3.3414),
    (16.6839, 1.0, 20, 1e-5, 1.0926, 1.0000),
    (10.0, 1.0, 50, 1e-5, 3.1890, 2.9432),
    (1.1, 0.01, 1000, 1e-5, 1.7118, 1.5154),
    (2.0, 0.25, 20, 1e-6, 3.5360, 3.2181),
    (0.8, 0.02, 500, 1e-5, 5.3719, 4.6680),
]


def event(multiplier: float, probability: float) -> Event:
    if probability == 1:
        return Gaussian(multiplier)
    return PoissonSampled(probability, Gaussian(multiplier, relation="add-or-remove"))


@pytest.mark.parametrize(("sigma", "q", "rounds", "delta", "rdp", "pld"), REFERENCE)
def test_reference_values(
    sigma: float, q: float, rounds: int, delta: float, rdp: float, pld: float
) -> None:
    counts = {event(sigma, q): rounds}
    value, method = epsilon(counts, delta)
    assert value == pytest.approx(pld, abs=1e-3)
    assert method == ("analytic-gaussian" if q == 1 else "pld")
    assert rdp_epsilon(counts, delta) == pytest.approx(rdp, abs=1e-3)
    assert pld_epsilon(counts, delta) == pytest.approx(pld, abs=1e-3)


def test_the_common_case_loads_no_accounting_library() -> None:
    code = (
        "import sys\n"
        "from folkmoot.privacy.accountant import epsilon\n"
        "from folkmoot.privacy.events import Gaussian\n"
        "epsilon([Gaussian(4.0)] * 10, 1e-5)\n"
        "print([m for m in ('scipy', 'dp_accounting', 'numpy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(
    sigma=st.floats(0.05, 1000),
    delta=st.floats(1e-12, 0.5),
)
def test_the_closed_form_solves_its_equation(sigma: float, delta: float) -> None:
    """Balle & Wang's delta at the returned epsilon, by a second formula (numerical integral)."""
    from scipy import integrate, stats

    e = gaussian_epsilon(sigma, delta)
    if e > 200 or (e == 0 and delta > 1e-3):
        return  # beyond what plain quadrature resolves, or nothing to solve
    # delta(e) = E over N(0, s) of (1 - exp(e - loss))+ for the pair N(0, s), N(1, s)
    loss = lambda x: (2 * x - 1) / (2 * sigma**2)  # noqa: E731
    start = sigma**2 * e + 0.5  # where the loss passes e
    top = max(start, 1.0) + 12 * sigma
    value, _ = integrate.quad(
        lambda x: stats.norm.pdf(x, 1, sigma) * -math.expm1(e - loss(x)), start, top, limit=500
    )
    if e > 0:
        assert value == pytest.approx(delta, rel=1e-4)
    else:
        assert value <= delta * (1 + 1e-6)


def test_composition_is_dearer_than_its_parts_and_cheaper_than_their_sum() -> None:
    one, _ = epsilon([Gaussian(3.0)], 1e-5)
    four, _ = epsilon([Gaussian(3.0)] * 4, 1e-5)
    assert one < four < 4 * one
    assert epsilon([Gaussian(3.0)] * 4, 1e-5) == epsilon([Gaussian(1.5)], 1e-5)


def test_pure_events_and_mixtures() -> None:
    assert epsilon([PureDP(0.7)], 1e-5) == (0.7, "sum")
    many, method = epsilon([PureDP(0.1)] * 50, 1e-5)
    assert many < 5.0
    assert method in {"pld", "rdp"}
    few, _ = epsilon([PureDP(1.0)] * 2, 1e-5)
    assert few <= 2.0
    mixed, method = epsilon([PureDP(1.0), Gaussian(4.0), Laplace(5.0)], 1e-5)
    assert 1.2 < mixed < 1.2 + epsilon([Gaussian(4.0)], 1e-5)[0]
    assert method in {"pld", "rdp"}


def test_exact_releases_have_no_epsilon() -> None:
    assert epsilon([], 1e-5) == (0.0, "none")
    assert epsilon([Gaussian(1.0), Exact()], 1e-5) == (math.inf, "unaccounted")


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf])
def test_delta_must_be_a_probability(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        epsilon([Gaussian(1.0)], delta)


@pytest.mark.parametrize(
    "one",
    [
        Exact(),
        Exact(2.5),
        Gaussian(1.5, 2.0),
        Laplace(3.0),
        PureDP(0.5),
        PoissonSampled(0.1, Gaussian(1.0, relation="add-or-remove")),
    ],
)
def test_events_travel_as_json(one: Event) -> None:
    assert from_dict(one.to_dict()) == one


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_impossible_events_are_refused(bad: float) -> None:
    for make in (Gaussian, Laplace, PureDP):
        with pytest.raises(PrivacyError) as caught:
            make(bad)
        assert caught.value.code == "privacy.mechanism"
    with pytest.raises(PrivacyError):
        PoissonSampled(1.5, Gaussian(1.0))


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"event": "gaussian"},
        {"event": "oracle"},
        {"event": ["gaussian"]},
        {"event": "pure-dp", "x": 1},
        {"event": "pure-dp", "epsilon": "1"},
        {"event": "pure-dp", "epsilon": True},
        {"event": "pure-dp", "epsilon": 10**400},
        {"event": "gaussian", "noise_multiplier": 1.0, "unit": ["record"]},
        {"event": "gaussian", "noise_multiplier": 1.0, "relation": "none"},
        {"event": "exact", "clip_norm": "x"},
        {"event": "poisson-sampled", "sampling_probability": 0.1, "of": 3},
    ],
)
def test_malformed_events_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(PrivacyError):
        from_dict(bad)


def test_sampled_replace_one_is_refused_rather_than_guessed() -> None:
    with pytest.raises(PrivacyError, match="add-or-remove"):
        epsilon([PoissonSampled(0.1, Gaussian(1.0))], 1e-5)
