"""Strict multidimensional partitioning (Mondrian), with every cut chosen by what it saves.

LeFevre, DeWitt, Ramakrishnan: Mondrian multidimensional k-anonymity (ICDE 2006), with two changes.
A cut is not the median of the widest column: of all cuts of all columns that leave both sides
private, the one is taken after which the rows lose least.  And a category is cut by sets of
values, which are grown value by value, rather than by a hierarchy.

The rows are distinct rows with counts: a strict partition never parts equal ones.  A step takes
O(rows of the part · columns still open), a run O(distinct rows · columns · depth) time.  In parts of
more than :data:`SAMPLE` distinct rows cuts are compared on every i-th of them.  No randomness: equal
tables, in whatever order of rows, give equal classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from site_tasks.anonymise.local.bits import clear, loss_of, union
from site_tasks.anonymise.local.compiled import Index, compiled
from site_tasks.anonymise.local.conditions import both

__all__ = ["SAMPLE", "partition"]

SAMPLE = 16384
_LEAST = 1e-9
_FEW = 64
_STEPS = 64


@compiled
def _gather(
    codes: Any, bits: Any, counts: Any, part: Any, columns: Any, sums: Any, weights: Any
) -> Any:
    """Add the rows of a part to the sums of their codes; the hot loop. Their number."""
    start, end, step = part
    seen = 0
    for i in range(start, end, step):
        row = Index(i)
        rows = counts[row]
        seen += rows
        for x in range(columns.shape[0]):
            weights[Index(codes[row, Index(columns[x])])] += rows
    for w in range(0, bits.shape[1], 4):
        p, q, r, s = Index(w), Index(w + 1), Index(w + 2), Index(w + 3)
        for i in range(start, end, step):
            row = Index(i)
            a, b, c, d = bits[row, p], bits[row, q], bits[row, r], bits[row, s]
            for x in range(columns.shape[0]):
                code = Index(codes[row, Index(columns[x])])
                sums[code, p] |= a
                sums[code, q] |= b
                sums[code, r] |= c
                sums[code, s] |= d
    return seen


@compiled
def _grow(
    found: Any, n: Any, weights: Any, sums: Any, left: Any, right: Any, parts: Any, whole: Any
) -> None:
    """Order values so that each prefix, grown greedily, is a good set to part from the rest.

    Of many values the first :data:`_STEPS` are chosen so, the others keep the domain's order.
    """
    first, count, mask, kind, unit = parts
    grown = left.shape[0] - 1
    clear(left, Index(grown))
    taken = 0
    for step in range(min(n - 1, _STEPS)):
        # right[i]: all that comes behind i; left[0]: what was passed over before i.
        clear(right, Index(n))
        for i in range(n - 1, step, -1):
            for w in range(right.shape[1]):
                right[i, w] = right[i + 1, w] if i < n - 1 else 0
            union(right, Index(i), sums, Index(found[i]))
        clear(left, Index(0))
        best = np.inf
        choice = step
        for i in range(step, n):
            for w in range(left.shape[1]):
                left[1, w] = left[grown, w]
                left[2, w] = left[0, w]
            union(left, Index(1), sums, Index(found[i]))
            if i < n - 1:
                union(left, Index(2), right, Index(i + 1))
            rows = taken + weights[found[i]]
            cost = rows * loss_of(left, Index(1), first, count, mask, kind, unit)
            cost += (whole - rows) * loss_of(left, Index(2), first, count, mask, kind, unit)
            if cost < best - _LEAST:
                best = cost
                choice = i
            union(left, Index(0), sums, Index(found[i]))
        value = found[choice]
        for i in range(choice, step, -1):  # the others keep their order
            found[i] = found[i - 1]
        found[step] = value
        union(left, Index(grown), sums, Index(value))
        taken += weights[value]


@compiled
def partition(
    codes: Any,
    bits: Any,
    counts: Any,
    sensitive: Any,
    k: Any,
    base: Any,
    ordered: Any,
    parts: Any,
    models: Any,
    sample: Any,
) -> Any:
    """Cut until no cut is left that saves anything and keeps both sides private.

    Parameters
    ----------
    codes : ndarray of int32, shape (m, q)
        Distinct rows as rows of the table of the layout (``base[j]`` + code); permuted in place.
    bits : ndarray of uint64, shape (m, words)
        Their bits; permuted in place.
    counts : ndarray of int64, shape (m,)
        Rows of each; permuted in place.
    sensitive : ndarray of int32, shape (m,)
        Sensitive code of each; empty without models.  Permuted in place.
    k : int
        Rows of every class, at least; the whole table has as many and satisfies the models.
    base, ordered, parts
        See :class:`site_tasks.anonymise.local.layout.Layout`.
    models : tuple
        See :attr:`site_tasks.anonymise.local.conditions.Conditions.arrays`.
    sample : int
        Distinct rows of a part from which on every i-th is looked at.

    Returns
    -------
    classes : ndarray of int32, shape (m,)
        Class of every distinct row, in the order given; numbered by first appearance.
    count : int
    """
    m, q = codes.shape
    words = bits.shape[1]
    kinds, figures, groups, total = models
    values = total.shape[0] if kinds.shape[0] > 0 else 0
    first, count, mask, kind, unit = parts
    table = base[q]
    widest = 0
    for j in range(q):
        widest = max(widest, base[j + 1] - base[j])
    sums = np.zeros((table, words), np.uint64)
    weights = np.zeros(table, np.int64)
    spread = np.zeros((table, values), np.int64)
    left = np.zeros((widest + 4, words), np.uint64)
    right = np.zeros((widest + 4, words), np.uint64)
    found = np.zeros(widest + 1, np.int64)
    choice = np.zeros(widest + 1, np.int64)
    one = np.zeros(values, np.int64)
    other = np.zeros(values, np.int64)
    here = np.zeros(values, np.int64)
    goes = np.zeros(table, np.bool_)
    open_columns = np.zeros(q, np.int64)
    where = np.arange(m).astype(np.int32)
    moved_codes = np.empty((m, q), np.int32)
    moved_bits = np.empty((m, words), np.uint64)
    moved_counts = np.empty(m, np.int64)
    moved_where = np.empty(m, np.int32)
    moved_sensitive = np.empty(sensitive.shape[0], np.int32)
    classes = np.full(m, -1, np.int32)
    made = 0
    stack = np.zeros((128 + 2 * table, 3), np.int64)
    stack[0, 1] = m
    stack[0, 2] = sample
    deep = 1
    while deep > 0:
        deep -= 1
        start, end, sampled = stack[deep, 0], stack[deep, 1], stack[deep, 2]
        step = max((end - start) // sampled, 1)
        rows = 0
        for i in range(start, end):
            rows += counts[i]
        cut = -1
        opened = 0
        if rows >= 2 * k and end - start > 1:
            for j in range(q):
                code = codes[start, j]
                for i in range(start + 1, end):
                    if codes[i, j] != code:
                        open_columns[opened] = j
                        opened += 1
                        break
        size = 0
        if opened > 0:
            part = (start, end, step)
            seen = _gather(codes, bits, counts, part, open_columns[:opened], sums, weights)
            if values > 0:
                for s in range(values):
                    here[s] = 0
                for i in range(start, end, step):
                    s = sensitive[i]
                    here[s] += counts[i]
                    for x in range(opened):
                        spread[codes[i, open_columns[x]], s] += counts[i]
            best = np.inf
            for x in range(opened):
                j = open_columns[x]
                n = 0
                if end - start < _FEW and end - start < (base[j + 1] - base[j]) // 8:
                    for i in range(start, end, step):
                        code = codes[i, j]
                        if not goes[code]:
                            goes[code] = True
                            at = n
                            while at > 0 and found[at - 1] > code:
                                found[at] = found[at - 1]
                                at -= 1
                            found[at] = code
                            n += 1
                    for i in range(n):
                        goes[found[i]] = False
                else:
                    for code in range(base[j], base[j + 1]):
                        if weights[code] > 0:
                            found[n] = code
                            n += 1
                if n > 2 and not ordered[j]:
                    _grow(found, n, weights, sums, left, right, parts, seen)
                clear(right, Index(n))
                for i in range(n - 1, 0, -1):
                    for w in range(words):
                        right[i, w] = right[i + 1, w] if i < n - 1 else 0
                    union(right, Index(i), sums, Index(found[i]))
                clear(left, Index(0))
                if x == 0:  # what not cutting costs
                    union(left, Index(0), sums, Index(found[0]))
                    union(left, Index(0), right, Index(1))
                    best = seen * loss_of(left, Index(0), first, count, mask, kind, unit) - _LEAST
                    clear(left, Index(0))
                gone = 0
                for s in range(values):
                    one[s] = 0
                for i in range(n - 1):
                    union(left, Index(0), sums, Index(found[i]))
                    gone += weights[found[i]]
                    for s in range(values):
                        one[s] += spread[found[i], s]
                    if gone < k:
                        continue
                    if seen - gone < k:
                        break
                    cost = gone * loss_of(left, Index(0), first, count, mask, kind, unit)
                    cost += (seen - gone) * loss_of(
                        right, Index(i + 1), first, count, mask, kind, unit
                    )
                    if cost >= best:
                        continue
                    if values > 0 and not both(one, here, other, kinds, figures, groups, total):
                        continue
                    best = cost
                    cut = j
                    size = i + 1
                    for y in range(size):
                        choice[y] = found[y]
                for i in range(n):
                    code = found[i]
                    weights[code] = 0
                    clear(sums, Index(code))
                    for s in range(values):
                        spread[code, s] = 0
        if cut < 0:
            if step > 1:  # look at all of it
                stack[deep, 2] = end - start
                deep += 1
                continue
            for i in range(start, end):
                classes[where[i]] = made
            made += 1
            continue
        for i in range(size):
            goes[choice[i]] = True
        if values > 0 and step > 1:
            for s in range(values):
                one[s] = 0
                here[s] = 0
            for i in range(start, end):
                here[sensitive[i]] += counts[i]
                if goes[codes[i, cut]]:
                    one[sensitive[i]] += counts[i]
            if not both(one, here, other, kinds, figures, groups, total):
                for i in range(size):
                    goes[choice[i]] = False
                stack[deep, 2] = end - start
                deep += 1
                continue
        middle = start
        aside = 0
        for i in range(start, end):
            if goes[codes[i, cut]]:
                if middle != i:
                    for j in range(q):
                        codes[middle, j] = codes[i, j]
                    for w in range(words):
                        bits[middle, w] = bits[i, w]
                    counts[middle] = counts[i]
                    where[middle] = where[i]
                    if values > 0:
                        sensitive[middle] = sensitive[i]
                middle += 1
            else:
                for j in range(q):
                    moved_codes[aside, j] = codes[i, j]
                for w in range(words):
                    moved_bits[aside, w] = bits[i, w]
                moved_counts[aside] = counts[i]
                moved_where[aside] = where[i]
                if values > 0:
                    moved_sensitive[aside] = sensitive[i]
                aside += 1
        for x in range(aside):
            i = middle + x
            for j in range(q):
                codes[i, j] = moved_codes[x, j]
            for w in range(words):
                bits[i, w] = moved_bits[x, w]
            counts[i] = moved_counts[x]
            where[i] = moved_where[x]
            if values > 0:
                sensitive[i] = moved_sensitive[x]
        for i in range(size):
            goes[choice[i]] = False
        # The larger side waits: the stack stays as shallow as a logarithm.
        larger = 0 if middle - start > end - middle else 1
        for side in range(2):
            if (side == 0) == (larger == 0):
                stack[deep, 0] = start
                stack[deep, 1] = middle
            else:
                stack[deep, 0] = middle
                stack[deep, 1] = end
            stack[deep, 2] = sample
            deep += 1
    number = np.full(made, -1, np.int32)
    given = 0
    for i in range(m):
        if number[classes[i]] < 0:
            number[classes[i]] = given
            given += 1
        classes[i] = number[classes[i]]
    return classes, made
