"""Rounds end once the model has been calm for as long as was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from folkmoot.params import parse_params
from pipelines.hosts.embedded import run


@pytest.mark.parametrize(
    ("tolerance", "patience", "rounds", "stop"),
    [(9.0, 1, 1, "converged"), (9.0, 3, 3, "converged"), (9.0, 6, 5, None), (0.0, 1, 5, None)],
)
def test_patience_counts_calm_rounds_in_a_row(
    workspace_of: Callable[..., Path], tolerance: float, patience: int, rounds: int, stop: str
) -> None:
    """No model moves by nine times its own size, so that every round is calm."""
    settings = parse_params(
        {},
        [
            "tracking.enabled=false",
            "model.linear.strategy=fedavg",
            "model.linear.rounds=5",
            f"model.linear.early_stopping.tolerance={tolerance}",
            f"model.linear.early_stopping.patience={patience}",
        ],
    )
    result = run(settings, run="r", workspace=workspace_of(settings))
    assert (result["rounds"], result["stop"]) == (rounds, stop)
