"""Runs the kernels over a coded table: items, models, partition, cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import DataError
from site_tasks.anonymise.coded import Cells, Coded, Column, Recoding
from site_tasks.anonymise.local.cells import cells_of
from site_tasks.anonymise.local.conditions import Conditions, conditions
from site_tasks.anonymise.local.distinct import distinct
from site_tasks.anonymise.local.layout import layout
from site_tasks.anonymise.local.mondrian import SAMPLE, fill, partition
from site_tasks.anonymise.models import Model

__all__ = ["METHODS", "classes_of", "prepare", "strict"]

Codes = NDArray[np.int32]
_NONE = np.zeros(0, np.int32)


def prepare(coded: Coded, k: int, models: Sequence[Model]) -> Conditions:
    """Translate the models for this table, and make sure that one class of all rows holds.

    Raises
    ------
    ConfigError, DataError
        See :func:`site_tasks.anonymise.local.recode`.
    """
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
) -> tuple[Codes, tuple[Cells, ...]]:
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
    cells : tuple of Ranges or Sets
    """
    plan = layout(columns)
    rows = np.empty(codes.shape, np.int32)
    bits = np.zeros((len(codes), plan.words), np.uint64)
    fill(codes, plan.base, plan.bits, rows, bits)
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
    del rows, bits
    return classes, cells_of(columns, codes, classes, count)


def strict(coded: Coded, needs: Conditions, suppression_limit: float) -> Recoding:
    """Strict Mondrian."""
    found = distinct(coded, sensitive=len(needs.kinds) > 0)
    classes, cells = classes_of(coded.columns, found.codes, found.counts, found.sensitive, needs)
    return Recoding(coded.columns, classes[found.inverse], cells)


METHODS: dict[str, Callable[[Coded, Conditions, float], Recoding]] = {"mondrian": strict}
