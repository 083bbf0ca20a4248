"""``folkmoot run``: train a federation on any host."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]


class Host(StrEnum):
    """Who schedules the steps."""

    embedded = "embedded"
    airflow = "airflow"
    dvc = "dvc"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("run")(run)


def run(
    params: Annotated[Path, typer.Option("--params", help="The federation's settings.")] = Path(
        "params.yaml"
    ),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated."),
    ] = None,
    host: Annotated[Host, typer.Option(help="Who schedules the steps.")] = Host.embedded,
    name: Annotated[
        str | None, typer.Option("--run", help="Name of the run, to resume or repeat it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="End standard output with one JSON object.")
    ] = False,
    baselines: Annotated[
        bool, typer.Option(help="Train each site alone and pooled, where a recipe allows it.")
    ] = True,
) -> None:
    """Train one model over the sites of a federation.

    **Examples**

    `folkmoot run` trains what `params.yaml` says, in this process.

    `folkmoot run --set data.recipe=diabetes --set model.linear.rounds=3 --json`

    `folkmoot run --host airflow` runs the same plan as an Airflow DAG, `--host dvc` as `dvc repro`.

    A run that was killed goes on where it was when the same command is given again.
    """
    from rich.console import Console

    from folkmoot.params import load_params

    console = Console(stderr=as_json)
    settings = load_params(params, set_ or [])
    _check_name(name)
    try:
        if host is not Host.embedded:
            result = _scheduled(host, params, settings, name, console)
        else:
            result = _embedded(settings, name, console)
        result = _finish(settings, result, console, baselines=baselines)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. The same command goes on where it was.")
        raise typer.Exit(130) from None
    if as_json:
        sys.stdout.write(json.dumps(result, sort_keys=True) + "\n")
    else:
        from folkmoot.cli import statistics, tables

        show = statistics.show if result["kind"] == "statistics" else tables.show
        show(console, result)


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[a-z0-9][A-Za-z0-9._-]{0,127}", name):
        from folkmoot.errors import ConfigError

        raise ConfigError(
            "config.invalid",
            "--run: the name of a run begins with a small letter or digit, and holds letters, "
            "digits, points, hyphens and underscores.",
            "Choose another name, or leave it out.",
        )


def _embedded(settings: Any, name: str | None, console: Any) -> dict[str, Any]:
    from folkmoot.cli.tables import RoundProgress
    from pipelines.hosts.embedded import run as run_embedded

    with RoundProgress(console, settings.rounds) as progress:
        return run_embedded(settings, run=name, progress=progress.hooks())


def _scheduled(
    host: Host, path: Path, settings: Any, name: str | None, console: Any
) -> dict[str, Any]:
    if host is Host.dvc:
        from pipelines.hosts.dvc import run as run_dvc

        return run_dvc(settings, params_file=path, run=name, say=_sayer(console))
    from folkmoot.cli.tables import RoundProgress
    from pipelines.hosts.airflow_run import run as run_airflow

    with RoundProgress(console, settings.rounds) as progress:
        return run_airflow(settings, run=name, progress=progress.hooks())


def _finish(
    settings: Any, result: dict[str, Any], console: Any, *, baselines: bool
) -> dict[str, Any]:
    """Model file, baselines and tracking: the coordinator's work after the last round."""
    from pipelines.conclusion import conclude_locally

    return conclude_locally(settings, result, baselines=baselines, say=_sayer(console))


def _sayer(console: Any) -> Callable[[str], None]:
    """Prints a line as it is: names in brackets are no markup."""

    def say(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    return say
