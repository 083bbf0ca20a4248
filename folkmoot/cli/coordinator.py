"""``folkmoot coordinator``: serve real sites, invite them, shut them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from folkmoot.cli.places import Overrides, ParamsFile, Workspace

if TYPE_CHECKING:
    from folkmoot.params import Params
    from pipelines.guard.sites import Sites
    from pipelines.hosts.airflow_coordinator import ServerSettings

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
        str | None, typer.Option(help="Airflow's database (postgresql+psycopg2://…).")
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

    from folkmoot.cli.places import params_of
    from pipelines.hosts.airflow_coordinator import Coordinator

    wanted = params_of(params, overrides)
    folder = _folder(wanted, workspace)
    options = {
        "url": url,
        "listen": listen,
        "certificate": None if certificate is None else str(certificate.absolute()),
        "key": None if key is None else str(key.absolute()),
        "database": database,
    }
    settings = _settings(folder, {k: v for k, v in options.items() if v is not None})
    coordinator = Coordinator(wanted, folder, settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with coordinator:
            coordinator.wait_guarded()
            coordinator.wait_ready(say=typer.echo)
            user, password = coordinator.login
            typer.echo(f"Sites reach the coordinator at {settings.url}.")
            typer.echo(f"Airflow's UI: {coordinator.url} (user {user}, password {password})")
            while True:
                coordinator.alive()
                time.sleep(1.0)
    except KeyboardInterrupt:
        typer.echo("Stopped.")


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    hours: Annotated[float, typer.Option(help="How long the token counts.")] = 48.0,
    workspace: Workspace = None,
) -> None:
    """Print a token with which a site joins, once.

    Hand it to the site's steward by a way that others do not read: who has it can join under that name.

    **For example:** `folkmoot coordinator invite clinic-a --hours 24`
    """
    from folkmoot.errors import ConfigError
    from pipelines.hosts.airflow_coordinator import Coordinator

    params, folder = _place(workspace)
    if site not in params.federation.sites:
        raise ConfigError(
            "config.invalid",
            f"federation.sites of params.yaml does not name {site}.",
            "Add it, or correct the name.",
        )
    coordinator = Coordinator(params, folder, _settings(folder, {}))
    made = coordinator.invitations.invite(
        site, coordinator.settings.url, coordinator.authority, hours=hours
    )
    typer.echo(made.to_text())


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="Name of the site.")], workspace: Workspace = None
) -> None:
    """Shut a site out: its next request is refused, whatever it holds.

    **For example:** `folkmoot coordinator revoke clinic-a`
    """
    was = _sites(workspace).remove(site)
    typer.echo(f"Site {site} is shut out." if was else f"Site {site} had not joined.")


@app.command()
def sites(workspace: Workspace = None) -> None:
    """List the sites that have joined, with their public keys.

    **For example:** `folkmoot coordinator sites`
    """
    for name, member in sorted(_sites(workspace).members.items()):
        typer.echo(f"{name}  {member.key}" + ("  logs" if member.logs else ""))


@app.command()
def logs(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    allow: Annotated[bool, typer.Option("--allow/--drop", help="Take the text, or drop it.")],
    workspace: Workspace = None,
) -> None:
    """Take the text of a site's task logs, or drop it (the default).

    **For example:** `folkmoot coordinator logs clinic-a --allow`
    """
    from folkmoot.errors import ConfigError
    from pipelines.guard.sites import Member

    known = _sites(workspace)
    if site not in known.members:
        raise ConfigError(
            "config.invalid", f"Site {site} has not joined.", "folkmoot coordinator sites"
        )
    known.add(site, Member(known.members[site].key, logs=allow))
    typer.echo(f"Logs of {site} are {'taken' if allow else 'dropped'}.")


def _sites(workspace: Path | None) -> Sites:
    from pipelines.guard.sites import Sites

    return Sites(_place(workspace)[1] / "coordinator" / "guard" / "sites.json")


def _place(workspace: Path | None) -> tuple[Params, Path]:
    from folkmoot.cli.places import params_of

    params = params_of(None, None)
    return params, _folder(params, workspace)


def _folder(params: Params, workspace: Path | None) -> Path:
    return (workspace or Path(params.federation.workspace)).absolute()


def _settings(folder: Path, changes: dict[str, object]) -> ServerSettings:
    """``server.toml`` with what the options change, kept for the next time."""
    import tomllib

    import tomli_w

    from folkmoot.errors import ConfigError
    from folkmoot.sections import parse
    from pipelines.hosts.airflow_coordinator import ServerSettings

    path = folder / "coordinator" / "server.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError):
        raise ConfigError(
            "config.syntax", f"{path} is not readable TOML.", "Mend its syntax or its mode."
        ) from None
    settings = parse(ServerSettings, {**values, **changes}, source=str(path))
    settings.check()
    if changes or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for name, field in ServerSettings.model_fields.items():
            value = getattr(settings, name)
            entry = f"# {name} =\n" if value is None else tomli_w.dumps({name: value})
            lines.append(f"# {field.description}\n{entry}")
        path.write_text("\n".join(lines), encoding="utf-8")
        path.chmod(0o600)  # a database's URL may hold a password
    return settings
