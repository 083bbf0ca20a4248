"""Micro-aggregation: groups of k to 2k - 1 rows that lie near each other.

One ordered column is grouped optimally (Hansen & Mukherjee, IEEE TKDE 15(4), 2003: dynamic
programming over the sorted rows, O(n · k)).  Several are grouped by MDAV (Domingo-Ferrer & Torra,
Data Mining and Knowledge Discovery 11(2), 2005), which is quadratic: tables of more than
:data:`BLOCK` rows are first cut into blocks by strict partitioning, O(n · BLOCK / k) in all.
Distances are Euclidean over ordered columns scaled to their public domain; an unordered column, or
a value missing on one side only, differs by 0 or 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from site_tasks.anonymise.local.compiled import compiled
from site_tasks.anonymise.local.conditions import holds

__all__ = ["BLOCK", "group", "group_line"]

BLOCK = 1024


@compiled
def _apart(values: Any, a: Any, b: Any, ordered: Any) -> Any:
    """Squared distance of two rows; NaN is missing."""
    out = 0.0
    for j in range(values.shape[1]):
        x, y = values[a, j], values[b, j]
        if x != x or y != y:
            out += (x == x) != (y == y)
        elif ordered[j]:
            out += (x - y) * (x - y)
        else:
            out += x != y
    return out


@compiled
def group_line(values: Any, k: Any) -> Any:
    """Optimal groups of one sorted column, shape (n,); group of every row."""
    n = values.shape[0]
    best = np.full(n + 1, np.inf)
    size = np.zeros(n + 1, np.int64)
    best[0] = 0.0
    sums = np.zeros(n + 1)
    squares = np.zeros(n + 1)
    for i in range(n):
        sums[i + 1] = sums[i] + values[i]
        squares[i + 1] = squares[i] + values[i] * values[i]
    for end in range(k, n + 1):
        for g in range(k, min(2 * k, end + 1)):
            total = sums[end] - sums[end - g]
            error = squares[end] - squares[end - g] - total * total / g
            if best[end - g] + error < best[end]:
                best[end] = best[end - g] + error
                size[end] = g
    out = np.zeros(n, np.int32)
    made = 0
    end = n
    while end > 0:
        for i in range(end - size[end], end):
            out[i] = made
        made += 1
        end -= size[end]
    return out


@compiled
def group(values: Any, ordered: Any, blocks: Any, sensitive: Any, k: Any, models: Any) -> Any:
    """MDAV within every block, then models by joining groups that break one.

    Parameters
    ----------
    values : ndarray of float64, shape (n, q)
        Scaled codes; NaN where missing.
    ordered : ndarray of bool, shape (q,)
    blocks : ndarray of int64, shape (blocks + 1,)
        First row of each block; every block has k rows and satisfies the models.
    sensitive : ndarray of int32, shape (n,)
        Empty without models.
    k : int
    models : tuple
        See :attr:`site_tasks.anonymise.local.conditions.Conditions.arrays`.

    Returns
    -------
    ndarray of int32, shape (n,)
        Group of every row.
    """
    n = values.shape[0]
    out = np.full(n, -1, np.int32)
    made = 0
    for b in range(blocks.shape[0] - 1):
        start, end = blocks[b], blocks[b + 1]
        first = made
        made = _mdav(values, ordered, start, end, k, out, made)
        if models[0].shape[0] > 0:
            _join(values, ordered, start, end, first, made, out, sensitive, models)
    return out


@compiled
def _mdav(values: Any, ordered: Any, start: Any, end: Any, k: Any, out: Any, made: Any) -> Any:
    left = end - start
    distance = np.empty(end - start)
    while left >= 2 * k:
        far = _from_centre(values, ordered, start, end, out)
        _take(values, ordered, start, end, far, k, out, made, distance)
        made += 1
        left -= k
        if left >= 2 * k:
            away = -1
            most = -1.0
            for i in range(start, end):
                if out[i] < 0 and distance[i - start] > most:
                    most = distance[i - start]
                    away = i
            _take(values, ordered, start, end, away, k, out, made, distance)
            made += 1
            left -= k
    for i in range(start, end):
        if out[i] < 0:
            out[i] = made
    return made + 1


@compiled
def _from_centre(values: Any, ordered: Any, start: Any, end: Any, out: Any) -> Any:
    """The row left that lies farthest from the mean of the ordered columns of those left."""
    q = values.shape[1]
    mean = np.zeros(q)
    rows = np.zeros(q)
    for i in range(start, end):
        if out[i] < 0:
            for j in range(q):
                x = values[i, j]
                if ordered[j] and x == x:
                    mean[j] += x
                    rows[j] += 1
    far = -1
    most = -1.0
    for i in range(start, end):
        if out[i] < 0:
            d = 0.0
            for j in range(q):
                x = values[i, j]
                if ordered[j]:
                    if x == x:
                        x -= mean[j] / rows[j]
                        d += x * x
                    else:
                        d += 1.0
            if d > most:
                most = d
                far = i
    return far


@compiled
def _take(
    values: Any,
    ordered: Any,
    start: Any,
    end: Any,
    seed: Any,
    k: Any,
    out: Any,
    made: Any,
    distance: Any,
) -> None:
    """Group a row with its k - 1 nearest that are left; ``distance`` keeps how far each is."""
    near = np.empty(k, np.int64)
    far = np.empty(k)
    n = 0
    for i in range(start, end):
        if out[i] >= 0:
            continue
        d = _apart(values, seed, i, ordered) if i != seed else -1.0
        distance[i - start] = d
        if n == k and d >= far[k - 1]:
            continue
        at = n if n < k else k - 1
        while at > 0 and far[at - 1] > d:
            far[at] = far[at - 1]
            near[at] = near[at - 1]
            at -= 1
        far[at] = d
        near[at] = i
        n = min(n + 1, k)
    for x in range(n):
        out[near[x]] = made


@compiled
def _join(
    values: Any,
    ordered: Any,
    start: Any,
    end: Any,
    first: Any,
    made: Any,
    out: Any,
    sensitive: Any,
    models: Any,
) -> None:
    """Join every group that breaks a model with the one whose first row is nearest."""
    kinds, figures, groups, total = models
    size = total.shape[0]
    counts = np.zeros((made - first, size), np.int64)
    head = np.full(made - first, -1, np.int64)
    for i in range(start, end):
        g = out[i] - first
        counts[g, sensitive[i]] += 1
        if head[g] < 0:
            head[g] = i
    into = np.arange(made - first)
    changed = True
    while changed:
        changed = False
        for g in range(made - first):
            if into[g] != g or holds(counts[g], kinds, figures, groups, total):
                continue
            nearest = -1
            least = np.inf
            for h in range(made - first):
                if h != g and into[h] == h:
                    d = _apart(values, head[g], head[h], ordered)
                    if d < least:
                        least = d
                        nearest = h
            if nearest < 0:
                break
            into[g] = nearest
            for s in range(size):
                counts[nearest, s] += counts[g, s]
            changed = True
    for i in range(start, end):
        g = out[i] - first
        while into[g] != g:
            g = into[g]
        out[i] = first + g
