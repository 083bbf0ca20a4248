"""Carry out a full-domain recoding: from levels to the class and cells of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.coded import Coded, Codes, Column
from site_tasks.anonymise.full_domain.lattice import Lattice
from site_tasks.anonymise.full_domain.tables import Table
from site_tasks.anonymise.models import Model
from site_tasks.anonymise.recoding import Cells, Ranges, Recoding, Sets

__all__ = ["recode"]


def recode(
    coded: Coded,
    models: Sequence[Model],
    levels: Mapping[str, int],
    *,
    population: Coded | None = None,
) -> Recoding:
    """Generalise every column to its level, and suppress the rows of classes that fail a model.

    Parameters
    ----------
    coded : Coded
        The table, n rows.
    models : sequence of Model
        What every published class satisfies afterwards.
    levels : mapping of str to int
        Level per column; the lowest where none is given.
    population : Coded, optional
        For k-map and delta-presence.

    Returns
    -------
    Recoding
        Stability: a row changes its own record and, by suppression, at most the rest of the classes
        it joins and leaves; k-anonymity alone is k-stable.

    Raises
    ------
    ConfigError
        ``config.hierarchy`` or ``config.invalid`` for levels that do not exist.
    """
    lattice = Lattice.of(coded.columns, levels)
    table = Table.of(lattice, coded, models, population)
    kept = table.kept(models)
    number = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    classes = number[_class_of(table, coded)]
    cells = tuple(
        _cells(column, lattice.groups(j, 0), table.present.names[j][0][table.groups[j][kept]])
        for j, column in enumerate(coded.columns)
    )
    return Recoding(coded.columns, classes, cells)


def _class_of(table: Table, coded: Coded) -> NDArray[np.int64]:
    """Class of every row; classes are sorted by their groups, the first column first."""
    keys = np.zeros(len(table.counts), np.int64)
    of = np.zeros(coded.rows, np.int64)
    room = 1
    for j, group in enumerate(table.groups):
        size = table.present.size(j, 0)
        if room * size >= 2**62:  # numbered anew by the classes there are, in their order
            names, keys = np.unique(keys, return_inverse=True)
            of = np.searchsorted(names, of)
            room = len(names)
        keys = keys * size + group
        of = of * size + table.present.number(j, 0)[coded.codes[:, j]]
        room *= size
    order = np.argsort(keys)
    return np.asarray(order[np.searchsorted(keys, of, sorter=order)])


def _cells(column: Column, groups: Codes, of: Codes) -> Cells:
    """Cells of classes whose group in a column is ``of``."""
    count = int(groups.max()) + 1
    if column.ordered:
        low, high = np.full(count, column.missing), np.full(count, -1)
        codes = np.arange(column.missing)
        np.minimum.at(low, groups[:-1], codes)
        np.maximum.at(high, groups[:-1], codes)
        missing = np.zeros(count, np.bool_)
        missing[groups[-1]] = True
        low[missing], high[missing] = 0, -1
        return Ranges(low[of].astype(np.int32), high[of].astype(np.int32), missing[of])
    allowed = np.zeros((count, column.size), np.bool_)
    allowed[groups, np.arange(column.size)] = True
    return Sets.of(allowed[of])
