"""The commands, put together."""

from __future__ import annotations

import typer

import folkmoot
from folkmoot.cli import (
    anonymise,
    audit,
    consent,
    coordinator,
    data,
    doctor,
    ledger,
    lineage,
    local,
    params,
    plan,
    remote,
    roster,
    run,
    site,
    standing,
    statistics,
    upkeep,
)

__all__ = ["app"]

app = typer.Typer(
    name="folkmoot",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Train one model over several sites whose data stays where it is.

    **Try it:** `folkmoot run` trains the federation of `params.yaml` in this process.

    **Change it:** `folkmoot run --set model.kind=trees --set model.trees.rounds=10`
    """,
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version and end."),
) -> None:
    if version:
        typer.echo(f"folkmoot {folkmoot.__version__}")
        raise typer.Exit


run.register(app)
lineage.register(app)
anonymise.register(app)
doctor.register(app)
audit.register(app)
consent.register_approve(app)
app.add_typer(data.app, name="data")
standing.register(site.app)
remote.register(site.app)
consent.register(site.app)
upkeep.register_site(site.app)
upkeep.register(coordinator.app)
app.add_typer(site.app, name="site")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(roster.app, name="roster")
app.add_typer(ledger.app, name="ledger")
app.add_typer(local.app, name="local")
app.add_typer(statistics.app, name="statistics")
app.add_typer(params.app, name="params")
app.add_typer(plan.app, name="plan")
