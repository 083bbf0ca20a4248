"""What the coordinator makes of the sites' codes."""

from __future__ import annotations

import numpy as np
import pytest

from folkmoot.agreement import BEYOND, OVER, STEPS, votes
from folkmoot.errors import RoundError
from pipelines.coordinator.settle import choose, choose_summed


def codes(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def test_the_least_summed_loss_that_all_satisfy() -> None:
    said = {"a": codes(0, 1, BEYOND), "b": codes(5, 2, 0), "c": codes(4, 0, 1)}
    found = choose(said, np.zeros(3), 1.0, 3)
    assert found.node == 1
    assert found.steps == {"a": 0.005, "b": 0.01, "c": 0.0025}
    assert found.left_out == ()


def test_ties_go_to_the_public_loss() -> None:
    said = {"a": codes(1, 1, 1), "b": codes(2, 2, 2)}
    assert choose(said, np.array([0.3, 0.1, 0.2]), 1.0, 2).node == 1


def test_one_limit_does_not_pull_everybody_down() -> None:
    small = codes(OVER, 0)
    said = {"a": codes(0, 5), "b": codes(0, 5), "small": small}
    with pytest.raises(RoundError, match=r"limit of suppression of site small .* 7\.8%") as caught:
        choose(said, np.zeros(2), 0.02, 3)
    assert caught.value.code == "round.schema"
    assert choose(said, np.zeros(2), 0.1, 3).node == 1  # whoever wants it may have it
    found = choose(said, np.zeros(2), 0.02, 2)  # the quorum can do without
    assert found.node == 0
    assert found.left_out == ("small",)


def test_no_node_for_all() -> None:
    said = {"a": codes(0, BEYOND), "b": codes(BEYOND, 0), "c": codes(0, 1)}
    with pytest.raises(RoundError, match="leaves no levels that suit all"):
        choose(said, np.zeros(2), 1.0, 3)
    assert len(choose(said, np.zeros(2), 1.0, 2).left_out) == 1
    with pytest.raises(RoundError, match="No levels suit all sites"):
        choose({"a": codes(BEYOND)}, np.zeros(1), 1.0, 1)


def summed(said: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    each = [votes(codes) for codes in said.values()]
    return {name: np.sum([one[name] for one in each], axis=0) for name in each[0]}


def test_sums_lead_to_the_same_node() -> None:
    draw = np.random.default_rng(3)
    values = [*range(len(STEPS)), *(OVER | i for i in range(len(STEPS))), BEYOND]
    same = 0
    for _ in range(300):
        said = {s: draw.choice(values, 40, p=[0.6 / 6] * 6 + [0.3 / 6] * 6 + [0.1]) for s in "abc"}
        said = {site: one.astype(np.uint8) for site, one in said.items()}
        heights = draw.random(40)
        try:
            expected = choose(said, heights, 1.0, 3)
        except RoundError:
            with pytest.raises(RoundError):
                choose_summed(summed(said), 3, heights, 1.0)
            continue
        found = choose_summed(summed(said), 3, heights, 1.0)
        assert found.node == expected.node
        assert found.steps["*"] == pytest.approx(np.mean([*expected.steps.values()]))
        same += 1
    assert same > 50


def test_sums_guard_against_a_limit_and_against_one_site() -> None:
    said = {"a": codes(0, 5), "b": codes(0, 5), "small": codes(OVER, 0)}
    with pytest.raises(RoundError, match=r"each of 3 sites 5\.2%.*Under masks nobody"):
        choose_summed(summed(said), 3, np.zeros(2), 0.02)
    assert choose_summed(summed(said), 3, np.zeros(2), 0.06).node == 1
    # No limit here: one site of many cannot live with what suits all others.
    said = {**{s: codes(0, 5) for s in "abcdefgh"}, "small": codes(BEYOND, 0)}
    with pytest.raises(RoundError, match="9 sites"):
        choose_summed(summed(said), 9, np.zeros(2), 0.02)
    none = {"a": codes(0, BEYOND), "b": codes(BEYOND, 0)}
    with pytest.raises(RoundError, match="No levels suit all sites"):
        choose_summed(summed(none), 2, np.zeros(2), 1.0)
