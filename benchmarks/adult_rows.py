"""Adult as the tables of anonymisation read it: complete rows, eight quasi-identifiers.

Enlargements are seeded: rows drawn with replacement, each of their quasi-identifiers, with
probability 0.1, taken from another row of the same income and ten years of age (so that
combinations grow which nobody of the original has, as they do in larger tables), and the age moved
by up to two years with probability 0.3.  A million rows hold about 156,000 distinct ones.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd

from site_tasks.anonymise.coded import Coded, Column

__all__ = ["INCOME", "QUASI", "coded", "columns", "enlarged", "folder", "read"]

QUASI = (
    "age",
    "workclass",
    "education-num",
    "marital-status",
    "occupation",
    "race",
    "sex",
    "native-country",
)
_NAMES = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
]
INCOME = Column("income", False, ("<=50K", ">50K"))
_SWAP, _SHIFT, _YEARS = 0.1, 0.3, 2


def folder() -> Path:
    """Where adult.data, adult.test and the hierarchies are: ``FOLKMOOT_DATA``/adult."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get("FOLKMOOT_DATA", beside)) / "adult"


def read(name: str) -> pd.DataFrame:
    """Complete rows of ``adult.data`` or ``adult.test``, with a fresh index."""
    frame = pd.read_csv(
        folder() / name,
        names=_NAMES,
        skipinitialspace=True,
        skiprows=int(name == "adult.test"),
        na_values="?",
    )
    frame["income"] = frame["income"].str.rstrip(".")
    return frame.dropna().reset_index(drop=True)


def columns(ages: range = range(17, 91)) -> tuple[Column, ...]:
    """The quasi-identifiers; the categories are those of the hierarchies."""
    out = []
    for name in QUASI:
        if name == "age":
            out.append(Column(name, True, tuple(ages)))
        elif name == "education-num":
            out.append(Column(name, True, tuple(range(1, 17))))
        else:
            with (folder() / "hierarchies" / f"adult_hierarchy_{name}.csv").open() as file:
                values = tuple(line[0] for line in csv.reader(file, delimiter=";") if line)
            out.append(Column(name, False, values))
    return tuple(out)


def coded(name: str = "adult.data", ages: range = range(17, 91)) -> Coded:
    """Coded rows, income as the sensitive column."""
    return Coded.from_frame(read(name), columns(ages), INCOME)


def enlarged(table: Coded, rows: int, seed: int = 1) -> Coded:
    """A table of ``rows`` rows; see the module."""
    rng = np.random.default_rng(seed)
    assert table.sensitive is not None
    group = table.sensitive * 100 + table.codes[:, 0] // 10
    order = np.argsort(group, kind="stable")
    _, first, count = np.unique(group[order], return_index=True, return_counts=True)
    place = np.searchsorted(np.unique(group), group)
    codes = np.empty((rows, len(QUASI)), np.int32, order="F")
    sensitive = np.empty(rows, np.int32)
    piece = 1_000_000
    for start in range(0, rows, piece):
        n = min(piece, rows - start)
        at = slice(start, start + n)
        drawn = rng.integers(0, table.rows, n)
        sensitive[at] = table.sensitive[drawn]
        for j in range(len(QUASI)):
            donor = order[first[place[drawn]] + rng.integers(0, count[place[drawn]])]
            taken = np.where(rng.random(n) < _SWAP, donor, drawn)
            codes[at, j] = table.codes[taken, j]
        moved = np.where(rng.random(n) < _SHIFT, rng.integers(-_YEARS, _YEARS + 1, n), 0)
        codes[at, 0] = np.clip(codes[at, 0] + moved, 0, len(table.columns[0].domain) - 1)
    return Coded(table.columns, codes, sensitive, table.sensitive_domain)
