"""The data contract: what every site's table looks like, in public terms.

Bounds and categories here are *public*: agreed by the federation, never read from the data, so
that clipping, encoding and generalisation by them cost no privacy budget.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from folkmoot.sections import Section, load_yaml, parse
from folkmoot.wire import canonical_json

__all__ = ["Column", "Contract", "Hierarchy", "load_contract"]

Role = Literal[
    "direct_identifier", "quasi_identifier", "sensitive", "feature", "label", "split", "weight"
]


class Hierarchy(Section):
    """How a quasi-identifier is generalised; level 0 keeps the value, the last level hides it."""

    widths: list[Annotated[float, Field(gt=0)]] = []
    """Numbers: width of the intervals per level from 1, each a multiple of the one before; anchored at the lower public bound."""
    levels: list[dict[str, str]] = []
    """Categories: per level from 1, group of each category of the level before (level 1: of each category)."""


class Column(Section):
    """One column of the table."""

    name: Annotated[str, Field(min_length=1)]
    """Name in the table."""
    role: Role = "feature"
    """`feature`, `quasi_identifier` and `sensitive` columns reach training; `direct_identifier` never does; `split` holds `train` or `test`; `weight` is a sample weight."""
    type: Literal["number", "integer", "category", "boolean", "text", "date"] = "number"
    """Type of the values."""
    unit: str | None = None
    """Unit of measurement, for people."""
    bounds: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Public lower and upper bound of a number."""
    categories: list[str] | None = None
    """Public categories; integers and booleans are written as text."""
    missing: bool = False
    """Whether values may be missing."""
    hierarchy: Hierarchy | None = None
    """How a quasi-identifier is generalised."""
    description: str | None = None
    """For people."""

    @model_validator(mode="after")
    def _typed(self) -> Self:
        numeric = self.type in {"number", "integer"}
        trained = self.role in {"feature", "quasi_identifier", "sensitive"}
        if self.bounds is not None and not (numeric and self.bounds[0] < self.bounds[1]):
            raise ValueError("bounds belong to numbers, lower before upper")
        if self.categories is not None and len(set(self.categories)) != len(self.categories):
            raise ValueError("categories must be distinct")
        if self.type == "category" and self.role != "direct_identifier" and not self.categories:
            raise ValueError("a category column needs its public categories")
        if trained and self.type in {"text", "date"}:
            raise ValueError("text and date columns cannot reach training: drop or convert them")
        if trained and numeric and self.bounds is None and not self.categories:
            raise ValueError("a number that reaches training needs public bounds")
        widths = self.hierarchy.widths if self.hierarchy is not None else []
        if any(b < a or abs(b / a - round(b / a)) > 1e-9 for a, b in pairwise(widths)):
            raise ValueError("each width of a hierarchy must be a multiple of the one before")
        return self


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
        """SHA-256 (hex) of the canonical JSON."""
        return self.content_digest

    @cached_property
    def content_digest(self) -> str:
        """What :meth:`digest` returns: asked for in every step, and the contract is frozen."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


def load_contract(path: str | Path) -> Contract:
    """Read a contract from YAML.

    Raises
    ------
    ConfigError
        For a missing file, broken YAML, unknown keys and inconsistent columns.
    """
    return parse(Contract, load_yaml(path), source=str(path))
