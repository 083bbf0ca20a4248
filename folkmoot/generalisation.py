"""Generalisation by public hierarchies: what a level makes of a column's values.

Numbers become the midpoint of a public interval, categories the group that the contract names.
Everything here follows from contract and params alone, so that every site, the coordinator and a
registered model come to the same values (full-domain generalisation; Samarati & Sweeney 1998).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column, Contract, Hierarchy
from folkmoot.conversion import converted
from folkmoot.errors import ConfigError
from folkmoot.hierarchies import hierarchy_of
from folkmoot.hierarchies.intervals import edges, interval_index
from folkmoot.params import Anonymisation

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "bounds_of",
    "categories_at",
    "check_levels",
    "generalise_categories",
    "generalise_numbers",
    "generalised",
    "is_categorical",
    "level_of",
]


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
    return anonymisation.chosen.get(column.name, 0) if column.role == "quasi_identifier" else 0


def check_levels(contract: Contract, anonymisation: Anonymisation) -> None:
    """Refuse levels that the contract has no hierarchy for, and models over no column at all.

    Raises
    ------
    ConfigError
        ``config.invalid``, naming the column and the deepest level it has.
    """
    quasi = {column.name: column for column in contract.with_role("quasi_identifier")}
    if anonymisation.active and not quasi:
        raise ConfigError(
            "config.invalid",
            f"anonymisation asks for a privacy model, but contract {contract.name} has no "
            "quasi-identifier: all rows would be one class, which promises nothing.",
            "Give the columns by which a person can be found role quasi_identifier, or set "
            "anonymisation.k to 1.",
        )
    for name, level in (*anonymisation.levels.items(), *anonymisation.chosen.items()):
        if name not in quasi:
            raise ConfigError(
                "config.invalid",
                f"anonymisation.levels names {name}, which is no quasi-identifier of contract "
                f"{contract.name}.",
                f"Name one of: {', '.join(quasi) or '(the contract has none)'}.",
            )
        column = quasi[name]
        depth = column.hierarchy.depth if column.hierarchy is not None else 0
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
    """Contract of the table after conversion and generalisation; public.

    A generalised category has its groups as categories; a generalised number keeps its bounds.
    Encoding a generalised table by this contract at level 0 gives what ``features.encode_frame`` makes
    of the original rows.
    """
    check_levels(contract, anonymisation)
    columns = []
    for column in map(converted, contract.columns):
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
        With ``bounds`` and a hierarchy.
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
    hierarchy = column.hierarchy or Hierarchy()
    if not hierarchy.widths:
        return _listed(values, column, level)
    width = hierarchy.widths[level - 1]
    index = interval_index(values, lower, upper, width)  # NaN stays NaN
    start = edges(lower, width, index)
    return np.asarray((start + np.minimum(edges(lower, width, index + 1), upper)) / 2)


def _listed(values: NDArray[np.float64], column: Column, level: int) -> NDArray[np.float64]:
    """Mean of the whole numbers that share a group; a number beyond a bound falls in the outermost."""
    hierarchy = hierarchy_of(column)
    domain = np.asarray(hierarchy.domain, np.float64)
    groups = hierarchy.at(level)
    means = np.bincount(groups, weights=domain) / np.bincount(groups)
    absent = np.isnan(values)
    code = np.searchsorted(domain, np.where(absent, domain[0], values), side="right") - 1
    found = means[groups[np.clip(code, 0, len(domain) - 1)]]
    return np.where(absent, np.nan, found)


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


def _chain(column: Column, level: int) -> dict[str, str]:
    """Group at ``level`` of every public category."""
    hierarchy = hierarchy_of(column)
    names = hierarchy.names(level)
    domain = map(str, hierarchy.domain)
    return {value: names[g] for value, g in zip(domain, hierarchy.at(level).tolist(), strict=True)}


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
