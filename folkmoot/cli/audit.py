"""``folkmoot audit``: attacks on what a plan claims, and what they prove."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from folkmoot.cli.places import Overrides, ParamsFile, params_of
from folkmoot.errors import PrivacyError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``folkmoot audit``."""
    app.command()(audit)


def audit(
    params: ParamsFile = None,
    set_: Overrides = None,
    canaries: Annotated[int, typer.Option(min=2000, help="Canaries in gradient space.")] = 200_000,
    shadows: Annotated[
        int, typer.Option(min=0, help="Models of the membership inference; 48 are usual.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Attack a plan's claim of epsilon on simulated sites, and set lower bounds beside it.

    No site's data or budget is touched. Ends with status 4 where an attack refutes the claim.

    **For example:** `folkmoot audit --set privacy.epsilon=1 --shadows 48`
    """
    from rich.console import Console

    from pipelines.audit.report import audit as run_audit

    errors = Console(stderr=True)
    found = run_audit(
        params_of(params, set_),
        canaries=canaries,
        shadows=shadows,
        say=lambda text: errors.print(text, style="dim"),
    )
    if as_json:
        typer.echo(json.dumps(found))
    else:
        from rich.table import Table

        claim = f"epsilon {found['claimed']:.4g} at delta {found['delta']:g}"
        table = Table(title=f"Claimed: {claim}, {found['rounds']} rounds", title_justify="left")
        for column in ("attack", "epsilon is above (95 %)", "because"):
            table.add_column(column)
        for row in found["attacks"]:
            table.add_row(row["attack"], f"{row['epsilon']:.3g}", row["detail"])
        Console().print(table)
    if found["refuted"]:
        raise PrivacyError(
            "privacy.mechanism",
            "An attack proves more than the plan claims: its noise does not hold.",
            "Do not train with this installation; run the tests of folkmoot's noise.",
        )
    if not as_json:
        typer.echo("No attack refutes the claim.")
