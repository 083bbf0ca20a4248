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
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from folkmoot.contract import Column, Contract, Hierarchy
from folkmoot.errors import ConfigError, DataError
from folkmoot.params import Anonymisation

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FeatureSpace",
    "bounds_of",
    "categories_at",
    "check_levels",
    "encode_frame",
    "encode_label",
    "feature_space",
    "generalise_categories",
    "generalise_numbers",
    "generalised",
    "is_categorical",
    "level_of",
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


def is_categorical(column: Column) -> bool:
    """Whether a column's values are public categories rather than numbers."""
    return column.categories is not None or column.type in {"category", "boolean"}


def bounds_of(column: Column) -> tuple[float, float]:
    """Public bounds of a number that reaches training, or of a numeric label."""
    if column.bounds is None:
        raise ConfigError(
            "config.invalid",
            f"Column {column.name} has no public bounds.",
            "Give it bounds in the contract.",
        )
    return column.bounds[0], column.bounds[1]


def level_of(column: Column, anonymisation: Anonymisation) -> int:
    """Level to which a column is generalised; 0 for all but quasi-identifiers."""
    return anonymisation.levels.get(column.name, 0) if column.role == "quasi_identifier" else 0


def check_levels(contract: Contract, anonymisation: Anonymisation) -> None:
    """Refuse levels that the contract has no hierarchy for.

    Raises
    ------
    ConfigError
        ``config.invalid``, naming the column and the deepest level it has.
    """
    quasi = {column.name: column for column in contract.with_role("quasi_identifier")}
    for name, level in anonymisation.levels.items():
        if name not in quasi:
            raise ConfigError(
                "config.invalid",
                f"anonymisation.levels names {name}, which is no quasi-identifier of contract "
                f"{contract.name}.",
                f"Name one of: {', '.join(quasi) or '(the contract has none)'}.",
            )
        column = quasi[name]
        hierarchy = column.hierarchy
        depth = 0
        if hierarchy is not None:
            depth = len(hierarchy.levels if is_categorical(column) else hierarchy.widths)
        if level > depth:
            raise ConfigError(
                "config.invalid",
                f"anonymisation.levels.{name} is {level}, but the contract's hierarchy of {name} "
                f"ends at level {depth}.",
                "Choose a lower level, or give the contract a deeper hierarchy.",
            )


def categories_at(column: Column, level: int = 0) -> tuple[str, ...]:
    """Public categories of a column, or its groups at a level, in order of first appearance.

    Raises
    ------
    ConfigError
        ``config.invalid`` where a level of the hierarchy leaves a category out.
    """
    return tuple(dict.fromkeys(_chain(column, level).values()))


def generalised(contract: Contract, anonymisation: Anonymisation) -> Contract:
    """Contract of the table after generalisation; public.

    A generalised category has its groups as categories; a generalised number keeps its bounds.
    Encoding a generalised table by this contract at level 0 gives what :func:`encode_frame` makes
    of the original rows.
    """
    check_levels(contract, anonymisation)
    columns = []
    for column in contract.columns:
        level = level_of(column, anonymisation)
        change: dict[str, Any] = {"hierarchy": None}
        if level and is_categorical(column):
            change["categories"] = list(categories_at(column, level))
        elif level and column.type == "integer":
            change["type"] = "number"  # midpoints need not be whole
        columns.append(column.model_copy(update=change))
    return contract.model_copy(update={"columns": columns})


def generalise_numbers(values: NDArray[Any], column: Column, level: int) -> NDArray[np.float64]:
    """Replace numbers by the midpoint of their public interval; O(n).

    Intervals start at the lower public bound and are half open, the last one ends at the upper
    bound; a value beyond a bound falls into the outermost interval.

    Parameters
    ----------
    values : ndarray, shape (n,)
        NaN where missing.
    column : Column
        With ``bounds`` and ``hierarchy.widths``.
    level : int
        0 returns the values as they are.

    Returns
    -------
    ndarray of float64, shape (n,)
        Stability: 1-stable per row (each row becomes exactly one row, alone).
    """
    values = np.asarray(values, np.float64)
    if level == 0:
        return values
    lower, upper = bounds_of(column)
    width = (column.hierarchy or Hierarchy()).widths[level - 1]
    last = max(int(np.ceil((upper - lower) / width)) - 1, 0)
    index = np.clip(np.floor((values - lower) / width), 0, last)  # NaN stays NaN
    start = lower + index * width
    return np.asarray((start + np.minimum(start + width, upper)) / 2)


def generalise_categories(
    series: pd.Series[Any], column: Column, level: int
) -> tuple[NDArray[np.int32], int]:
    """Code of every value among :func:`categories_at`; O(n + distinct values).

    Parameters
    ----------
    series : pandas.Series, shape (n,)
        Text, integers, booleans or a pandas categorical.
    column : Column
        With public categories.
    level : int
        0 keeps the categories.

    Returns
    -------
    codes : ndarray of int32, shape (n,)
        -1 where missing, -2 where the value is no public category.
        Stability: 1-stable per row.
    unknown : int
        Number of rows whose value is no public category.
    """
    import pandas as pd

    chain = _chain(column, level)
    code = {group: i for i, group in enumerate(dict.fromkeys(chain.values()))}
    indices, uniques = pd.factorize(series)
    table = np.full(len(uniques) + 1, -1, np.int32)  # the last entry serves index -1: missing
    for i, value in enumerate(uniques.tolist()):
        found = next((s for s in _spellings(value, column) if s in chain), None)
        table[i] = -2 if found is None else code[chain[found]]
    codes = table[indices]
    return codes, int(np.count_nonzero(codes == -2))


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
            if kind == "linear":
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
        series = frame[column.name]
        if is_categorical(column):
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


def _chain(column: Column, level: int) -> dict[str, str]:
    """Group at ``level`` of every public category."""
    names = column.categories
    if names is None:
        names = ["false", "true"]
    groups = {name: name for name in names}
    maps = column.hierarchy.levels[:level] if column.hierarchy is not None else []
    for number, mapping in enumerate(maps, 1):
        absent = [name for name, group in groups.items() if group not in mapping]
        if absent:
            raise ConfigError(
                "config.invalid",
                f"Level {number} of the hierarchy of {column.name} has no group for {absent[0]}.",
                "Give every category of the level before a group in the contract.",
            )
        groups = {name: mapping[group] for name, group in groups.items()}
    return groups


def _spellings(value: Hashable, column: Column) -> Iterable[str]:
    """Texts by which a contract may name a value (integers and booleans are written as text)."""
    if isinstance(value, bool):
        return (("false", "False", "0"), ("true", "True", "1"))[value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if column.type == "boolean":
        folded = text.lower()
        pairs = {"0": ("0", "false", "False"), "1": ("1", "true", "True")}
        return pairs.get({"false": "0", "true": "1"}.get(folded, folded), (text,))
    return (text,)


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
