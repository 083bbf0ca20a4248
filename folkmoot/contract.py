"""The data contract: what every site's table looks like, in public terms.

Bounds and categories here are *public*: agreed by the federation, never read from the data, so
that clipping, encoding and generalisation by them cost no privacy budget.
"""

from __future__ import annotations

import hashlib
from datetime import date
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from folkmoot.sections import Section, load_yaml, parse
from folkmoot.wire import canonical_json

__all__ = ["WAYS", "Column", "Contract", "Conversion", "Hierarchy", "load_contract"]

Role = Literal[
    "direct_identifier",
    "quasi_identifier",
    "sensitive",
    "feature",
    "label",
    "split",
    "weight",
    "dropped",
]


#: The ways in which a hierarchy is given, besides a file.
WAYS = ("widths", "levels", "prefixes", "breaks", "calendar", "runs", "table")


class Hierarchy(Section):
    """How a quasi-identifier is generalised; level 0 keeps the value, the last level hides it."""

    widths: list[Annotated[float, Field(gt=0)]] = []
    """Numbers: width of the intervals per level from 1, each a multiple of the one before; anchored at the lower public bound."""
    levels: list[dict[str, str]] = []
    """Categories: per level from 1, group of each category of the level before (level 1: of each category)."""
    file: str | None = None
    """Instead of all others: a CSV file as ARX writes them (`value;level 1;level 2;…`), beside the contract; its content becomes part of the contract (`table`) when it is read."""
    prefixes: list[Annotated[int, Field(ge=0)]] = []
    """Codes such as postcodes: per level from 1, how many leading characters are kept."""
    breaks: list[list[float]] = []
    """Whole numbers: per level from 1, the inner edges of its half-open intervals; each level keeps some of the level before."""
    calendar: list[Literal["week", "month", "quarter", "year", "decade", "*"]] = []
    """Dates that are converted to `days`: per level from 1, what is kept of the date, such as `[month, year, "*"]`; ISO weeks do not nest in months."""
    runs: list[list[list[str]]] = []
    """Ordered categories: per level from 1, all of them in their order, parted into runs of neighbours."""
    table: list[list[str]] = []
    """Per value a row: the value, its group at level 1, at level 2, …"""

    @model_validator(mode="after")
    def _one(self) -> Self:
        ways = [getattr(self, name) for name in WAYS]
        if self.file is not None and any(ways):
            raise ValueError("a hierarchy is either a file or written out, not both")
        if sum(map(bool, ways)) > 1:
            raise ValueError(
                f"a hierarchy is given in one way: {', '.join(WAYS[:-1])} or {WAYS[-1]}"
            )
        return self

    @property
    def depth(self) -> int:
        """The highest level."""
        rows = max(len(self.table[0]) - 1, 0) if self.table else 0
        return max(rows, *(len(getattr(self, name)) for name in WAYS[:-1]))


class Conversion(Section):
    """What a date or code becomes before it is generalised; the table then holds that alone."""

    to: Literal["age", "year", "days", "prefix"]
    """Dates: whole years at `reference`, the `year`, or `days` since `reference` (shifted per `person`). Text such as postcodes: its first `length` characters."""
    reference: Annotated[date, Field(strict=False)] | None = None
    """Public date at which ages are counted and from which days are."""
    length: Annotated[int, Field(ge=1)] | None = None
    """Characters that `prefix` keeps."""
    person: str | None = None
    """`days`: identifier by which one person's dates are shifted together, so that intervals stay."""
    shift: Annotated[int, Field(ge=1, le=3650)] = 182
    """`days`: most days of the shift, back or forth, drawn from the site's secret for each person."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if (self.to in {"age", "days"}) != (self.reference is not None):
            raise ValueError("reference belongs to age and days, which need it")
        if (self.to == "prefix") != (self.length is not None):
            raise ValueError("length belongs to prefix, which needs it")
        if (self.to == "days") != (self.person is not None):
            raise ValueError("person belongs to days, which need it")
        return self


class Column(Section):
    """One column of the table."""

    name: Annotated[str, Field(min_length=1)]
    """Name in the table."""
    role: Role = "feature"
    """`feature`, `quasi_identifier` and `sensitive` columns reach training; `direct_identifier` never does; `split` holds `train` or `test`; `weight` is a sample weight; `dropped` columns (free text) are left out unread."""
    type: Literal["number", "integer", "category", "boolean", "text", "date"] = "number"
    """Type of the values."""
    unit: str | None = None
    """Unit of measurement, for people."""
    bounds: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Public lower and upper bound of a number."""
    clip: bool = False
    """Whether numbers beyond the bounds are set to them (top and bottom coding); they break the contract otherwise."""
    categories: list[str] | None = None
    """Public categories; integers and booleans are written as text."""
    missing: bool = False
    """Whether values may be missing."""
    ordered: bool = False
    """Whether the order of the categories means something (stages, grades)."""
    hierarchy: Hierarchy | None = None
    """How a quasi-identifier is generalised."""
    convert: Conversion | None = None
    """What a date or code becomes first; bounds and categories are those of the result."""
    description: str | None = None
    """For people."""

    @model_validator(mode="after")
    def _typed(self) -> Self:
        numeric = self.numeric
        trained = self.role in {"feature", "quasi_identifier", "sensitive"}
        if self.convert is not None:
            wanted = {"text", "category"} if self.convert.to == "prefix" else {"date"}
            if not trained or self.type not in wanted:
                raise ValueError(
                    "only columns that reach training are converted: dates to age, year or days, "
                    "text to a prefix"
                )
            if self.convert.to == "prefix" and not self.categories:
                raise ValueError("a prefix needs its public categories")
        if self.bounds is not None and not (numeric and self.bounds[0] < self.bounds[1]):
            raise ValueError("bounds belong to numbers, lower before upper")
        if self.clip and (self.bounds is None or not trained):
            raise ValueError("clip needs public bounds, of a column that reaches training")
        if self.categories is not None and len(set(self.categories)) != len(self.categories):
            raise ValueError("categories must be distinct")
        unread = self.role in {"direct_identifier", "dropped"}
        if self.type == "category" and not unread and not self.categories:
            raise ValueError("a category column needs its public categories")
        if trained and self.convert is None and self.type in {"text", "date"}:
            raise ValueError(
                "text and dates cannot reach training: give the column role dropped, or convert it "
                "(dates to age, year or days, codes to a prefix)"
            )
        if trained and numeric and self.bounds is None and not self.categories:
            raise ValueError("a number that reaches training needs public bounds")
        widths = self.hierarchy.widths if self.hierarchy is not None else []
        if any(b < a or abs(b / a - round(b / a)) > 1e-9 for a, b in pairwise(widths)):
            raise ValueError("each width of a hierarchy must be a multiple of the one before")
        return self

    @property
    def numeric(self) -> bool:
        """Whether the column holds numbers, after its conversion."""
        if self.convert is not None:
            return self.convert.to != "prefix"
        return self.type in {"number", "integer"}


class Contract(Section):
    """The table of every site of a federation."""

    name: str
    """Name of the contract."""
    version: int = 1
    """Raised with every change."""
    task: Literal["binary", "multiclass", "regression"]
    """What the label asks for. `binary`: the second category is the positive class."""
    columns: Annotated[list[Column], Field(min_length=2)]
    """All columns, in the order of the table."""
    licence: str | None = None
    """Licence and source of public data."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("column names must be distinct")
        for role, most in (("label", 1), ("split", 1), ("weight", 1)):
            if sum(column.role == role for column in self.columns) > most:
                raise ValueError(f"at most one column may have role {role}")
        label = [column for column in self.columns if column.role == "label"]
        if not label:
            raise ValueError("one column must have role label")
        if self.task != "regression" and not label[0].categories:
            raise ValueError("a label of classes needs its public categories")
        if self.task == "binary" and len(label[0].categories or ()) != 2:
            raise ValueError("a binary label needs exactly two categories")
        if self.task == "regression" and label[0].bounds is None:
            raise ValueError("a numeric label needs public bounds")
        if not self.inputs:
            raise ValueError("no column reaches training")
        persons = {c.convert.person for c in self.columns if c.convert and c.convert.person}
        if persons - {column.name for column in self.with_role("direct_identifier")}:
            raise ValueError("convert.person must name a column of role direct_identifier")
        return self

    @property
    def label(self) -> Column:
        """The label column."""
        return next(column for column in self.columns if column.role == "label")

    @property
    def inputs(self) -> tuple[Column, ...]:
        """Columns that reach training, in the contract's order."""
        roles = {"feature", "quasi_identifier", "sensitive"}
        return tuple(column for column in self.columns if column.role in roles)

    def with_role(self, role: str) -> tuple[Column, ...]:
        """Columns of a role, in the contract's order."""
        return tuple(column for column in self.columns if column.role == role)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the label in order; empty for regression."""
        return tuple(self.label.categories or ()) if self.task != "regression" else ()

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of what it states (:meth:`Section.stated`)."""
        return self.content_digest

    @cached_property
    def content_digest(self) -> str:
        """What :meth:`digest` returns: asked for in every step, and the contract is frozen."""
        return hashlib.sha256(canonical_json(self.stated())).hexdigest()


def load_contract(path: str | Path) -> Contract:
    """Read a contract from YAML.

    Raises
    ------
    ConfigError
        For a missing file, broken YAML, unknown keys, inconsistent columns and faulty hierarchies.
    """
    from folkmoot.hierarchies import check_hierarchies

    path = Path(path)
    contract = parse(Contract, _with_files(load_yaml(path), path.parent), source=str(path))
    check_hierarchies(contract)
    return contract


def _with_files(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The contract with the content of its hierarchy files in their place."""
    from folkmoot.hierarchies.arx import read_rows

    columns = values.get("columns")
    for column in columns if isinstance(columns, list) else []:
        match column:
            case {"hierarchy": {"file": str(name), **others}} if not others:
                column["hierarchy"] = {"table": read_rows(folder / name)}
    return values
