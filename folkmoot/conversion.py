"""What a contract's column becomes before it is generalised: ages, years, days, prefixes, clipping.

Public and the same for every site and a registered model, but for the shift of dates, which is the
site's own and nought for a prediction.  Each row is converted alone: 1-stable.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column, Contract, Hierarchy
from folkmoot.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["changes", "convert", "converted", "converted_contract"]

_AFTER = {"age": "integer", "year": "integer", "days": "integer", "prefix": "category"}


def changes(column: Column) -> bool:
    """Whether :func:`convert` does anything to a column."""
    return column.convert is not None or column.clip


def converted(column: Column) -> Column:
    """The column after its conversion: a plain number or category."""
    if column.convert is None:
        return column.model_copy(update={"clip": False}) if column.clip else column
    kind = _AFTER[column.convert.to]
    update: dict[str, Any] = {"type": kind, "convert": None, "clip": False}
    if column.hierarchy is not None and column.hierarchy.calendar:
        update["hierarchy"] = _by_days(column)  # days alone do not tell the date
    return column.model_copy(update=update)


def _by_days(column: Column) -> Hierarchy:
    """A calendar as edges between days since the reference."""
    from folkmoot.hierarchies.build import calendar_edges

    if column.hierarchy is None or column.convert is None or column.bounds is None:
        raise ValueError("a calendar belongs to dates with bounds")
    reference = column.convert.reference or date(1970, 1, 1)
    (lower, upper), steps = column.bounds, column.hierarchy.calendar
    edges = calendar_edges(f"column {column.name}", reference, lower, upper, steps)
    return Hierarchy(breaks=edges)


def converted_contract(contract: Contract) -> Contract:
    """Contract of the table after all conversions; the same object where there are none."""
    if not any(map(changes, contract.columns)):
        return contract
    return contract.model_copy(update={"columns": [converted(c) for c in contract.columns]})


def convert(
    series: pd.Series[Any], column: Column, shift: NDArray[np.int64] | None = None
) -> pd.Series[Any]:
    """Convert a column's values; O(n).

    Parameters
    ----------
    series : pandas.Series, shape (n,)
        Dates (or ISO 8601 text), text, or numbers that are clipped.
    column : Column
        With ``convert`` or ``clip``; else the series is returned as it is.
    shift : ndarray of int64, shape (n,), optional
        Days added to dates that are converted to ``days``.

    Returns
    -------
    pandas.Series, shape (n,)
        float64 (NaN where missing) or text.

    Raises
    ------
    DataError
        ``data.contract`` for values that are no date, with column and number of rows.
    """
    import pandas as pd

    if column.convert is None:
        return series.clip(*column.bounds) if column.clip and column.bounds else series
    if column.convert.to == "prefix":
        return series.astype("str").str.slice(0, column.convert.length)
    dates = pd.to_datetime(series, errors="coerce", format="ISO8601", utc=False)
    broken = int((dates.isna() & series.notna()).sum())
    if broken:
        raise DataError(
            "data.contract",
            f"Column {column.name} has values that are no date in {broken} rows.",
            "Write dates as year-month-day (ISO 8601), or give the column role dropped.",
        )
    if dates.dt.tz is not None:
        dates = dates.dt.tz_localize(None)
    reference = pd.Timestamp(column.convert.reference or 0)
    if column.convert.to == "year":
        values = dates.dt.year.astype("float64")
    elif column.convert.to == "age":
        day = (dates.dt.month, dates.dt.day)
        later = (day[0] > reference.month) | (
            (day[0] == reference.month) & (day[1] > reference.day)
        )
        values = reference.year - dates.dt.year.astype("float64") - later.astype("float64")
    else:
        values = (dates - reference).dt.days.astype("float64")
        if shift is not None:
            values = values + shift
    if column.bounds and (column.clip or shift is not None):  # a shift may lead beyond them
        values = values.clip(*column.bounds)
    return values
