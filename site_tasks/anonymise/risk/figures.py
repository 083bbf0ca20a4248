"""All privacy figures of a table in one pass: what it is, not what was asked of it.

Definitions and papers: ``site_tasks.anonymise.models``.  Each figure is the strictest parameter
with which the table satisfies the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.risk.pairs import Pairs, packed, pairs, sizes

if TYPE_CHECKING:
    from site_tasks.anonymise.coded import Coded
    from site_tasks.anonymise.recoding import Recoding

__all__ = ["Figures", "Sensitive", "figures", "keys_of", "measure"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sensitive:
    """What the classes of a table tell about a sensitive column.

    Parameters
    ----------
    values : int
        Values that occur, a missing one among them.
    distinct_l : int
        Distinct l-diversity.
    entropy_l : float
        Entropy l-diversity: exp of the smallest entropy.
    recursive_c : float or None
        Recursive (c, l)-diversity at l = ``distinct_l``: holds for every c above this; None where
        ``distinct_l`` is 1, which no c helps.
    t_equal, t_ordered : float
        t-closeness by equal and ordered distance (the order of the codes).
    alpha : float
        Of (α, k)-anonymity.
    beta : float
        Of basic β-likeness.
    enhanced_beta : float or None
        Of enhanced β-likeness; None where a value gains more than its -ln p, which no β helps.
    delta : float
        Of δ-disclosure privacy over the values that occur in a class (holds above this).
    absent : bool
        Whether some class lacks a value: then the strict form of δ-disclosure never holds.
    """

    values: int
    distinct_l: int
    entropy_l: float
    recursive_c: float | None
    t_equal: float
    t_ordered: float
    alpha: float
    beta: float
    enhanced_beta: float | None
    delta: float
    absent: bool


@dataclass(frozen=True)
class Figures:
    """What can be learnt from a table.

    Parameters
    ----------
    rows, classes : int
        Rows and equivalence classes.
    k : int
        Rows of the smallest class; 0 for an empty table.
    unique : int
        Rows that are alone in their class.
    sizes : ndarray of int64, shape (classes,)
        Rows of every class, in the order of their keys.
    sensitive : mapping of str to Sensitive
        By sensitive column.
    """

    rows: int
    classes: int
    k: int
    unique: int
    sizes: Integers
    sensitive: Mapping[str, Sensitive]


def figures(
    key: Integers,
    radix: int,
    sensitive: Mapping[str, tuple[NDArray[Any], int]] | None = None,
    counts: Integers | None = None,
) -> Figures:
    """All figures of a table; O(rows · log rows) per sensitive column.

    Parameters
    ----------
    key : ndarray of int64, shape (n,)
        Class of every row, below ``radix`` (:func:`~.pairs.packed`).
    radix : int
        See there.
    sensitive : mapping of str to (ndarray of int of shape (n,), int), optional
        Codes and number of codes of every sensitive column.
    counts : ndarray of int64, shape (n,), optional
        How many rows of the table each row stands for; one when absent.
    """
    if not len(key):
        return Figures(0, 0, 0, 0, np.zeros(0, np.int64), {})
    found = {
        name: pairs(key, radix, codes, values, counts)
        for name, (codes, values) in (sensitive or {}).items()
    }
    size = next(iter(found.values())).sizes if found else sizes(key, counts)
    learnt = {name: learn(table) for name, table in found.items()}
    k, unique = int(size.min()), int(np.count_nonzero(size == 1))
    return Figures(int(size.sum()), len(size), k, unique, size, learnt)


def measure(coded: Coded, recoding: Recoding | None = None, *, name: str = "sensitive") -> Figures:
    """All figures of a coded table, or of what a recoding publishes of it.

    Parameters
    ----------
    coded : Coded
        The table.
    recoding : Recoding, optional
        What became of it; classes with equal cells count as one.
    name : str
        Name of the sensitive column.
    """
    key, radix = keys_of(coded, recoding)
    secret = coded.sensitive
    if secret is None:
        return figures(key, radix)
    if recoding is not None:
        secret = secret[recoding.classes >= 0]
    return figures(key, radix, {name: (secret, len(coded.sensitive_domain) + 1)})


def keys_of(coded: Coded, recoding: Recoding | None = None) -> tuple[Integers, int]:
    """Number of every row's class (of the rows that are kept), and a bound on it."""
    if recoding is None:
        if not coded.columns:
            return np.zeros(coded.rows, np.int64), 1
        columns = [coded.codes[:, j] for j in range(len(coded.columns))]
        return packed(columns, [column.size for column in coded.columns])
    kept = recoding.classes[recoding.classes >= 0]
    if not recoding.columns:
        return kept.astype(np.int64), recoding.count
    numbers = []
    for j in range(len(recoding.columns)):
        allowed = np.packbits(recoding.allowed(j), axis=1)
        view = np.ascontiguousarray(allowed).view(f"V{allowed.shape[1]}").ravel()
        numbers.append(np.unique(view, return_inverse=True)[1])
    key, radix = packed(numbers, [recoding.count] * len(numbers))
    return key[kept], radix


def learn(table: Pairs) -> Sensitive:
    """Figures of one sensitive column; O(pairs)."""
    starts, counts, size = table.starts, table.counts, table.sizes
    distinct = table.distinct
    of = np.repeat(np.arange(len(size)), distinct)
    p = table.total / table.total.sum()
    q = counts / size[of]
    ratio = q / p[table.values]
    most = np.maximum.reduceat(counts, starts)
    # Entropy of a class: ln n - (Σ c ln c) / n.
    entropy = np.log(size) - np.add.reduceat(counts * np.log(counts), starts) / size
    gain = ratio - 1
    l = int(distinct.min())  # noqa: E741 - the literature's name
    extreme = np.log(np.array([ratio.min(), ratio.max()]))
    beta = max(float(gain.max()), 0.0)
    too_much = gain + np.log(p)[table.values] > 1e-12
    return Sensitive(
        values=len(p),
        distinct_l=l,
        entropy_l=max(float(np.exp(entropy.min())), 1.0),
        recursive_c=None if l < 2 else float((most / _tail(table, of, most, l)).max()),
        t_equal=float(np.add.reduceat(np.maximum(q - p[table.values], 0), starts).max()),
        t_ordered=_ordered(table, of, p),
        alpha=float(q.max()),
        beta=beta,
        enhanced_beta=None if too_much.any() else beta,
        delta=float(np.abs(extreme).max()),
        absent=l < len(p),
    )


def _tail(table: Pairs, of: Integers, most: Integers, l: int) -> Integers:  # noqa: E741
    """``r_l + … + r_m`` of every class, with counts falling."""
    if l == 2:
        return table.sizes - most
    order = np.lexsort((-table.counts, of))
    rank = np.arange(len(of)) - table.starts[of]
    return np.add.reduceat(np.where(rank >= l - 1, table.counts[order], 0), table.starts)


def _ordered(table: Pairs, of: Integers, p: Floats) -> float:
    """Largest mean distance between the cumulated distributions of class and table.

    That of a class is constant between the values it holds, that of the table only rises: so the
    sum of their differences over such a stretch has a closed form, cut where they cross.
    """
    last = len(p) - 1
    if last < 1:
        return 0.0
    whole = np.cumsum(p)
    below = np.concatenate([[0.0], np.cumsum(whole)])
    passed = np.cumsum(table.counts)
    before = np.concatenate([[0], passed[table.starts[1:] - 1]])
    share = (passed - before[of]) / table.sizes[of]
    end = np.full(len(of), last)
    end[:-1] = np.where(of[1:] == of[:-1], table.values[1:], last)
    start = table.values
    cross = np.clip(np.searchsorted(whole, share), start, np.maximum(end, start))
    end = np.maximum(end, start)
    gap = share * (2 * cross - start - end) - 2 * below[cross] + below[start] + below[end]
    out = np.add.reduceat(gap, table.starts) + below[table.values[table.starts]]
    return float(out.max() / last)
