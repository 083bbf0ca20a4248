"""``dvc repro`` in a real project: what runs again after which change, and that noise stands."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from folkmoot.plan import keys
from folkmoot.wire import decode
from pipelines.hosts import embedded
from site_tasks import dataset
from tests.conftest import copy_workspace

from .conftest import Checkout, environment, git

pytestmark = pytest.mark.slow


def test_a_second_repro_runs_nothing(checkout: Checkout) -> None:
    assert checkout.repro() == []


def test_one_more_round_runs_that_round_alone(checkout: Checkout) -> None:
    before = [checkout.model(round) for round in range(3)]
    checkout.change(model={"rounds": 3})

    stale = checkout.dvc("repro", check=False)
    assert "config.stale" in stale
    assert "folkmoot plan render" in stale

    assert checkout.project.render()
    assert checkout.repro() == ["round-003", "evaluate", "report", "publish"]
    assert [checkout.model(round) for round in range(3)] == before
    shown = json.loads(checkout.dvc("metrics", "show", "--json"))
    metrics = shown[""]["data"]["report/metrics.json"]["data"]
    assert metrics["rounds"] == 3
    assert 0.9 < metrics["overall"]["auc"] <= 1
    changed = json.loads(checkout.dvc("params", "diff", "--json"))
    assert changed["params.yaml"]["model.linear.rounds"] == {"old": 2, "new": 3, "diff": 1}
    plots = json.loads(checkout.dvc("plots", "show", "--json"))["data"]
    assert set(plots) == {"auc over rounds", "log_loss over rounds", "auc per site"}
    points = plots["auc over rounds"][0]["content"]["data"]["values"]
    assert [point["round"] for point in points] == ["1", "2", "3"]
    # Fewer rounds again: DVC has the evaluation in its cache, and the third round is forgotten.
    checkout.change(model={"rounds": 2})
    checkout.project.render()
    assert checkout.repro("report") == ["report"]
    assert not checkout.project.stored("round-003").exists()
    assert json.loads((checkout.folder / "report/metrics.json").read_text())["rounds"] == 2


def test_settings_run_again_only_what_they_influence(checkout: Checkout) -> None:
    checkout.change(model={"l2": 2.0})
    rounds = ["round-001", "round-002"]
    before = checkout.model(2)
    assert checkout.repro("report") == [*rounds, "evaluate", "report"]
    assert checkout.model(2) != before
    checkout.change(tracking={"model_name": "other"})
    checkout.project.render()
    assert checkout.repro("report") == ["evaluate", "report"]


def test_anonymising_is_repeated_for_new_rows_and_its_own_settings_alone(
    checkout: Checkout,
) -> None:
    table = {"recipe": "synthetic", "rows": 400, "scaling": "federation"}
    checkout.change(data=table, anonymisation={"k": 5, "recoding": "local"})
    checkout.project.render()
    prepared = ["prepare-north", "prepare-south"]
    ran = checkout.repro(*prepared)
    assert {"anonymise-north", "anonymise-south", *prepared} <= set(ran)
    assert (checkout.project.state / "anonymised" / "north.json").exists()
    checkout.change(model={"l2": 2.0}, data={"holdout": {"fraction": 0.3}})
    checkout.project.render()
    ran = checkout.repro(*prepared)
    assert "prepare-north" in ran
    assert not [name for name in ran if name.startswith("anonymise")]
    home = checkout.site("south")
    rows = pd.read_parquet(home.dataset)
    dataset.add(home, pd.concat([rows, rows.iloc[:20]], ignore_index=True), "Add twenty rows")
    ran = checkout.repro(*prepared)
    assert [name for name in ran if name.startswith("anonymise")] == ["anonymise-south"]


def test_a_new_dataset_version_runs_its_site_and_going_back_restores(checkout: Checkout) -> None:
    first = checkout.model(2)
    home = checkout.site("south")
    rows = pd.read_parquet(home.dataset)
    dataset.add(home, rows.iloc[:-20], "Leave twenty rows out")
    ran = checkout.repro("report")
    assert "prepare-south" in ran
    assert "prepare-north" not in ran
    assert {"initialise", "round-001", "round-002"} <= set(ran)
    second = checkout.model(2)
    assert second != first
    # The site goes back; DVC may bring everything from its cache, a further round must not mix.
    git(home.root, "checkout", "--quiet", "HEAD~1", "--", "data")
    Checkout(home.root).dvc("checkout")
    checkout.repro("report")
    assert checkout.model(2) == first
    checkout.change(model={"rounds": 3})
    checkout.project.render()
    checkout.repro("report")
    record = json.loads(checkout.project.stored(keys.record(3)).read_text())
    assert record["datasets"]["south"] == dataset.resolve(home).fingerprint


def test_noise_is_never_drawn_twice(checkout: Checkout) -> None:
    from folkmoot.privacy.ledger import Ledger

    private = {"mechanism": "gaussian", "noise_multiplier": 2.0, "clip_norm": 0.5}
    checkout.change(
        model={"strategy": "fedavg", "rounds": 1},
        privacy=private,
        aggregation={"weighting": "uniform"},
    )
    checkout.project.render()
    checkout.repro("report")
    update = checkout.update(1, "north")
    entries = len(Ledger(checkout.site("north").ledger_path, "north").entries())
    assert entries
    assert checkout.repro("--force", "--single-item", "round-001") == ["round-001"]
    assert checkout.update(1, "north") == update
    # Even where DVC's own cache is lost and everything runs again.
    checkout.repro("--force", "report")
    assert checkout.update(1, "north") == update
    assert len(Ledger(checkout.site("north").ledger_path, "north").entries()) == entries
    epsilon = json.loads((checkout.folder / "report/metrics.json").read_text())["epsilon"]
    assert set(epsilon) == {"north", "south"}
    assert all(value > 0 for value in epsilon.values())
    lines = (checkout.folder / "report/rounds.csv").read_text().splitlines()
    assert lines[0].split(",")[-1] == "epsilon"


def test_rounds_after_an_early_stop_pass_through(checkout: Checkout) -> None:
    checkout.change(model={"rounds": 4, "early_stopping": {"tolerance": 1e6, "patience": 1}})
    checkout.project.render()
    checkout.repro("report")
    result = json.loads(checkout.project.stored(keys.RESULT).read_text())
    assert (result["rounds"], result["stop"]) == (1, "converged")
    for round in (2, 3, 4):
        passed = json.loads(checkout.project.stored(f"round-{round:03d}/passed.json").read_text())
        assert (passed["ended"], passed["stop"]) == (1, "converged")
        assert not checkout.project.stored(keys.model(round)).exists()
    assert len((checkout.folder / "report/rounds.csv").read_text().splitlines()) == 2


def test_a_killed_repro_goes_on_where_it_was(checkout: Checkout, tmp_path: Path) -> None:
    checkout.change(model={"l2": 2.0})
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "report"],
        cwd=checkout.folder,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout or ():
        if line.startswith("Running stage 'round-002'"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert checkout.repro("report") == ["round-002", "evaluate", "report"]
    # The same model as of a run that nobody killed: the same sites, on the embedded host.
    workspace = tmp_path / "undisturbed"
    copy_workspace(checkout.project.workspace, workspace)
    shutil.rmtree(workspace / "exchange")
    embedded.run(checkout.project.params, run="dvc", workspace=workspace)
    key = checkout.project.stored(keys.model(2)).relative_to(checkout.project.workspace)
    expected, found = decode((workspace / key).read_bytes()), decode(checkout.model(2))
    assert {name: array.tobytes() for name, array in found.arrays.items()} == {
        name: array.tobytes() for name, array in expected.arrays.items()
    }


def test_the_lock_file_holds_no_hash_of_the_rows(checkout: Checkout) -> None:
    text = (checkout.folder / "dvc.lock").read_text()
    for site in ("north", "south"):
        home = checkout.site(site)
        pointer = home.dataset.with_name(home.dataset.name + ".dvc")
        for file in (home.dataset, pointer):
            assert hashlib.md5(file.read_bytes()).hexdigest() not in text
        assert dataset.resolve(home).md5 not in text


def test_a_stage_that_fails_says_why_and_loses_nothing(checkout: Checkout) -> None:
    home = checkout.site("north")
    rows = pd.read_parquet(home.dataset)
    dataset.add(home, rows.drop(columns=rows.columns[0]), "Lose a column")
    output = checkout.dvc("repro", check=False)
    assert "data.column [north]" in output
    assert "Remedy: " in output
    assert checkout.update(2, "south")
