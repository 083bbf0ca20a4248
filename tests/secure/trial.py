"""A federation under masks that is walked step by step, and how its refusals are expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import FolkmootError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext
from folkmoot.wire import decode
from pipelines.coordinator.open_round import open_run
from pipelines.hosts.execute import execute
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of

NAMES = ["a", "b", "c", "d", "e"]
SITES = ["site-a", "site-b", "site-c", "site-d", "site-e"]
BASE = {
    "federation": {"sites": SITES, "quorum": 4},
    "data": {"recipe": "synthetic", "rows": 400, "columns": 4},
    "tracking": {"enabled": False},
}


def settings(strategy: str = "fedavg", rounds: int = 2, **sections: Any) -> Params:
    values: dict[str, Any] = json.loads(json.dumps(BASE))
    values["model"] = {"linear": {"strategy": strategy, "rounds": rounds}}
    values["aggregation"] = {"protection": "masks"}
    for section, more in sections.items():
        values.setdefault(section, {}).update(more)
    return parse_params(values)


def model_of(workspace: Path, result: dict[str, Any]) -> Any:
    root = workspace / "exchange" / "demo" / "runs" / result["run"]
    return decode((root / result["model"]).read_bytes(), kind="model")


class Trial:
    """A federation that is walked step by step, with a hand on everything in between."""

    def __init__(self, params: Params, workspace: Path) -> None:
        contract = contract_for(params)
        self.plan = plan_of(params, contract)
        self.workspace = workspace
        store = ExchangeStore(workspace / "exchange")
        self.context = open_run(params, contract, roster_for(workspace), "r", store, workspace)

    def fresh(self) -> RunContext:
        """As another process would have it."""
        old = self.context
        return RunContext(old.run, old.params, old.contract, old.roster, old.store, old.workspace)

    def walk(self, *stages: str, until: str = "", without: tuple[str, ...] = ()) -> None:
        for stage in stages:
            for step in self.plan.stage(stage):
                if until and until in step.name:
                    return
                if step.place not in without:
                    execute(step, self.fresh())

    def path(self, key: str) -> Path:
        return self.workspace / "exchange" / self.context.key(key)

    def refused(self, step: str, code: str, *words: str) -> None:
        refused(lambda: execute(self.plan.step(step), self.fresh()), code, *words)


def refused(call: Callable[[], Any], code: str, *words: str) -> None:
    """Expect an error of this code that says these words."""
    with pytest.raises(FolkmootError) as caught:
        call()
    assert caught.value.code == code, str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
