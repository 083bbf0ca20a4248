"""What breaks a privacy model in a class: the definitions of the papers, in exact fractions.

Classes are counters of sensitive values.  Nothing here is shared with the engine's own models but
their parameters; see :mod:`site_tasks.anonymise.verify`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from typing import Any

from site_tasks.anonymise.models import (
    AlphaK,
    BetaLikeness,
    DeltaDisclosure,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    Model,
    RecursiveCLDiversity,
    TCloseness,
)
from site_tasks.anonymise.models.marginal import OfColumn

__all__ = ["ROUNDING", "Rank", "Rows", "breaks", "exact"]

#: For logarithms alone, which have no exact value; everything else is compared exactly, but for
#: this much where a bound may be reached.
ROUNDING = 1e-9

Rows = Mapping[Hashable, int]
Rank = Mapping[Hashable, int]


def breaks(model: Model, whole: Rows, rank: Rank) -> Callable[[Rows], bool]:
    """A test that tells whether a class breaks the model.

    Parameters
    ----------
    model : Model
        Any that looks at the table alone; one that is not known here is broken by every class.
    whole : mapping of value to int
        Rows of the whole table by sensitive value.
    rank : mapping of value to int
        Public order of the values; one that is not named comes last.
    """
    n = sum(whole.values())
    match model:
        case OfColumn(model=own):
            fails = breaks(own, _of_column(model, whole), _rank_of(model, whole))
            return lambda rows: fails(_of_column(model, rows))
        case KAnonymity(k=k):
            return lambda rows: sum(rows.values()) < k
        case DistinctLDiversity(l=l):
            return lambda rows: len(rows) < l
        case EntropyLDiversity(l=l):
            return lambda rows: _entropy(rows) < math.log(l) - ROUNDING
        case RecursiveCLDiversity(c=c, l=l):
            return lambda rows: not _most(rows) < exact(c) * _tail(rows, l)
        case TCloseness(t=t):
            return lambda rows: _distance(model, rows, whole, rank) > exact(t) + exact(ROUNDING)
        case AlphaK(alpha=alpha, k=k):
            return lambda rows: (
                sum(rows.values()) < k or _most(rows) > exact(alpha) * sum(rows.values())
            )
        case BetaLikeness(beta=beta, enhanced=enhanced):
            return lambda rows: any(
                Fraction(count, sum(rows.values())) > p and _gains(count, rows, p) > bound
                for value, count in rows.items()
                for p in [Fraction(whole[value], n)]
                for bound in [min(beta, -math.log(p)) if enhanced else beta]
            )
        case DeltaDisclosure(delta=delta, absent=absent):
            return lambda rows: (
                (not absent and len(rows) < len(whole))
                or any(
                    abs(math.log(Fraction(count, sum(rows.values())) / Fraction(whole[value], n)))
                    >= delta + ROUNDING
                    for value, count in rows.items()
                )
            )
    return lambda rows: True  # a model nobody here knows is not proven


def exact(number: float) -> Fraction:
    """The decimal number that was written, not the binary one nearest to it."""
    return Fraction(str(number))


def _distance(model: TCloseness, rows: Rows, whole: Rows, rank: Rank) -> Fraction:
    """Earth mover's distance by the paper's ground distances."""
    here, n = sum(rows.values()), sum(whole.values())
    extra = {v: Fraction(rows.get(v, 0), here) - Fraction(whole[v], n) for v in whole}
    if model.distance == "equal":
        return sum((x for x in extra.values() if x > 0), Fraction(0))
    last = len(rank)
    if model.distance == "ordered":
        ranked = sorted(extra, key=lambda value: rank.get(value, last))
        moved, carried = Fraction(0), Fraction(0)
        for value in ranked:
            carried += extra[value]  # earth carried on to the next value, or owed by it
            moved += abs(carried)
        return moved / max(len(ranked) - 1, 1)
    # A tree whose edges weigh 1 / 2H each: every edge carries what its subtree has too much.
    height = len(model.levels)
    moved = sum((abs(x) for x in extra.values()), Fraction(0))
    for level in model.levels[:-1]:
        nodes: dict[int, Fraction] = defaultdict(Fraction)
        for value, x in extra.items():
            nodes[level[rank.get(value, last)]] += x
        moved += sum((abs(x) for x in nodes.values()), Fraction(0))
    return moved / (2 * height)


def _of_column(model: OfColumn, rows: Rows) -> Counter[Hashable]:
    """Rows by the value of one column, of rows by the values of several."""
    out: Counter[Hashable] = Counter()
    for value, count in rows.items():
        out[_one_of(model, value)] += count
    return out


def _one_of(model: OfColumn, value: Any) -> Hashable:
    """The column's value in a combination, which is a tuple or the engine's code of one."""
    one: Hashable = value[model.index] if isinstance(value, tuple) else int(model.codes[value])
    return one


def _rank_of(model: OfColumn, whole: Rows) -> Rank:
    coded = not all(isinstance(value, tuple) for value in whole)
    values = range(len(model.domain)) if coded else model.domain
    return {value: i for i, value in enumerate(values)}


def _most(rows: Rows) -> int:
    return max(rows.values())


def _tail(rows: Rows, l: int) -> int:  # noqa: E741 - the literature's name
    return sum(sorted(rows.values(), reverse=True)[l - 1 :])


def _entropy(rows: Rows) -> float:
    n = sum(rows.values())
    return -math.fsum(count / n * math.log(count / n) for count in rows.values())


def _gains(count: int, rows: Rows, p: Fraction) -> float:
    """(q - p) / p, less the rounding that is allowed."""
    return float(Fraction(count, sum(rows.values())) / p - 1) - ROUNDING
