"""A local Airflow, started and stopped by the command that needs it.

Everything lives in one folder of the workspace (``airflow/``, AIRFLOW_HOME): configuration, SQLite
database, logs, login.  API server, scheduler (LocalExecutor) and dag-processor listen on loopback
only; examples and usage reports are off.  This module does not import Airflow: the services run in
processes of their own (``airflow_launch``), and this side speaks their REST API.
"""

from __future__ import annotations

import configparser
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from folkmoot.errors import ConfigError, TransientError
from pipelines.hosts.airflow_api import Client

__all__ = ["PATIENT", "Services", "free_port"]

PROJECT = Path(__file__).resolve().parents[2]
USER = "admin"
#: ``[workers]``: a task outlives an API server that is started again, or a line that is cut for a
#: minute; Airflow's own defaults end it after seconds.
PATIENT = {
    "execution_api_retries": "15",
    "execution_api_retry_wait_max": "8",
    "max_failed_heartbeats": "20",
}


def free_port(preferred: int) -> int:
    """``preferred`` where it is free on loopback, else any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError(
        "config.installation", "No port is free on 127.0.0.1.", "End a program that listens."
    )


class Services(Client):
    """API server, scheduler and dag-processor of one AIRFLOW_HOME.

    Parameters
    ----------
    home : Path
        AIRFLOW_HOME; made when absent.
    dags : Path, optional
        Folder of DAG files; the project's ``dags/`` by default.
    environment : dict of str to str, optional
        Added to the services' environment (``FOLKMOOT_PARAMS`` …).
    port : int
        Port of the UI; another one is taken where it is busy.
    eager : bool
        Scheduler wakes ten times a second, for short rounds; costs a fifth of a core when idle.

    Examples
    --------
    >>> with Services(Path(".folkmoot/airflow")) as airflow:   # doctest: +SKIP
    ...     airflow.wait_ready()
    ...     run_id = airflow.trigger("federated_linear", {"rounds": 3})
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path | None = None,
        environment: Mapping[str, str] | None = None,
        port: int = 8080,
        eager: bool = True,
    ) -> None:
        self.home = home.resolve()
        self.dags = (dags or PROJECT / "dags").resolve()
        if not self.dags.is_dir():
            raise ConfigError(
                "config.missing-file",
                f"There is no folder of DAG files at {self.dags}.",
                "Run from a checkout of the project.",
            )
        self._environment = dict(environment or {})
        self._preferred = port
        self._eager = eager
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self.port = self._task_port = 0
        self._task_preferred, self._lock_name = 0, "services.lock"

    @property
    def url(self) -> str:
        """Where the UI is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def _task_url(self) -> str:
        return f"http://127.0.0.1:{self._task_port}"

    @property
    def login(self) -> tuple[str, str]:
        """User name and password of the UI."""
        return USER, str(json.loads(self.passwords.read_text())[USER])

    @property
    def logs(self) -> Path:
        """Folder of the services' own logs."""
        return self.home / "logs" / "services"

    @property
    def passwords(self) -> Path:
        """File of the UI's passwords (mode 0600)."""
        return self.home / "passwords.json"

    def __enter__(self) -> Services:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the services; returns at once (see :meth:`wait_ready`).

        Raises
        ------
        TransientError
            ``transient.locked`` where another command runs Airflow in the same home.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.home / self._lock_name)
        self.port = free_port(self._preferred)
        self._task_port = free_port(self._task_preferred)
        self._configure()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.hosts.airflow_launch"],
            env=self._launched(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops them
        )

    def _launched(self) -> dict[str, str]:
        """What the launcher's environment is."""
        # A user's own AIRFLOW__… variables belong to another Airflow.
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "AIRFLOW__"))
        }
        path = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **inherited,
            **self._environment,
            "AIRFLOW_HOME": str(self.home),
            "FOLKMOOT_TASK_API_PORT": str(self._task_port),
            "PYTHONPATH": os.pathsep.join(path),
        }

    def stop(self) -> None:
        """Stop the services and everything they started; no process is left."""
        self.close()
        process, self._process = self._process, None
        if process is not None:
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stderr:
                process.stderr.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def alive(self) -> None:
        """Raise where the services ended by themselves.

        Raises
        ------
        TransientError
        """
        if self._process is None or self._process.poll() is None:
            return
        said = b"" if self._process.stderr is None else self._process.stderr.read()
        lines = said.decode(errors="replace").strip().splitlines()
        raise TransientError(
            "transient.service",
            f"Airflow stopped ({lines[-1] if lines else 'no message'}).",
            f"Look at {self.logs} and start again: finished steps are not repeated.",
        )

    def wait_ready(self, timeout: float = 180.0, say: Callable[[str], None] | None = None) -> None:
        """Wait until scheduler, dag-processor and API answer.

        Raises
        ------
        TransientError
            Where a service ends, or does not answer in time.
        """
        import httpx

        deadline, waiting = time.monotonic() + timeout, ""
        checks = {
            # The first call to the task API builds its routes, which takes seconds.
            "task API": lambda: _answers(f"{self._task_url}/execution/health"),
            "API server": lambda: _answers(f"{self.url}/api/v2/version"),
            "scheduler": lambda: self._healthy("scheduler"),
            "dag-processor": lambda: self._healthy("dag_processor"),
        }
        while time.monotonic() < deadline:
            self.alive()
            missing = next(iter(checks))
            try:
                if checks[missing]():
                    del checks[missing]
                    if not checks:
                        return
                    continue
            except (httpx.HTTPError, ValueError, KeyError):
                pass
            if say and waiting != missing:
                waiting = missing
                say(f"Airflow starts: waiting for its {missing}")
            time.sleep(0.1)
        raise TransientError(
            "transient.service",
            f"Airflow did not come up within {timeout:.0f} s.",
            f"Look at {self.logs}; a busy machine may need longer.",
        )

    def _healthy(self, component: str) -> bool:
        import httpx

        health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5.0).json()
        return bool(health[component]["status"] == "healthy")

    def _settings(self) -> dict[str, dict[str, str]]:
        """What ``airflow.cfg`` says, by section."""
        secret = _secrets(self.home / "secrets.json")
        if not self.passwords.exists():
            _private(self.passwords, json.dumps({USER: secrets.token_urlsafe(12)}))
        workers = str(max(8, 2 * (os.cpu_count() or 1)))
        return {
            "core": {
                "dags_folder": str(self.dags),
                "executor": "LocalExecutor",
                "parallelism": workers,
                "max_active_tasks_per_dag": workers,
                "load_examples": "False",
                "dags_are_paused_at_creation": "False",
                "simple_auth_manager_users": f"{USER}:admin",
                "simple_auth_manager_passwords_file": str(self.passwords),
                "execution_api_server_url": f"{self._task_url}/execution/",
                "fernet_key": secret["fernet_key"],
            },
            "database": {"sql_alchemy_conn": f"sqlite:///{self.home / 'airflow.db'}"},
            "scheduler": {
                "scheduler_idle_sleep_time": "0.1" if self._eager else "1",
                "task_instance_heartbeat_timeout": "60",
            },
            "workers": {"min_heartbeat_interval": "1", "execution_api_timeout": "30", **PATIENT},
            "dag_processor": {"refresh_interval": "30"},
            "api": {
                "host": "127.0.0.1",
                "port": str(self.port),
                "base_url": self.url,
                "secret_key": secret["secret_key"],
                "instance_name": "Folkmoot",
            },
            "api_auth": {"jwt_secret": secret["jwt_secret"]},
            "logging": {"base_log_folder": str(self.home / "logs")},
            "usage_data_collection": {"enabled": "False"},
        }

    def _configure(self) -> None:
        """Write ``airflow.cfg``: secrets are kept, everything else follows this version."""
        settings = self._settings()
        config = configparser.ConfigParser(interpolation=None)
        config.read_dict(
            {s: {k: v.replace("%", "%%") for k, v in o.items()} for s, o in settings.items()}
        )
        part = self.home / "airflow.cfg.part"
        _private(part, "")
        with part.open("w", encoding="utf-8") as file:
            config.write(file)
        os.replace(part, self.home / "airflow.cfg")


def _answers(url: str) -> bool:
    import httpx

    return httpx.get(url, timeout=30.0).is_success


def _secrets(path: Path) -> dict[str, str]:
    """Keys that Airflow's services share, made once."""
    if path.exists():
        found: dict[str, str] = json.loads(path.read_text())
        return found
    from cryptography.fernet import Fernet

    made = {
        "fernet_key": Fernet.generate_key().decode(),
        "secret_key": secrets.token_urlsafe(32),
        "jwt_secret": secrets.token_urlsafe(48),
    }
    _private(path, json.dumps(made))
    return made


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _locked(path: Path) -> IO[str]:
    import fcntl

    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise TransientError(
            "transient.locked",
            f"Another command runs Airflow in {path.parent}.",
            "Wait until it ends, or stop it (Ctrl-C in its terminal).",
        ) from None
    return file
