"""What the coordinator makes of the sites' codes."""

from __future__ import annotations

import numpy as np
import pytest

from folkmoot.agreement import BEYOND, OVER
from folkmoot.errors import RoundError
from pipelines.coordinator.settle import choose


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
