"""Robust rules against their definitions, and against a minority that may send anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.errors import RoundError
from folkmoot.params import Params, parse_params
from folkmoot.params.defence import Defence
from pipelines.coordinator.aggregate.robust import RULES, combine, evened

ALL = [*RULES, "centred_clipping"]


def defence(rule: str, hostile: int = 1, **more: object) -> Defence:
    if rule == "fltrust":
        more["trusted_site"] = "site-a"
    return Defence.model_validate({"mode": "robust", "rule": rule, "hostile": hostile, **more})


def test_median_and_trimmed_mean_are_the_coordinates_own() -> None:
    changes = np.array([[1.0, 10.0], [2.0, -5.0], [9.0, 0.0], [3.0, 1.0], [-8.0, 2.0]])
    assert combine(changes, defence("median")).tolist() == [2.0, 1.0]
    assert combine(changes, defence("trimmed_mean")).tolist() == [2.0, 1.0]
    assert combine(changes, defence("trimmed_mean", hostile=0)) == pytest.approx([1.4, 1.6])


def test_krum_takes_one_update_and_multi_krum_the_mean_of_the_closest() -> None:
    crowd = np.array([[1.0, 1.0], [1.1, 1.0], [1.0, 1.1], [0.9, 1.0], [1.0, 0.9], [50.0, 50.0]])
    assert combine(crowd, defence("krum")).tolist() in crowd[:5].tolist()
    assert combine(crowd, defence("multi_krum")) == pytest.approx(crowd[:5].mean(axis=0))


def test_mixing_takes_the_mean_of_each_sites_neighbourhood() -> None:
    changes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [90.0, 90.0]])
    # The four nearest of each honest site are the honest sites; the hostile one's has itself in it.
    honest = changes[:4].mean(axis=0)
    assert combine(changes, defence("nearest_neighbour_mixing")) == pytest.approx(honest)
    everybody = combine(changes, defence("nearest_neighbour_mixing", hostile=0))
    assert everybody == pytest.approx(changes.mean(axis=0))


def test_mixing_stays_nearer_to_the_honest_mean_than_selecting_does() -> None:
    """Honest updates of different sizes, and hostile ones that try not to be noticed."""
    rng, off = np.random.default_rng(4), {"nearest_neighbour_mixing": 0.0, "multi_krum": 0.0}
    for _ in range(30):
        honest = (1 + rng.normal(size=(8, 10))) * rng.lognormal(0, 0.5, size=(8, 1))
        mean, spread = honest.mean(axis=0), honest.std(axis=0)
        for hidden in (mean - spread, mean - 1.5 * spread, -0.5 * mean, -honest[0]):
            changes = np.concatenate([honest, [hidden, hidden]])
            for rule in off:
                off[rule] += float(np.linalg.norm(combine(changes, defence(rule, 2)) - mean))
    assert off["nearest_neighbour_mixing"] < 0.9 * off["multi_krum"]


def params_of(**aggregation: object) -> Params:
    """Five sites that take a step per ten rows."""
    found: dict[str, object] = {"defence": {"mode": "robust"}, **aggregation}
    clip = found.pop("clip", None)
    return parse_params(
        {
            "federation": {"sites": [f"site-{i}" for i in range(5)]},
            "model": {"linear": {"strategy": "fedavg", "batch_size": 10}},
            "privacy": {"mechanism": "clip", "clip_norm": clip} if clip else {},
            "aggregation": found,
        }
    )


def test_a_site_with_more_rows_is_not_taken_for_hostile() -> None:
    """Changes as long as the steps they are of come out alike; a claim counts for two at most."""
    rows = np.array([10.0, 20.0, 15.0, 400.0, 1e9])
    changes = np.ceil(rows / 10)[:, None] * np.array([[1.0, 2.0]])
    same, counts = evened(changes, rows, params_of())
    # Two middling sites' rows (and steps) at most: 20 and 2, four.
    usual = (10 * 1 + 20 * 2 + 15 * 2 + 2 * 40 * 4) / (10 + 20 + 15 + 2 * 40)
    assert same == pytest.approx(np.broadcast_to([usual, 2 * usual], (5, 2)))
    assert counts is not None
    assert counts.tolist() == [10, 20, 15, 40, 40]
    found = combine(same, defence("nearest_neighbour_mixing"), rows=counts)
    assert found == pytest.approx(same[0])
    untouched, counts = evened(changes, rows, params_of(clip=0.5))
    assert (untouched == changes).all(), "clipped updates are of one length already"
    assert counts is not None
    for settings_ in (
        params_of(weighting="uniform"),
        params_of(defence={"mode": "robust", "rule": "multi_krum"}),
    ):
        untouched, counts = evened(changes, rows, settings_)
        assert (untouched == changes).all()
        assert counts is None


def test_rows_decide_what_a_neighbour_counts_for() -> None:
    changes = np.array([[0.0], [1.0], [2.0]])
    rows = np.array([1.0, 1.0, 2.0])
    found = combine(changes, defence("nearest_neighbour_mixing", hostile=0), rows=rows)
    assert found == pytest.approx([5 / 4])


@pytest.mark.parametrize("rule", ["nearest_neighbour_mixing", "multi_krum"])
@pytest.mark.parametrize("size", [1e160, 1e300])
def test_numbers_whose_squares_overflow_are_only_far_away(rule: str, size: float) -> None:
    honest = np.random.default_rng(5).normal(size=(7, 4))
    changes = np.concatenate([honest, [[size] * 4, [-size] * 4]])
    found = combine(changes, defence(rule, hostile=2))
    assert np.linalg.norm(found - honest.mean(axis=0)) < np.linalg.norm(honest, axis=1).max()


def test_the_geometric_median_has_the_least_summed_distance() -> None:
    changes = np.random.default_rng(1).normal(size=(9, 4))
    found = combine(changes, defence("geometric_median", hostile=2))
    least = np.linalg.norm(changes - found, axis=1).sum()
    for step in np.eye(4) * 1e-3:
        for sign in (-1, 1):
            assert np.linalg.norm(changes - found - sign * step, axis=1).sum() >= least - 1e-9


def test_centred_clipping_is_the_mean_where_nothing_is_clipped() -> None:
    changes = np.random.default_rng(2).normal(size=(6, 3))
    found = combine(changes, defence("centred_clipping", radius=1e6))
    assert found == pytest.approx(changes.mean(axis=0))


def test_fltrust_gives_nothing_to_updates_against_the_trusted_one() -> None:
    changes = np.array([[1.0, 0.0], [-5.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    found = combine(changes, defence("fltrust", hostile=2), trusted=0)
    assert found == pytest.approx([1.0, 0.0]), "scaled to the trusted norm, weighted by the cosine"
    opposed = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert combine(opposed, defence("fltrust"), trusted=0).tolist() == [0.0, 0.0]


def test_fltrust_cannot_do_without_its_trusted_site() -> None:
    with pytest.raises(RoundError, match="site-a did not contribute"):
        combine(np.ones((3, 2)), defence("fltrust"), trusted=None)


@pytest.mark.parametrize(
    ("rule", "sites", "hostile"),
    [
        ("nearest_neighbour_mixing", 4, 2),
        ("median", 4, 2),
        ("trimmed_mean", 2, 1),
        ("krum", 4, 1),
        ("multi_krum", 6, 2),
    ],
)
def test_more_hostile_sites_than_a_rule_bears_are_refused(
    rule: str, sites: int, hostile: int
) -> None:
    with pytest.raises(RoundError, match="hostile"):
        combine(np.ones((sites, 2)), defence(rule, hostile))


@pytest.mark.parametrize("rule", ALL)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(1e-3, 1e12),
    together=st.booleans(),
)
def test_a_minority_cannot_carry_the_model_away(
    rule: str, seed: int, size: float, together: bool
) -> None:
    """Two of nine may send anything: what comes out stays within reach of the honest updates."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(7, 5))
    wild = rng.normal(size=(1 if together else 2, 5)) * size
    changes = np.concatenate([honest, np.broadcast_to(wild, (2, 5))])
    found = combine(changes, defence(rule, hostile=2))
    centre = honest.mean(axis=0)
    spread = np.linalg.norm(honest - centre, axis=1).max()
    assert np.linalg.norm(found - centre) <= 3 * spread
    mean = changes.mean(axis=0)
    if size > 1e4:
        assert np.linalg.norm(mean - centre) > 3 * spread, "the plain mean is carried away"


@pytest.mark.parametrize("rule", ALL)
def test_the_order_of_sites_does_not_matter_much(rule: str) -> None:
    changes = np.random.default_rng(3).normal(size=(8, 3))
    one = combine(changes, defence(rule, 2))
    other = combine(changes[::-1].copy(), defence(rule, 2))
    assert one == pytest.approx(other, abs=1e-9)
