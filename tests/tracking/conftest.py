"""One real federation in a real MLflow on SQLite, made once and shared by tests that read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext
from pipelines.coordinator import mlflow_store, tracking
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import open_context, store_of
from tests.conftest import copy_workspace

FEDERATION = {"federation": {"name": "clinic", "sites": ["north", "south"]}}


def settings(*overrides: str) -> Params:
    return parse_params(FEDERATION, overrides)


def context_of(params: Params, name: str, workspace: Path) -> RunContext:
    """A context as a fresh process has it: nothing remembered."""
    return open_context(name, params.federation.name, store_of(params, workspace), workspace)


def train(params: Params, name: str, workspace: Path) -> RunContext:
    run(params, run=name, workspace=workspace)
    return context_of(params, name, workspace)


@dataclass(frozen=True)
class Tracked:
    params: Params
    workspace: Path
    context: RunContext
    client: Any
    run_id: str
    registered: tracking.Registered


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database after its migrations, which take seconds: copied, never opened again."""
    workspace = tmp_path_factory.mktemp("mlflow")
    mlflow_store.connect(settings(), workspace)
    return workspace / "coordinator" / "mlflow.db"


@pytest.fixture(scope="session")
def new_workspace(
    prototype: Callable[..., Path], database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Params], Path]:
    """A workspace with sites of its own and a fresh MLflow."""

    def make(params: Params) -> Path:
        workspace = tmp_path_factory.mktemp("tracking") / "workspace"
        copy_workspace(prototype(params), workspace)
        (workspace / "coordinator").mkdir(exist_ok=True)
        shutil.copy(database, workspace / "coordinator" / "mlflow.db")
        return workspace

    return make


@pytest.fixture(scope="session")
def tracked(new_workspace: Callable[[Params], Path]) -> Tracked:
    """A linear training of four rounds, tracked and registered; only to be read."""
    params = settings("model.linear.rounds=4", "model.linear.early_stopping.tolerance=0")
    workspace = new_workspace(params)
    context = train(params, "first", workspace)
    state = tracking.sync(context)
    registered = tracking.register(context)
    client = mlflow_store.connect(params, workspace)
    return Tracked(params, workspace, context, client, state.run_id, registered)
