"""What makes two releases the same release, and what must not."""

from __future__ import annotations

from typing import Any

import pytest

from folkmoot.params import parse_params
from folkmoot.privacy.release import release_id

ONE: dict[str, Any] = {
    "federation": "demo",
    "run": "r",
    "round": 1,
    "site": "site-a",
    "step": "round-001/train/site-a",
    "inputs": ["a" * 64, "b" * 64],
}


def identity(*overrides: str, **changes: Any) -> str:
    return release_id(**{**ONE, **changes}, params=parse_params({}, overrides))


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": "other"},
        {"run": "s"},
        {"round": 2},
        {"site": "site-b"},
        {"step": "final/evaluate/site-a"},
        {"inputs": ["a" * 64, "c" * 64]},
        {"inputs": ["b" * 64, "a" * 64]},
        {"inputs": ["a" * 64]},
    ],
)
def test_another_question_is_another_release(changes: dict[str, Any]) -> None:
    """Other rows or another incoming model must never be answered with stored bytes."""
    assert identity(**changes) != identity()


@pytest.mark.parametrize(
    "override",
    [
        "model.linear.l2=2.0",
        "model.linear.strategy=scaffold",
        "model.kind=trees",
        "privacy.mechanism=clip",
        "privacy.clip_norm=2.0",
        "privacy.delta=1.0e-6",
        "aggregation.weighting=uniform",
        "aggregation.evaluate_every=2",
    ],
)
def test_another_setting_is_another_release(override: str) -> None:
    base = ["model.linear.strategy=fedavg"]  # clipping does not go with newton
    assert identity(*base, override) != identity(*base)


@pytest.mark.parametrize(
    "override",
    [
        "model.linear.rounds=99",
        "model.linear.early_stopping.tolerance=0.5",
        "model.trees.eta=0.1",
        "tracking.enabled=false",
        "federation.deadline_seconds=5",
        "federation.workspace=elsewhere",
    ],
)
def test_a_run_that_is_prolonged_releases_nothing_twice(override: str) -> None:
    assert identity(override) == identity()
