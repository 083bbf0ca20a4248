"""A federation of three sites that trains in live sessions, and what is left of their processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.live.process import Child
from folkmoot.params import Params, parse_params
from pipelines.hosts.embedded import run
from site_tasks.live import train as live
from tests.conftest import copy_workspace

SITES = ["a", "b", "c"]


def params(*overrides: str, **sections: Any) -> Params:
    """Six trees of depth 3, in one session unless the overrides say otherwise."""
    trees = {"strategy": "xgboost_federated", "rounds": 1, "trees_per_round": 6, "max_depth": 3}
    values = {
        "federation": {"sites": SITES, "deadline_seconds": 120},
        "data": {"recipe": "breast_cancer"},
        "model": {"kind": "trees", "trees": trees},
        "aggregation": {"evaluate_every": 1},
        "tracking": {"enabled": False},
        **sections,
    }
    return parse_params(values, overrides)


class Watched(Child):
    """A worker that a test can meddle with; all that were started are remembered."""

    started: list[Watched] = []
    meddle: Callable[[Watched, dict[str, Any]], None] = staticmethod(lambda child, said: None)
    site = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Watched.started.append(self)

    def give(self, values: Any) -> None:
        self.site = SITES[values["rank"]]
        super().give(values)

    def said(self, wait: float = 0.0) -> dict[str, Any] | None:
        found = super().said(wait)
        if found is not None:
            Watched.meddle(self, found)
        return found


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    """The workers that a test starts."""
    monkeypatch.setattr(live, "Child", Watched)
    monkeypatch.setattr(Watched, "started", [])
    return Watched


@pytest.fixture(scope="session")
def undisturbed(
    prototype: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A workspace after a run of one session, and the run's result."""
    settings = params()
    workspace = copy_workspace(prototype(settings), tmp_path_factory.mktemp("live") / "workspace")
    return workspace, run(settings, run="one", workspace=workspace)
