"""The hierarchy of a contract's column, whichever way the contract gives it."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

from folkmoot.contract import WAYS, Column, Contract, Hierarchy
from folkmoot.hierarchies.build import calendar_edges, mapped, ordered_groups, prefixes
from folkmoot.hierarchies.intervals import breaks, interval_count, intervals
from folkmoot.hierarchies.tree import ValueHierarchy, fault
from folkmoot.wire import canonical_json

__all__ = ["check_hierarchies", "hierarchy_of"]

#: Finest cells of a number whose contract gives it no widths.
CELLS = 1024
_MADE: dict[bytes, ValueHierarchy] = {}
#: The same by the column itself: rounds ask for it again and again.
_KNOWN: dict[int, tuple[weakref.ref[Column], ValueHierarchy]] = {}


def hierarchy_of(column: Column) -> ValueHierarchy:
    """The column's hierarchy over its public values; remembered, so that asking again is cheap.

    Without a hierarchy in the contract the column has its values and no level above them; a number
    that is not whole then has 1,024 equal intervals for values.

    Parameters
    ----------
    column : Column
        Of a contract; with public categories or bounds.

    Raises
    ------
    ConfigError
        ``config.hierarchy``: gaps, cycles, uneven depth, divided groups, values left out.
    """
    known = _KNOWN.get(id(column))
    if known is not None and known[0]() is column:
        return known[1]
    what = column.model_dump(mode="json", exclude={"description", "unit", "role", "missing"})
    key = canonical_json(what)
    for remembered in (_MADE, _KNOWN):
        if len(remembered) >= 512:
            remembered.clear()
    if key not in _MADE:
        _MADE[key] = _made(column)
    _KNOWN[id(column)] = (weakref.ref(column), _MADE[key])
    return _MADE[key]


def check_hierarchies(contract: Contract) -> None:
    """Build every hierarchy of a contract, so that a faulty one is found before any row is read.

    Raises
    ------
    ConfigError
        ``config.hierarchy``, naming the column.
    """
    for column in contract.columns:
        if column.hierarchy is not None:
            hierarchy_of(column)


def _made(column: Column) -> ValueHierarchy:
    spec = column.hierarchy or Hierarchy()
    source = f"column {column.name}"
    values = column.categories
    if spec.file is not None:
        raise fault(source, "names a file that was not read", "Read the contract from its file.")
    if values is None and not column.numeric:
        values = ["false", "true"]
    if values is not None:
        _only(source, spec, {"levels", "prefixes", "runs", "table"}, "categories")
        if spec.runs:
            if not column.ordered:
                raise fault(
                    source,
                    "parts categories without an order into runs",
                    "Give the column `ordered: true`, or name groups with levels.",
                )
            return ordered_groups(source, values, spec.runs)
        if spec.table:
            tree = ValueHierarchy.of_rows(spec.table, source).restricted(values)
            return replace(tree, ordered=column.ordered)
        if spec.prefixes:
            return prefixes(source, values, spec.prefixes)
        return mapped(source, values, spec.levels, ordered=column.ordered)
    if column.bounds is None:
        raise fault(
            source,
            "needs public categories or bounds",
            "Give the column one of them in the contract.",
        )
    _only(source, spec, {"widths", "breaks", "calendar", "table"}, "numbers")
    lower, upper = column.bounds
    if spec.calendar:
        if (
            column.convert is None
            or column.convert.reference is None
            or column.convert.to != "days"
        ):
            raise fault(
                source,
                "has a calendar, which only dates that are converted to days have",
                "Convert the column to days, or give widths.",
            )
        edges = calendar_edges(source, column.convert.reference, lower, upper, spec.calendar)
        return breaks(source, lower, upper, edges)
    whole = column.type == "integer" or column.convert is not None  # ages, years, days
    if spec.table or spec.breaks:
        if not whole:
            raise fault(
                source,
                "lists values or edges, which numbers that are not whole cannot have",
                "Give widths, or type integer.",
            )
        if spec.breaks:
            return breaks(source, lower, upper, spec.breaks)
        return _listed(source, spec.table, lower, upper)
    if whole or spec.widths:
        return intervals(source, lower, upper, spec.widths, whole=whole)
    width = (upper - lower) / CELLS
    count = interval_count(lower, upper, width)
    middles = tuple(lower + (i + 0.5) * width for i in range(count))
    return ValueHierarchy(source, middles, (), (), True, width)


def _listed(source: str, table: list[list[str]], lower: float, upper: float) -> ValueHierarchy:
    """Whole numbers with a row each, as ARX lists ages; groups must be runs of neighbours."""
    rows = ValueHierarchy.of_rows(table, source)  # in any order
    try:
        domain = tuple(int(value) for value in rows.domain)
    except ValueError:
        raise fault(source, "lists values that are no whole numbers") from None
    tree = ValueHierarchy(source, domain, rows.groups, rows.labels)
    found = tree.restricted(range(math.ceil(lower), math.floor(upper) + 1))
    return replace(found, ordered=True)


def _only(source: str, spec: Hierarchy, allowed: set[str], kind: str) -> None:
    """One way of giving a hierarchy, and one that the kind of column has."""
    given = {name for name in WAYS if getattr(spec, name)}
    if len(given) > 1 or not given <= allowed:
        raise fault(
            source,
            f"is given by {' and '.join(sorted(given))}",
            f"Columns of {kind} take one of: {', '.join(sorted(allowed))} (or file).",
        )
