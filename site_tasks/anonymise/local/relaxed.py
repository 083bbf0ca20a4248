"""Relaxed multidimensional partitioning: classes are cut on, where rows of equal values must part.

LeFevre et al. (ICDE 2006) call a partition relaxed where rows of one value may fall on both sides
of a cut.  Classes of a strict partition are taken up here: the distinct rows of a class, in the
order of one column, are cut at any place, between them or within the rows that are equal, wherever
the two sides lose least.  Cells may overlap then, and classes whose cells come out equal are one.
O(rows of the class · columns) per cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from site_tasks.anonymise.local.bits import loss_of, union
from site_tasks.anonymise.local.compiled import Index, compiled
from site_tasks.anonymise.local.conditions import both

__all__ = ["deal", "relax"]

_LEAST = 1e-9


@compiled
def relax(
    rows: Any,
    bits: Any,
    counts: Any,
    sensitive: Any,
    classes: Any,
    made: Any,
    k: Any,
    base: Any,
    parts: Any,
    models: Any,
) -> Any:
    """Cut the classes of a strict partition on.

    Parameters
    ----------
    rows, bits, counts, sensitive, k, base, parts, models
        As for :func:`site_tasks.anonymise.local.mondrian.partition`, in the order of ``classes``.
    classes : ndarray of int32, shape (m,)
    made : int
        Number of classes.

    Returns
    -------
    items, amounts, classes : ndarray of int64, shape (pieces,)
        How many rows of which distinct row go to which class.
    """
    m, q = rows.shape
    words = bits.shape[1]
    kinds, figures, groups, total = models
    first, count, mask, kind, unit = parts
    values = total.shape[0] if kinds.shape[0] > 0 else 0
    most = m
    for i in range(m):
        most += counts[i] // k + 1  # a cut adds a piece at most, and a class of k rows
    item = np.empty(most, np.int64)
    amount = np.empty(most, np.int64)
    number = np.empty(most, np.int64)
    starts = np.zeros(made + 1, np.int64)
    for i in range(m):
        starts[classes[i] + 1] += 1
    largest = 0
    for c in range(made):
        largest = max(largest, starts[c + 1])
        starts[c + 1] += starts[c]
    sorted_items = np.empty(m, np.int64)
    at = starts.copy()
    for i in range(m):
        sorted_items[at[classes[i]]] = i
        at[classes[i]] += 1
    room = 0
    for c in range(made):
        more = 0
        for x in range(starts[c], starts[c + 1]):
            more += counts[sorted_items[x]] // k + 2
        room = max(room, more)
    own = np.empty(room, np.int64)
    own_rows = np.empty(room, np.int64)
    turn = np.empty(room, np.int64)
    chosen = np.empty(room, np.int64)
    side = np.empty(room, np.int64)
    side_rows = np.empty(room, np.int64)
    right = np.zeros((room + 1, words), np.uint64)
    left = np.zeros((1, words), np.uint64)
    widest = 0
    for j in range(q):
        widest = max(widest, base[j + 1] - base[j])
    place = np.zeros(widest + 1, np.int64)
    one = np.zeros(values, np.int64)
    here = np.zeros(values, np.int64)
    other = np.zeros(values, np.int64)
    stack = np.zeros((room + 2, 2), np.int64)
    pieces = 0
    given = 0
    for c in range(made):
        used = starts[c + 1] - starts[c]
        for x in range(used):
            own[x] = sorted_items[starts[c] + x]
            own_rows[x] = counts[own[x]]
        stack[0, 0] = 0
        stack[0, 1] = used
        deep = 1
        while deep > 0:
            deep -= 1
            start, end = stack[deep, 0], stack[deep, 1]
            n = end - start
            whole = 0
            for x in range(start, end):
                whole += own_rows[x]
            cut = -1
            within = 0
            if whole >= 2 * k and n > 1:
                for s in range(values):
                    here[s] = 0
                if values > 0:
                    for x in range(start, end):
                        here[sensitive[own[x]]] += own_rows[x]
                for w in range(words):
                    left[0, w] = 0
                for x in range(start, end):
                    union(left, Index(0), bits, Index(own[x]))
                best = whole * loss_of(left, Index(0), first, count, mask, kind, unit) - _LEAST
                for j in range(q):
                    place[:] = 0
                    for x in range(start, end):
                        place[rows[own[x], j] - base[j] + 1] += 1
                    for v in range(widest):
                        place[v + 1] += place[v]
                    for x in range(start, end):
                        code = rows[own[x], j] - base[j]
                        turn[place[code]] = x
                        place[code] += 1
                    if rows[own[turn[0]], j] == rows[own[turn[n - 1]], j]:
                        continue
                    for w in range(words):
                        right[n, w] = 0
                        left[0, w] = 0
                    for y in range(n - 1, -1, -1):
                        for w in range(words):
                            right[y, w] = right[y + 1, w]
                        union(right, Index(y), bits, Index(own[turn[y]]))
                    gone = 0
                    for s in range(values):
                        one[s] = 0
                    for y in range(n):
                        x = turn[y]
                        union(left, Index(0), bits, Index(own[x]))
                        for way in range(3):
                            take = own_rows[x]
                            if way == 1:
                                take = k - gone  # as few as the left side needs
                            elif way == 2:
                                take = whole - k - gone  # as many as the right side can spare
                            if take < 1 or take > own_rows[x] or (way > 0 and take == own_rows[x]):
                                continue
                            if gone + take < k or whole - gone - take < k:
                                continue
                            rest = y + 1 if take == own_rows[x] else y
                            cost = (gone + take) * loss_of(
                                left, Index(0), first, count, mask, kind, unit
                            )
                            cost += (whole - gone - take) * loss_of(
                                right, Index(rest), first, count, mask, kind, unit
                            )
                            if cost >= best:
                                continue
                            if values > 0:
                                s = sensitive[own[x]]
                                one[s] += take
                                fine = both(one, here, other, kinds, figures, groups, total)
                                one[s] -= take
                                if not fine:
                                    continue
                            best = cost
                            cut = y
                            within = take
                            for z in range(y + 1):
                                chosen[z] = turn[z]
                        gone += own_rows[x]
                        if values > 0:
                            one[sensitive[own[x]]] += own_rows[x]
            if cut < 0:
                for x in range(start, end):
                    item[pieces] = own[x]
                    amount[pieces] = own_rows[x]
                    number[pieces] = given
                    pieces += 1
                given += 1
                continue
            # The left side in place, the right side behind it; the piece that is cut is in both.
            halved = own_rows[chosen[cut]] > within
            apart = 0
            for z in range(cut + 1):
                side[z] = own[chosen[z]]
                side_rows[z] = own_rows[chosen[z]]
            rest_rows = side_rows[cut] - within
            side_rows[cut] = within
            last = side[cut]
            for z in range(cut + 1):
                own_rows[chosen[z]] = 0
            kept = cut + 1
            for x in range(start, end):
                if own_rows[x] > 0:
                    side[kept + apart] = own[x]
                    side_rows[kept + apart] = own_rows[x]
                    apart += 1
            if halved:
                side[kept + apart] = last
                side_rows[kept + apart] = rest_rows
                apart += 1
            # The part is the topmost one: what lies behind it in ``own`` is free.
            for z in range(kept + apart):
                own[start + z] = side[z]
                own_rows[start + z] = side_rows[z]
            stack[deep, 0] = start
            stack[deep, 1] = start + kept
            stack[deep + 1, 0] = start + kept
            stack[deep + 1, 1] = start + kept + apart
            deep += 2
    return item[:pieces].copy(), amount[:pieces].copy(), number[:pieces].copy()


@compiled
def deal(inverse: Any, items: Any, amounts: Any, numbers: Any, classes: Any) -> None:
    """Deal the rows out, in their order, to the pieces of their distinct row.

    ``items`` are sorted; ``amounts`` are used up.
    """
    n = 0
    for i in range(items.shape[0]):
        n = max(n, items[i] + 1)
    at = np.full(n, -1, np.int64)
    for i in range(items.shape[0] - 1, -1, -1):
        at[items[i]] = i
    for i in range(inverse.shape[0]):
        item = inverse[i]
        while amounts[at[item]] == 0:
            at[item] += 1
        amounts[at[item]] -= 1
        classes[i] = numbers[at[item]]
