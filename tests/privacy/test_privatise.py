"""The privatise step: what each mechanism does to a part, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from folkmoot.errors import FolkmootError, PrivacyError
from folkmoot.params import Privacy
from folkmoot.privacy.events import PureDP
from folkmoot.privacy.release import charge
from folkmoot.updates import LinearUpdate, Statistics, TreeUpdate
from site_tasks import privatise as module
from site_tasks.privatise import TrainedPrivately, privatise, seed_of

NONE = Privacy()
CLIP = Privacy(mechanism="clip", clip_norm=2.0)
GAUSSIAN = Privacy(mechanism="gaussian", clip_norm=0.5, noise_multiplier=3.0)
LIBRARY = Privacy(mechanism="diffprivlib", epsilon=1.0)


def linear(*values: float, weight: float = 1.0, **more: Any) -> LinearUpdate:
    return LinearUpdate({"delta": np.array([values]), **more}, weight)


def norm(part: Any) -> float:
    return math.sqrt(sum(float(np.sum(a**2)) for a in part.arrays.values()))


def test_none_changes_nothing_and_says_so() -> None:
    trees = TreeUpdate(b"[]", 5.0)
    for part in (linear(1e9, -3.0, weight=7.0), trees):
        out = privatise({"update": part}, NONE)
        assert out.parts["update"] == part
        assert out.events == {"update": {"event": "exact"}}


@given(
    arrays.arrays(float, (2, 4), elements=st.floats(-1e200, 1e200)),
    arrays.arrays(float, (3,), elements=st.floats(-1e-3, 1e3)),
    st.floats(1e-6, 1e6),
)
def test_clipping_bounds_all_arrays_together(delta: Any, control: Any, bound: float) -> None:
    part = LinearUpdate({"delta": delta, "control": control}, 1.0)
    out = privatise({"update": part}, Privacy(mechanism="clip", clip_norm=bound)).parts["update"]
    # hypot does not overflow where the sum of squares would
    size = math.hypot(*np.concatenate([delta.ravel(), control]))
    after = math.hypot(*np.concatenate([a.ravel() for a in out.arrays.values()]))
    assert after <= bound
    if size <= bound * (1 - 1e-9):
        np.testing.assert_array_equal(out.arrays["delta"], delta)
    elif size > bound * 1.001 and size < 1e100:
        np.testing.assert_allclose(
            out.arrays["delta"] * (size / bound), delta, rtol=1e-6, atol=1e-9 * size
        )


def test_noise_has_the_deviation_that_the_event_claims() -> None:
    """Zero update, 200,000 numbers: deviation within 1 %, mean about 0, normal."""
    from scipy import stats

    out = privatise({"update": linear(*np.zeros(200_000))}, GAUSSIAN)
    event = out.events["update"]
    assert event["event"] == "gaussian"
    assert event["noise_multiplier"] == 3.0
    assert event["sensitivity"] == 1.0  # twice the clip norm: replace-one
    assert (event["unit"], event["relation"]) == ("record", "replace-one")
    noise = np.ravel(out.parts["update"].arrays["delta"])
    claimed = event["noise_multiplier"] * event["sensitivity"]
    assert noise.std() == pytest.approx(claimed, rel=0.01)
    assert abs(noise.mean()) < 5 * claimed / math.sqrt(noise.size)
    assert stats.kstest(noise / claimed, "norm").pvalue > 1e-4


@given(arrays.arrays(float, 9, elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_what_the_noise_hides_is_never_longer_than_the_clip_norm(values: Any) -> None:
    """Whatever comes in, also NaN: the sensitivity holds after rounding to the grid."""
    silent = pytest.MonkeyPatch()
    with silent.context() as patch:
        patch.setattr(module, "discrete_gaussian", lambda sigma, n, _: np.zeros(n, np.int64))
        out = privatise({"update": linear(*values)}, GAUSSIAN).parts["update"]
    assert norm(out) <= GAUSSIAN.clip_norm


def test_noisy_values_lie_on_one_grid() -> None:
    """Low bits would tell of the value below the noise."""
    out = privatise({"update": linear(*np.linspace(-1, 1, 1001))}, GAUSSIAN).parts["update"]
    grid = 2.0 ** math.floor(math.log2(3.0 * 2.0**-30))
    steps = np.ravel(out.arrays["delta"]) / grid
    np.testing.assert_array_equal(steps, np.rint(steps))


def test_noise_is_drawn_anew_every_time() -> None:
    one, two = (
        privatise({"update": linear(0.0, 0.0)}, GAUSSIAN).parts["update"].arrays["delta"]
        for _ in range(2)
    )
    assert not np.array_equal(one, two)


def test_seeded_noise_repeats_for_one_release_only() -> None:
    seeded = GAUSSIAN.model_copy(update={"seeded": True, "seed": 5})
    draws = [
        privatise({"update": linear(0.0, 0.0)}, seeded, seed=seed_of(seeded, release))
        .parts["update"]
        .arrays["delta"]
        for release in ("a", "a", "b")
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert seed_of(GAUSSIAN, "a") is None


@pytest.mark.parametrize(("privacy", "seed"), [(GAUSSIAN, b"x"), ("seeded", None)])
def test_a_seed_where_none_belongs_is_refused(privacy: Any, seed: bytes | None) -> None:
    plan = GAUSSIAN.model_copy(update={"seeded": True}) if privacy == "seeded" else privacy
    with pytest.raises(PrivacyError) as caught:
        privatise({"update": linear(0.0)}, plan, seed=seed)
    assert caught.value.code == "privacy.seeded"


def test_statistics_leave_exactly_and_unaccounted() -> None:
    counts = Statistics({"rows": np.array(17), "sum": np.array([1.5, 2.5])})
    for privacy in (NONE, CLIP):
        out = privatise({"evaluation": counts}, privacy)
        assert out.parts["evaluation"] is counts
        assert out.events == {"evaluation": {"event": "exact"}}
    for privacy in (GAUSSIAN, LIBRARY):
        with pytest.raises(PrivacyError, match="Exact counts do not leave"):
            privatise({"evaluation": counts}, privacy)


@pytest.mark.parametrize(
    ("part", "privacy", "remedy"),
    [
        (TreeUpdate(b"[]", 1.0), CLIP, "none"),
        (TreeUpdate(b"[]", 1.0), GAUSSIAN, "none"),
        (TreeUpdate(b"[]", 1.0), LIBRARY, "none"),
        (linear(1.0, hessian=np.eye(2)), CLIP, "fedavg"),
        (linear(1.0, hessian=np.eye(2)), GAUSSIAN, "fedavg"),
        (linear(1.0, weight=120.0), GAUSSIAN, "uniform"),
        (linear(1.0), LIBRARY, "local_dp"),
        (TrainedPrivately(linear(1.0), PureDP(2.0)), LIBRARY, "diffprivlib"),
        (TrainedPrivately(linear(1.0), PureDP(1.0)), NONE, "diffprivlib"),
        (TrainedPrivately(linear(1.0, weight=9.0), PureDP(1.0)), LIBRARY, "uniform"),
    ],
)
def test_what_a_mechanism_cannot_promise_is_refused(
    part: Any, privacy: Privacy, remedy: str
) -> None:
    with pytest.raises(PrivacyError) as caught:
        privatise({"update": part}, privacy)
    assert caught.value.code == "privacy.mechanism"
    assert remedy in caught.value.remedy


def test_two_updates_under_one_charge_are_refused() -> None:
    with pytest.raises(PrivacyError):
        privatise({"update": linear(1.0), "more": linear(1.0)}, GAUSSIAN)


def test_the_charge_is_the_event() -> None:
    assert charge(NONE) == charge(CLIP) == {}
    (planned,) = charge(GAUSSIAN).values()
    assert privatise({"update": linear(1.0)}, GAUSSIAN).events["update"] == planned.to_dict()
    trained = TrainedPrivately(linear(1.0), PureDP(1.0))
    (planned,) = charge(LIBRARY).values()
    assert privatise({"update": trained}, LIBRARY).events["update"] == planned.to_dict()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_do_not_leave(bad: float) -> None:
    for part in (linear(1.0, bad), Statistics({"sum": np.array([bad])})):
        with pytest.raises(FolkmootError) as caught:
            privatise({"update": part}, NONE)
        assert caught.value.code == "round.diverged"
    out = privatise({"update": linear(1.0, bad)}, GAUSSIAN)  # a total mechanism: counts as zero
    assert np.isfinite(out.parts["update"].arrays["delta"]).all()
