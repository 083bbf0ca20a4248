"""Generalisation hierarchies: public trees over a column's values, level by level.

They come from ARX's CSV files, from widths, prefixes and calendars, or are built by hand in the
contract (:func:`hierarchy_of`), and end as arrays that map every value to its group per level.
Nothing here looks at rows.
"""

from __future__ import annotations

from folkmoot.hierarchies.arx import read_arx
from folkmoot.hierarchies.build import calendar_edges, dates, flat, mapped, ordered_groups, prefixes
from folkmoot.hierarchies.columns import check_hierarchies, hierarchy_of
from folkmoot.hierarchies.intervals import breaks, interval_index, intervals
from folkmoot.hierarchies.tree import ValueHierarchy

__all__ = [
    "ValueHierarchy",
    "breaks",
    "calendar_edges",
    "check_hierarchies",
    "dates",
    "flat",
    "hierarchy_of",
    "interval_index",
    "intervals",
    "mapped",
    "ordered_groups",
    "prefixes",
    "read_arx",
]
