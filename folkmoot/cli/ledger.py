"""``folkmoot ledger``: what a site spent, on what, and whether its ledger holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from folkmoot.cli.places import Workspace
from folkmoot.errors import ConfigError

if TYPE_CHECKING:
    from folkmoot.privacy.ledger import Entry, Ledger
    from site_tasks.home import SiteHome

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="""The privacy ledger of a site: show, verify, export.

    **For example:** `folkmoot ledger show site-a`
    """,
)

Site = Annotated[str, typer.Argument(help="Name of the site.")]


@app.command()
def show(
    site: Site,
    workspace: Workspace = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta at which epsilon is stated; the site's by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What was released, what it cost, and what is left.

    **For example:** `folkmoot ledger show site-a --delta 1e-6`
    """
    home, ledger = _open(site, workspace)
    at = home.settings.permissions.delta if delta is None else delta
    spent, method = ledger.spent(at)
    most = home.settings.permissions.epsilon_ceiling
    runs = _by_run(ledger.entries())
    total = {"site": site, "epsilon": spent, "delta": at, "method": method, "ceiling": most}
    if as_json:
        typer.echo(json.dumps({**total, "runs": runs}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Releases of site {site}", title_justify="left")
    names = ("federation", "run", "mechanism", "releases", "charged", "unfinished")
    for name in names:
        table.add_column(name)
    for run in runs:
        table.add_row(*(str(run[name]) for name in names))
    console = Console()
    console.print(table)
    limit = "no ceiling" if most is None else f"ceiling {most:g}, {max(0.0, most - spent):.4g} left"
    charged = f"epsilon {spent:.4g} at delta {at:g} ({method})" if spent else "nothing"
    console.print(f"Charged: {charged}; {limit}.")
    free = sum(run["unaccounted"] for run in runs)
    if free:
        many = "1 release holds" if free == 1 else f"{free} releases hold"
        console.print(
            f"{many} exact numbers that no epsilon covers: statistics, counts of evaluations, "
            "updates without noise."
        )


@app.command()
def verify(site: Site, workspace: Workspace = None) -> None:
    """Check every entry, digest and link, and the stored releases against them.

    Ends with status 4 where the ledger was edited, shortened, rewound or is another site's.

    **For example:** `folkmoot ledger verify site-a`
    """
    from site_tasks.release import check_releases

    home, ledger = _open(site, workspace)
    count = ledger.verify()
    stored = check_releases(home, ledger)
    seq, chain = ledger.head()
    typer.echo(f"{count} entries and {stored} stored releases hold; head {seq} {chain}")


@app.command()
def export(
    site: Site,
    workspace: Workspace = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; standard output by default.")
    ] = None,
) -> None:
    """All entries as JSON lines, for the site's own records.

    **For example:** `folkmoot ledger export site-a -o ledger.jsonl`
    """
    _, ledger = _open(site, workspace)
    lines = [json.dumps(vars(entry), sort_keys=True) for entry in ledger.entries()]
    text = "\n".join(lines) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def _open(site: str, workspace: Path | None) -> tuple[SiteHome, Ledger]:
    from folkmoot.cli.places import workspace_of
    from site_tasks.home import SiteHome
    from site_tasks.release import has_released, open_ledger

    home = SiteHome.find(site, workspace_of(workspace))
    if not home.ledger_path.exists() and not has_released(home):
        raise ConfigError(
            "config.missing-file",
            f"Site {site} has no privacy ledger: it has released nothing yet.",
            "Take part in a training first.",
            site=site,
        )
    return home, open_ledger(home)


def _by_run(entries: list[Entry]) -> list[dict[str, Any]]:
    """Per federation, run and mechanism: releases, charges, reservations without a commit."""
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        if entry.kind == "open":
            continue
        content = entry.content
        name = (content["federation"], content["run"])
        run = runs.setdefault(
            name,
            {"federation": name[0], "run": name[1], "mechanism": "", "releases": 0}
            | {"charged": 0, "unfinished": 0, "unaccounted": 0},
        )
        if entry.kind == "reserve":
            run["charged"] += 1
            run["unfinished"] += 1
        else:
            run["releases"] += 1
            run["unfinished"] -= 1 if entry.attempt else 0
            run["mechanism"] = content["receipt"]["mechanism"]
            run["unaccounted"] += bool(content["receipt"]["unaccounted"])
    return list(runs.values())
