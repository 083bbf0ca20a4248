"""Airflow's services as children of one process: ``python -m pipelines.hosts.airflow_launch``.

Importing Airflow costs about three CPU seconds, and every service and every task needs it.  Here it
is imported once; API server, scheduler and dag-processor are forked from that process, and the
LocalExecutor's tasks from the scheduler, so that a task starts with everything it needs in memory.
Where forking after imports is not safe (macOS) each service is started as its own command.

The process ends when one of its services does, on SIGTERM or SIGINT, or when its standard input
closes: services never outlive the command that started them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["COMMANDS", "MLFLOW", "OPTIONAL", "PRELOAD", "SITES", "main"]

#: The services, by name, with the arguments of the ``airflow`` command, slowest to start first.
#: UI and tasks have an API server each, so that the two start side by side.
COMMANDS = {
    "api-server": ["api-server", "--apps", "core"],
    "task-api-server": ["api-server", "--apps", "execution"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}

#: Started where it is asked for.
OPTIONAL = {"triggerer": ["triggerer", "--skip-serve-logs"]}

#: The API server that sites reach, where there are some (``airflow_coordinator``).
SITES = "sites-api-server"

#: The tracking server beside them, where there is one.  Rounds do not need it: it is started again.
MLFLOW = "mlflow"

#: What tasks and services would otherwise import one by one.
PRELOAD = (
    "airflow.jobs.scheduler_job_runner",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.bundles.local",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.execution_time.timeout",
    "airflow.sdk.definitions.timetables.assets",
    "jinja2.ext",
    "pipelines.hosts.airflow",
)
#: The same for the steps themselves; only the scheduler's children run them.
PRELOAD_STEPS = (
    "pipelines.coordinator.open_round",
    "pipelines.coordinator.close_round",
    "pipelines.coordinator.close_run",
    "pipelines.coordinator.aggregate.linear",
    "pipelines.coordinator.aggregate.newton",
    "pipelines.coordinator.aggregate.trees",
    "site_tasks.border",
    "site_tasks.prepare",
    "site_tasks.evaluate",
    "site_tasks.train_linear",
    "site_tasks.train_trees",
)


def main() -> int:
    """Run the services until one ends or this process is told to."""
    home = Path(os.environ["AIRFLOW_HOME"])
    logs = home / "logs" / "services"
    logs.mkdir(parents=True, exist_ok=True)
    forking = sys.platform == "linux"
    if forking:
        _load(("airflow", "airflow.cli.cli_parser", "airflow.api_fastapi.app"))
    if os.environ.get("FOLKMOOT_SERVICES") != MLFLOW:
        _migrate(home, logs, forking)
    children: dict[int, str] = {}
    stop: list[int] = []
    names = [*([SITES] if os.environ.get("FOLKMOOT_SITES_SERVER") else []), *COMMANDS]
    names += ["triggerer"] if os.environ.get("FOLKMOOT_TRIGGERER") else []
    names += [MLFLOW] if os.environ.get("FOLKMOOT_MLFLOW") else []
    only = os.environ.get("FOLKMOOT_SERVICES", "").split() or names
    for name in [name for name in names if name in only]:
        if forking and name == "scheduler":
            _load(PRELOAD)
        pid = _start_mlflow(logs) if name == MLFLOW else _start(name, logs, forking)
        children[pid] = name
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: stop.append(received))
    ended = _watch(children, stop, logs)
    _end(children)
    if ended is not None:
        print(f"{ended} ended by itself; see {logs / (ended + '.log')}", file=sys.stderr)
        return 1
    return 0


def _load(modules: tuple[str, ...]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            continue  # the task that needs it reports it


def _migrate(home: Path, logs: Path, forking: bool) -> None:
    """Make or migrate the database, once per Airflow version."""
    import importlib.metadata

    if os.environ.get("FOLKMOOT_MIGRATED"):
        return
    version = importlib.metadata.version("apache-airflow-core")
    stamp = home / "database-version"
    if stamp.exists() and stamp.read_text() == version and (home / "airflow.db").exists():
        return
    pid = _start("migrate", logs, forking)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        print(f"The database could not be made; see {logs / 'migrate.log'}", file=sys.stderr)
        raise SystemExit(1)
    stamp.write_text(version)


def _start(name: str, logs: Path, forking: bool) -> int:
    """Start a service; returns its process id."""
    arguments = list({**COMMANDS, **OPTIONAL}.get(name) or ["db", "migrate"])
    if name == "task-api-server":
        arguments += ["--port", os.environ["FOLKMOOT_TASK_API_PORT"]]
    environment = dict(os.environ)
    guard = environment.pop("FOLKMOOT_GUARD", None)
    if name == SITES and guard is not None:
        arguments = [
            "api-server",
            "--apps",
            "all",
            *os.environ["FOLKMOOT_SITES_SERVER"].split("\n"),
        ]
        environment["FOLKMOOT_GUARD"] = guard
    log = (logs / f"{name}.log").open("wb")
    if not forking:
        command = [sys.executable, "-m", "airflow", *arguments]
        return subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
        ).pid
    pid = os.fork()
    if pid:
        log.close()
        return pid
    status = 1
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["airflow", *arguments]
        os.environ.clear()
        os.environ.update(environment)
        if name == "scheduler":
            _load(PRELOAD_STEPS)
        from airflow.__main__ import main as airflow

        airflow()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _start_mlflow(logs: Path) -> int:
    """Start MLflow's server, a program of its own; returns its process id."""
    told = json.loads(Path(os.environ["FOLKMOOT_MLFLOW"]).read_text(encoding="utf-8"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "FOLKMOOT_"))}
    with (logs / f"{MLFLOW}.log").open("ab") as log:
        return subprocess.Popen(
            told["command"],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**kept, **told["environment"]},
        ).pid


def _watch(children: dict[int, str], stop: list[int], logs: Path) -> str | None:
    """Wait; returns the name of a service that ended unasked, or None."""
    # A service of its own (--service) has nobody at its standard input.
    watched, again = [] if "--service" in sys.argv else [sys.stdin], 0.0
    while not stop:
        if again and time.monotonic() > again:
            again = 0.0
            children[_start_mlflow(logs)] = MLFLOW
        readable, _, _ = select.select(watched, [], [], 0.2)
        if readable and not os.read(sys.stdin.fileno(), 1024):
            return None
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if children.get(pid) == MLFLOW:
            del children[pid]
            again = time.monotonic() + 5.0
        elif pid in children:
            return children.pop(pid)
    return None


def _end(children: dict[int, str], patience: float = 8.0) -> None:
    """End the services and everything they started."""
    import psutil

    descendants = psutil.Process().children(recursive=True)
    for pid in children:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while children and time.monotonic() < deadline:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        children.pop(pid, None)
        if not pid:
            time.sleep(0.05)
    for process in descendants:
        if process.is_running():
            _signal(process.pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    raise SystemExit(main())
