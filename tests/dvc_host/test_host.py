"""``pipelines.hosts.dvc.run``: the same bytes as the embedded host, errors raised as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import DataError, RoundError, TransientError
from folkmoot.params import Params, load_params, parse_params
from pipelines.coordinator import lock
from pipelines.hosts import dvc
from pipelines.hosts.dvc_stages import failure

from .conftest import SETTINGS, Checkout

pytestmark = pytest.mark.slow


@pytest.fixture
def params() -> Params:
    return parse_params(SETTINGS)


def test_a_sites_error_is_raised_as_it_was(
    params: Params, workspace_of: Callable[..., Path]
) -> None:
    from site_tasks.home import SiteHome

    workspace = workspace_of(params)
    SiteHome.find("north", workspace).dataset.write_bytes(b"not the rows that DVC recorded")
    with pytest.raises(DataError) as caught:
        dvc.run(params, workspace=workspace)
    assert (caught.value.code, caught.value.site) == ("data.version", "north")


def test_another_run_in_progress(params: Params, workspace_of: Callable[..., Path]) -> None:
    workspace = workspace_of(params)
    lock.acquire(workspace, "pair", "other", "embedded", 60)
    with pytest.raises(RoundError) as caught:
        dvc.run(params, workspace=workspace)
    assert caught.value.code == "round.busy"
    lock.release(workspace, "pair", "other")


def test_a_project_keeps_each_outcome(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout.folder)
    file = Path("params.yaml")
    first = dvc.run(load_params(file), params_file=file)
    assert first["run"].startswith("dvc-")
    checkout.change(model={"rounds": 3})
    second = dvc.run(load_params(file), params_file=file)
    assert second["rounds"] == 3
    assert second["run"] != first["run"]
    runs = checkout.project.stored("").parent
    for result in (first, second):
        kept = json.loads((runs / result["run"] / "final/result.json").read_text())
        assert kept["model_digest"] == result["model_digest"]
    assert failure(checkout.project) is None
    # A run with overrides leaves the project alone, though it shares the sites.
    changed = ["model.linear.rounds=1"]
    other = dvc.run(load_params(file, changed), params_file=file)
    assert (other["rounds"], other["run"].startswith("linear-")) == (1, True)
    assert checkout.repro("report") == []


def test_another_dvc_command_is_running(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(checkout.folder)
    params: Any = load_params("params.yaml")
    with (
        Repo(".") as repo,
        repo.lock,
        pytest.raises(TransientError) as caught,
    ):
        dvc.run(params, params_file=Path("params.yaml"))
    assert caught.value.code == "transient.locked"
