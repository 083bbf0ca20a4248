"""``folkmoot statistics``: federation-wide statistics, without a model."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from folkmoot.cli.places import Overrides, ParamsFile
from folkmoot.cli.run import Host

__all__ = ["app", "show"]

app = typer.Typer(no_args_is_help=True, help="Statistics over the rows of all sites.")


@app.command()
def run(
    params: ParamsFile = None,
    set_: Overrides = None,
    host: Annotated[Host, typer.Option(help="Who schedules the steps.")] = Host.embedded,
    name: Annotated[
        str | None, typer.Option("--run", help="Name of the run, to resume or repeat it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="End standard output with one JSON object.")
    ] = False,
) -> None:
    """Compute what section `statistics` of params.yaml asks, over all sites.

    Each site's steward permits kinds of statistics in `site.toml`, section `statistics`; nothing is
    permitted until then. Every release is an entry of the site's privacy ledger.

    **Examples**

    `folkmoot statistics run --set 'statistics.ask=[moments, quantiles]'`

    `folkmoot statistics run --set 'statistics.ask=[overlap]' --set statistics.overlap_size=5000`
    """
    from rich.console import Console

    from folkmoot.cli.places import params_of
    from folkmoot.cli.run import _check_name, _embedded, _sayer, _scheduled
    from pipelines.conclusion import conclude_locally

    console = Console(stderr=as_json)
    overrides = [*(set_ or []), "statistics.active=true"]
    settings = params_of(params, overrides)
    _check_name(name)
    try:
        if host is Host.embedded:
            result = _embedded(settings, name, console)
        else:
            from pathlib import Path

            result = _scheduled(host, params or Path("params.yaml"), settings, name, console)
        result = conclude_locally(settings, result, say=_sayer(console))
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. The same command goes on where it was.")
        raise typer.Exit(130) from None
    if as_json:
        sys.stdout.write(json.dumps(result, sort_keys=True) + "\n")
    else:
        show(console, result)


def show(console: Any, result: dict[str, Any]) -> None:
    """Print a line per figure; bins and edges stay in the file."""
    from rich.table import Table

    from pipelines.coordinator.statistics_log import figures_of

    for question, found in result["statistics"].items():
        table = Table(title=question, title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for path, value in figures_of(found):
            table.add_row(path, f"{value:.10g}")
        console.print(table)
    left_out = ", ".join(f"{site} ({code})" for site, code in result["missing"].items())
    if left_out:
        console.print(f"Left out: {left_out}", markup=False)
    console.print(f"Result: {result['model_path']}", markup=False, soft_wrap=True)
