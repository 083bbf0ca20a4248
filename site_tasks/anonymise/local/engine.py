"""Runs the kernels over a coded table: items, models, partition, cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.local.bits import fill
from site_tasks.anonymise.local.cells import cells_of, equal_merged
from site_tasks.anonymise.local.conditions import Conditions, conditions
from site_tasks.anonymise.local.distinct import distinct
from site_tasks.anonymise.local.layout import Layout, layout
from site_tasks.anonymise.local.microaggregation import BLOCK, group, group_line
from site_tasks.anonymise.local.mondrian import SAMPLE, partition
from site_tasks.anonymise.local.relaxed import deal, relax
from site_tasks.anonymise.local.trim import trim
from site_tasks.anonymise.models import Model
from site_tasks.anonymise.recoding import Recoding

__all__ = ["METHODS", "classes_of", "prepare", "settled", "strict", "strict_of"]

Codes = NDArray[np.int32]
_NONE = np.zeros(0, np.int32)


def prepare(coded: Coded, k: int, models: Sequence[Model], method: str) -> Conditions:
    """Translate the models for this table, and make sure that one class of all rows holds.

    Raises
    ------
    ConfigError, DataError
        See :func:`site_tasks.anonymise.local.recode`.
    """
    if method != "mondrian":
        _mergeable(models)
    if coded.sensitive is None:
        total = np.zeros(0, np.int64)
    else:
        total = np.bincount(coded.sensitive, minlength=len(coded.sensitive_domain) + 1)
    return settled(conditions(k, models, total), models, coded.rows)


def settled(needs: Conditions, models: Sequence[Model], rows: int) -> Conditions:
    """The conditions, where the whole table satisfies them.

    Raises
    ------
    DataError
        ``data.too-few-rows`` or ``data.privacy-model``.
    """
    if rows < needs.k:
        raise DataError(
            "data.too-few-rows",
            f"The table has {rows} rows, fewer than k = {needs.k}.",
            "Lower k, or leave this dataset out.",
        )
    whole = needs.total[None, :]
    for model in models if len(needs.kinds) else ():
        if model.reads == "sensitive" and not model.holds(whole, needs.total)[0]:
            raise DataError(
                "data.privacy-model",
                f"The table as a whole does not satisfy {model}: no recoding can.",
                "Ask for less, or leave rows of the most frequent sensitive value out.",
            )
    return needs


def classes_of(
    columns: Sequence[Column],
    codes: Codes,
    counts: NDArray[np.int64],
    sensitive: Codes | None,
    needs: Conditions,
) -> tuple[Codes, int]:
    """Strict partition of distinct rows.

    Parameters
    ----------
    columns : sequence of Column
    codes : ndarray of int32, shape (m, q)
        Distinct rows, sorted.
    counts : ndarray of int64, shape (m,)
        Rows of each.
    sensitive : ndarray of int32, shape (m,), or None
        Sensitive code of each, where the models read it.
    needs : Conditions

    Returns
    -------
    classes : ndarray of int32, shape (m,)
    count : int
        Number of classes.
    """
    plan = layout(columns)
    rows, bits = _filled(plan, codes)
    values = _NONE if sensitive is None else sensitive.copy()
    classes, count = partition(
        rows,
        bits,
        counts.copy(),
        values,
        needs.k,
        plan.base,
        plan.ordered,
        plan.parts,
        needs.arrays,
        SAMPLE,
    )
    return classes, int(count)


def strict(coded: Coded, needs: Conditions, suppression_limit: float) -> Recoding:
    """Strict Mondrian; rows are left out where that saves more than they lose."""
    found = distinct(coded, sensitive=len(needs.kinds) > 0)
    made = strict_of(
        coded.columns, found.codes, found.counts, found.sensitive, needs, suppression_limit
    )
    return Recoding(coded.columns, made.classes[found.inverse], made.cells)


def strict_of(
    columns: tuple[Column, ...],
    codes: Codes,
    counts: NDArray[np.int64],
    sensitive: Codes | None,
    needs: Conditions,
    suppression_limit: float,
) -> Recoding:
    """The same of distinct rows; parameters as :func:`classes_of`."""
    classes, count = classes_of(columns, codes, counts, sensitive, needs)
    whole = Recoding(columns, classes, cells_of(columns, codes, classes, count))
    most = int(suppression_limit * int(counts.sum()))
    if not most or len(needs.kinds):  # models compare with the table that is published
        return whole
    trimmed = classes.copy()
    trim(columns, codes, counts, trimmed, count, needs.k, most)
    fewer = Recoding(columns, trimmed, cells_of(columns, codes, trimmed, count))
    # Losses of wide columns are rough.
    return fewer if fewer.loss(counts) < whole.loss(counts) else whole


def relaxed(coded: Coded, needs: Conditions, suppression_limit: float) -> Recoding:
    """Relaxed Mondrian: the strict partition, cut on; no row is suppressed."""
    found = distinct(coded, sensitive=len(needs.kinds) > 0)
    classes, count = classes_of(coded.columns, found.codes, found.counts, found.sensitive, needs)
    plan = layout(coded.columns)
    values = _NONE if found.sensitive is None else found.sensitive
    rows, bits = _filled(plan, found.codes)
    items, amounts, numbers = relax(
        rows,
        bits,
        found.counts,
        values,
        classes,
        count,
        needs.k,
        plan.base,
        plan.parts,
        needs.arrays,
    )
    order = np.argsort(items, kind="stable")
    out = np.empty(coded.rows, np.int32)
    deal(found.inverse, items[order], amounts[order], numbers[order], out)
    return _tidy(coded, out)


def microaggregation(coded: Coded, needs: Conditions, suppression_limit: float) -> Recoding:
    """Optimal groups of one ordered column, MDAV else; no row is suppressed."""
    found = distinct(coded, sensitive=len(needs.kinds) > 0)
    if len(coded.columns) == 1 and coded.columns[0].ordered and not len(needs.kinds):
        order = np.argsort(coded.codes[:, 0], kind="stable")
        line = coded.codes[order, 0].astype(np.float64)
        present = int(np.count_nonzero(line < coded.columns[0].missing))
        if present in (0, coded.rows):  # a missing value lies nowhere on the line
            out = np.empty(coded.rows, np.int32)
            out[order] = group_line(line, needs.k)
            return _tidy(coded, out)
    block = replace(needs, k=max(BLOCK // 2, needs.k))
    classes, count = np.zeros(len(found.codes), np.int32), 1
    if coded.rows > BLOCK:
        classes, count = classes_of(
            coded.columns, found.codes, found.counts, found.sensitive, block
        )
    # Sorted by block, then by the rows themselves: the order they came in decides nothing else.
    order = np.lexsort((found.inverse, classes[found.inverse]))
    sizes = np.bincount(classes[found.inverse], minlength=count)
    scaled = np.empty((coded.rows, len(coded.columns)))
    for j, column in enumerate(coded.columns):
        code = coded.codes[order, j].astype(np.float64)
        code[code == column.missing] = np.nan
        scaled[:, j] = code / max(len(column.domain) - 1, 1) if column.ordered else code
    values = _NONE
    if len(needs.kinds) and coded.sensitive is not None:
        values = coded.sensitive[order]
    groups = group(
        scaled,
        np.array([column.ordered for column in coded.columns]),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        values,
        needs.k,
        needs.arrays,
    )
    out = np.empty(coded.rows, np.int32)
    out[order] = groups
    return _tidy(coded, out)


def _filled(plan: Layout, codes: Codes) -> tuple[Codes, NDArray[np.uint64]]:
    rows = np.empty(codes.shape, np.int32)
    bits = np.zeros((len(codes), plan.words), np.uint64)
    fill(codes, plan.base, plan.bits, rows, bits)
    return rows, bits


def _mergeable(models: Sequence[Model]) -> None:
    """Refuse models that two classes may satisfy apart and break as one."""
    for model in models:
        if not model.merging:
            raise ConfigError(
                "config.invalid",
                f"Only strict partitioning can keep {model}: classes that look alike are one.",
                "Choose the method mondrian, or leave the model out.",
            )


def _tidy(coded: Coded, classes: Codes) -> Recoding:
    """Cells of the classes; those that look alike become one."""
    _, numbered = np.unique(classes, return_inverse=True)
    classes = numbered.astype(np.int32)
    cells = cells_of(coded.columns, coded.codes, classes, int(classes.max()) + 1)
    return Recoding(coded.columns, *equal_merged(classes, cells))


METHODS: dict[str, Callable[[Coded, Conditions, float], Recoding]] = {
    "mondrian": strict,
    "relaxed": relaxed,
    "microaggregation": microaggregation,
}
