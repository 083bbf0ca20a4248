"""Secure sums on every host: the same model, and a site that is lost between upload and answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.params import Params, parse_params
from folkmoot.wire import decode

RUN = "masked"


MASKED: dict[str, Any] = {
    "model": {"linear": {"strategy": "fedavg", "rounds": 2}},
    "aggregation": {"protection": "masks"},
    "tracking": {"enabled": False, "baselines": False},
}


def folder(workspace: Path) -> Path:
    return workspace / "exchange" / "demo" / "runs" / RUN


def arrays(workspace: Path, round: int) -> dict[str, bytes]:
    model = decode((folder(workspace) / f"round-{round:03d}" / "model").read_bytes(), kind="model")
    return {name: array.tobytes() for name, array in model.arrays.items()}


def schema(workspace: Path) -> bytes:
    return (folder(workspace) / "round-000" / "schema.json").read_bytes()


def embedded(params: Params, workspace: Path) -> dict[str, Any]:
    from pipelines.hosts.embedded import run

    return run(params, run=RUN, workspace=workspace)


def dvc(params: Params, workspace: Path) -> dict[str, Any]:
    from pipelines.hosts.dvc import run

    return run(params, run=RUN, workspace=workspace)


def airflow(params: Params, workspace: Path) -> dict[str, Any]:
    from pipelines.hosts.airflow_run import run

    return run(params, run=RUN, workspace=workspace)


@pytest.mark.slow
def test_dvc_agrees_with_the_embedded_host(workspace_of: Callable[..., Path]) -> None:
    # The sites settle on levels first, by a sum as well.
    agreed = {"recoding": "agreed", "k": 5, "suppression_limit": 1.0}
    params = parse_params(
        {
            "federation": {"sites": ["site-a", "site-b", "site-c"]},
            "data": {"recipe": "synthetic", "rows": 900},
            "anonymisation": agreed,
            **MASKED,
        }
    )
    one, other = workspace_of(params, "embedded"), workspace_of(params, "dvc")
    first, second = embedded(params, one), dvc(params, other)
    for round in range(3):
        assert arrays(one, round) == arrays(other, round)
    assert schema(one) == schema(other)
    assert first["metrics"] == second["metrics"]


class Absent(threading.Thread):
    """Takes a site's folder away once a round's survivors are listed, until the round is closed."""

    def __init__(self, workspace: Path, site: str) -> None:
        super().__init__(daemon=True)
        self.listed = folder(workspace) / "round-001" / "survivors.json"
        self.closed = folder(workspace) / "round-001" / "record.json"
        self.settings = workspace / "sites" / site / "site.toml"
        self.taken = False

    def run(self) -> None:
        until = time.monotonic() + 280
        while not self.listed.exists() and time.monotonic() < until:
            time.sleep(0.005)
        away = self.settings.with_suffix(".away")
        self.settings.rename(away)
        self.taken = True
        while not self.closed.exists() and time.monotonic() < until:
            time.sleep(0.05)
        away.rename(self.settings)


@pytest.mark.slow
def test_airflow_goes_on_without_a_site_that_is_lost_between(
    workspace_of: Callable[..., Path],
) -> None:
    data = {"scaling": "federation"}
    params = parse_params({"federation": {"quorum": 3}, "data": data, **MASKED})
    one, other = workspace_of(params, "embedded"), workspace_of(params, "airflow")
    embedded(params, one)
    absent = Absent(other, "site-d")
    absent.start()
    airflow(params, other)
    absent.join()
    assert absent.taken
    # site-d contributed before it was lost: the sum is the same, and nobody ran again.
    record = json.loads((folder(other) / "round-001" / "record.json").read_text())
    assert record["secure"]["silent"] == ["site-d"]
    assert sorted(record["participants"]) == ["site-a", "site-b", "site-c", "site-d"]
    for round in range(3):
        assert arrays(one, round) == arrays(other, round)
    again = json.loads((folder(other) / "round-002" / "record.json").read_text())
    assert again["secure"]["silent"] == []
    assert sorted(again["participants"]) == ["site-a", "site-b", "site-c", "site-d"]
