"""A real site folder, and runs of one federation on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.contract import Contract
from folkmoot.exchange import ArtifactRef, ExchangeStore
from folkmoot.params import parse_params
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.release import charge
from folkmoot.updates import LinearUpdate, ReleasedUpdate, Statistics, open_released
from site_tasks.home import SiteHome
from site_tasks.release import release
from site_tasks.settings import save_settings
from tests.conftest import agreed, copy_workspace

CONTRACT = Contract.model_validate(
    {
        "name": "two-columns",
        "task": "binary",
        "columns": [
            {"name": "x", "bounds": [0.0, 1.0]},
            {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]},
        ],
    }
)
GAUSSIAN = (
    "privacy.mechanism=gaussian",
    "privacy.noise_multiplier=2.0",
    "data.scaling=bounds",
    "aggregation.weighting=uniform",
    "model.linear.strategy=fedavg",
)


@dataclass
class Site:
    """A site's folder with what a step needs; ``made`` counts how often ``make`` ran."""

    home: SiteHome
    workspace: Path
    store: ExchangeStore
    made: int = 0
    delta: Any = field(default_factory=lambda: np.arange(6.0).reshape(1, 6))

    def context(self, *overrides: str, run: str = "r") -> RunContext:
        params = parse_params({}, overrides)
        roster = agreed(self.home, params.federation.members)
        return RunContext(run, params, CONTRACT, roster, self.store, self.workspace)

    def permit(self, **changes: Any) -> None:
        """Change ``site.toml``, as the steward would."""
        settings = self.home.settings
        permissions = settings.permissions.model_copy(update=changes)
        path = self.home.root / "site.toml"
        save_settings(settings.model_copy(update={"permissions": permissions}), path)
        self.home = SiteHome(self.home.root)

    def step(self, round: int = 1) -> Step:
        name = f"round-{round:03d}/train/{self.home.name}"
        return Step(name, "site.train_linear", self.home.name, round)

    def make(self, exact: bool = False) -> dict[str, Any]:
        self.made += 1
        parts: dict[str, Any] = {"update": LinearUpdate({"delta": self.delta}, 1.0)}
        return {**parts, "evaluation": Statistics({"rows": np.array(7)})} if exact else parts

    def release(self, context: RunContext, round: int = 1, **more: Any) -> ArtifactRef:
        options = {
            "key": keys.update(round, self.home.name),
            "inputs": ["a" * 64],
            "make": lambda: self.make(context.params.privacy.evaluates == "exact"),
            "fingerprint": "f" * 64,
            "costs": charge(context.params.privacy),
            **more,
        }
        return release(self.step(round), context, self.home, **options)

    def opened(self, context: RunContext, round: int = 1) -> ReleasedUpdate:
        data = self.store.get(context.key(keys.update(round, self.home.name)))
        expect = {
            "federation": context.federation,
            "run": context.run,
            "round": round,
            "site": self.home.name,
            "step": self.step(round).name,
        }
        return open_released(data, context.roster, expect)


@pytest.fixture(scope="session")
def empty_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("privacy") / "workspace" / "sites" / "site-a"
    home = SiteHome.create(root, "site-a", federations=["demo"])
    agreed(home, parse_params({}).federation.members)
    return root


@pytest.fixture
def site(empty_site: Path, tmp_path: Path) -> Site:
    workspace = tmp_path / "workspace"
    root = workspace / "sites" / "site-a"
    copy_workspace(empty_site, root)
    return Site(SiteHome(root), workspace, ExchangeStore(workspace / "exchange"))


@pytest.fixture
def gaussian() -> tuple[str, ...]:
    return GAUSSIAN


Make = Callable[[], Any]
