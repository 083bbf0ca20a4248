"""``make demo`` and ``make ui``: a federated training through Airflow, and both UIs on loopback."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from folkmoot.params import Params
    from pipelines.hosts.airflow_services import Services

__all__ = ["main"]

USAGE = "usage: python -m pipelines.demo run|ui [KEY=VALUE ...]"


def main() -> None:
    """Run the command that is named; ends with the exit code of its error."""
    if len(sys.argv) < 2 or sys.argv[1] not in {"run", "ui"}:
        sys.exit(USAGE)
    # `kill` ends it as Ctrl-C does, in the background too: services are stopped.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    from rich.console import Console

    from folkmoot.errors import FolkmootError
    from folkmoot.params import load_params

    console = Console()
    try:
        params = load_params("params.yaml", sys.argv[2:])
        (demo if sys.argv[1] == "run" else ui)(params, console)
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on where it was.")
        sys.exit(130)
    except FolkmootError as error:
        console.print("[bold red]Error:[/] ", end="")
        console.print(str(error), markup=False, highlight=False)
        sys.exit(error.exit_code)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def demo(params: Params, console: Console) -> None:
    """Train over the sites of ``params.yaml`` through Airflow, and show what came of it."""
    began = time.perf_counter()
    federation, model = params.federation, params.model
    console.print(
        f"[bold]Folkmoot[/]: {len(federation.sites)} sites train one {model.kind} model on "
        f"{params.data.recipe or 'their own data'} through Airflow, at most {model.rounds} rounds. "
        "Rows stay where they are."
    )
    from folkmoot.cli.tables import RoundProgress, show
    from pipelines.conclusion import conclude_locally
    from pipelines.hosts.airflow_run import run

    with RoundProgress(console, model.rounds) as progress:
        result = run(params, progress=progress.hooks())
        result = conclude_locally(params, result)  # the DAG said what goes on
    show(console, result)
    console.print(f"Whole command: {time.perf_counter() - began:.1f} s")
    console.print()
    console.print("Look at it in the browser, both with [bold]make ui[/], or one by one:")
    _commands(params, console)


def _commands(params: Params, console: Console) -> None:
    """The commands that open the UIs, ready to paste."""
    workspace = params.federation.workspace
    here = Path(sys.executable).parent
    with contextlib.suppress(ValueError):
        here = here.relative_to(Path.cwd())
    uri = params.tracking.uri or f"sqlite:///{workspace}/coordinator/mlflow.db"
    for name, command in (
        ("Airflow", f"{here}/python -m pipelines.demo ui"),
        ("MLflow", f"{here}/mlflow ui --backend-store-uri {uri}"),
    ):
        console.print(f"  {name:8}{command}", markup=False, highlight=False, soft_wrap=True)


def ui(params: Params, console: Console) -> None:
    """Serve Airflow, with the scheduled DAGs, and MLflow until Ctrl-C."""
    workspace = Path(params.federation.workspace)
    console.print("Starting Airflow and MLflow on this machine alone (127.0.0.1)")
    from pipelines.hosts.airflow_run import local_airflow
    from pipelines.hosts.airflow_services import free_port

    port = free_port(5000)
    with local_airflow(params, workspace, scheduled=True) as airflow:
        tracking = _mlflow(params, workspace, port)
        try:
            airflow.wait_ready(say=console.print)
            _tell(airflow, params, port if tracking else None, console)
            while True:
                airflow.alive()
                if tracking and tracking.poll() is not None:
                    console.print("MLflow ended by itself; Airflow goes on.")
                    tracking = None
                time.sleep(1)
        finally:
            if tracking:
                tracking.terminate()
                tracking.wait(10)


def _mlflow(params: Params, workspace: Path, port: int) -> subprocess.Popen[bytes] | None:
    """MLflow's server, unless ``tracking.uri`` is one already."""
    from folkmoot.errors import ConfigError
    from pipelines.coordinator.mlflow_store import ui_command

    try:
        command = ui_command(params, workspace, port=port)
    except ConfigError:
        return None
    log = workspace / "coordinator" / "mlflow.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def _tell(airflow: Services, params: Params, port: int | None, console: Console) -> None:
    """Addresses and login."""
    user, password = airflow.login
    lines = [
        f"Airflow  {airflow.url}   user {user}, password {password}",
        f"MLflow   http://127.0.0.1:{port}" if port else f"MLflow   {params.tracking.uri}",
        "",
        "federated_linear and federated_trees start by the clock (schedule.cron), by new data",
        "that refresh_site_data finds (schedule.on_new_data), or by hand. Ctrl-C stops both.",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
