"""``folkmoot site standing``: what a run's records say of a site's updates, and why."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from folkmoot.cli.places import Overrides, ParamsFile, Workspace

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``folkmoot site``."""
    app.command()(standing)


def standing(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    run: Annotated[str, typer.Option(help="Name of the run.")],
    params: ParamsFile = None,
    overrides: Overrides = None,
    workspace: Workspace = None,
) -> None:
    """Show how far a site's updates lay from the others', round by round.

    Distance 1 is that of the median site; beyond 3 a round is suspicious. A steward who knows why the
    site's people differ shows this table to the coordinator, who starts the next run with a larger
    aggregation.defence.quarantine_after.

    **For example:** `folkmoot site standing clinic-a --run linear-3f2a91cc-1`
    """
    from rich.console import Console
    from rich.table import Table

    from folkmoot.cli.places import params_of, workspace_of
    from folkmoot.errors import ConfigError
    from folkmoot.plan import keys
    from pipelines.hosts.execute import store_of

    settings = params_of(params, overrides)
    store = store_of(settings, workspace_of(workspace))
    table = Table("round", "distance", "suspicious rounds", "counts")
    for round in range(1, settings.model.rounds + 1):
        data = store.find(f"{settings.federation.name}/runs/{run}/{keys.record(round)}")
        record = {} if data is None else json.loads(data)
        groups = record.get("secure", {}).get("groups", {})
        name = next((group for group, own in groups.items() if site in own), site)
        found = record.get("defence", {}).get("standing", {}).get(name)
        if found is not None:
            counts = "no, quarantined" if found["quarantined"] else "yes"
            table.add_row(str(round), f"{found['distance']:.2f}", str(found["suspicious"]), counts)
    if not table.rows:
        raise ConfigError(
            "config.invalid",
            f"Run {run} of federation {settings.federation.name} says nothing of site {site}.",
            "Check the run's name; only aggregation.defence.mode robust compares updates, and grouped "
            "those of groups.",
            site=site,
        )
    Console().print(table)
