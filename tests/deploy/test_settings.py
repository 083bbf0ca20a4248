"""What server.toml may say, where secrets lie, and how tracking logs in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.errors import ConfigError, TransientError
from folkmoot.params import parse_params
from pipelines.coordinator import mlflow_store
from pipelines.coordinator.mlflow_access import Access
from pipelines.coordinator.mlflow_server import MlflowServer
from pipelines.hosts.database import check_database
from pipelines.hosts.server_settings import ServerSettings, load_settings, settings_file

SECRET = "pass-word-1"
URL = f"postgresql://folkmoot:{SECRET}@127.0.0.1:1/airflow"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_database_is_named_in_a_file_of_the_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "database"
    file.write_text(f"{URL}\n")
    file.chmod(0o600)
    settings = load_settings(tmp_path, {"database": f"file:{file}"})
    assert settings.database_url("database") == URL.replace("postgresql", "postgresql+psycopg2")
    assert SECRET not in settings_file(tmp_path).read_text()
    assert mode(settings_file(tmp_path)) == 0o600
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="may read"):
        load_settings(tmp_path)
    file.unlink()
    with pytest.raises(ConfigError, match="missing, empty"):
        load_settings(tmp_path)


@pytest.mark.parametrize("url", [f"mysql://u:{SECRET}@h/d", f"u:{SECRET}@h/d"])
def test_a_faulty_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ServerSettings(database=url).check()
    assert SECRET not in str(refused.value)


def test_a_password_on_the_command_line_is_refused(tmp_path: Path) -> None:
    arguments = ["coordinator", "up", "--workspace", str(tmp_path), "--database", URL]
    ended = CliRunner().invoke(app, arguments)
    assert isinstance(ended.exception, ConfigError)
    assert "--database holds a password" in str(ended.exception)
    assert SECRET not in ended.output + str(ended.exception)
    assert not settings_file(tmp_path).exists()


def test_a_database_that_does_not_answer_is_told_without_its_password() -> None:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: folkmoot[postgres]")
    with pytest.raises(TransientError) as error:
        check_database(ServerSettings(database=URL).database_url("database") or "", "database")
    assert "nothing answers at postgresql+psycopg2://127.0.0.1:1/airflow" in str(error.value)
    assert SECRET not in str(error.value)


def test_mlflow_and_sites_have_ports_of_their_own() -> None:
    with pytest.raises(ConfigError, match="same host and port"):
        ServerSettings(url="https://c:8443", mlflow="https://c:8443").check()


def test_nothing_secret_is_on_mlflows_command_line(tmp_path: Path) -> None:
    server = MlflowServer(
        tmp_path, "https://c:5443", "127.0.0.1", URL, None, tmp_path / "c", tmp_path / "k"
    )
    command, environment = server.prepare()
    secrets = [SECRET, server.login[1], environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]]
    assert not [word for word in command for secret in secrets if secret in word]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == URL
    assert {mode(path) for path in server.folder.iterdir()} == {0o600}
    assert server.prepare()[1] == environment, "a second start keeps the logins"


def test_tracking_logs_in_with_the_workspaces_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parse_params({})
    assert mlflow_store.tracking_uri(params, tmp_path).startswith("sqlite:")
    Access("https://c:5443", "folkmoot", SECRET, authority="/ca.pem").save(tmp_path)
    assert mlflow_store.tracking_uri(params, tmp_path) == "https://c:5443"
    assert mlflow_store.artifact_root(params, tmp_path) is None
    for name in ("USERNAME", "PASSWORD", "SERVER_CERT_PATH"):  # set, then gone again: undone later
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        del os.environ[f"MLFLOW_TRACKING_{name}"]
    mlflow_store.connect(params, tmp_path)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == SECRET
    assert os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] == "/ca.pem"
    Access.file(tmp_path).chmod(0o640)
    with pytest.raises(ConfigError, match="may read"):
        mlflow_store.tracking_uri(params, tmp_path)
    Access.file(tmp_path).write_text("uri = 3\n")
    with pytest.raises(ConfigError, match="does not name"):
        mlflow_store.tracking_uri(params, tmp_path)
    assert SECRET not in repr(Access("https://c", "u", SECRET))
