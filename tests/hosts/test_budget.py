"""Rounds end before the planned epsilon is passed, and records tell what was spent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from folkmoot.exchange import ExchangeStore
from folkmoot.params import parse_params
from folkmoot.plan import keys
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Gaussian
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import open_context
from pipelines.hosts.walk import record

SETTINGS = [
    "tracking.enabled=false",
    "model.linear.strategy=fedavg",
    "model.linear.rounds=6",
    "data.scaling=bounds",
    "aggregation.weighting=uniform",
    "privacy.mechanism=gaussian",
    "privacy.noise_multiplier=2.0",
    "privacy.clip_norm=0.5",
]


@pytest.mark.parametrize("fits", [2, 3])
def test_rounds_end_before_the_budget_is_passed(
    workspace_of: Callable[..., Path], fits: int
) -> None:
    event = Gaussian(2.0, 1.0)
    after, beyond = (epsilon({event: n}, 1e-5)[0] for n in (fits, fits + 1))
    settings = parse_params({}, [*SETTINGS, f"privacy.epsilon={(after + beyond) / 2}"])
    workspace = workspace_of(settings)
    result = run(settings, run="r", workspace=workspace)
    assert (result["rounds"], result["stop"]) == (fits, "budget")
    assert {site["epsilon"] for site in result["privacy"].values()} == {after}
    assert result["private"]
    context = open_context("r", "demo", ExchangeStore(workspace / "exchange"), workspace)
    for round in range(1, fits + 1):
        found = record(context, round) or {}
        assert found["stop"] == (None if round < fits else "budget")
        for site in found["privacy"].values():
            assert site["events"] == [{**event.to_dict(), "count": round}]
    assert context.store.find(context.key(keys.record(fits + 1))) is None


def test_a_record_is_as_small_in_the_last_round_as_in_the_first(
    workspace_of: Callable[..., Path],
) -> None:
    settings = parse_params({}, [*SETTINGS, "privacy.mechanism=none", "federation.name=demo"])
    workspace = workspace_of(settings)
    run(settings, run="r", workspace=workspace)
    store = ExchangeStore(workspace / "exchange")
    sizes = [len(store.get(f"demo/runs/r/{keys.record(round)}")) for round in (2, 6)]
    assert sizes[1] <= sizes[0] + 100
