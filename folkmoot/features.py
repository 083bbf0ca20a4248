"""From contract columns to numbers: what a site stores and what a registered model computes.

One public function of contract and params, :func:`encode_frame`, serves both the site's ``encode``
step and the registered model, so that a prediction passes the very schema the model was trained
on.  It reads nothing from the data: bounds, categories and generalisation are the contract's.

==================  =======================================  ============================
column              linear models                            trees
==================  =======================================  ============================
number, integer     its value; NaN where missing             the same
generalised number  midpoint of its public interval          the same
category            one 0/1 feature per public category      code of the category (type
                    (or group) but the first                 ``c``); NaN where missing
boolean             one 0/1 feature                          0 or 1; NaN where missing
may be missing      beside it a 0/1 feature ``x__missing``   --
==================  =======================================  ============================

With ``anonymisation.recoding: local`` quasi-identifiers become the numbers of ``folkmoot.cells``: an
interval its mean, a set of categories 1/|allowed| on one feature per category, for both kinds.  A
raw row is a cell of one value, so that sites whose cells differ and predictions share one space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from folkmoot.contract import Column, Contract
from folkmoot.conversion import convert
from folkmoot.errors import DataError
from folkmoot.generalisation import (
    bounds_of,
    categories_at,
    check_levels,
    generalise_categories,
    generalise_numbers,
    is_categorical,
    level_of,
)
from folkmoot.params import Anonymisation

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FeatureSpace",
    "encode_frame",
    "encode_label",
    "feature_space",
]

Kind = Literal["linear", "trees"]
MISSING_SUFFIX = "__missing"


@dataclass(frozen=True)
class FeatureSpace:
    """The features of a model, in order; public.

    Parameters
    ----------
    names : tuple of str
        Name per feature: the column, ``column=category`` or ``column__missing``.
    types : tuple of str
        ``"q"`` (quantitative) or ``"c"`` (categorical code), as XGBoost writes them.
    lower, upper : ndarray of float64, shape (d,)
        Public bounds per feature.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def centre(self) -> NDArray[np.float64]:
        """Public midpoint of every feature, shape (d,)."""
        return (self.lower + self.upper) / 2


def feature_space(contract: Contract, anonymisation: Anonymisation, kind: Kind) -> FeatureSpace:
    """Features that :func:`encode_frame` makes of a contract's columns; reads no data.

    Raises
    ------
    ConfigError
        Where ``anonymisation.levels`` does not fit the contract's hierarchies.
    """
    check_levels(contract, anonymisation)
    rows: list[tuple[str, str, float, float]] = []
    for column in contract.inputs:
        if is_categorical(column):
            groups = categories_at(column, level_of(column, anonymisation))
            if _in_cells(column, anonymisation):
                leaves = groups[_first(column, kind) :]
                rows += [(f"{column.name}={group}", "q", 0.0, 1.0) for group in leaves]
            elif kind == "linear":
                rows += [(f"{column.name}={group}", "q", 0.0, 1.0) for group in groups[1:]]
            else:
                kept = "q" if column.type == "boolean" else "c"
                rows.append((column.name, kept, 0.0, float(max(len(groups) - 1, 1))))
        else:
            rows.append((column.name, "q", *bounds_of(column)))
        if kind == "linear" and column.missing:
            rows.append((column.name + MISSING_SUFFIX, "q", 0.0, 1.0))
    return FeatureSpace(
        tuple(row[0] for row in rows),
        tuple(row[1] for row in rows),
        np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.float64),
    )


def encode_frame(
    frame: pd.DataFrame,
    contract: Contract,
    anonymisation: Anonymisation,
    kind: Kind,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Generalise and encode the contract's input columns; O(n · d).

    Parameters
    ----------
    frame : pandas.DataFrame, n rows
        At least the contract's input columns, as they stand in a dataset; others are ignored.
    contract, anonymisation : Contract, Anonymisation
        Public columns, bounds, categories, hierarchies and levels.
    kind : {"linear", "trees"}
        How categories and missing values are written.
    dtype : dtype
        Of the result, ``float64`` or ``float32``.

    Returns
    -------
    ndarray, shape (n, d), C-contiguous
        Columns as in :func:`feature_space`; missing is NaN.

    Raises
    ------
    DataError
        ``data.column`` for a column that is absent or no number; ``data.contract`` for values that
        are missing against the contract or in no public category, with the number of rows.
    """
    space = feature_space(contract, anonymisation, kind)
    out = np.empty((len(frame), len(space)), dtype)
    j = 0
    for column in contract.inputs:
        if column.name not in frame.columns:
            raise _no_column(column)
        series = convert(frame[column.name], column)
        absent: NDArray[Any]
        if _in_cells(column, anonymisation):
            values, absent, unknown = _cells(series, column, kind)
            if unknown:
                raise _breaks(column, "values outside the public categories", unknown)
            out[:, j : j + values.shape[1]] = values
            j += values.shape[1]
        elif is_categorical(column):
            level = level_of(column, anonymisation)
            codes, unknown = generalise_categories(series, column, level)
            if unknown:
                raise _breaks(column, "values outside the public categories", unknown)
            absent = codes < 0
            if kind == "linear":
                for code in range(1, len(categories_at(column, level))):
                    out[:, j] = codes == code
                    j += 1
            else:
                out[:, j] = np.where(absent, np.nan, codes)
                j += 1
        else:
            values = generalise_numbers(
                _numbers(series, column), column, level_of(column, anonymisation)
            )
            absent = np.isnan(values)
            out[:, j] = values
            j += 1
        if column.missing:
            if kind == "linear":
                out[:, j] = absent
                j += 1
        elif absent.any():
            raise _breaks(column, "missing values", int(np.count_nonzero(absent)))
    return out


def _in_cells(column: Column, anonymisation: Anonymisation) -> bool:
    """Whether a column is recoded locally: its values may be cells."""
    return anonymisation.recoding == "local" and column.role == "quasi_identifier"


def _first(column: Column, kind: Kind) -> int:
    """First category with a feature of its own: what the others say is left out."""
    return 0 if kind == "trees" and column.type != "boolean" else 1


def _cells(
    series: pd.Series[Any], column: Column, kind: Kind
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Features (n, w) of a locally recoded column, share of missing (n,), rows of unknown value."""
    from folkmoot.cells import number_cells, set_cells

    if is_categorical(column):
        values, absent, unknown = set_cells(series, column)
        return values[:, _first(column, kind) :], absent, unknown
    means, absent = number_cells(series, column)
    return means[:, None], absent, 0


def encode_label(series: pd.Series[Any], contract: Contract) -> NDArray[Any]:
    """Label as class codes or numbers; O(n).

    Parameters
    ----------
    series : pandas.Series, shape (n,)
        The label column.
    contract : Contract
        Its task and public classes.

    Returns
    -------
    ndarray, shape (n,)
        int64 position in ``contract.classes``, or float64 for regression.

    Raises
    ------
    DataError
        ``data.contract`` for missing labels or unknown classes, with the number of rows.
    """
    column = contract.label
    if contract.task == "regression":
        values = _numbers(series, column)
        absent = int(np.count_nonzero(np.isnan(values)))
        if absent:
            raise _breaks(column, "missing values", absent)
        return values
    codes, unknown = generalise_categories(series, column, 0)
    if unknown:
        raise _breaks(column, "values outside the public categories", unknown)
    absent = int(np.count_nonzero(codes < 0))
    if absent:
        raise _breaks(column, "missing values", absent)
    return codes.astype(np.int64)


def _numbers(series: pd.Series[Any], column: Column) -> NDArray[np.float64]:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if not is_numeric_dtype(series.dtype) or is_bool_dtype(series.dtype):
        raise DataError(
            "data.column",
            f"Column {column.name} does not hold numbers.",
            f"Convert it to type {column.type}, as the contract says.",
        )
    return series.to_numpy(np.float64, na_value=np.nan)


def _no_column(column: Column) -> DataError:
    return DataError(
        "data.column",
        f"Column {column.name} is missing.",
        "Give every column that the contract sends to training.",
    )


def _breaks(column: Column, what: str, rows: int) -> DataError:
    return DataError(
        "data.contract",
        f"Column {column.name} has {what} in {rows} rows.",
        "Mend the rows, or change the contract for every site.",
    )
