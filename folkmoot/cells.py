"""Cells of a locally recoded table: how they are written, and the numbers they become.

A cell allows a set of public values.  It is written as text: ``37`` or ``[30, 39]`` (closed, whole
numbers), ``[1.5, 2)`` (half open, numbers), ``Private`` or ``["Private", "State-gov"]``; a missing
value is a missing cell, and ``[30, 39] or missing`` allows it as well.  In numbers (the one space
that every site's cells and every raw row for a prediction share) an interval is the mean of its
values, a set 1/|allowed| on each of its categories, and missing its own share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column
from folkmoot.errors import DataError
from folkmoot.generalisation import categories_at, generalise_categories

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["interval_text", "number_cells", "set_cells", "set_text"]

Numbers = NDArray[np.float64]
_OR_MISSING = " or missing"
_INTERVAL = re.compile(r"\[(\S+), (\S+)([\])])( or missing)?")


def interval_text(low: float, high: float, *, closed: bool, missing: bool = False) -> str:
    """Write an interval of numbers; a single whole number stands alone."""
    text = f"{low:.15g}" if closed and low == high else ""
    text = text or f"[{low:.15g}, {high:.15g}{']' if closed else ')'}"
    return text + (_OR_MISSING if missing else "")


def set_text(values: Sequence[str], *, missing: bool = False) -> str:
    """Write a set of categories; a single one stands alone."""
    if len(values) == 1 and not missing:
        return values[0]
    return json.dumps([*values, *([None] if missing else [])], ensure_ascii=False)


def number_cells(series: pd.Series[Any], column: Column) -> tuple[Numbers, Numbers]:
    """Mean of every cell's values, and the share of missing in it; O(n + distinct cells).

    Parameters
    ----------
    series : pandas.Series, shape (n,)
        Numbers, or cells as :func:`interval_text` writes them.
    column : Column
        Named in errors.

    Returns
    -------
    means, missing : ndarray of float64, shape (n,)
        Means are NaN where nothing but missing is allowed.

    Raises
    ------
    DataError
        ``data.column`` where the text is no cell, with the number of rows.
    """
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    if is_numeric_dtype(series.dtype):
        values = series.to_numpy(np.float64, na_value=np.nan)
        return values, np.isnan(values).astype(np.float64)
    codes, uniques = pd.factorize(series)
    table = np.full((len(uniques) + 1, 2), (np.nan, 1.0))  # the last entry serves index -1: missing
    for i, text in enumerate(uniques.tolist()):
        table[i] = _number(str(text), column.type == "integer")
    found = table[codes]
    broken = int(np.isinf(found[:, 0]).sum())
    if broken:
        raise DataError(
            "data.column",
            f"Column {column.name} holds neither numbers nor intervals in {broken} rows.",
            f"Convert it to type {column.type}, as the contract says.",
        )
    return found[:, 0], found[:, 1]


def _number(text: str, whole: bool) -> tuple[float, float]:
    """Mean and share of missing; infinite where the text is no cell."""
    found = _INTERVAL.fullmatch(text)
    try:
        if found is None:
            missing = text.endswith(_OR_MISSING)
            return float(text.removesuffix(_OR_MISSING)), 0.5 if missing else 0.0
        low, high = float(found[1]), float(found[2])
    except ValueError:
        return np.inf, 0.0
    if not found[4]:
        return (low + high) / 2, 0.0
    # Of numbers that are not whole there is no count: missing then weighs as much as the interval.
    return (low + high) / 2, 1 / (high - low + 2) if whole else 0.5


def set_cells(series: pd.Series[Any], column: Column) -> tuple[Numbers, Numbers, int]:
    """Indicators 1/|allowed| of every category, and the share of missing; O(n · categories).

    Parameters
    ----------
    series : pandas.Series, shape (n,)
        Categories as in a dataset, or sets as :func:`set_text` writes them.
    column : Column
        With its public categories.

    Returns
    -------
    indicators : ndarray of float64, shape (n, categories)
    missing : ndarray of float64, shape (n,)
    unknown : int
        Rows whose value is neither a public category nor a set of them.
    """
    import pandas as pd

    names = categories_at(column)
    position = {name: i for i, name in enumerate(names)}
    codes, uniques = pd.factorize(series)
    table = np.zeros((len(uniques) + 1, len(names) + 2))  # categories, missing, unknown
    table[-1, -2] = 1.0
    plain, _ = generalise_categories(pd.Series(uniques, dtype=object), column, 0)
    for i, value in enumerate(uniques.tolist()):
        if plain[i] >= 0:
            table[i, plain[i]] = 1.0
            continue
        members = _members(value)
        allowed = [
            len(names) if m is None else position.get(str(m), len(names) + 1) for m in members
        ]
        if not allowed or len(names) + 1 in allowed:
            table[i, -1] = 1.0
        else:
            table[i, allowed] = 1 / len(allowed)
    found = table[codes]
    return found[:, :-2], found[:, -2], int(found[:, -1].sum())


def _members(value: object) -> list[Any]:
    if not isinstance(value, str) or not value.startswith("["):
        return []
    try:
        members = json.loads(value)
    except (ValueError, RecursionError):
        return []
    return members if isinstance(members, list) else []
