"""``folkmoot plan``: show the steps of a training, and render the DVC pipeline from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Show a training's steps, and render dvc.yaml from them.", no_args_is_help=True
)

File = Annotated[Path, typer.Option("--params", help="The federation's settings.", metavar="FILE")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting; may be repeated.", metavar="KEY=VALUE"),
]


@app.command()
def show(
    params: File = Path("params.yaml"),
    set_: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every step as a JSON object.")] = False,
) -> None:
    """Print which step runs where, after what and under which quorum.

    **Example:** `folkmoot plan show --set model.kind=trees --json`
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from folkmoot.params import load_params
    from pipelines.hosts.walk import contract_for
    from pipelines.plans import plan_of

    settings = load_params(params, set_ or ())
    plan = plan_of(settings, contract_for(settings))
    if as_json:
        typer.echo(json.dumps([step.to_dict() for step in plan], indent=1))
        return
    table = Table(title=f"{plan.federation}: {plan.kind}, at most {plan.rounds} rounds")
    for column in ("step", "place", "after", "publishes"):
        table.add_column(column)
    for step in plan:
        after = ", ".join(step.after[:2]) + (
            f" and {len(step.after) - 2} more" if step.after[2:] else ""
        )
        table.add_row(step.name, step.place, after, ", ".join(step.outputs))
    Console().print(table)
    typer.echo(f"plan digest {plan.digest()}")


@app.command()
def render(
    params: File = Path("params.yaml"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where dvc.yaml is not up to date.")
    ] = False,
) -> None:
    """Write dvc.yaml beside the params file; DVC runs again only what the change influences.

    **Example:** `folkmoot plan render && dvc repro`
    """
    from pipelines.hosts.dvc_project import Project

    project = Project.beside(params)
    if check:
        project.require_fresh()
        typer.echo(f"{project.pipeline} is up to date.")
        return
    changed = project.render()
    typer.echo(f"{project.pipeline} {'written' if changed else 'is up to date'}.")
