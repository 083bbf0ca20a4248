"""The embedded host, end to end on real rows: results, resumption, quorum, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import DataError, FolkmootError, ProtocolError, RoundError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import Params, parse_params
from folkmoot.plan import keys
from folkmoot.wire import decode, digest
from pipelines.coordinator import lock
from pipelines.hosts.embedded import Progress, run

Workspace = Callable[..., Path]


def params(*overrides: str) -> Params:
    return parse_params({"tracking": {"enabled": False}}, overrides)


def published(workspace: Path, name: str) -> dict[str, str]:
    """Digest of everything a run put into the exchange store."""
    root = workspace / "exchange" / "demo" / "runs" / name
    return {
        str(path.relative_to(root)): digest(path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".part-")  # left by SIGKILL, never read
    }


STRATEGIES = [
    ("model.linear.strategy=newton", 0.98),
    ("model.linear.strategy=fedavg", 0.98),
    ("model.linear.strategy=fedprox", 0.98),
    ("model.linear.strategy=fedadam", 0.95),
    ("model.linear.strategy=fedyogi", 0.95),
    ("model.linear.strategy=fedadagrad", 0.95),
    ("model.linear.strategy=scaffold", 0.98),
    ("model.kind=trees", 0.97),
    ("model.trees.strategy=cyclic", 0.96),
]


@pytest.mark.parametrize(("setting", "least"), STRATEGIES)
def test_every_strategy_learns(workspace_of: Workspace, setting: str, least: float) -> None:
    kind = ["model.kind=trees"] if "trees" in setting else []
    settings = params(setting, *kind, "model.linear.rounds=10", "model.trees.rounds=8")
    result = run(settings, run="one", workspace=workspace_of(settings))
    assert result["metrics"]["overall"]["auc"] >= least
    assert set(result["metrics"]["sites"]) == {"site-a", "site-b", "site-c", "site-d"}
    assert set(result["datasets"]) == set(result["metrics"]["sites"])
    assert all(len(fingerprint) == 64 for fingerprint in result["datasets"].values())
    assert not result["private"]
    assert set(result["seconds"]) >= {"set_up", "preparation", "rounds", "evaluation"}


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_regression_learns(workspace_of: Workspace, kind: str) -> None:
    settings = params(
        "data.recipe=diabetes",
        f"model.kind={kind}",
        "model.trees.max_depth=3",
        "model.trees.eta=0.2",
    )
    result = run(settings, run="one", workspace=workspace_of(settings))
    assert result["metrics"]["overall"]["r2"] > (0.4 if kind == "linear" else 0.3)


def test_the_same_run_on_another_machine_gives_the_same_bytes(workspace_of: Workspace) -> None:
    settings = params("model.linear.strategy=fedavg", "model.linear.rounds=3")
    one, two = workspace_of(settings, "one"), workspace_of(settings, "two")
    run(settings, run="same", workspace=one)
    run(settings, run="same", workspace=two)
    assert published(one, "same") == published(two, "same")


def test_a_finished_run_is_found_and_a_new_one_gets_a_new_name(workspace_of: Workspace) -> None:
    settings = params("model.linear.rounds=2")
    workspace = workspace_of(settings)
    first = run(settings, workspace=workspace)
    before = published(workspace, first["run"])
    again = run(settings, run=first["run"], workspace=workspace)
    assert again["model_digest"] == first["model_digest"]
    assert published(workspace, first["run"]) == before
    assert run(settings, workspace=workspace)["run"] != first["run"]


KILL_AT = [
    "round-000/statistics-site-b",
    "round-000/model",
    "round-001/update-site-c",
    "round-002/model",
    "round-002/record.json",
    "round-003/update-site-a",
    "final/evaluation-site-b",
]


def test_killed_at_any_point_it_ends_the_same(workspace_of: Workspace) -> None:
    """SIGKILL as soon as a key shows up, run after run, until the run is through."""
    settings = params("model.linear.strategy=scaffold", "model.linear.rounds=4")
    calm = workspace_of(settings, "calm")
    expected = run(settings, run="r", workspace=calm)
    shaken = workspace_of(settings, "shaken")
    script = (
        "import sys; from pathlib import Path; from folkmoot.params import Params;"
        "from pipelines.hosts.embedded import run;"
        f"run(Params.model_validate_json(sys.argv[1]), run='r', workspace=Path({str(shaken)!r}))"
    )
    root = shaken / "exchange" / "demo" / "runs" / "r"
    kills = 0
    for key in KILL_AT:
        done = set(published(shaken, "r"))
        with subprocess.Popen(
            [sys.executable, "-c", script, settings.model_dump_json()]
        ) as process:
            while process.poll() is None and not (root / key).exists():
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
            process.wait()
        kills += process.returncode == -signal.SIGKILL
        assert done <= set(published(shaken, "r"))
    assert kills >= 3, "the run was too fast to be killed"
    result = run(settings, run="r", workspace=shaken)
    assert result["model_digest"] == expected["model_digest"]
    assert published(shaken, "r") == published(calm, "r")


def test_finished_rounds_are_not_run_again(workspace_of: Workspace) -> None:
    settings = params("model.linear.strategy=fedavg", "model.linear.rounds=2")
    workspace = workspace_of(settings)
    run(settings, run="r", workspace=workspace)
    root = workspace / "exchange" / "demo" / "runs" / "r"
    (root / "final" / "result.json").unlink()
    times = {p: p.stat().st_mtime_ns for p in root.rglob("round-*/*")}
    run(settings, run="r", workspace=workspace)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("round-*/*")} == times


def test_rounds_end_when_nothing_changes(workspace_of: Workspace) -> None:
    settings = params("model.linear.rounds=30")
    result = run(settings, run="r", workspace=workspace_of(settings))
    assert result["stop"] == "converged"
    assert result["rounds"] < 15


def test_a_site_without_data_is_left_out_when_the_quorum_allows(workspace_of: Workspace) -> None:
    said: list[str] = []
    settings = params("federation.quorum=3", "model.linear.rounds=2")
    workspace = workspace_of(settings)
    lose_data(workspace, "site-b")
    result = run(
        settings.model_copy(update={"data": settings.data}),
        run="r",
        workspace=workspace,
        progress=Progress(say=said.append),
    )
    assert "site-b" in result["missing"]
    assert "site-b" not in result["datasets"]
    assert any("site-b is left out" in line for line in said)


def test_a_site_without_data_ends_the_run_when_all_are_required(workspace_of: Workspace) -> None:
    settings = params("model.linear.rounds=2")
    workspace = workspace_of(settings)
    lose_data(workspace, "site-b")
    with pytest.raises(DataError) as caught:
        run(settings, run="r", workspace=workspace)
    assert caught.value.code in {"data.missing", "data.version"}
    assert caught.value.site == "site-b"


def lose_data(workspace: Path, site: str) -> None:
    """As a careless hand would, at real sites: file, pointer and what DVC kept of it."""
    import shutil

    for path in (workspace / "sites").glob("*/site.toml"):
        path.write_text(path.read_text().replace("simulated = true", "simulated = false"))
    for path in (workspace / "sites" / site / "data").glob("dataset.parquet*"):
        path.unlink()
    shutil.rmtree(workspace / "sites" / site / ".dvc" / "cache", ignore_errors=True)
    shutil.rmtree(workspace / "remotes" / site, ignore_errors=True)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: b"", "protocol.truncated"),
        (lambda data: data[:-5], "protocol.truncated"),
        (lambda data: data[:100] + b"\x00" + data[101:], "protocol.signature"),
    ],
)
def test_a_damaged_update_is_refused_by_name(
    workspace_of: Workspace, damage: Callable[[bytes], bytes], code: str
) -> None:
    settings = params("model.linear.strategy=fedavg", "model.linear.rounds=2")
    workspace = workspace_of(settings)
    run(settings, run="r", workspace=workspace)
    root = workspace / "exchange" / "demo" / "runs" / "r"
    target = root / keys.update(2, "site-c")
    whole = target.read_bytes()
    target.write_bytes(damage(whole))
    for path in [root / "final" / "result.json", root / keys.record(2), root / keys.model(2)]:
        path.unlink()
    with pytest.raises(ProtocolError) as caught:
        run(settings, run="r", workspace=workspace)
    assert caught.value.code == code
    assert "site-c" in str(caught.value)
    target.write_bytes(whole)  # nothing else was lost
    assert run(settings, run="r", workspace=workspace)["rounds"] == 2


def test_another_run_of_the_federation_is_refused(workspace_of: Workspace) -> None:
    settings = params("model.linear.rounds=2")
    workspace = workspace_of(settings)
    lock.acquire(workspace, "demo", "other", "airflow", 600)
    with pytest.raises(RoundError) as caught:
        run(settings, run="r", workspace=workspace)
    assert caught.value.code == "round.busy"
    assert not (workspace / "exchange" / "demo" / "runs" / "r").exists()
    lock.release(workspace, "demo", "other")
    assert run(settings, run="r", workspace=workspace)["rounds"] == 2


def test_a_site_that_the_roster_does_not_list_is_refused(workspace_of: Workspace) -> None:
    settings = params("model.linear.rounds=2", "data.recipe=breast_cancer")
    workspace = workspace_of(settings)
    roster = workspace / "roster.toml"
    kept = [b for b in roster.read_text().split("\n\n") if "site-d" not in b]
    roster.write_text("\n\n".join(kept))
    stranger = params("model.linear.rounds=2")
    from folkmoot.identity import Roster
    from pipelines.coordinator.open_round import open_run
    from pipelines.hosts.execute import store_of
    from pipelines.hosts.walk import contract_for

    with pytest.raises(ProtocolError) as caught:
        open_run(
            stranger,
            contract_for(stranger),
            Roster.load(roster),
            "r",
            store_of(stranger, workspace),
            workspace,
        )
    assert caught.value.code == "protocol.unknown-site"
    assert "site-d" in str(caught.value)


def test_noise_that_was_drawn_is_published_again(workspace_of: Workspace) -> None:
    """Losing the exchange store must not make a site draw noise twice, nor pay twice."""
    settings = params(
        "model.linear.strategy=fedavg",
        "model.linear.rounds=2",
        "data.scaling=bounds",
        "aggregation.weighting=uniform",
        "privacy.mechanism=gaussian",
        "privacy.noise_multiplier=2.0",
    )
    workspace = workspace_of(settings)
    first = run(settings, run="r", workspace=workspace)
    assert first["private"]
    assert all(site["epsilon"] > 0 for site in first["privacy"].values())
    before = published(workspace, "r")
    import shutil

    shutil.rmtree(workspace / "exchange")
    again = run(settings, run="r", workspace=workspace)
    assert published(workspace, "r") == before
    assert again["privacy"] == first["privacy"]


def test_fresh_runs_draw_fresh_noise(workspace_of: Workspace) -> None:
    settings = params(
        "model.linear.strategy=fedavg",
        "model.linear.rounds=1",
        "data.scaling=bounds",
        "aggregation.weighting=uniform",
        "privacy.mechanism=gaussian",
        "privacy.noise_multiplier=2.0",
    )
    workspace = workspace_of(settings)
    models = []
    for name in ("r1", "r2"):
        run(settings, run=name, workspace=workspace)
        store = ExchangeStore(workspace / "exchange")
        models.append(decode(store.get(f"demo/runs/{name}/{keys.model(1)}")).arrays["coef"])
    assert np.abs(models[0] - models[1]).max() > 1e-6


def test_a_traceback_stays_at_the_site(workspace_of: Workspace, monkeypatch: Any) -> None:
    """An unexpected failure crosses the border as a code and a safe sentence."""
    import site_tasks.round_update as module

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("row 17: Jane Roe, 1970-01-01")

    monkeypatch.setattr(module, "load_prepared", broken)
    settings = params("model.linear.rounds=2")
    workspace = workspace_of(settings)
    with pytest.raises(FolkmootError) as caught:
        run(settings, run="r", workspace=workspace)
    assert caught.value.code == "round.site-failed"
    assert "Jane" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    log = workspace / "sites" / "site-a" / "private" / "site.log"
    assert "Jane" in log.read_text()
    assert (log.stat().st_mode & 0o077) == 0


def test_the_command_line_ends_with_one_object(workspace_of: Workspace, tmp_path: Path) -> None:
    settings = params("model.linear.rounds=2")
    workspace = workspace_of(settings)
    (tmp_path / "params.yaml").write_text("tracking: {enabled: false}\n")
    command = [
        sys.executable,
        "-m",
        "folkmoot.cli",
        "run",
        "--json",
        "--set",
        "model.linear.rounds=2",
    ]
    command += ["--set", f"federation.workspace={workspace}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )
    result = json.loads(done.stdout.splitlines()[-1])
    for key in ("model_digest", "rounds", "metrics", "baselines", "datasets", "privacy", "seconds"):
        assert key in result
    assert Path(result["model_path"]).exists() or (tmp_path / result["model_path"]).exists()
    pooled = result["baselines"]["pooled"]["overall"]["auc"]
    assert abs(result["metrics"]["overall"]["auc"] - pooled) < 0.01
    failed = subprocess.run(
        [*command, "--set", "model.linear.roundz=2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert failed.returncode == 2
    assert "did you mean rounds?" in " ".join(failed.stderr.split())
    assert "Traceback" not in failed.stderr
