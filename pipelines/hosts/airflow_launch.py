"""Airflow's services as children of one process: ``python -m pipelines.hosts.airflow_launch``.

Importing Airflow costs about three CPU seconds, and every service and every task needs it.  Here it
is imported once; API server, scheduler and dag-processor are forked from that process, and the
LocalExecutor's tasks from the scheduler, so that a task starts with everything it needs in memory.
Where forking after imports is not safe (macOS) each service is started as its own command.

A service that something killed (SIGKILL, the kernel for want of memory), or that ended by itself
after it had come up (its database was away), is started again, a few times, once the database answers.
The process ends when one of its services ends more often or does not come up at first, on SIGTERM or
SIGINT, or when its standard input closes: services never outlive the command that started them.
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

__all__ = [
    "COMMANDS",
    "MLFLOW",
    "OPTIONAL",
    "PRELOAD",
    "SITES",
    "await_database",
    "bury",
    "end_at_once",
    "main",
]

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

#: A service is started again so many times within so many seconds.
_AGAIN, _WHILE = 5, 600.0
#: Seconds after the first start within which a service that ends by itself has not come up.
_SETTLED = 30.0
#: Seconds that a service which is started again waits for the database.
_PATIENCE = 60.0
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
    # In a container of its own a service is started again from outside.
    again = forking and "--service" not in sys.argv
    if forking:
        _adopt()
    ended = _watch(children, stop, logs, again)
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


def _adopt() -> None:
    """Become the parent of what a killed service leaves behind (Linux, prctl(2))."""
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _sweep(children: dict[int, str]) -> None:
    """End what a killed service left: tasks that nobody watches, which are then tried anew."""
    import psutil

    for orphan in psutil.Process().children():
        if orphan.pid not in children:
            for process in [*orphan.children(recursive=True), orphan]:
                _signal(process.pid, signal.SIGKILL)


def _start(name: str, logs: Path, forking: bool, mode: str = "wb") -> int:
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
    log = (logs / f"{name}.log").open(mode)
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
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a later start finds this process's own
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(environment)
        if mode == "ab":
            from airflow.configuration import conf

            await_database(conf.get_mandatory_value("database", "sql_alchemy_conn"), _PATIENCE)
        if name == "scheduler":
            _load(PRELOAD_STEPS)
            end_at_once()
            if "--service" not in sys.argv:
                bury()
        sys.argv = ["airflow", *arguments]
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


def await_database(url: str, patience: float) -> None:
    """Wait until a database answers.

    Parameters
    ----------
    url : str
        As SQLAlchemy takes it.
    patience : float
        Seconds after which it is left to the caller to find that it does not.

    Raises
    ------
    ConfigError
        Where it answers and refuses.
    """
    from folkmoot.errors import TransientError
    from pipelines.hosts.database import check_database

    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            check_database(url, "database")
            break
        except TransientError:
            time.sleep(0.2)


def bury() -> None:
    """Tell Airflow that no other scheduler lives, so that what the last one left is taken up at once.

    Airflow would wait for its heart-beat to be old, and look again after minutes.  All services of a
    home are children of one process, which holds its lock: another scheduler is a dead one.
    """
    from airflow.jobs.job import Job, JobState
    from airflow.utils.session import create_session
    from sqlalchemy import update

    living = (Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING)
    with create_session() as session:
        session.execute(update(Job).where(*living).values(state=JobState.FAILED))


def end_at_once() -> None:
    """Let a scheduler whose loop failed, for want of its database, end without waiting for its tasks.

    One of them follows the whole run, which waits for a scheduler.  They are ended and tried anew.
    """
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    loop = SchedulerJobRunner._run_scheduler_loop

    def run(self: SchedulerJobRunner) -> None:
        try:
            loop(self)
        except Exception:
            self.log.exception("The scheduler's loop failed")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    SchedulerJobRunner._run_scheduler_loop = run


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


def _watch(children: dict[int, str], stop: list[int], logs: Path, restart: bool) -> str | None:
    """Wait; returns the name of a service that ended unasked and is not started again, or None."""
    began, ended = time.monotonic(), dict[str, list[float]]()
    # A service of its own (--service) has nobody at its standard input.
    watched, again = [] if "--service" in sys.argv else [sys.stdin], 0.0
    while not stop:
        if again and time.monotonic() > again:
            again = 0.0
            children[_start_mlflow(logs)] = MLFLOW
        readable, _, _ = select.select(watched, [], [], 0.2)
        if readable and not os.read(sys.stdin.fileno(), 1024):
            return None
        pid, status = os.waitpid(-1, os.WNOHANG)
        if children.get(pid) == MLFLOW:
            del children[pid]
            again = time.monotonic() + 5.0
        elif pid in children:
            name, now = children.pop(pid), time.monotonic()
            lately = [moment for moment in ended.get(name, []) if now - moment < _WHILE]
            came_up = os.WIFSIGNALED(status) or now - began > _SETTLED
            if not restart or not came_up or len(lately) >= _AGAIN:
                return name
            ended[name] = [*lately, now]
            _sweep(children)
            children[_start(name, logs, True, "ab")] = name
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
