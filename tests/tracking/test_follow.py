"""Tracking behind a run that goes on, and an MLflow server that comes late."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import ConfigError
from folkmoot.params import Params
from pipelines.conclusion import conclude_locally
from pipelines.coordinator import mlflow_store, tracking
from pipelines.coordinator.mirror import Mirror
from pipelines.hosts.embedded import Progress, run

from .conftest import Tracked, context_of, settings

Workspaces = Callable[[Params], Path]
ROUNDS = ("model.linear.rounds=4", "model.linear.early_stopping.tolerance=0")


def rounds_of(context: Any) -> list[int]:
    mirror = context.cache.get("tracking.mirror") or Mirror(context)
    return [m.step for m in mirror.client.get_metric_history(mirror.run, "round")]


def test_follows_a_run_that_goes_on(new_workspace: Workspaces) -> None:
    params = settings(*ROUNDS, "federation.name=followed")
    workspace = new_workspace(params)
    opened, logged = threading.Event(), threading.Event()

    def after_round(number: int, rounds: int, record: dict[str, Any]) -> None:
        opened.set()
        if number == 2:
            assert logged.wait(60)  # the run holds still until tracking has seen it

    hooks = Progress(round=after_round)
    thread = threading.Thread(
        target=run, args=(params,), kwargs={"run": "r", "workspace": workspace, "progress": hooks}
    )
    thread.start()
    assert opened.wait(60)
    context = context_of(params, "r", workspace)

    def look(seconds: float) -> None:
        assert seconds <= 0.1
        if rounds_of(context) == [1, 2]:
            logged.set()
        thread.join(seconds)

    assert tracking.follow(context, 60, interval=0.1, sleep=look)
    thread.join(60)
    assert logged.is_set()
    assert rounds_of(context) == [1, 2, 3, 4]


def test_a_run_that_ends_without_a_result(tracked: Tracked, tmp_path: Path) -> None:
    """It is logged as far as it came, and following ends with it."""
    from dataclasses import replace

    from folkmoot.exchange import ExchangeStore
    from folkmoot.plan import keys

    store = ExchangeStore(tmp_path)
    record = tracked.context.key(keys.record(1))
    store.put(record, tracked.context.store.get(record))
    context = replace(tracked.context, run="first", store=store, cache={})
    assert not tracking.follow(context, 60, over=lambda: True)
    assert not tracking.follow(replace(context, cache={}), 0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def late_server(
    database: Path, tmp_path: Path
) -> Iterator[tuple[str, Callable[[], subprocess.Popen[bytes]]]]:
    """Address where `ui_command` will serve MLflow once the second value is called."""
    port = free_port()
    workspace = tmp_path / "server"
    (workspace / "coordinator").mkdir(parents=True)
    (workspace / "coordinator" / "mlflow.db").write_bytes(database.read_bytes())
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        if not started:
            command = tracking.ui_command(settings(), workspace, port=port)
            log = (tmp_path / "server.log").open("wb")
            started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
        return started[0]

    yield f"http://127.0.0.1:{port}", start
    for process in started:
        process.terminate()
        process.wait(30)


def test_a_run_is_complete_without_mlflow(new_workspace: Workspaces) -> None:
    """Rounds, model file and result are there; what is missing is said, with its remedy."""
    params = settings(*ROUNDS, "federation.name=offline", "tracking.uri=http://127.0.0.1:9")
    workspace = new_workspace(params)
    told: list[str] = []
    result = run(params, run="r", workspace=workspace)
    whole = conclude_locally(params, result, workspace=workspace, baselines=False, say=told.append)
    assert (whole["rounds"], whole["registered"]) == (4, None)
    assert Path(whole["model_path"]).is_file()
    assert "transient.tracking" in told[-1]
    assert "tracking catch up" in told[-1]


@pytest.mark.slow
def test_mlflow_down_then_up(
    tracked: Tracked, late_server: tuple[str, Callable[[], Any]], tmp_path: Path
) -> None:
    """The run is over before the server exists; following outlasts that and registers."""
    from dataclasses import replace

    address, start = late_server
    params = settings(*ROUNDS, f"tracking.uri={address}")
    context = replace(tracked.context, params=params, workspace=tmp_path, cache={})
    waits: list[float] = []
    told: list[str] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        process = start()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(min(seconds, 2.0))  # it goes on running

    assert tracking.follow(context, 200, sleep=wait, say=told.append)
    assert waits[:3] == [1.0, 2.0, 4.0][: len(waits)]
    assert "transient.tracking" in told[0]
    assert "4 rounds" in told[-1]
    assert rounds_of(context) == [1, 2, 3, 4]
    registered = tracking.register(context)
    assert registered.aliases == ("candidate", "champion")
    client = mlflow_store.connect(params, tmp_path)
    version = client.get_model_version(registered.name, "1")
    assert version.status == "READY"
    assert version.tags["folkmoot.model_digest"]
    with pytest.raises(ConfigError, match="its own UI"):
        tracking.ui_command(params, tmp_path)
