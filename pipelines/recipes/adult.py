"""Adult census income (Becker and Kohavi), with the published split into training and test rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from folkmoot.contract import Contract
from folkmoot.errors import DataError
from folkmoot.params import Data
from pipelines.recipes.rows import FrameRows
from pipelines.recipes.sources import source_files

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FILES", "rows"]

_BASE = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
#: URL and md5 by file name.
FILES = {
    "adult.data": (f"{_BASE}adult.data", "5d7c39d7b8804f071cdd1f2a7c460872"),
    "adult.test": (f"{_BASE}adult.test", "35238206dfdf7f1fe215bbb874adecdc"),
}
_COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
]
_NUMBERS = {"age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"}


def rows(data: Data, contract: Contract) -> FrameRows:
    """The 48,842 rows; ``?`` is a missing value."""
    import pandas as pd

    paths = source_files(data, FILES)
    train = _read(paths["adult.data"], 0).assign(split="train")
    # The first line of adult.test is a header or a remark, never a row.
    test = _read(paths["adult.test"], 1).assign(split="test")
    return FrameRows(pd.concat([train, test], ignore_index=True))


def _read(path: Path, skip: int) -> pd.DataFrame:
    import pandas as pd

    types = {name: "int64" if name in _NUMBERS else "str" for name in _COLUMNS}
    try:
        frame = pd.read_csv(
            path,
            header=None,
            names=_COLUMNS,
            dtype=types,
            skiprows=skip,
            skipinitialspace=True,
            na_values="?",
            keep_default_na=False,
        )
    except (ValueError, OSError, pd.errors.ParserError):
        raise DataError(
            "data.unreadable",
            f"{path} is not a file of the Adult dataset.",
            "Get adult.data and adult.test from doi 10.24432/C5XW20.",
        ) from None
    frame["income"] = frame["income"].str.rstrip(".")
    return frame
