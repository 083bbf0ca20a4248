"""The local Airflow as a guest: its own folder, private secrets, no process left behind."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from folkmoot.errors import ConfigError, DataError, TransientError
from pipelines.hosts.airflow_api import error_in
from pipelines.hosts.airflow_services import Services, free_port

from .conftest import ROOT

START = """
import sys, time
from pathlib import Path
from pipelines.hosts.airflow_services import Services
services = Services(Path(sys.argv[1]))
services.start()
print(services._process.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_services_end_with_the_command_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        services = psutil.Process(int(parent.stdout.readline()))
        deadline = time.monotonic() + 90
        while not services.children():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = [services, *services.children(recursive=True)]
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_configuration_is_private_and_stays_on_loopback(tmp_path: Path) -> None:
    services = Services(tmp_path / "airflow")
    services.start()
    services.stop()
    config = configparser.ConfigParser(interpolation=None)
    config.read(services.home / "airflow.cfg")
    assert config["api"]["host"] == "127.0.0.1"
    assert config["core"]["load_examples"] == "False"
    assert config["usage_data_collection"]["enabled"] == "False"
    for name in ("airflow.cfg", "secrets.json", "passwords.json"):
        assert stat.S_IMODE((services.home / name).stat().st_mode) == 0o600, name
    secret = (services.home / "secrets.json").read_bytes()
    user, password = services.login
    services.start()
    services.stop()
    assert (services.home / "secrets.json").read_bytes() == secret
    assert services.login == (user, password)


def test_one_home_one_airflow(tmp_path: Path) -> None:
    first = Services(tmp_path)
    first.start()
    try:
        with pytest.raises(TransientError, match="Another command runs Airflow"):
            Services(tmp_path).start()
    finally:
        first.stop()


def test_services_that_end_say_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "airflow.db").mkdir()  # no database can be made here
    with Services(tmp_path) as services, pytest.raises(TransientError) as caught:
        services.wait_ready(timeout=90)
    assert "database" in caught.value.message
    assert str(services.logs) in caught.value.remedy


def test_another_port_where_one_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port


def test_a_missing_dags_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of DAG files"):
        Services(tmp_path, dags=tmp_path / "absent")


def test_errors_come_back_from_logs_as_they_were_raised() -> None:
    raised = DataError("data.one-class", "Only one class.", "Add rows.", site="site-b")
    found = error_in(f"Traceback …\nAirflowFailException: {raised}\nand more")
    assert isinstance(found, DataError)
    assert (found.code, found.site, found.message, found.remedy) == (
        "data.one-class",
        "site-b",
        "Only one class.",
        "Add rows.",
    )
    assert error_in("nothing of ours") is None
