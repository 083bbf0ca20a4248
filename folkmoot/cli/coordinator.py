"""``folkmoot coordinator``: serve real sites, invite them, shut them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from folkmoot.cli.places import Overrides, ParamsFile, Workspace

if TYPE_CHECKING:
    from folkmoot.params import Params
    from pipelines.guard.sites import Sites

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="""Serve real sites: start the coordinator, invite sites, shut them out.

    **Two commands here, three at each site:**

    `folkmoot coordinator up --url https://fed.example.org:8443`

    `folkmoot coordinator invite clinic-a` prints a token for the site's steward, who runs
    `folkmoot site init clinic-a`, `folkmoot site join clinic-a TOKEN` and `folkmoot site up clinic-a`.
    """,
)


@app.command()
def up(
    url: Annotated[
        str | None, typer.Option(help="Where sites reach the coordinator: https://host:port.")
    ] = None,
    listen: Annotated[str | None, typer.Option(help="Address to listen at.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TLS certificate with its chain (PEM).")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key (PEM).")] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="Airflow's database: postgresql+psycopg2://… without password, or file:/path."
        ),
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(help="MLflow server with logins: https://host:port.")
    ] = None,
    params: ParamsFile = None,
    overrides: Overrides = None,
    workspace: Workspace = None,
) -> None:
    """Start the coordinator: Airflow, and the API server that sites reach.  Ctrl-C stops it.

    Options are kept in coordinator/server.toml of the workspace, where further settings stand.

    **Examples**

    `folkmoot coordinator up --url https://fed.example.org:8443`

    `folkmoot coordinator up --certificate fullchain.pem --key privkey.pem`
    """
    import signal
    import time
    from urllib.parse import urlsplit

    from folkmoot.cli.places import params_of
    from folkmoot.errors import ConfigError, FolkmootError
    from pipelines.hosts.airflow_coordinator import Coordinator
    from pipelines.hosts.server_settings import load_settings, settings_file

    wanted = params_of(params, overrides)
    folder = _folder(wanted, workspace)
    if database is not None and urlsplit(database).password:
        raise ConfigError(
            "config.invalid",
            "--database holds a password, which other users of this machine can see.",
            f"Write it into {settings_file(folder)}, or into a file that file:/path names.",
        )
    options = {
        "url": url,
        "listen": listen,
        "certificate": None if certificate is None else str(certificate.absolute()),
        "key": None if key is None else str(key.absolute()),
        "database": database,
        "mlflow": mlflow,
    }
    settings = load_settings(folder, {k: v for k, v in options.items() if v is not None})
    coordinator = Coordinator(wanted, folder, settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with coordinator:
            coordinator.wait_guarded()
            coordinator.wait_ready(say=typer.echo)
            typer.echo(f"Sites reach the coordinator at {settings.url}.")
            _login("Airflow's UI", coordinator.url, coordinator.login, coordinator.passwords)
            server = coordinator.mlflow
            if server is not None:
                try:
                    server.ensure_account(alive=coordinator.alive)
                except FolkmootError as error:  # rounds go on, and tracking catches up
                    typer.echo(f"{error.message}\nRemedy: {error.remedy}", err=True)
                _login("MLflow", server.url, server.login, server.folder / "secrets.json")
            while True:
                coordinator.alive()
                time.sleep(1.0)
    except KeyboardInterrupt:
        typer.echo("Stopped.")


@app.command()
def configure(
    params: ParamsFile = None, overrides: Overrides = None, workspace: Workspace = None
) -> None:
    """Write what services in processes of their own read, and make the database (`coordinator serve`).

    **For example:** `folkmoot coordinator configure`
    """
    from folkmoot.cli.places import params_of
    from pipelines.hosts.airflow_coordinator import Coordinator
    from pipelines.hosts.server_settings import load_settings

    wanted = params_of(params, overrides)
    folder = _folder(wanted, workspace)
    Coordinator(wanted, folder, load_settings(folder)).configure()
    typer.echo(f"{folder / 'airflow'} is configured.")


@app.command()
def serve(
    service: Annotated[
        str,
        typer.Argument(
            help="api-server (the UI), task-api-server, sites-api-server, scheduler, dag-processor, "
            "triggerer or mlflow."
        ),
    ],
    params: ParamsFile = None,
    overrides: Overrides = None,
    workspace: Workspace = None,
) -> None:
    """Run one service of the coordinator, in a container or unit of its own.

    `folkmoot coordinator configure` has to be run before, in the same workspace.

    **For example:** `folkmoot coordinator serve scheduler`
    """
    from folkmoot.cli.places import params_of
    from pipelines.hosts.airflow_coordinator import Coordinator
    from pipelines.hosts.server_settings import load_settings

    wanted = params_of(params, overrides)
    folder = _folder(wanted, workspace)
    Coordinator(wanted, folder, load_settings(folder)).serve(service)


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    hours: Annotated[float, typer.Option(help="How long the token counts.")] = 48.0,
    params: ParamsFile = None,
    workspace: Workspace = None,
) -> None:
    """Print a token with which a site joins, once.

    Hand it to the site's steward by a way that others do not read: who has it can join under that name.

    **For example:** `folkmoot coordinator invite clinic-a --hours 24`
    """
    from folkmoot.errors import ConfigError
    from pipelines.hosts.airflow_coordinator import Coordinator
    from pipelines.hosts.server_settings import load_settings

    wanted, folder = _place(params, workspace)
    if site not in wanted.federation.sites:
        raise ConfigError(
            "config.invalid",
            f"federation.sites of {params or 'params.yaml'} does not name {site}.",
            "Add it, or correct the name.",
        )
    coordinator = Coordinator(wanted, folder, load_settings(folder), beside=True)
    made = coordinator.invitations.invite(
        site, coordinator.settings.url, coordinator.authority, hours=hours
    )
    typer.echo(made.to_text())


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    params: ParamsFile = None,
    workspace: Workspace = None,
) -> None:
    """Shut a site out: its next request is refused, whatever it holds.

    **For example:** `folkmoot coordinator revoke clinic-a`
    """
    was = _sites(params, workspace).remove(site)
    typer.echo(f"Site {site} is shut out." if was else f"Site {site} had not joined.")


@app.command()
def sites(params: ParamsFile = None, workspace: Workspace = None) -> None:
    """List the sites that have joined, with their public keys.

    **For example:** `folkmoot coordinator sites`
    """
    for name, member in sorted(_sites(params, workspace).members.items()):
        typer.echo(f"{name}  {member.key}" + ("  logs" if member.logs else ""))


@app.command()
def logs(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    allow: Annotated[bool, typer.Option("--allow/--drop", help="Take the text, or drop it.")],
    params: ParamsFile = None,
    workspace: Workspace = None,
) -> None:
    """Take the text of a site's task logs, or drop it (the default).

    **For example:** `folkmoot coordinator logs clinic-a --allow`
    """
    from folkmoot.errors import ConfigError
    from pipelines.guard.sites import Member

    known = _sites(params, workspace)
    if site not in known.members:
        raise ConfigError(
            "config.invalid", f"Site {site} has not joined.", "folkmoot coordinator sites"
        )
    known.add(site, Member(known.members[site].key, logs=allow))
    typer.echo(f"Logs of {site} are {'taken' if allow else 'dropped'}.")


def _sites(file: Path | None, workspace: Path | None) -> Sites:
    from pipelines.guard.sites import Sites

    return Sites(_place(file, workspace)[1] / "coordinator" / "guard" / "sites.json")


def _place(file: Path | None, workspace: Path | None) -> tuple[Params, Path]:
    from folkmoot.cli.places import params_of

    params = params_of(file, None)
    return params, _folder(params, workspace)


def _folder(params: Params, workspace: Path | None) -> Path:
    return (workspace or Path(params.federation.workspace)).absolute()


def _login(what: str, url: str, login: tuple[str, str], file: Path) -> None:
    """Tell a person the password, and a service's log where it stands."""
    import sys

    user, password = login
    told = f"password {password}" if sys.stdout.isatty() else f"password in {file}"
    typer.echo(f"{what}: {url} (user {user}, {told})")
