"""Hierarchies from public rules: prefixes, calendars, ordered and unordered groups by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from folkmoot.hierarchies.tree import ValueHierarchy, fault

__all__ = [
    "CalendarStep",
    "calendar_edges",
    "dates",
    "flat",
    "mapped",
    "ordered_groups",
    "prefixes",
]

CalendarStep = Literal["week", "month", "quarter", "year", "decade", "*"]
_MOST_DAYS = 100_000


def flat(source: str, domain: Sequence[str], *, ordered: bool = False) -> ValueHierarchy:
    """Values and, above them, one group that holds them all."""
    return ValueHierarchy.of_rows([[value, "*"] for value in domain], source, ordered=ordered)


def mapped(
    source: str,
    domain: Sequence[str],
    levels: Sequence[Mapping[str, str]],
    *,
    ordered: bool = False,
) -> ValueHierarchy:
    """Unordered (or ordered) categories: per level from 1, the group of each group before.

    Raises
    ------
    ConfigError
        ``config.hierarchy`` where a level leaves a group out, or goes round in a circle.
    """
    rows = [[value] for value in domain]
    for number, groups in enumerate(levels, 1):
        absent = {row[-1] for row in rows if row[-1] not in groups}
        if absent:
            raise fault(
                source,
                f"has a gap: level {number} has no group for {len(absent)} groups of the level "
                "before",
                "Give every category of the level before a group in the contract.",
            )
        for row in rows:
            row.append(groups[row[-1]])
    return ValueHierarchy.of_rows(rows, source, ordered=ordered)


def prefixes(source: str, domain: Sequence[str], lengths: Sequence[int]) -> ValueHierarchy:
    """Codes such as postcodes or ICD: per level from 1, how many leading characters are kept.

    Raises
    ------
    ConfigError
        ``config.hierarchy`` where the lengths do not get smaller.
    """
    if any(b >= a for a, b in pairwise(lengths)) or any(length < 0 for length in lengths):
        raise fault(source, "has prefixes that do not get shorter from level to level")
    # Stars stand for what is hidden, so that 12 and 123 differ from 12 alone.
    rows = [[v, *(_masked(v, length) for length in lengths)] for v in domain]
    return ValueHierarchy.of_rows(rows, source, ordered=False)


def ordered_groups(
    source: str, domain: Sequence[str], levels: Sequence[Sequence[Sequence[str]]]
) -> ValueHierarchy:
    """Ordered categories: per level from 1, runs of neighbouring values.

    Raises
    ------
    ConfigError
        ``config.hierarchy`` where a level does not list all values in their order, once each.
    """
    rows = [[value] for value in domain]
    for number, runs in enumerate(levels, 1):
        if [value for run in runs for value in run] != list(domain):
            raise fault(source, f"does not list all values in their order at level {number}")
        names = [run[0] if len(run) == 1 else f"{run[0]} … {run[-1]}" for run in runs for _ in run]
        for row, name in zip(rows, names, strict=True):
            row.append("*" if len(runs) == 1 else name)
    return ValueHierarchy.of_rows(rows, source, ordered=True)


def dates(source: str, first: date, last: date, steps: Sequence[CalendarStep]) -> ValueHierarchy:
    """Days between two public dates: per level from 1 what is kept of them.

    Parameters
    ----------
    source : str
        Column, for errors.
    first, last : date
        Public bounds, both included; values are ISO dates as text.
    steps : sequence
        Such as ``["month", "year", "decade", "*"]``; ISO weeks do not nest in months.

    Raises
    ------
    ConfigError
        ``config.hierarchy`` for bounds out of order, unknown steps and steps that do not nest.
    """
    count = (last - first).days + 1
    if not 1 <= count <= _MOST_DAYS:
        raise fault(source, "has bounds out of order or more than 270 years apart")
    unknown = [step for step in steps if step not in get_args(CalendarStep)]
    if unknown:
        raise fault(
            source, "has an unknown calendar step", f"Use {', '.join(get_args(CalendarStep))}."
        )
    days = [first + timedelta(days=i) for i in range(count)]
    rows = [[day.isoformat(), *(_calendar(day, step) for step in steps)] for day in days]
    return ValueHierarchy.of_rows(rows, source, ordered=True)


def calendar_edges(
    source: str, reference: date, lower: float, upper: float, steps: Sequence[CalendarStep]
) -> list[list[float]]:
    """Inner edges, per level, of the same where dates are whole days since a public reference.

    Parameters
    ----------
    source : str
        Column, for errors.
    reference : date
        Day 0.
    lower, upper : float
        Public bounds in days, both included.
    steps : sequence
        As of :func:`dates`.

    Returns
    -------
    list of list of float
        What :func:`folkmoot.hierarchies.breaks` takes.

    Raises
    ------
    ConfigError
        As :func:`dates`, and for days before year 1 or after 9999.
    """
    days = range(math.ceil(lower), math.floor(upper) + 1)
    try:
        first, last = (reference + timedelta(days=day) for day in (days[0], days[-1]))
    except (OverflowError, IndexError):
        raise fault(source, "has bounds that are no days of the calendar") from None
    tree = dates(source, first, last, steps)
    return [
        [float(days[i]) for i in (np.flatnonzero(np.diff(groups)) + 1).tolist()]
        for groups in tree.groups
    ]


def _masked(value: str, length: int) -> str:
    return "*" if length == 0 else value[:length] + "*" * max(len(value) - length, 0)


def _calendar(day: date, step: CalendarStep) -> str:
    year, week, _ = day.isocalendar()
    return {
        "week": f"{year}-W{week:02d}",
        "month": f"{day:%Y-%m}",
        "quarter": f"{day.year}-Q{(day.month + 2) // 3}",
        "year": f"{day.year:04d}",
        "decade": f"{day.year // 10 * 10:04d}s",
        "*": "*",
    }[step]
