"""What a run leaves in MLflow, and that every way to it ends in the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from folkmoot.errors import ConfigError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import Params, parse_params
from folkmoot.plan import keys
from pipelines.coordinator import mlflow_store, tracking
from pipelines.coordinator.mirror import FINGERPRINT, Mirror
from pipelines.coordinator.mlflow_view import flat_params
from pipelines.coordinator.open_round import load_json
from pipelines.plans import plan_of

from .conftest import Tracked, context_of, settings, train

Workspaces = Callable[[Params], Path]


def history(client: Any, run: str, metric: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client.get_metric_history(run, metric))


def site_runs(tracked: Tracked) -> dict[str, Any]:
    parent = tracked.client.get_run(tracked.run_id)
    query = f"tags.`mlflow.parentRunId` = '{tracked.run_id}'"
    runs = tracked.client.search_runs([parent.info.experiment_id], query)
    return {run.data.tags["folkmoot.site"]: run for run in runs}


def everything(client: Any, name: str) -> dict[str, Any]:
    """All of an experiment that does not depend on the time."""
    experiment = client.get_experiment_by_name(name).experiment_id
    found = {}
    for run in client.search_runs([experiment]):
        key = run.data.tags.get("folkmoot.site", "")
        assert key not in found, "a run exists twice"
        found[key] = {
            "params": run.data.params,
            "tags": {
                k: v
                for k, v in run.data.tags.items()
                if k not in {"mlflow.parentRunId", "mlflow.loggedModels"}
            },
            "status": run.info.status,
            "inputs": sorted(i.dataset.digest for i in run.inputs.dataset_inputs),
            "metrics": {m: history(client, run.info.run_id, m) for m in run.data.metrics},
        }
    return found


def test_one_experiment_one_run_nested_runs(tracked: Tracked) -> None:
    parent = tracked.client.get_run(tracked.run_id)
    assert tracked.client.get_experiment(parent.info.experiment_id).name == "clinic"
    assert parent.info.run_name == "first"
    assert parent.info.status == "FINISHED"
    assert set(site_runs(tracked)) == {"north", "south"}
    assert {run.info.status for run in site_runs(tracked).values()} == {"FINISHED"}


def test_metrics_stand_at_the_round_of_their_model(tracked: Tracked) -> None:
    records = [load_json(tracked.context, keys.record(r)) for r in range(1, 5)]
    result = load_json(tracked.context, keys.RESULT)
    assert result is not None
    pairs = [(r["metrics_round"], r["metrics"]) for r in records if r and r["metrics"]]
    pairs.append((4, result["metrics"]))
    assert [step for step, _ in pairs] == [1, 2, 3, 4]
    runs = {site: run.info.run_id for site, run in site_runs(tracked).items()}
    for name in ("auc", "log_loss", "accuracy"):
        expected = [(step, metrics["overall"][name]) for step, metrics in pairs]
        assert history(tracked.client, tracked.run_id, name) == expected
        for site, run in runs.items():
            expected = [(step, metrics["sites"][site][name]) for step, metrics in pairs]
            assert history(tracked.client, run, name) == expected
    assert history(tracked.client, tracked.run_id, "participants") == [(r, 2) for r in range(1, 5)]
    assert "epsilon" not in tracked.client.get_run(tracked.run_id).data.metrics


def test_params_plan_and_contract_are_there(tracked: Tracked) -> None:
    run = tracked.client.get_run(tracked.run_id)
    assert run.data.params["model.linear.strategy"] == "newton"
    assert run.data.params["federation.sites"] == '["north", "south"]'
    assert not any(key.startswith("model.trees.") for key in run.data.params)
    folder = Path(tracked.client.download_artifacts(tracked.run_id, ""))
    stored = parse_params(yaml.safe_load((folder / "params.yaml").read_text()))
    assert stored.digest() == tracked.params.digest() == run.data.tags["folkmoot.params"]
    plan = plan_of(tracked.params, tracked.context.contract)
    written = json.loads((folder / "plan.json").read_text())
    assert written["digest"] == plan.digest() == run.data.tags["folkmoot.plan"]
    assert [step["name"] for step in written["steps"]] == [step.name for step in plan]
    assert "mean_radius" in (folder / "contract.yaml").read_text()
    assert json.loads((folder / "result.json").read_text())["rounds"] == 4
    assert len(json.loads((folder / "rounds.json").read_text())) == 4


def test_dataset_versions_are_inputs_by_fingerprint(tracked: Tracked) -> None:
    result = load_json(tracked.context, keys.RESULT)
    assert result is not None
    runs = {None: tracked.client.get_run(tracked.run_id), **site_runs(tracked)}
    for site, run in runs.items():
        inputs = run.inputs.dataset_inputs
        found = {
            item.dataset.name: {t.key: t.value for t in item.tags}[FINGERPRINT] for item in inputs
        }
        expected = result["datasets"]
        assert found == (expected if site is None else {site: expected[site]})
        for item in inputs:
            assert found[item.dataset.name].startswith(item.dataset.digest)
            assert len(item.dataset.digest) == 36
            assert json.loads(item.dataset.source)["site"] == item.dataset.name


def test_nothing_of_a_site_but_fingerprints(tracked: Tracked) -> None:
    """Neither the dataset's own hash nor a secret nor a site's folder is in MLflow's files."""
    private = []
    for site in ("north", "south"):
        home = tracked.workspace / "sites" / site
        pointer = yaml.safe_load((home / "data" / "dataset.parquet.dvc").read_text())
        secret = (home / "private" / "secret.key").read_bytes()
        private += [pointer["outs"][0]["md5"].encode(), secret, secret.hex().encode()]
        private.append(str(home).encode())
    files = [p for p in (tracked.workspace / "coordinator").rglob("*") if p.is_file()]
    assert any(p.name == "mlflow.db" for p in files)
    for path in files:
        data = path.read_bytes()
        assert not [secret for secret in private if secret in data], path.name


def test_plots(tracked: Tracked) -> None:
    folder = Path(tracked.client.download_artifacts(tracked.run_id, "plots"))
    assert (folder / "auc.png").read_bytes().startswith(b"\x89PNG")


def test_again_from_a_fresh_process_changes_nothing(tracked: Tracked) -> None:
    before = everything(tracked.client, "clinic")
    context = context_of(tracked.params, "first", tracked.workspace)
    state = tracking.sync(context)
    assert state == tracking.Tracked(tracked.run_id, 4, True)
    assert everything(tracked.client, "clinic") == before


def published_up_to(source: Tracked, store: ExchangeStore, rounds: int, *, result: bool) -> None:
    """Copy what a run had published after some rounds."""
    wanted = [keys.RUN, *(keys.record(r) for r in range(1, rounds + 1))]
    wanted += [keys.RESULT, keys.model(4)] if result else []
    for key in wanted:
        full = source.context.key(key)
        store.put(full, source.context.store.get(full))


@pytest.fixture
def beside(tracked: Tracked, tmp_path: Path, database: Path) -> Path:
    """A coordinator's workspace with an empty exchange store and a fresh MLflow."""
    (tmp_path / "coordinator").mkdir()
    shutil.copy(database, tmp_path / "coordinator" / "mlflow.db")
    return tmp_path


def test_catches_up_after_any_round(tracked: Tracked, beside: Path) -> None:
    store = ExchangeStore(beside / "exchange")
    for rounds in (0, 1, 3):
        published_up_to(tracked, store, rounds, result=False)
        state = tracking.sync(context_of(tracked.params, "first", beside))
        assert (state.rounds, state.finished) == (rounds, False)
    client = mlflow_store.connect(tracked.params, beside)
    assert client.get_run(state.run_id).info.status == "RUNNING"
    published_up_to(tracked, store, 4, result=True)
    assert tracking.sync(context_of(tracked.params, "first", beside)).finished
    assert everything(client, "clinic") == everything(tracked.client, "clinic")


class Failing:
    """The real client, which loses its connection at the n-th write."""

    def __init__(self, client: Any, writes: int) -> None:
        self._client, self._left = client, writes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not name.startswith(("log_", "create_", "set_")):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._left == 0:
                raise ConnectionError
            self._left -= 1
            return method(*args, **kwargs)

        return call


def test_a_loss_at_any_write_loses_nothing(
    tracked: Tracked, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_up_to(tracked, ExchangeStore(beside / "exchange"), 4, result=True)
    connect, losses = mlflow_store.connect, []
    for writes in range(1000):
        with monkeypatch.context() as patch:
            patch.setattr(mlflow_store, "connect", lambda p, w, n=writes: Failing(connect(p, w), n))
            try:
                tracking.sync(context_of(tracked.params, "first", beside))
                break
            except TransientError as error:
                losses.append(error.code)
    assert len(losses) >= 3
    assert set(losses) == {"transient.tracking"}
    client = mlflow_store.connect(tracked.params, beside)
    assert everything(client, "clinic") == everything(tracked.client, "clinic")


def test_epsilon_per_round_and_site(new_workspace: Workspaces) -> None:
    params = settings(
        "privacy.mechanism=gaussian",
        "privacy.noise_multiplier=2.0",
        "data.scaling=bounds",
        "aggregation.weighting=uniform",
        "model.linear.strategy=fedavg",
        "model.linear.rounds=3",
    )
    context = train(params, "private", new_workspace(params))
    tracking.sync(context)
    registered = tracking.register(context)
    mirror = Mirror(context)
    spent = history(mirror.client, mirror.run, "epsilon")
    assert [step for step, _ in spent] == [1, 2, 3]
    assert 0 < spent[0][1] < spent[1][1] < spent[2][1]
    query = f"tags.`mlflow.parentRunId` = '{mirror.run}'"
    for run in mirror.client.search_runs([mirror.experiment], query):
        assert history(mirror.client, run.info.run_id, "epsilon") == spent
        assert run.data.tags["folkmoot.private"] == "true"
    folder = Path(mirror.client.download_artifacts(mirror.run, "plots"))
    assert (folder / "epsilon.png").read_bytes().startswith(b"\x89PNG")
    version = mirror.client.get_model_version(registered.name, str(registered.version))
    assert version.tags["folkmoot.private"] == "true"
    assert float(version.tags["folkmoot.epsilon"]) == spent[-1][1]
    assert "epsilon" in version.description
    assert "NOT PRIVATE" not in version.description


def test_credentials_are_hidden() -> None:
    params = settings("federation.exchange_options={secret: hush, anon: false}")
    values = dict(flat_params(params.model_dump(mode="json")))
    assert values["federation.exchange_options.secret"] == "(hidden)"
    assert values["federation.exchange_options.anon"] == "false"


def test_no_server_is_one_clear_error(tracked: Tracked) -> None:
    params = settings("tracking.uri=http://user:hush@127.0.0.1:9")
    with pytest.raises(TransientError) as caught:
        tracking.sync(train_like(tracked, params))
    assert caught.value.code == "transient.tracking"
    assert "http://127.0.0.1:9" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_wrong_address_is_a_config_error(tracked: Tracked) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        tracking.sync(train_like(tracked, settings("tracking.uri=gopher://nowhere")))


def train_like(tracked: Tracked, params: Params) -> Any:
    """The tracked run's context, as if MLflow were elsewhere."""
    from dataclasses import replace

    return replace(tracked.context, params=params, cache={})
