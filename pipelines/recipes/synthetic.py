"""A table of any size: identifiers, quasi-identifiers, a sensitive column, features and a label.

Row ``i`` is the same whatever the number of rows: rows are drawn in blocks, each from its own
stream of the seed, so that a longer table continues a shorter one and none has to fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from folkmoot.contract import Contract
from folkmoot.params import Data
from folkmoot.sections import parse

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["SyntheticRows", "contract", "rows"]

_BLOCK = 65_536
_LIMIT = 5.0
_SEXES = ["female", "male"]
_DISTRICTS = [f"{area}{number}" for area in "NESW" for number in (1, 2, 3)]
_CONDITIONS = ["none", "mild", "moderate", "severe"]


def contract(columns: int) -> Contract:
    """Contract of a table with ``columns`` numeric features; depends on nothing else.

    Parameters
    ----------
    columns : int
        Number of features beside the quasi-identifiers and the sensitive column.
    """
    features = [
        {"name": name, "type": "number", "bounds": [-_LIMIT, _LIMIT]} for name in _names(columns)
    ]
    values: dict[str, Any] = {
        "name": "synthetic",
        "version": 1,
        "task": "binary",
        "licence": "Drawn from a seed; no person's data.",
        "columns": [
            {"name": "record_id", "role": "direct_identifier", "type": "text"},
            {"name": "insurance_number", "role": "direct_identifier", "type": "text"},
            {
                "name": "age",
                "role": "quasi_identifier",
                "type": "integer",
                "unit": "years",
                "bounds": [0, 120],
                "hierarchy": {"widths": [5, 10, 20, 40, 120]},
            },
            {
                "name": "sex",
                "role": "quasi_identifier",
                "type": "category",
                "categories": _SEXES,
                "hierarchy": {"levels": [dict.fromkeys(_SEXES, "*")]},
            },
            {
                "name": "district",
                "role": "quasi_identifier",
                "type": "category",
                "categories": _DISTRICTS,
                "hierarchy": {
                    "levels": [{d: d[0] for d in _DISTRICTS}, dict.fromkeys("NESW", "*")]
                },
            },
            {
                "name": "condition",
                "role": "sensitive",
                "type": "category",
                "categories": _CONDITIONS,
            },
            *features,
            {"name": "outcome", "role": "label", "type": "category", "categories": ["no", "yes"]},
        ],
    }
    return parse(Contract, values, source="the synthetic contract")


def rows(data: Data, contract: Contract) -> SyntheticRows:
    """Rows of ``data.rows`` and ``data.columns``, drawn from ``data.seed``."""
    return SyntheticRows(data.rows, data.columns, data.seed)


class SyntheticRows:
    """Rows that are drawn when they are read; O(block) memory.

    Parameters
    ----------
    n : int
        Rows.
    columns : int
        Numeric features.
    seed : int
        Seed of everything.
    """

    def __init__(self, n: int, columns: int, seed: int) -> None:
        self._n, self._features, self._seed = n, _names(columns), seed
        # One direction per seed; its length keeps the label's noise alike for any width.
        weights = np.random.default_rng([seed, 0]).standard_normal(columns)
        self._weights = 2 * weights / max(float(np.linalg.norm(weights)), 1e-9)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [column.name for column in contract(len(self._features)).columns]

    def __len__(self) -> int:
        return self._n

    def column(self, name: str) -> pd.Series[Any]:
        """One column; draws all rows."""
        import pyarrow as pa

        column = pa.chunked_array([batch[name].combine_chunks() for batch in self.batches()])
        series: pd.Series[Any] = column.to_pandas()
        return series

    def frame(self) -> pd.DataFrame:
        """All rows at once."""
        import pyarrow as pa

        frame: pd.DataFrame = pa.concat_tables(self.batches()).to_pandas()
        return frame

    def batches(self) -> Iterator[pa.Table]:
        """Tables of at most 65,536 rows."""
        for start in range(0, self._n, _BLOCK):
            yield self._block(start).slice(0, min(_BLOCK, self._n - start))

    def _block(self, start: int) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        rng = np.random.default_rng([self._seed, 1, start])
        # Skewed towards the middle of life, as patients are.
        age = (18 + 75 * rng.beta(2.5, 2.2, _BLOCK)).astype(np.int64)
        sex = rng.integers(0, 2, _BLOCK)
        district = rng.choice(len(_DISTRICTS), _BLOCK, p=_shares(len(_DISTRICTS)))
        condition = rng.choice(len(_CONDITIONS), _BLOCK, p=[0.55, 0.25, 0.14, 0.06])
        score = (age - 55) / 30 + 0.3 * sex + 0.5 * condition - 0.6
        number = rng.integers(10**9, 10**10, _BLOCK)
        x = np.empty((len(self._features), _BLOCK))
        for i, weight in enumerate(self._weights):
            x[i] = np.clip(rng.standard_normal(_BLOCK), -_LIMIT, _LIMIT)
            score = score + weight * x[i]
        outcome = (rng.random(_BLOCK) < 1 / (1 + np.exp(-score))).astype(np.int64)
        record = pc.cast(pa.array(np.arange(start, start + _BLOCK)), pa.string())
        record = pc.binary_join_element_wise("R", pc.utf8_lpad(record, 10, "0"), "")
        return pa.table(
            {
                "record_id": record,
                "insurance_number": pc.cast(pa.array(number), pa.string()),
                "age": age,
                "sex": pa.array(_SEXES).take(pa.array(sex)),
                "district": pa.array(_DISTRICTS).take(pa.array(district)),
                "condition": pa.array(_CONDITIONS).take(pa.array(condition)),
                **dict(zip(self._features, x, strict=True)),
                "outcome": pa.array(["no", "yes"]).take(pa.array(outcome)),
            }
        )


def _names(columns: int) -> list[str]:
    width = max(2, len(str(columns - 1)))
    return [f"x{i:0{width}d}" for i in range(columns)]


def _shares(n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Uneven shares, so that some equivalence classes are small."""
    weights = 1 / np.arange(1, n + 1)
    return np.asarray(weights / weights.sum())
