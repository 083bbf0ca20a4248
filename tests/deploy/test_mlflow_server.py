"""A real MLflow server on a real PostgreSQL: logins, TLS, artefacts through the server."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from folkmoot.errors import ConfigError
from folkmoot.params import parse_params
from pipelines.coordinator import mlflow_store
from pipelines.hosts.airflow_coordinator import Coordinator, ServerSettings
from pipelines.hosts.airflow_services import free_port
from pipelines.hosts.database import check_database

from .conftest import Postgres

pytestmark = pytest.mark.slow


def test_logins_tls_and_artefacts_on_postgresql(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.make("mlflow")
    check_database(postgres.url("mlflow"), "mlflow_database")
    for url in (postgres.url("mlflow", password="wrong"), postgres.url("absent")):
        with pytest.raises(ConfigError, match="refuses user, password or name"):
            check_database(url, "mlflow_database")

    url = f"https://localhost:{free_port(0)}"
    settings = ServerSettings(mlflow=url, mlflow_database=postgres.url("mlflow"))
    params = parse_params({"federation": {"workspace": str(tmp_path)}})
    server = Coordinator(params, tmp_path, settings).mlflow
    assert server is not None
    command, environment = server.prepare()
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
    )
    try:
        access = server.announce()
        server.ensure_account()
        server.ensure_account()  # a second start finds it
        authority = str(server.authority)
        for name in access.variables():
            monkeypatch.setenv(name, access.variables()[name])
        client = mlflow_store.connect(params, tmp_path)
        experiment = mlflow_store.experiment(client, params, tmp_path)
        run = client.create_run(experiment).info
        (tmp_path / "note.txt").write_text("note")
        client.log_artifact(run.run_id, str(tmp_path / "note.txt"))
        assert run.artifact_uri.startswith("mlflow-artifacts:"), (
            "clients need no storage of their own"
        )
        assert list((tmp_path / "coordinator" / "mlartifacts").rglob("note.txt"))
        # Nobody else: not without a login, and not over another authority.
        search = f"{url}/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
        import ssl

        context = ssl.create_default_context(cafile=authority)
        with httpx.Client(verify=context) as stranger:
            assert stranger.get(search).status_code == 401
            assert stranger.get(search, auth=("folkmoot", "wrong")).status_code == 401
            assert stranger.get(search, auth=server.login).status_code == 200
        with pytest.raises(httpx.ConnectError), httpx.Client() as careless:
            careless.get(search)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        log.close()
    said = (tmp_path / "log").read_text(errors="replace")
    assert postgres.password not in said
    assert server.login[1] not in said
