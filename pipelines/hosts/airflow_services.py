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
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from folkmoot.errors import ConfigError, FolkmootError, TransientError

__all__ = ["Services", "error_in", "free_port"]

PROJECT = Path(__file__).resolve().parents[2]
USER = "admin"
_ERROR = re.compile(
    r"\b(?P<code>(?:config|data|privacy|protocol|round|transient)\.[a-z-]+)"
    r"(?: \[(?P<site>[^\]]*)\])?: (?P<message>.*) Remedy: (?P<remedy>.*)"
)


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


class Services:
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
        self._client: Any = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where the UI is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def login(self) -> tuple[str, str]:
        """User name and password of the UI."""
        return USER, str(json.loads(self._passwords.read_text())[USER])

    @property
    def logs(self) -> Path:
        """Folder of the services' own logs."""
        return self.home / "logs" / "services"

    @property
    def _passwords(self) -> Path:
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
        self._lock = _locked(self.home / "services.lock")
        self.port = free_port(self._preferred)
        self._configure()
        # A user's own AIRFLOW__… variables belong to another Airflow.
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "AIRFLOW__"))
        }
        path = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.hosts.airflow_launch"],
            env={
                **inherited,
                **self._environment,
                "AIRFLOW_HOME": str(self.home),
                "PYTHONPATH": os.pathsep.join(path),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops them
        )

    def stop(self) -> None:
        """Stop the services and everything they started; no process is left."""
        if self._client is not None:
            self._client.close()
            self._client = None
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
        while time.monotonic() < deadline:
            self.alive()
            try:
                health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5.0).json()
                sick = [
                    name
                    for name in ("metadatabase", "scheduler", "dag_processor")
                    if health[name]["status"] != "healthy"
                ]
                if not sick:
                    return
            except (httpx.HTTPError, ValueError):
                sick = ["API server"]
            if say and waiting != sick[0]:
                waiting = sick[0]
                say(f"Airflow starts: waiting for its {waiting.replace('_', '-')}")
            time.sleep(0.1)
        raise TransientError(
            "transient.service",
            f"Airflow did not come up within {timeout:.0f} s.",
            f"Look at {self.logs}; a busy machine may need longer.",
        )

    def api(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the REST API (``/api/v2`` + path); returns decoded JSON.

        Raises
        ------
        TransientError
            Where Airflow does not answer; ``httpx.HTTPStatusError`` where it refuses.
        """
        import httpx

        for attempt in range(5):
            try:
                if self._client is None:
                    self._client = self._connect()
                answer = self._client.request(method, path, **arguments)
                answer.raise_for_status()
                return answer.json() if answer.content else None
            except httpx.TransportError as error:
                self.alive()
                if attempt == 4:
                    raise TransientError(
                        "transient.service",
                        f"Airflow's API did not answer ({type(error).__name__}).",
                        f"Look at {self.logs} and start again.",
                    ) from None
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _connect(self) -> Any:
        import httpx

        user, password = self.login
        token = httpx.post(
            f"{self.url}/auth/token", json={"username": user, "password": password}, timeout=30.0
        )
        token.raise_for_status()
        return httpx.Client(
            base_url=f"{self.url}/api/v2",
            headers={"Authorization": f"Bearer {token.json()['access_token']}"},
            timeout=30.0,
        )

    def wait_dag(self, dag: str, since: float, timeout: float = 60.0) -> None:
        """Wait until the dag-processor has read a DAG's file after ``since`` (Unix time).

        Raises
        ------
        ConfigError
            Where the file has an import error.
        TransientError
            Where it takes too long.
        """
        from datetime import datetime

        import httpx

        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for fault in self.api("GET", "/importErrors")["import_errors"]:
                if fault["filename"].endswith(f"{dag}.py"):
                    text = fault["stack_trace"].strip()
                    raise error_in(text) or ConfigError(
                        "config.invalid",
                        f"{fault['filename']} cannot be read: {text.splitlines()[-1]}",
                        "Mend what the message names.",
                    )
            try:
                parsed = self.api("GET", f"/dags/{dag}")["last_parsed_time"]
                if parsed and datetime.fromisoformat(parsed).timestamp() >= since:
                    return
            except httpx.HTTPStatusError as error:
                if error.response.status_code != 404:
                    raise
            time.sleep(0.1)
        raise TransientError(
            "transient.service",
            f"{dag} was not read within {timeout:.0f} s.",
            f"Look at {self.logs / 'dag-processor.log'}.",
        )

    def trigger(
        self, dag: str, conf: Mapping[str, Any] | None = None, note: str | None = None
    ) -> str:
        """Start a DAG run by hand; returns its id."""
        body = {"logical_date": None, "conf": dict(conf or {}), "note": note}
        return str(self.api("POST", f"/dags/{dag}/dagRuns", json=body)["dag_run_id"])

    def dag_run(self, dag: str, run: str) -> dict[str, Any]:
        """State, dates and note of a DAG run."""
        found: dict[str, Any] = self.api("GET", f"/dags/{dag}/dagRuns/{_quoted(run)}")
        return found

    def end_run(self, dag: str, run: str, note: str) -> None:
        """Mark a DAG run failed, which also stops its tasks."""
        body = {"state": "failed", "note": note}
        self.api("PATCH", f"/dags/{dag}/dagRuns/{_quoted(run)}", json=body)

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """Task instances of a DAG run by task id."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            page = self.api(
                "GET",
                f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances",
                params={"limit": 100, "offset": len(found)},
            )
            found.update({task["task_id"]: task for task in page["task_instances"]})
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def task_log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        """Text of a task's log."""
        path = f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/logs/{attempt}"
        content = self.api("GET", path, headers={"Accept": "application/json"})["content"]
        lines: list[str] = []
        for line in content:
            lines.append(str(line.get("event", "")))
            lines += [f"{e['exc_type']}: {e['exc_value']}" for e in line.get("error_detail") or ()]
        return "\n".join(lines)

    def _configure(self) -> None:
        """Write ``airflow.cfg``: secrets are kept, everything else follows this version."""
        secret = _secrets(self.home / "secrets.json")
        if not self._passwords.exists():
            _private(self._passwords, json.dumps({USER: secrets.token_urlsafe(12)}))
        workers = str(max(8, 2 * (os.cpu_count() or 1)))
        settings: dict[str, dict[str, str]] = {
            "core": {
                "dags_folder": str(self.dags),
                "executor": "LocalExecutor",
                "parallelism": workers,
                "max_active_tasks_per_dag": workers,
                "load_examples": "False",
                "dags_are_paused_at_creation": "False",
                "simple_auth_manager_users": f"{USER}:admin",
                "simple_auth_manager_passwords_file": str(self._passwords),
                "execution_api_server_url": f"{self.url}/execution/",
                "fernet_key": secret["fernet_key"],
            },
            "database": {"sql_alchemy_conn": f"sqlite:///{self.home / 'airflow.db'}"},
            "scheduler": {
                "scheduler_idle_sleep_time": "0.1" if self._eager else "1",
                "task_instance_heartbeat_timeout": "60",
            },
            "workers": {"min_heartbeat_interval": "1", "execution_api_timeout": "30"},
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
        config = configparser.ConfigParser(interpolation=None)
        config.read_dict(
            {s: {k: v.replace("%", "%%") for k, v in o.items()} for s, o in settings.items()}
        )
        part = self.home / "airflow.cfg.part"
        _private(part, "")
        with part.open("w", encoding="utf-8") as file:
            config.write(file)
        os.replace(part, self.home / "airflow.cfg")


def error_in(text: str) -> FolkmootError | None:
    """The last error of ours that a log or traceback ends with, as it was raised."""
    found = list(_ERROR.finditer(text))
    if not found:
        return None
    values = found[-1].groupdict()
    families = {
        kind.__name__.removesuffix("Error").lower(): kind for kind in FolkmootError.__subclasses__()
    }
    family = families[values["code"].split(".")[0]]
    return family(values["code"], values["message"], values["remedy"], site=values["site"])


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


def _quoted(run: str) -> str:
    from urllib.parse import quote

    return quote(run, safe="")
