"""``folkmoot ledger``: what a site spent, on what, what the next plan would cost, whether all holds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from folkmoot.cli.places import Overrides, ParamsFile, Workspace
from folkmoot.errors import ConfigError

if TYPE_CHECKING:
    from folkmoot.privacy.ledger import Entry, Ledger, Outlook, Subject
    from site_tasks.home import SiteHome

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="""The privacy ledger of a site: show, verify, forecast, export.

    **For example:** `folkmoot ledger show site-a`
    """,
)

Site = Annotated[str, typer.Argument(help="Name of the site.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@app.command()
def show(
    site: Site,
    workspace: Workspace = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta at which epsilon is stated; the site's by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What was released, what it cost, and what is left, by run and by lineage.

    **For example:** `folkmoot ledger show site-a --delta 1e-6`
    """
    home, ledger = _open(site, workspace)
    at = home.settings.permissions.delta if delta is None else delta
    spent, method = ledger.spent(at)
    most = home.settings.permissions.epsilon_ceiling
    runs = _by_run(ledger)
    by_lineage = {name: ledger.spent(at, name) for name in ledger.lineages()}
    total = {"site": site, "epsilon": spent, "delta": at, "method": method, "ceiling": most}
    if as_json:
        own = {n: {"epsilon": e, "method": how} for n, (e, how) in by_lineage.items()}
        typer.echo(json.dumps({**total, "lineages": own, "runs": runs}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Releases of site {site}", title_justify="left")
    names: tuple[str, ...] = (
        "lineage",
        "federation",
        "run",
        "requester",
        "mechanism",
        "releases",
        "charged",
    )
    names = (*names, "unfinished", "abandoned")
    for name in names:
        table.add_column(name)
    for run in runs:
        table.add_row(*(str(run[name]) for name in names))
    console = Console()
    console.print(table)
    for name, (used, how) in by_lineage.items():
        charged = f"epsilon {used:.4g} at delta {at:g} ({how})" if used else "nothing"
        limit = (
            "no ceiling" if most is None else f"ceiling {most:g}, {max(0.0, most - used):.4g} left"
        )
        console.print(f"Charged to lineage {name}: {charged}; {limit}.")
    if not by_lineage:
        console.print("Charged: nothing.")
    free = sum(run["unaccounted"] for run in runs)
    if free:
        many = "1 release holds" if free == 1 else f"{free} releases hold"
        console.print(
            f"{many} exact numbers that no epsilon covers: statistics, counts of evaluations, "
            "updates without noise."
        )


@app.command()
def verify(site: Site, workspace: Workspace = None) -> None:
    """Check every entry, link, signature and total, the stored releases, and the anchors.

    Ends with status 4 where the ledger was edited, shortened, rewound, copied or is another site's.
    Anchors are looked at where the coordinator's folder is in the same workspace.

    **For example:** `folkmoot ledger verify site-a`
    """
    from folkmoot.cli.places import workspace_of
    from site_tasks.release import check_releases

    home, ledger = _open(site, workspace)
    count = ledger.verify()
    stored = check_releases(home, ledger)
    anchored = _anchored(home, ledger, workspace_of(workspace))
    seq, chain = ledger.head()
    more = f", {anchored} anchors" if anchored else ""
    typer.echo(f"{count} entries and {stored} stored releases{more} hold; head {seq} {chain}")


@app.command()
def forecast(
    site: Site,
    file: ParamsFile = None,
    overrides: Overrides = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """What the next run of params.yaml would cost, and how many such runs are left.

    **For example:** `folkmoot ledger forecast site-a --set model.linear.rounds=10`
    """
    from folkmoot.cli.places import params_of, workspace_of
    from folkmoot.privacy.ledger import Ceiling, Ledger, Terms
    from folkmoot.privacy.release import planned
    from pipelines.hosts.walk import contract_for
    from site_tasks import permissions
    from site_tasks.home import SiteHome

    params = params_of(file, overrides)
    home = SiteHome.find(site, workspace_of(workspace))
    about = _next(home, params.federation.name, params.federation.requester)
    delta = min(params.privacy.delta, home.settings.permissions.delta)
    limits = permissions.ceilings(home, delta, about.federation, about.requester)
    terms = Terms((*limits, Ceiling(float("inf"), delta)), planned(params, contract_for(params)))
    if home.ledger_path.exists():
        outlooks = Ledger(home.ledger_path, home.name).forecast(about, terms)
    else:
        from folkmoot.privacy.ledger.ceilings import unspent

        outlooks = unspent(about, terms)
    charges = [{**event.to_dict(), "count": n} for event, n in terms.planned.items()]
    rows = [_row(found, about) for found in outlooks]
    if as_json:
        values = {"site": site, "lineage": about.lineage, "delta": delta, "charges": charges}
        typer.echo(json.dumps({**values, "total": rows[-1], "ceilings": rows[:-1]}))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not charges:
        console.print(
            f"Mechanism {params.privacy.mechanism} charges nothing, and bounds nothing: "
            "no epsilon holds for such a run."
        )
        return
    releases = sum(terms.planned.values())
    console.print(
        f"One run: {releases} charged releases; lineage {about.lineage} goes from epsilon "
        f"{rows[-1]['spent']:.4g} to {rows[-1]['after']:.4g} at delta {delta:g} ({rows[-1]['method']})."
    )
    if not limits:
        console.print("site.toml sets no ceiling: any number of such runs is left.")
        return
    table = Table(title=f"Ceilings of site {site}", title_justify="left")
    for name in ("over", "ceiling", "spent", "after", "fits", "runs left"):
        table.add_column(name)
    for row in rows[:-1]:
        figures = [f"{row[name]:.4g}" for name in ("ceiling", "spent", "after")]
        table.add_row(row["over"], *figures, "yes" if row["fits"] else "no", str(row["runs_left"]))
    console.print(table)


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
    lines = (json.dumps(vars(entry), sort_keys=True) for entry in ledger)
    if output is None:
        for line in lines:
            typer.echo(line)
    else:
        with output.open("w", encoding="utf-8") as target:
            target.writelines(f"{line}\n" for line in lines)


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


def _next(home: SiteHome, federation: str, requester: str) -> Subject:
    """A release of a run that there is not yet."""
    from folkmoot.privacy.ledger import Subject

    lineage = home.settings.dataset.lineage
    return Subject("", federation, "", 0, "", "", lineage, requester)


def _row(found: Outlook, about: Subject) -> dict[str, Any]:
    limit = found.ceiling
    bounded = limit.epsilon != float("inf")
    return {
        "over": limit.words(about),
        "key": limit.key if bounded else None,
        "ceiling": limit.epsilon if bounded else None,
        "spent": found.spent,
        "after": found.after,
        "method": found.method,
        "fits": found.after <= limit.epsilon,
        "runs_left": found.runs_left if bounded else None,
    }


def _anchored(home: SiteHome, ledger: Ledger, workspace: Path) -> int:
    """Hold the ledger to what the coordinators of this workspace know of it."""
    from pipelines.coordinator.anchors import known
    from site_tasks.anchor import hold

    held = 0
    for federation in home.settings.permissions.federations:
        anchors = known(workspace, federation)
        hold(home.name, ledger, anchors)
        held += home.name in anchors
    return held


def _by_run(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Per lineage, federation and run: releases, charges, attempts without a commit."""
    runs: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in entries:
        if entry.kind in {"open", "rotate"}:
            continue
        content = entry.content
        name = (content["lineage"], content["federation"], content["run"])
        run = runs.setdefault(
            name,
            {"lineage": name[0], "federation": name[1], "run": name[2], "mechanism": ""}
            | {"requester": content["requester"], "releases": 0, "charged": 0}
            | {"unfinished": 0, "abandoned": 0, "unaccounted": 0},
        )
        if entry.kind == "reserve":
            run["charged"] += 1
            run["unfinished"] += 1
        elif entry.kind == "abandon":
            run["abandoned"] += 1
            run["unfinished"] -= 1
        else:
            run["releases"] += 1
            run["unfinished"] -= 1 if entry.attempt else 0
            run["mechanism"] = content["receipt"]["mechanism"]
            run["unaccounted"] += bool(content["receipt"].get("unaccounted"))
    return list(runs.values())
