"""``folkmoot doctor``: check an installation and say what to mend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from folkmoot.cli.places import Overrides, ParamsFile, Workspace

if TYPE_CHECKING:
    from folkmoot.findings import Finding
    from folkmoot.identity import Roster

__all__ = ["register"]

_MARKS = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "fault": "[bold red]fault[/]",
    "skipped": "[dim]skipped[/]",
}


def register(root: typer.Typer) -> None:
    """Add the command to the app."""
    root.command("doctor")(doctor)


def doctor(
    site: Annotated[
        str | None,
        typer.Option(help="Check this site alone: what a site's own machine needs."),
    ] = None,
    params: ParamsFile = None,
    overrides: Overrides = None,
    workspace: Workspace = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check an installation and say what to mend; ends with status 2 where something is at fault.

    **Examples**

    `folkmoot doctor` checks packages, git, params, workspace, roster, exchange store, MLflow,
    Airflow and every site that lies in the workspace or is named in FOLKMOOT_SITE_HOME.

    `folkmoot doctor --site site-a` checks what the machine of one site needs: packages, git, modes
    of site.toml and keys, the dataset, its DVC remote and the privacy ledger.
    """
    findings = list(_findings(site, params, overrides, workspace))
    faults = sum(finding.state == "fault" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"faults": faults, "findings": [f.to_dict() for f in findings]}))
    else:
        _show(findings)
    if faults:
        raise typer.Exit(2)


def _findings(
    site: str | None, file: Path | None, overrides: list[str] | None, workspace: Path | None
) -> Iterator[Finding]:
    from folkmoot.cli.places import params_of, workspace_of
    from folkmoot.errors import FolkmootError
    from folkmoot.findings import Finding
    from folkmoot.identity import Roster
    from pipelines.health import check_coordinator, check_installation

    if site is not None:
        from site_tasks.health import check_site

        yield from check_installation(("site",))
        yield from check_site(site, workspace_of(workspace), _roster_of(workspace))
        return
    yield from check_installation(("site", "coordinator"))
    try:
        params = params_of(file, overrides)
    except FolkmootError as error:
        yield Finding("params", "fault", error.message, error.remedy)
        return
    yield Finding("params", "ok", str(file or "params.yaml, or defaults"))
    folder = workspace or Path(params.federation.workspace)
    yield from check_coordinator(params, folder)
    if (folder / "coordinator" / "server.toml").exists():
        from pipelines.serving_health import check_serving

        yield from check_serving(params, folder)
    roster = Roster.load(folder / "roster.toml")
    for name in params.federation.members:
        if _lies_here(name, folder):
            from site_tasks.health import check_site

            yield from check_site(name, folder, roster)


def _lies_here(site: str, workspace: Path) -> bool:
    """Whether a site's folder is in the workspace or named in FOLKMOOT_SITE_HOME."""
    from folkmoot.errors import FolkmootError
    from site_tasks.home import SiteHome

    try:
        SiteHome.find(site, workspace)
    except FolkmootError:
        return (workspace / "sites" / site).is_dir()
    return True


def _roster_of(workspace: Path | None) -> Roster | None:
    from folkmoot.cli.places import workspace_of
    from folkmoot.identity import Roster

    path = workspace_of(workspace) / "roster.toml"
    return Roster.load(path) if path.exists() else None


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 1))
    for finding in findings:
        table.add_row(_MARKS[finding.state], finding.what, Text(finding.detail, overflow="fold"))
        if finding.remedy and finding.state != "ok":
            table.add_row("", "", Text(f"→ {finding.remedy}", style="bold"))
    console = Console()
    console.print(table)
    count = {state: sum(f.state == state for f in findings) for state in ("fault", "warning")}
    shown = [f"{n} {state}{'' if n == 1 else 's'}" for state, n in count.items()]
    console.print(f"{len(findings)} checks: {', '.join(shown)}.")
