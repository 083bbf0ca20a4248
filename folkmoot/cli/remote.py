"""``folkmoot site join`` and ``folkmoot site up``: a site whose coordinator is elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from folkmoot.cli.places import Workspace

__all__ = ["register"]

Site = Annotated[str, typer.Argument(help="Name of the site.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``folkmoot site``."""
    app.command("join")(join)
    app.command("up")(up)


def join(
    site: Site,
    token: Annotated[str, typer.Argument(help="What the coordinator's `invite` printed.")],
    workspace: Workspace = None,
) -> None:
    """Join the coordinator that made the token: it learns the site's public key, nothing else.

    **For example:** `folkmoot site join clinic-a folkmoot-join-1.eJw…`
    """
    from folkmoot.cli.places import workspace_of
    from site_tasks.home import SiteHome
    from site_tasks.join import join as accept

    home = SiteHome.find(site, workspace_of(workspace))
    facts = accept(home, token)
    typer.echo(f"Site {site} has joined federation {facts['federation']}.")
    if facts["federation"] not in home.settings.permissions.federations:
        typer.echo(
            f"It takes part when permissions.federations of {home.root / 'site.toml'} names "
            f"{facts['federation']}."
        )
    typer.echo(f"Start its worker: folkmoot site up {site}")


def up(
    site: Site,
    concurrency: Annotated[int, typer.Option(min=1, help="Tasks at the same time.")] = 1,
    workspace: Workspace = None,
) -> None:
    """Run the site's worker: it fetches tasks from the coordinator, and listens to nobody.

    Ctrl-C lets the running task end first.

    **For example:** `folkmoot site up clinic-a`
    """
    import os
    import sys
    import time

    from folkmoot.cli.places import workspace_of
    from folkmoot.errors import TransientError
    from folkmoot.identity.visit import Visit
    from pipelines.hosts.airflow_worker_setup import prepare
    from site_tasks.home import SiteHome
    from site_tasks.join import coordinator_file, hello

    home = SiteHome.find(site, workspace_of(workspace))
    environment = prepare(home, concurrency=concurrency)
    waits = [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]  # machines may start at the same time
    while True:
        try:
            facts = hello(Visit.load(coordinator_file(home)))
            break
        except TransientError as error:
            if not waits:
                raise
            typer.echo(f"{error.message} Trying again.", err=True)
            time.sleep(waits.pop(0))
    typer.echo(f"Site {site} works for federation {facts['federation']}. Ctrl-C stops it.")
    sys.stdout.flush()
    command = [sys.executable, "-m", "pipelines.hosts.airflow_worker"]
    os.chdir(environment["AIRFLOW_HOME"])
    os.execve(command[0], command, environment)  # noqa: S606 - in this process's place
