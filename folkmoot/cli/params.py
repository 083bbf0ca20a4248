"""``folkmoot params``: check a params file, show it resolved, write the reference pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Check and show params.yaml, and write the reference pages.", no_args_is_help=True
)

File = Annotated[Path, typer.Option("--params", help="The federation's settings.", metavar="FILE")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated."),
]


@app.command()
def check(params: File = Path("params.yaml"), overrides: Overrides = None) -> None:
    """Validate a params file and its contract; every fault is listed in one error.

    Example: folkmoot params check --params params.yaml --set model.kind=trees
    """
    from folkmoot.params import load_params
    from pipelines.hosts.walk import contract_for
    from pipelines.plans import plan_of

    values = load_params(params, overrides or ())
    contract = contract_for(values)
    plan = plan_of(values, contract)
    typer.echo(
        f"{params} is valid: federation {plan.federation}, {len(plan.sites)} sites, "
        f"{plan.kind} {values.model.chosen.strategy}, at most {plan.rounds} rounds, "
        f"contract {contract.name} ({contract.task}, {len(contract.inputs)} input columns), "
        f"privacy {values.privacy.mechanism}."
    )


@app.command()
def show(
    params: File = Path("params.yaml"),
    overrides: Overrides = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only keys that differ from their defaults.")
    ] = False,
) -> None:
    """Print every setting with the defaults filled in, as YAML.

    Example: folkmoot params show --set privacy.mechanism=clip --changed
    """
    import yaml

    from folkmoot.params import load_params

    values = load_params(params, overrides or ())
    shown = values.model_dump(mode="json", exclude_defaults=changed)
    typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)


@app.command()
def reference(
    page: Annotated[
        str | None, typer.Argument(help="params, contract, site-toml, errors or cli.")
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Write all pages into this folder.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Print a reference page (params when none is named), or write all of them.

    Example: folkmoot params reference --write docs/reference
    """
    from folkmoot.cli.reference import PAGES
    from folkmoot.errors import ConfigError

    if write is None:
        name = f"{page or 'params'}.md"
        if name not in PAGES:
            raise ConfigError(
                "config.invalid",
                "There is no such reference page.",
                f"Name one of {', '.join(name.removesuffix('.md') for name in PAGES)}.",
            )
        typer.echo(PAGES[name](), nl=False)
        return
    write.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (write / name).write_text(make(), encoding="utf-8")
        typer.echo(f"wrote {write / name}")
