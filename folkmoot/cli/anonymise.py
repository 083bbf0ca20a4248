"""``folkmoot anonymise``: one CSV or Parquet file, outside any federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from folkmoot.cli.places import Overrides, ParamsFile

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(anonymise)


def anonymise(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows, as .parquet or .csv.")],
    contract: Annotated[Path, typer.Option(metavar="FILE", help="Data contract (YAML).")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write, .parquet or .csv.")],
    k: Annotated[int | None, typer.Option(help="Smallest equivalence class.")] = None,
    recoding: Annotated[
        str | None,
        typer.Option(help="public (levels), or local (each class its own cells; the default)."),
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=LEVEL", help="Level of a column, for public; repeatable."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For the risk report; beside --out by default."),
    ] = None,
    utility: Annotated[
        bool, typer.Option("--utility", help="Train models before and after for the report.")
    ] = False,
    secret_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="32 bytes: keys pseudonyms, date shifts, --series."),
    ] = None,
    series: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Record of earlier releases of this table, so that none can be subtracted.",
        ),
    ] = None,
    population: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Population table (.parquet), for k-map, δ-presence."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN:FINDING", help="A finding of the identifier scan that is harmless."
        ),
    ] = None,
    params: ParamsFile = None,
    set_: Overrides = None,
) -> None:
    """Anonymise a file, prove it, and report the risk before and after.

    **Examples**

    `folkmoot anonymise rows.csv --contract contract.yaml --k 10 --out public.csv`

    `folkmoot anonymise rows.parquet --contract contract.yaml --recoding public --k 5
    --level age=2 --level postcode=1 --out public.parquet`

    `folkmoot anonymise rows.csv --contract c.yaml --k 10 --set anonymisation.l_diversity.l=2
    --out public.csv`

    The report tells of the table before: it stays with whoever holds that.
    """
    from folkmoot.contract import load_contract
    from folkmoot.sections import load_yaml, parse
    from site_tasks.anonymise.one_file import anonymise_file

    section = "anonymisation"
    values = load_yaml(params).get(section) or {} if params is not None else {}
    wrong = [item for item in set_ or () if not item.startswith(f"{section}.")]
    if wrong:
        raise typer.BadParameter("only keys of section anonymisation can be set here")
    if k is not None:
        values["k"] = k
    if level:
        values["levels"] = {
            name: _level(text) for name, _, text in (x.partition("=") for x in level)
        }
    values["recoding"] = recoding or values.get("recoding") or ("public" if level else "local")
    if values["recoding"] == "agreed":
        raise typer.BadParameter("one file has nobody to agree with: use public or local")
    overrides = [item.removeprefix(f"{section}.") for item in set_ or ()]
    from folkmoot.params import Anonymisation

    settings = parse(Anonymisation, values, overrides, source=section)
    found = anonymise_file(
        file,
        out,
        load_contract(contract),
        settings,
        report=report or out.with_name(f"{out.name}.risk"),
        secret=None if secret_file is None else _secret(secret_file),
        accepted=accept or (),
        series=series,
        population=population,
        utility=utility,
    )
    typer.echo(f"{out}: {found['rows'] - found['suppressed']} of {found['rows']} rows")
    if found["loss"] is not None:
        typer.echo(f"information loss (GCP) {found['loss']:.2%}")
    if found["difference"]:
        least = found["difference"]["smallest"]
        typer.echo(f"compared with earlier releases, everybody has at least {least} candidates")
    typer.echo(f"risk report: {report or out.with_name(f'{out.name}.risk')}")


def _level(text: str) -> int:
    if not text.isdecimal():
        raise typer.BadParameter("--level is written COLUMN=LEVEL, such as age=2")
    return int(text)


def _secret(path: Path) -> bytes:
    from folkmoot.errors import ConfigError

    data = path.read_bytes() if path.is_file() else b""
    if len(data) != 32:
        raise ConfigError(
            "config.missing-file",
            f"{path} does not hold a secret of 32 bytes.",
            "Make one with `head -c 32 /dev/urandom > FILE`, and keep it with the table.",
        )
    return data
