"""``folkmoot data``: recipes, contracts, and sites made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from folkmoot.cli.places import Overrides, ParamsFile

if TYPE_CHECKING:
    from folkmoot.contract import Column, Contract

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="""Recipes of public data, and sites made from them.

    **For example:** `folkmoot data make --set data.recipe=diabetes`
    """,
)


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """List the recipes: what they hold and where the rows come from.

    **For example:** `folkmoot data list`
    """
    from pipelines.recipes import RECIPES

    names = ("name", "summary", "rows", "task", "source")
    if as_json:
        typer.echo(json.dumps([{n: getattr(r, n) for n in names} for r in RECIPES.values()]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in names:
        table.add_column(name, no_wrap=name == "name")
    for recipe in RECIPES.values():
        table.add_row(*(getattr(recipe, name) for name in names))
    Console().print(table)


@app.command()
def show(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe; that of the params by default.")
    ] = None,
    params: ParamsFile = None,
    overrides: Overrides = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="The contract as YAML: a start for your own.")
    ] = False,
) -> None:
    """Show a recipe's data contract: roles, types, public bounds, hierarchies. Never a row.

    **Examples**

    `folkmoot data show heart`

    `folkmoot data show adult --yaml > contract.yaml` starts a contract of your own.
    """
    from folkmoot.cli.places import params_of
    from pipelines.recipes import contract_of

    changes = [*(overrides or ()), *([f"data.recipe={recipe}"] if recipe else ())]
    contract = contract_of(params_of(params, changes).data)
    if as_yaml:
        import yaml

        values = contract.model_dump(mode="json", exclude_defaults=True)
        typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)
    else:
        _show_contract(contract)
        typer.echo(f"contract digest {contract.digest()}")


@app.command()
def make(
    params: ParamsFile = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Make the sites of the params with a recipe's rows; nothing is done where they are there.

    **Examples**

    `folkmoot data make` makes the sites of `params.yaml`.

    `folkmoot data make --set data.partition.kind=dirichlet --set data.partition.alpha=0.3`

    `folkmoot data make --set data.recipe=heart --set data.path=heart/ --set
    'data.partition={kind: natural, column: hospital}'`

    `folkmoot data make --set data.recipe=csv --set data.path=rows.csv --set
    data.contract=contract.yaml`
    """
    from rich.console import Console

    from folkmoot.cli.places import params_of
    from pipelines.simulation import ensure_sites

    settings = params_of(params, overrides)
    workspace = Path(settings.federation.workspace)
    console = Console(stderr=as_json)
    with console.status("Making sites") as status:
        changed = ensure_sites(settings, workspace, status.update)
    rows = [_site_row(name, workspace) for name in settings.federation.members]
    if as_json:
        typer.echo(json.dumps({"changed": changed, "sites": rows}))
        return
    from rich.table import Table

    table = Table(title=f"{settings.data.recipe} in {workspace}", title_justify="left")
    for name in ("site", "rows", "dataset version", "revision"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for row in rows:
        table.add_row(
            row["site"], str(row["rows"]), row["fingerprint"][:12], (row["revision"] or "")[:12]
        )
    console.print(table)
    console.print("Sites were made." if changed else "Nothing had to be made.")


def _site_row(name: str, workspace: Path) -> dict[str, Any]:
    from site_tasks.dataset import resolve
    from site_tasks.home import SiteHome
    from site_tasks.table import row_count

    version = resolve(SiteHome.find(name, workspace))
    return {
        "site": name,
        "rows": row_count(version.path),
        "fingerprint": version.fingerprint,
        "revision": version.revision,
    }


def _show_contract(contract: Contract) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{contract.name}, version {contract.version}: {contract.task}")
    for name in ("column", "role", "type", "public range", "missing", "levels"):
        table.add_column(name)
    for column in contract.columns:
        table.add_row(
            column.name,
            column.role,
            column.type + (f" ({column.unit})" if column.unit else ""),
            Text(_range(column)),
            "allowed" if column.missing else "",
            _levels(column),
        )
    console = Console()
    console.print(table)
    if contract.licence:
        console.print(Text(contract.licence, style="dim"))


def _range(column: Column) -> str:
    if column.bounds is not None:
        return f"{column.bounds[0]:g} to {column.bounds[1]:g}"
    return ", ".join(column.categories or ())


def _levels(column: Column) -> str:
    if column.hierarchy is None:
        return ""
    if column.hierarchy.widths:
        return "widths " + ", ".join(f"{width:g}" for width in column.hierarchy.widths)
    groups = [len(set(level.values())) for level in column.hierarchy.levels]
    return "groups " + ", ".join(map(str, groups))
