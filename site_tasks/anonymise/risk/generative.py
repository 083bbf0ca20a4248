"""How many people of the population are unique, from a model of how columns go together.

A small sample shows too few equal rows to say how classes grow; but its columns, a few at a time,
are well covered.  So each column is modelled given those before it, people of the population's
number are drawn from the model, and the unique ones are counted (as Rocher, Hendrickx, de Montjoye:
Estimating the success of re-identifications in incomplete datasets using generative models, Nature
Communications 10, 2019, did with a copula).

The model of a column is a chain of contexts, from its own distribution to that given the column
that tells most about it, given that one and the next, …  A context with n rows of the sample is
believed with weight n / (n + λ) over the shorter one before it; λ and the chain are those under
which every row of the sample is likeliest given all others (leave one out).  Numbers bring their
fifths along as a column of their own: neighbours tell about each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["simulate", "unique_share"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
_WEIGHTS = 2.0 ** np.arange(-3, 14)
_FIFTHS = np.arange(1, 5) / 5
#: Larger samples are thinned: their columns are covered well enough.
_MOST = 20_000
_CHAIN = 7


def unique_share(
    codes: NDArray[Any], ordered: tuple[bool, ...], population: int, seed: int = 0
) -> float:
    """Expected share of unique people in a population of which the rows are a random sample.

    Parameters
    ----------
    codes : ndarray of int, shape (n, q)
        Quasi-identifiers of the sample.
    ordered : tuple of bool
        Which columns are numbers or otherwise ordered.
    population : int
        People to draw; O(population · q · chain) time and O(population · q) memory.
    seed : int
        Of the simulation, so that a report repeats.
    """
    drawn = simulate(codes, ordered, population, seed)
    key, radix = np.zeros(population, np.int64), 1
    for column in drawn.T:
        size = int(column.max()) + 1
        if radix * size >= 2**62:
            found, key = np.unique(key, return_inverse=True)
            radix = len(found)
        key, radix = key * size + column, radix * size
    _, counts = np.unique(key, return_counts=True)
    return float(np.count_nonzero(counts == 1) / population)


def simulate(
    codes: NDArray[Any], ordered: tuple[bool, ...], population: int, seed: int = 0
) -> Integers:
    """People drawn from the model of a sample; shape (population, q)."""
    rng = np.random.default_rng(seed)
    sample = np.asarray(codes, np.int64)
    if len(sample) > _MOST:
        sample = sample[rng.choice(len(sample), _MOST, replace=False)]
    width = sample.shape[1]
    sample = _with_fifths(sample, ordered)
    chains = _fit(sample)
    out = np.zeros((population, sample.shape[1]), np.int64)
    for chain in chains:
        out[:, chain.column] = _draw(chain, sample, out, rng)
    return np.asarray(out[:, :width])


@dataclass(frozen=True)
class _Chain:
    """A column, the columns it is drawn by, and the weight of each shorter context."""

    column: int
    parents: tuple[int, ...]
    weights: tuple[float, ...]


def _with_fifths(sample: Integers, ordered: tuple[bool, ...]) -> Integers:
    extra = []
    for j, yes in enumerate(ordered):
        if yes and len(np.unique(sample[:, j])) > 2 * (len(_FIFTHS) + 1):
            cuts = np.unique(np.quantile(sample[:, j], _FIFTHS))
            extra.append(np.searchsorted(cuts, sample[:, j], side="right"))
    return np.column_stack([sample, *extra]) if extra else sample


def _fit(sample: Integers) -> list[_Chain]:
    """Chains of all columns, in the order in which they are drawn."""
    width = sample.shape[1]
    alone = [_alone(column) for column in sample.T]
    tells = np.full((width, width), -np.inf)
    for i in range(width):
        for j in range(width):
            if i != j:
                tells[i, j] = _given(sample[:, i], sample[:, j], alone[j])[0]
                tells[i, j] -= np.log(alone[j]).sum()
    root = int(np.argmax(np.where(np.isfinite(tells), tells, 0).sum(axis=1)))
    order, left = [root], [j for j in range(width) if j != root]
    while left:
        order.append(left.pop(int(np.argmax(tells[np.ix_(order, left)].max(axis=0)))))
    return [_chain(sample, j, order[:place], alone[j]) for place, j in enumerate(order)]


def _chain(sample: Integers, column: int, earlier: list[int], alone: Floats) -> _Chain:
    context = np.zeros(len(sample), np.int64)
    likely, reached = alone, float(np.log(alone).sum())
    parents: list[int] = []
    weights: list[float] = []
    while len(parents) < min(len(earlier), _CHAIN):
        found = []
        for i in earlier:
            if i not in parents:
                longer = _longer(context, sample[:, i])
                found.append((*_given(longer, sample[:, column], likely), i, longer))
        gain, weight, given, parent, longer = max(found, key=lambda one: one[0])
        if gain <= reached + 1e-9:
            break
        parents.append(parent)
        weights.append(weight)
        context, likely, reached = longer, given, gain
    return _Chain(column, tuple(parents), tuple(weights))


def _draw(chain: _Chain, sample: Integers, people: Integers, rng: np.random.Generator) -> Integers:
    """A value for everybody: from the column alone, then from each longer context by its weight."""
    n, size = len(sample), len(people)
    out = sample[rng.integers(0, n, size), chain.column]
    context, here = np.zeros(n, np.int64), np.zeros(size, np.int64)
    for parent, weight in zip(chain.parents, chain.weights, strict=True):
        radix = int(sample[:, parent].max()) + 1
        both = np.concatenate(
            [context * radix + sample[:, parent], here * radix + people[:, parent]]
        )
        _, both = np.unique(both, return_inverse=True)
        context, here = both[:n], both[n:]
        order = np.argsort(context, kind="stable")
        ranked = context[order]
        first = np.searchsorted(ranked, here)
        rows = np.searchsorted(ranked, here, side="right") - first
        pick = np.minimum(first + (rng.random(size) * rows).astype(np.int64), n - 1)
        believed = rng.random(size) < rows / (rows + weight)
        out = np.where(believed, sample[order[pick], chain.column], out)
    return np.asarray(out)


def _alone(column: Integers) -> Floats:
    """Leave-one-out probability of every row's value, whatever else the row holds."""
    counts = np.bincount(column)
    n = len(column)
    return np.asarray((counts[column] - 0.5) / (n - 1 + 0.5 * np.count_nonzero(counts)))


def _given(context: Integers, column: Integers, shorter: Floats) -> tuple[float, float, Floats]:
    """Leave-one-out log-likelihood in a context, the weight that maximises it, and each row's."""
    _, of, rows = np.unique(context, return_inverse=True, return_counts=True)
    pair = of * (int(column.max()) + 1) + column
    _, cell, cells = np.unique(pair, return_inverse=True, return_counts=True)
    others, same = rows[of] - 1, cells[cell] - 1
    best = (-np.inf, 1.0, shorter)
    for weight in _WEIGHTS.tolist():
        likely = (same + weight * shorter) / (others + weight)
        gain = float(np.log(likely).sum())
        if gain > best[0]:
            best = (gain, weight, likely)
    return best


def _longer(context: Integers, column: Integers) -> Integers:
    both = context * (int(column.max()) + 1) + column
    return np.asarray(np.unique(both, return_inverse=True)[1], np.int64)
