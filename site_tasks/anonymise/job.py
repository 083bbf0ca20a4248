"""What an anonymiser of a site's table is given, and what it says it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from folkmoot.contract import Contract
from folkmoot.errors import DataError
from folkmoot.params import Anonymisation

__all__ = ["Job", "Report", "too_few", "within_limit"]


@dataclass(frozen=True)
class Job:
    """One table to anonymise.

    Parameters
    ----------
    source, target : Path
        Validated Parquet file, and the file to write.
    contract : Contract
        Roles, conversions, hierarchies.
    settings : Anonymisation
        Levels or engine, models, limit of suppression, what happens to identifiers.
    secret : bytes
        The site's secret, for pseudonyms, date shifts and the record of earlier versions.
    fingerprint : str
        Of the dataset version.
    series : Path, optional
        Record of earlier versions; without one, each version stands alone.
    population : Path, optional
        Parquet file of the population table.
    site : str, optional
        Named in errors.
    numbered : bool
        Whether the table keeps each row's number in the dataset, where rows are left out; it must
        never leave the site.
    report : Path, optional
        Folder of the site for the risk report; none is made without one.
    outcome : Path, optional
        File of the site that keeps what became of every row, for a report made later.
    utility : bool
        Whether models are trained for it, before and after, where the label has two classes.
    """

    source: Path
    target: Path
    contract: Contract
    settings: Anonymisation
    secret: bytes
    fingerprint: str = ""
    series: Path | None = None
    population: Path | None = None
    site: str | None = None
    numbered: bool = True
    report: Path | None = None
    outcome: Path | None = None
    utility: bool = False


@dataclass(frozen=True)
class Report:
    """What anonymisation did to a table; stays at the site.

    Parameters
    ----------
    rows, suppressed : int
        Rows before, and rows left out.
    stability : int
        Most rows that one row of the input adds to the result or removes from it, or changes in it.
    waiting, retired : int
        Of the suppressed rows: new ones that wait for k others, and those whose class lost a row.
    loss : float, optional
        Global certainty penalty, where classes were recoded locally.
    difference : dict
        What the difference to the release before reveals; empty for the first.
    """

    rows: int
    suppressed: int
    stability: int
    waiting: int = 0
    retired: int = 0
    loss: float | None = None
    difference: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def within_limit(suppressed: int, rows: int, settings: Anonymisation, waiting: int = 0) -> None:
    """Refuse more suppression than the limit allows.

    Raises
    ------
    DataError
        ``data.suppression``, with counts.
    """
    if suppressed <= settings.suppression_limit * rows:
        return
    held = f", {waiting} of them held back because of earlier versions" if waiting else ""
    remedy = "lower anonymisation.k, or raise the limit."
    if settings.recoding != "local":
        remedy = f"Raise anonymisation.levels, {remedy}"
    if waiting:
        remedy += (
            " A new series (raise anonymisation.pseudonym_epoch) starts afresh; it can be compared "
            "with this one."
        )
    raise DataError(
        "data.suppression",
        f"{suppressed} of {rows} rows are in equivalence classes smaller than k = {settings.k} or "
        f"that break another model{held}, more than anonymisation.suppression_limit allows.",
        remedy[0].upper() + remedy[1:],
    )


def too_few(rows: int, k: int, site: str | None = None) -> DataError:
    """Error for a table of fewer rows than k."""
    at = f"Site {site}" if site else "The table"
    return DataError(
        "data.too-few-rows",
        f"{at} has {rows} rows, fewer than k = {k}.",
        "Lower k, or take part with more rows: no class of this table can reach k.",
        site=site,
    )
