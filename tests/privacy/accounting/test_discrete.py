"""Discrete noise, samples of fixed size, persons, and events of both relations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from folkmoot.errors import PrivacyError
from folkmoot.privacy.accountant import (
    epsilon,
    gaussian_delta,
    gaussian_epsilon,
    guarantee,
    pld_epsilon,
    rdp_epsilon,
)
from folkmoot.privacy.events import (
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    Exact,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    PoissonSampled,
    PureDP,
    Skellam,
    from_dict,
)

AOR = "add-or-remove"


def exact_delta(sigma: float, shift: tuple[int, ...], e: float) -> float:
    """Delta of discrete Gaussian noise under an integer shift, by summing over the whole grid."""
    loss, prob = np.zeros(1), np.ones(1)
    x = np.arange(-int(12 * sigma) - 9, int(12 * sigma) + 10)
    weight = np.exp(-(x**2) / (2 * sigma**2))
    for s in shift:
        loss = np.add.outer(loss, ((x - s) ** 2 - x**2) / (2 * sigma**2)).ravel()
        prob = np.multiply.outer(prob, weight / weight.sum()).ravel()
    return float((prob * np.maximum(0.0, -np.expm1(e - loss))).sum())


@pytest.mark.parametrize("sigma", [2.5, 4.0, 9.0, 30.0])
@pytest.mark.parametrize("shift", [(1,), (3,), (2, 1), (1, 1), (5,)])
def test_epsilon_of_a_discrete_gaussian_is_an_upper_bound(
    sigma: float, shift: tuple[int, ...]
) -> None:
    size = math.sqrt(sum(s * s for s in shift))
    event = DiscreteGaussian(sigma / size, steps=sigma)
    for delta in (1e-2, 1e-5):
        e, method = epsilon([event], delta)
        assert exact_delta(sigma, shift, e) <= delta
        assert method in {"analytic-gaussian", "rdp"}
    if sigma == 30.0:  # and not a loose one
        assert e < 1.01 * gaussian_epsilon(sigma / size, 1e-5)


def test_fine_grids_cost_what_the_continuous_gaussian_costs() -> None:
    fine = [DiscreteGaussian(4.0, steps=2.0**20)] * 10
    value, method = epsilon(fine, 1e-5)
    assert value == pytest.approx(3.3414, abs=1e-3)
    assert method == "analytic-gaussian"
    assert value >= epsilon([Gaussian(4.0)] * 10, 1e-5)[0]
    mixed, _ = epsilon([*fine[:5], *[Gaussian(4.0)] * 5], 1e-5)
    assert mixed == pytest.approx(value, abs=1e-6)


def test_a_coarse_grid_falls_back_to_renyi() -> None:
    value, method = epsilon([DiscreteGaussian(1.0, steps=1.0)], 1e-5)
    assert (value, method) == (pytest.approx(4.7285, abs=1e-3), "rdp")
    assert pld_epsilon({DiscreteGaussian(1.0, steps=1.0): 1}, 1e-5) == math.inf


@pytest.mark.parametrize(("variance", "shift"), [(20.0, (1,)), (8.0, (1, 1)), (60.0, (3,))])
def test_epsilon_of_skellam_is_an_upper_bound(variance: float, shift: tuple[int, ...]) -> None:
    from scipy import stats

    most = 250
    x = np.arange(-most, most + 1)
    pmf = stats.skellam.pmf(x, variance / 2, variance / 2)
    loss, prob = np.zeros(1), np.ones(1)
    for s in shift:
        keep = np.flatnonzero((pmf > 1e-200) & (np.roll(pmf, s) > 1e-200))
        ratio = np.log(pmf[keep]) - np.log(np.roll(pmf, s)[keep])
        loss = np.add.outer(loss, ratio).ravel()
        prob = np.multiply.outer(prob, pmf[keep]).ravel()
    size = math.sqrt(sum(s * s for s in shift))
    event = Skellam(math.sqrt(variance) / size, steps=math.sqrt(variance), dimension=len(shift))
    e, method = epsilon([event], 1e-5)
    assert method == "rdp"
    true = float((prob * np.maximum(0.0, -np.expm1(e - loss))).sum())
    assert true <= 1e-5
    # Teeth: half of it would not hold.
    assert (prob * np.maximum(0.0, -np.expm1(e / 2 - loss))).sum() > 1e-5
    many, _ = epsilon({event: 10}, 1e-5)
    assert e < many < 10 * e
    mixed, _ = epsilon([event, Gaussian(3.0)], 1e-5)
    assert e < mixed < e + epsilon([Gaussian(3.0)], 1e-5)[0]


def test_samples_of_fixed_size_amplify() -> None:
    whole, _ = epsilon({Gaussian(2.0): 20}, 1e-5)
    sampled, method = epsilon({FixedSizeSampled(1000, 50, Gaussian(2.0)): 20}, 1e-5)
    assert method == "rdp"
    assert 0.1 < sampled < whole / 2
    from dp_accounting import (
        GaussianDpEvent,
        NeighboringRelation,
        SampledWithoutReplacementDpEvent,
        SelfComposedDpEvent,
    )
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    inner = SampledWithoutReplacementDpEvent(1000, 50, GaussianDpEvent(2.0))
    accountant.compose(SelfComposedDpEvent(inner, 20))
    assert sampled == pytest.approx(accountant.get_epsilon(1e-5))
    with pytest.raises(PrivacyError, match="source_size"):
        FixedSizeSampled(10, 11, Gaussian(1.0))
    with pytest.raises(PrivacyError, match="replace-one"):
        FixedSizeSampled(10, 5, Gaussian(1.0, relation=AOR))


@pytest.mark.parametrize(
    "event",
    [
        DiscreteGaussian(1.5, 2.0, "person", AOR, steps=300.0),
        Skellam(1.5, 2.0, steps=3.0, dimension=7),
        DiscreteLaplace(2.0, 3.0, "person"),
        FixedSizeSampled(100, 10, Gaussian(2.0)),
    ],
)
def test_events_travel(event: Event) -> None:
    assert from_dict(event.to_dict()) == event
    assert "unit" in event.to_dict() or "unit" in event.to_dict()["of"]


def test_noise_without_its_grid_is_refused() -> None:
    for values in (
        {"event": "discrete-gaussian", "noise_multiplier": 1.0},
        {"event": "discrete-gaussian", "noise_multiplier": 1.0, "steps": 0.0},
        {"event": "skellam", "noise_multiplier": 1.0, "steps": 3.0},
        {"event": "skellam", "noise_multiplier": 1.0, "steps": 3.0, "dimension": -1},
        {"event": "fixed-size-sampled", "source_size": 10, "sample_size": 11, "of": {}},
    ):
        with pytest.raises(PrivacyError):
            from_dict(values)


def test_pure_noise_on_a_grid_is_its_epsilon() -> None:
    assert epsilon([DiscreteLaplace(4.0)], 1e-5) == (0.25, "sum")
    few, _ = epsilon([DiscreteLaplace(4.0)] * 2, 1e-5)
    assert few <= 0.5
    many, method = epsilon([DiscreteLaplace(10.0)] * 60, 1e-5)
    assert many < 6.0
    assert method in {"pld", "rdp"}


def test_what_the_total_holds_for() -> None:
    assert guarantee([]) is None
    assert guarantee([Exact()]) is None
    assert guarantee([Gaussian(1.0, 1.0, "person", AOR)]) == ("person", AOR)
    assert guarantee([Gaussian(1.0, 1.0, "person", AOR), PureDP(1.0)]) == ("record", "replace-one")


def test_both_relations_are_brought_to_replace_one() -> None:
    one, other = Gaussian(4.0, relation=AOR), Gaussian(4.0)
    value, _ = epsilon([one, other], 1e-5)
    assert value == epsilon([Gaussian(2.0), Gaussian(4.0)], 1e-5)[0]
    value, _ = epsilon([PureDP(0.5, relation=AOR), PureDP(1.0)], 1e-5)
    assert value == pytest.approx(2.0, abs=1e-3)
    value, _ = epsilon([Laplace(4.0, relation=AOR), DiscreteLaplace(4.0)], 1e-5)
    assert value == pytest.approx(0.75, abs=1e-3)
    # Alone, each relation keeps its own.
    assert epsilon([one], 1e-5) == epsilon([other], 1e-5)


def test_sampled_rows_beside_replace_one_are_two_steps() -> None:
    sampled = {PoissonSampled(0.02, Gaussian(1.5, relation=AOR)): 100}
    rest = {Gaussian(5.0): 1}
    value, method = epsilon({**sampled, **rest}, 1e-5)
    assert method == "group"
    alone, _ = epsilon(sampled, 1e-5)
    assert value > 2 * alone + epsilon(rest, 1e-5)[0]
    assert value < 2 * epsilon(sampled, 1e-8)[0] + epsilon(rest, 5e-6)[0]


def test_discrete_noise_pays_for_its_distance_from_the_law() -> None:
    event = DiscreteGaussian(4.0, steps=2.0**30)
    value, _ = epsilon({event: 1}, 1e-5)
    assert gaussian_delta(0.25, value) <= 1e-5 * (1 - 1e-10)
    # Too many, or too small a delta, for that distance: no promise.
    assert epsilon({event: 1}, 1e-28) == (math.inf, "unaccounted")
    assert math.isfinite(epsilon({event: 1}, 1e-24)[0])
    assert math.isfinite(epsilon({event: 10**6}, 1e-9)[0]) is False
    assert math.isfinite(epsilon({DiscreteGaussian(4e3, steps=2.0**30): 10**6}, 1e-9)[0])


def test_renyi_of_a_discrete_gaussian_is_the_continuous_one() -> None:
    discrete = rdp_epsilon({DiscreteGaussian(3.0, steps=9.0): 4}, 1e-6)
    assert discrete == rdp_epsilon({Gaussian(3.0): 4}, 1e-6)
