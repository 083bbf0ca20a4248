"""Privacy models as numbers that a compiled search can ask of every cut.

Each model of :mod:`site_tasks.anonymise.models` that looks at the sensitive values of one class
becomes a row of figures; :func:`holds` then answers for one class at a time, with the same
tolerance for rounding as the models have.  Time O(sensitive values) per class and model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError
from site_tasks.anonymise.local.compiled import compiled
from site_tasks.anonymise.models import (
    AlphaK,
    BetaLikeness,
    DeltaDisclosure,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    KMap,
    Model,
    RecursiveCLDiversity,
    TCloseness,
)
from site_tasks.anonymise.models.base import SLACK
from site_tasks.anonymise.models.marginal import OfColumn

__all__ = ["Conditions", "both", "conditions", "holds"]

_DISTINCT, _ENTROPY, _RECURSIVE, _EQUAL, _ORDERED, _TREE, _ALPHA, _BETA, _DELTA = range(9)


@dataclass(frozen=True)
class Conditions:
    """Models in the form that :func:`holds` takes.

    Parameters
    ----------
    k : int
        Rows that every class must have.
    kinds : ndarray of int64, shape (models, 4)
        Which definition each is; its sensitive column (a place in ``groups``, or -1), how many levels
        that has, and whether the values are combinations of several columns'.
    figures : ndarray of float64, shape (models, 2)
        Its parameters.
    groups : ndarray of int64, shape (columns, 1 + levels, values)
        First the column's value in every combination; then, for hierarchical t-closeness, group of
        every value of the column per level from 1.
    total : ndarray of int64, shape (values,)
        Rows of the whole table per sensitive value.
    """

    k: int
    kinds: NDArray[np.int64]
    figures: NDArray[np.float64]
    groups: NDArray[np.int64]
    total: NDArray[np.int64]

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """What :func:`holds` takes behind the counts."""
        return self.kinds, self.figures, self.groups, self.total


def conditions(k: int, models: Sequence[Model], total: NDArray[np.int64]) -> Conditions:
    """Translate models.

    Parameters
    ----------
    k : int
        Rows that every class must have, at least; models may ask for more.
    models : sequence of Model
        What has to hold for every class.
    total : ndarray of int64, shape (values,)
        Rows of the whole table per sensitive value; empty where no model reads them.

    Raises
    ------
    ConfigError
        ``config.invalid`` for a model that is not decided class by class from its own rows.
    """
    rows: list[tuple[int, float, float]] = []
    parts: dict[int, list[NDArray[np.int64]]] = {}
    places: list[tuple[int, int]] = []
    trees: list[int] = []
    for asked in models:
        several, model, index = isinstance(asked, OfColumn), asked, 0
        if isinstance(asked, OfColumn):
            model, index = asked.model, asked.index
            parts.setdefault(index, [asked.codes])
        match model:
            case KAnonymity(k=other):
                k = max(k, other)
            case KMap(k=other) if other <= k:
                pass  # whoever is one of k rows is one of k people
            case DistinctLDiversity(l=l):
                rows.append((_DISTINCT, l, 0))
            case EntropyLDiversity(l=l):
                rows.append((_ENTROPY, l, 0))
            case RecursiveCLDiversity(c=c, l=l):
                rows.append((_RECURSIVE, c, l))
            case TCloseness(t=t, distance="equal"):
                rows.append((_EQUAL, t, 0))
            case TCloseness(t=t, distance="ordered"):
                rows.append((_ORDERED, t, 0))
            case TCloseness(t=t, levels=levels):
                rows.append((_TREE, t, 0))
                parts.setdefault(index, [np.arange(len(total))]).extend(
                    np.asarray(level, np.int64) for level in levels
                )
                trees.append(index)
            case AlphaK(alpha=alpha, k=other):
                k = max(k, other)
                rows.append((_ALPHA, alpha, 0))
            case BetaLikeness(beta=beta, enhanced=enhanced):
                rows.append((_BETA, beta, enhanced))
            case DeltaDisclosure(delta=delta, absent=absent):
                rows.append((_DELTA, delta, absent))
            case _:
                raise ConfigError(
                    "config.invalid",
                    f"Local recoding cannot reach {model}: it is decided over another table.",
                    "Use full-domain recoding for it, or leave it out.",
                )
        places += [(index, several)] * (len(rows) - len(places))
    if rows and not len(total):
        raise ConfigError(
            "config.invalid",
            "A privacy model asks for a sensitive column, and the table has none.",
            "Give one column of the contract the role sensitive, or leave the model out.",
        )
    if len(trees) > len(set(trees)):
        raise ConfigError(
            "config.invalid",
            "Hierarchical t-closeness is asked for twice.",
            "Keep the one with the smaller t.",
        )
    order = list(parts)
    groups = np.zeros((len(parts), max(map(len, parts.values()), default=1), len(total)), np.int64)
    for at, found in enumerate(parts.values()):
        for level, codes in enumerate(found):
            groups[at, level, : len(codes)] = codes
    kinds = [
        (kind, order.index(index), len(parts[index]) - 1, several)
        if index in parts
        else (kind, -1, 0, 0)
        for (kind, _, _), (index, several) in zip(rows, places, strict=True)
    ]
    return Conditions(
        k,
        np.array(kinds, np.int64).reshape(len(rows), 4),
        np.array([figures for _, *figures in rows], np.float64).reshape(len(rows), 2),
        groups,
        np.asarray(total, np.int64),
    )


@compiled
def holds(counts: Any, kinds: Any, figures: Any, groups: Any, total: Any) -> Any:
    """Whether a class with these rows per sensitive value, at least one, satisfies all models."""
    for i in range(kinds.shape[0]):
        kind, column, levels = kinds[i, 0], max(kinds[i, 1], 0), kinds[i, 2]
        if kinds[i, 3] > 0:
            values = groups[column, 0]
            one, all_of = _by_value(counts, values), _by_value(total, values)
            fine = _one(one, kind, figures[i], groups, column, levels, all_of)
        else:
            fine = _one(counts, kind, figures[i], groups, column, levels, total)
        if not fine:
            return False
    return True


@compiled
def _by_value(counts: Any, values: Any) -> Any:
    """Rows per value of one column, from those per combination; as long as they are."""
    out = np.zeros(counts.shape[0], np.int64)
    for s in range(counts.shape[0]):
        out[values[s]] += counts[s]
    return out


@compiled
def _one(
    counts: Any, kind: Any, figures: Any, groups: Any, column: Any, levels: Any, total: Any
) -> Any:
    """Whether a class satisfies one model."""
    values = counts.shape[0]
    rows = 0
    most = 0
    distinct = 0
    for s in range(values):
        rows += counts[s]
        distinct += counts[s] > 0
        most = max(most, counts[s])
    whole = 0
    occurring = 0
    for s in range(values):
        whole += total[s]
        occurring += total[s] > 0
    bound = figures[0]
    slack = SLACK * max(abs(bound), 1.0)
    if kind == _DISTINCT:
        if distinct < bound:
            return False
    elif kind == _ENTROPY:
        entropy = math.log(rows)
        for s in range(values):
            if counts[s] > 0:
                entropy -= counts[s] * math.log(counts[s]) / rows
        if math.exp(entropy) < bound - slack:
            return False
    elif kind == _RECURSIVE:
        if not most < bound * _tail(counts, int(figures[1])) * (1 - SLACK):
            return False
    elif kind == _EQUAL:
        moved = 0.0
        for s in range(values):
            moved += abs(counts[s] / rows - total[s] / whole)
        if moved / 2 > bound + slack:
            return False
    elif kind == _ORDERED:
        moved = 0.0
        ahead = 0.0
        for s in range(values):
            if total[s] > 0:
                ahead += counts[s] / rows - total[s] / whole
                moved += abs(ahead)
        if moved / max(occurring - 1, 1) > bound + slack:
            return False
    elif kind == _TREE:
        if _over_tree(counts, rows, total, whole, groups[column, 1 : 1 + levels]) > bound + slack:
            return False
    elif kind == _ALPHA:
        if most / rows > bound + slack:
            return False
    elif kind == _BETA:
        for s in range(values):
            if total[s] > 0:
                share = total[s] / whole
                gain = counts[s] / rows / share - 1.0
                if gain > bound + slack:
                    return False
                if figures[1] > 0 and gain + math.log(share) > SLACK:
                    return False
    else:
        for s in range(values):
            if total[s] > 0:
                if counts[s] == 0:
                    if figures[1] == 0:
                        return False
                else:
                    ratio = (counts[s] / rows) / (total[s] / whole)
                    if not abs(math.log(ratio)) < bound - slack:
                        return False
    return True


@compiled
def both(
    one: Any, whole: Any, other: Any, kinds: Any, figures: Any, groups: Any, total: Any
) -> Any:
    """Whether a class and the rest of a whole hold; ``other`` is room for the rest."""
    for s in range(one.shape[0]):
        other[s] = whole[s] - one[s]
    return holds(one, kinds, figures, groups, total) and holds(other, kinds, figures, groups, total)


@compiled
def _tail(counts: Any, l: Any) -> Any:  # noqa: E741
    """Rows of all but the l - 1 most frequent values."""
    rest = counts.copy()
    rows = 0
    for s in range(rest.shape[0]):
        rows += rest[s]
    for _ in range(min(l - 1, rest.shape[0])):
        top = 0
        for s in range(rest.shape[0]):
            if rest[s] > rest[top]:
                top = s
        rows -= rest[top]
        rest[top] = 0
    return rows


@compiled
def _over_tree(counts: Any, rows: Any, total: Any, whole: Any, groups: Any) -> Any:
    """Earth mover's distance where values are as far apart as their common ancestor is high."""
    levels, values = groups.shape
    extra = np.empty(values)
    below = np.arange(values)
    for s in range(values):
        extra[s] = counts[s] / rows - total[s] / whole
    moved = 0.0
    for level in range(levels):
        more = np.zeros(values)
        less = np.zeros(values)
        seen = np.zeros(values, np.bool_)
        for s in range(values):  # each node of the level below once
            if not seen[below[s]]:
                seen[below[s]] = True
                parent = groups[level, s]
                more[parent] += max(extra[below[s]], 0.0)
                less[parent] += max(-extra[below[s]], 0.0)
        for p in range(values):
            moved += (level + 1) / levels * min(more[p], less[p])
            extra[p] = more[p] - less[p]
        for s in range(values):
            below[s] = groups[level, s]
    return moved
