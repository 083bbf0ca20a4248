"""Upkeep: backup, restore, maintenance and what the exchange store keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from folkmoot.cli.places import Overrides, ParamsFile, Workspace

__all__ = ["register", "register_site"]

Target = Annotated[Path, typer.Argument(metavar="FILE", help="The backup (.tar.gz).")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``folkmoot coordinator``."""
    for command in (backup, restore, maintenance, clean):
        app.command()(command)


def register_site(app: typer.Typer) -> None:
    """Add the commands to ``folkmoot site``."""
    app.command("backup")(site_backup)
    app.command("restore")(site_restore)
    app.command("maintenance")(site_maintenance)


def backup(
    target: Target,
    params: ParamsFile = None,
    overrides: Overrides = None,
    workspace: Workspace = None,
) -> None:
    """Back up the coordinator: keys, members, anchors, exchange store, databases (PostgreSQL too).

    The file holds keys: its mode is 0600.  It can be made while runs go on.

    **For example:** `folkmoot coordinator backup /backup/coordinator-2027-01-31.tar.gz`
    """
    from folkmoot.cli.places import params_of
    from pipelines.backup import backup as write

    wanted = params_of(params, overrides)
    number = write(wanted, (workspace or Path(wanted.federation.workspace)).absolute(), target)
    typer.echo(f"{target}: {number} files.")


def restore(
    source: Target,
    databases: Annotated[
        bool, typer.Option(help="Overwrite the PostgreSQL databases that its server.toml names.")
    ] = True,
    workspace: Workspace = None,
) -> None:
    """Bring a coordinator's backup back, into an empty workspace.

    **For example:** `folkmoot coordinator restore /backup/coordinator-2027-01-31.tar.gz`
    """
    from folkmoot.cli.places import workspace_of
    from pipelines.backup import restore as read

    told = read(source, workspace_of(workspace).absolute(), databases=databases)
    typer.echo(f"Restored: {', '.join(told)}.")
    typer.echo("Start it with folkmoot coordinator up, and look with folkmoot doctor.")


def maintenance(
    state: Annotated[str, typer.Argument(metavar="on|off", help="Whether runs wait.")],
    note: Annotated[str, typer.Option(help="Why, for whoever waits.")] = "",
    workspace: Workspace = None,
) -> None:
    """Open no further run (a run in progress goes on to its end), or open runs again.

    **For example:** `folkmoot coordinator maintenance on --note "upgrade until noon"`
    """
    from folkmoot.cli.places import workspace_of
    from folkmoot.errors import ConfigError
    from pipelines.coordinator.lock import maintain

    if state not in {"on", "off"}:
        raise ConfigError("config.invalid", f"{state} is neither on nor off.", "Say on or off.")
    maintain(workspace_of(workspace), state == "on", note)
    typer.echo("No run is opened." if state == "on" else "Runs are opened again.")


def clean(
    days: Annotated[
        float, typer.Option(min=0, help="Age of a run from which on it is cleaned.")
    ] = 90.0,
    unfinished: Annotated[bool, typer.Option(help="Remove runs that never ended, too.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Count only.")] = False,
    params: ParamsFile = None,
    overrides: Overrides = None,
    workspace: Workspace = None,
) -> None:
    """Remove what is not needed any more from the exchange store: sites' artefacts of finished runs.

    Settings, records, results, final models and anchors stay.  The store may be a folder or a bucket.

    **For example:** `folkmoot coordinator clean --days 30 --dry-run`
    """
    from folkmoot.cli.places import params_of
    from pipelines.coordinator.retention import clean as remove
    from pipelines.hosts.execute import store_of

    wanted = params_of(params, overrides)
    folder = (workspace or Path(wanted.federation.workspace)).absolute()
    store, name = store_of(wanted, folder), wanted.federation.name
    done = remove(store, folder, name, days, unfinished=unfinished, dry=dry)
    verb = "would go" if dry else "are gone"
    typer.echo(f"{done.files} artefacts ({done.size >> 10} KiB) of {len(done.runs)} runs {verb}.")
    if done.waiting:
        typer.echo(
            f"Left whole, for a ledger's entry waits for its anchor: {', '.join(done.waiting)}."
        )


def site_backup(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    target: Target,
    workspace: Workspace = None,
) -> None:
    """Back up a site's folder: settings, keys, ledger, releases, repository; not the dataset's bytes.

    **For example:** `folkmoot site backup clinic-a /backup/clinic-a-2027-01-31.tar.gz`
    """
    from folkmoot.cli.places import workspace_of
    from site_tasks.backup import backup as write
    from site_tasks.home import SiteHome

    number = write(SiteHome.find(site, workspace_of(workspace)), target)
    typer.echo(f"{target}: {number} files. It holds the site's keys.")


def site_restore(
    source: Target,
    folder: Annotated[Path, typer.Option(help="Where the site's folder is to be; must not exist.")],
) -> None:
    """Bring a site's folder back from its backup, and verify its ledger.

    **For example:** `folkmoot site restore /backup/clinic-a.tar.gz --folder /srv/clinic-a`
    """
    from site_tasks.backup import restore as read

    home = read(source, folder)
    typer.echo(f"Site {home.name} is at {home.root}. Bring its dataset: dvc pull, in that folder.")


def site_maintenance(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    state: Annotated[str, typer.Argument(metavar="on|off", help="Whether tasks wait.")],
    note: Annotated[str, typer.Option(help="Why, for the coordinator: one line.")] = "",
    workspace: Workspace = None,
) -> None:
    """Take no task at this site (a task that runs goes on to its end), or take tasks again.

    It holds until it is ended, whether the worker runs, is stopped or is killed meanwhile.

    **For example:** `folkmoot site maintenance clinic-a on --note "new disk until noon"`
    """
    from folkmoot.cli.places import workspace_of
    from folkmoot.errors import ConfigError
    from site_tasks.home import SiteHome
    from site_tasks.maintenance import maintain

    if state not in {"on", "off"}:
        raise ConfigError("config.invalid", f"{state} is neither on nor off.", "Say on or off.")
    if len(note) > 200 or not note.isprintable():
        raise ConfigError("config.invalid", "The note is no short line.", "At most 200 letters.")
    maintain(SiteHome.find(site, workspace_of(workspace)), state == "on", note)
    typer.echo(
        f"Site {site} takes no task from the worker's next heart-beat on (10 s)."
        if state == "on"
        else f"Site {site} takes tasks again."
    )
