"""``folkmoot site consent`` and ``folkmoot approve``: where a person decides, without Airflow."""

from __future__ import annotations

from typing import Annotated

import typer

from folkmoot.cli.places import Overrides, ParamsFile, Workspace

__all__ = ["register", "register_approve"]


def register(app: typer.Typer) -> None:
    """Add the command to ``folkmoot site``."""
    app.command("consent")(consent)


def register_approve(root: typer.Typer) -> None:
    """Add the command to the app."""
    root.command("approve")(approve)


def consent(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    federation: Annotated[str, typer.Argument(help="Name of the federation.")],
    contract: Annotated[
        str | None,
        typer.Option(metavar="FILE|SHA256", help="Data contract, or its digest once it was read."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Last day (UTC).")] = None,
    withdraw: Annotated[bool, typer.Option(help="Take the consent back.")] = False,
    workspace: Workspace = None,
) -> None:
    """Record the steward's consent to a federation and its data contract, signed, at the site.

    Where site.toml (permissions.consent) or the plan (approval.consent) asks for it, the site releases
    nothing without.  It is to the coordinator of the accepted roster and to this contract alone.

    **Examples**

    `folkmoot site consent clinic-a trial --contract contract.yaml --until 2027-06-30`

    `folkmoot site consent clinic-a trial` shows what was consented to.

    `folkmoot site consent clinic-a trial --withdraw`
    """
    import datetime
    import re
    from pathlib import Path

    from folkmoot.cli.places import workspace_of
    from folkmoot.contract import load_contract
    from folkmoot.errors import ConfigError
    from site_tasks import consent as consents
    from site_tasks.home import SiteHome

    home = SiteHome.find(site, workspace_of(workspace))
    if withdraw:
        was = consents.withdraw(home, federation)
        typer.echo(
            f"Site {site} takes no further part in {federation} where consent is asked for."
            if was
            else f"Site {site} had not consented to {federation}."
        )
        return
    if contract is None:
        values = consents.given(home, federation)
        if values is None:
            typer.echo(f"Site {site} has not consented to {federation}.")
            raise typer.Exit(1)
        for name in ("federation", "coordinator", "contract", "given", "until"):
            typer.echo(f"{name}  {values[name] or 'none'}")
        return
    if re.fullmatch("[0-9a-f]{64}", contract):
        digest = contract
    else:
        read = load_contract(Path(contract))
        digest = read.digest()
        typer.echo(f"Contract {read.name}: {', '.join(column.name for column in read.inputs)}")
    try:
        last = None if until is None else datetime.date.fromisoformat(until)
    except ValueError:
        raise ConfigError(
            "config.invalid", "--until is no date.", "Write it as 2027-06-30."
        ) from None
    consents.record(home, federation, digest, until=last)
    typer.echo(f"Site {site} consents to {federation} with contract {digest[:12]}.")


def approve(
    run: Annotated[str, typer.Argument(help="Name of the run that made the model.")],
    by: Annotated[str, typer.Option(help="Who decides; noted with the model.")],
    reject: Annotated[bool, typer.Option(help="Leave the model candidate.")] = False,
    params: ParamsFile = None,
    overrides: Overrides = None,
    workspace: Workspace = None,
) -> None:
    """Let a run's model become champion, or not, where approval.champion asks a person.

    **For example:** `folkmoot approve linear-3f2a91cc-1 --by "head of data"`
    """
    from folkmoot.cli.places import params_of, workspace_of
    from pipelines.conclusion import decide
    from pipelines.hosts.execute import open_context, store_of

    wanted = params_of(params, overrides)
    folder = workspace or workspace_of(None)
    store = store_of(wanted, folder)
    context = open_context(run, wanted.federation.name, store, folder)
    done = decide(context, not reject, by)
    typer.echo(f"{done['name']} version {done['version']}: {done['reason']}")
