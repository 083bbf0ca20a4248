"""Top and bottom coding: the ends of an ordered column, which few reach, are published as one.

Hundepool et al.: Statistical Disclosure Control (Wiley 2012), section 3.2.  Both limits are public
values, chosen without looking at the rows.  Clip before recoding, so that no class is cut out
beyond a limit, and open afterwards, so that the cells say what was done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from folkmoot.errors import ConfigError
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.recoding import Ranges, Recoding

__all__ = ["Ends", "clip_ends", "open_ends"]

#: Per column: last value that is told from those below it, and from those above it.
Ends = Mapping[str, tuple[Any | None, Any | None]]


def clip_ends(coded: Coded, ends: Ends) -> Coded:
    """Move every value beyond a limit to the limit; O(rows) per column named.

    Raises
    ------
    ConfigError
        ``config.invalid`` for a column that is unknown or unordered, and a limit that is no value
        of its domain.
    """
    codes = coded.codes.copy(order="F")
    for j, (low, high) in _limits(coded.columns, ends).items():
        present = codes[:, j] != coded.columns[j].missing
        codes[present, j] = np.clip(codes[present, j], low, high)
    return replace(coded, codes=codes)


def open_ends(recoding: Recoding, ends: Ends) -> Recoding:
    """Let cells that reach a limit allow all that lies beyond it.

    Classes keep their rows, so every model that held for them does; two classes never come to look
    alike that were not, as the values beyond a limit were at it before.
    """
    cells = list(recoding.cells)
    for j, (low, high) in _limits(recoding.columns, ends).items():
        old = cells[j]
        if isinstance(old, Ranges):
            any_value = old.low <= old.high
            last = len(recoding.columns[j].domain) - 1
            cells[j] = Ranges(
                np.where(any_value & (old.low <= low), 0, old.low).astype(np.int32),
                np.where(any_value & (old.high >= high), last, old.high).astype(np.int32),
                old.missing,
            )
    return replace(recoding, cells=tuple(cells))


def _limits(columns: tuple[Column, ...], ends: Ends) -> dict[int, tuple[int, int]]:
    """First and last code left, by index of the column."""
    index = {column.name: j for j, column in enumerate(columns)}
    out = {}
    for name, (bottom, top) in ends.items():
        column = columns[index[name]] if name in index else None
        if column is None or not column.ordered:
            raise ConfigError(
                "config.invalid",
                f"Top and bottom coding names {name}, which is no ordered quasi-identifier.",
                "Name a number or an ordered category.",
            )
        if any(end is not None and end not in column.domain for end in (bottom, top)):
            raise ConfigError(
                "config.invalid",
                f"A limit of {name} is no value of its public domain.",
                "Choose limits among the values of the contract.",
            )
        low = 0 if bottom is None else column.domain.index(bottom)
        high = len(column.domain) - 1 if top is None else column.domain.index(top)
        if low > high:
            raise ConfigError(
                "config.invalid",
                f"The limits of {name} are the wrong way round.",
                "Give the lower limit first.",
            )
        out[index[name]] = (low, high)
    return out
