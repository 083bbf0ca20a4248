"""What opened sums say: figures for people, with small cells withheld.

Exact sums are divided as fractions, so that a mean is the nearest float64 to the true mean of the
rounded values.  A cell with fewer rows than ``statistics.minimum_cell`` is null; where one cell of a
table alone would be null, the next smallest is too, since the total would give the first back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column, Contract
from folkmoot.generalisation import bounds_of
from folkmoot.params import Params
from folkmoot.statistics.questions import (
    BRANCHES,
    SCHEMA,
    categorical,
    edges_of,
    numeric,
    tree_levels,
)
from folkmoot.statistics.tree import consistent, quantile

__all__ = ["answers", "narrower"]

Sums = Mapping[str, NDArray[np.int64]]
Floats = NDArray[np.float64]


def answers(
    params: Params,
    contract: Contract,
    sums: Sums,
    exponents: Mapping[str, int],
    deviations: Mapping[str, float],
    intervals: Floats,
    sites: int,
) -> dict[str, Any]:
    """Figures of a round of sums, as JSON values; O(numbers).

    Parameters
    ----------
    sums : mapping of str to ndarray of int64
        Opened sums by part.
    exponents, deviations : mapping
        Of each part its grid, and the standard deviation of its noise in natural units (0: exact).
    intervals : ndarray of float64 (columns, quantiles, 2)
        In which quantiles were counted.
    sites : int
        Contributors.
    """
    tell = _Teller(params, contract, sums, exponents, deviations)
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "categories": tell.categories,
        "classes": tell.classes,
        "histogram": tell.histogram,
        "moments.count": tell.moments,
        "quantiles": lambda: tell.quantiles(intervals),
        "quantiles.tree": tell.noised_quantiles,
        "schema": lambda: tell.schema(sites),
    }
    return {name.partition(".")[0]: make() for name, make in makers.items() if name in sums}


def narrower(params: Params, contract: Contract, sums: Sums, intervals: Floats) -> Floats:
    """Intervals for the next exchange of quantiles: the bin that holds each, if it is not too small.

    The quantile of probability p is the smallest value with at least ``ceil(p n)`` rows up to it.
    """
    asked = params.statistics
    counts = sums["quantiles"].reshape(*intervals.shape[:2], asked.bins + 2)
    columns, out = numeric(params, contract), intervals.copy()
    for j, k in np.ndindex(*intervals.shape[:2]):
        found = _bin_of(counts[j, k], asked.quantiles[k])
        low, high = intervals[j, k]
        whole = columns[j].type == "integer" and high - low <= 1
        if found is None or whole or counts[j, k, found + 1] < asked.minimum_cell:
            continue
        edges = edges_of(low, high, asked.bins)
        if edges[found] < edges[found + 1]:
            out[j, k] = edges[found], edges[found + 1]
    return out


def _bin_of(counts: NDArray[np.int64], probability: float) -> int | None:
    """Bin of the interval that a quantile lies in; None where no row is counted, or it lies outside."""
    total = int(counts.sum())
    if total == 0:
        return None
    wanted = math.ceil(Fraction(probability) * total)
    at = int(np.searchsorted(np.cumsum(counts), wanted, side="left")) - 1
    return at if 0 <= at < len(counts) - 2 else None


class _Teller:
    """Reads parts of one round."""

    def __init__(
        self,
        params: Params,
        contract: Contract,
        sums: Sums,
        exponents: Mapping[str, int],
        deviations: Mapping[str, float],
    ) -> None:
        self.params, self.contract, self.sums = params, contract, sums
        self.exponents, self.deviations = exponents, deviations
        self.numbers = numeric(params, contract)

    def categories(self) -> dict[str, Any]:
        out, at = {}, 0
        values = self._natural("categories")
        for column in categorical(self.params, self.contract):
            names = list(column.categories or ())
            own = self._held(values[at : at + len(names) + 1])
            at += len(names) + 1
            counts = dict(zip(names, own, strict=False))
            out[column.name] = {
                "occur": [name for name, count in counts.items() if count],
                "counts": counts,
                "missing": own[-1],
                **self._noise("categories"),
            }
        return out

    def classes(self) -> dict[str, Any]:
        counts = self._held(self._natural("classes"))
        known = [count for count in counts if count is not None]
        total = sum(max(count, 0) for count in known) if len(known) == len(counts) else None
        return {
            "column": self.contract.label.name,
            "counts": dict(zip(self.contract.classes, counts, strict=True)),
            "shares": None
            if not total
            else {
                name: max(count, 0) / total
                for name, count in zip(self.contract.classes, known, strict=True)
            },
            **self._noise("classes"),
        }

    def histogram(self) -> dict[str, Any]:
        bins = self.params.statistics.bins
        values = self._natural("histogram")
        return {
            column.name: {
                "edges": edges_of(*bounds_of(column), bins).tolist(),
                "counts": self._held(values[j * bins : (j + 1) * bins]),
                **self._noise("histogram"),
            }
            for j, column in enumerate(self.numbers)
        }

    def moments(self) -> dict[str, Any]:
        counts = self._natural("moments.count")
        least = self.params.statistics.minimum_cell
        out = {}
        for j, column in enumerate(self.numbers):
            if counts[j] < least:
                out[column.name] = {"withheld": f"fewer than {least} rows"}
                continue
            out[column.name] = self._moments(j, column, Fraction(counts[j]))
        return out

    def _moments(self, j: int, column: Column, n: Fraction) -> dict[str, Any]:
        low, high = (Fraction(v) for v in bounds_of(column))
        centre, half = (low + high) / 2, (high - low) / 2
        first = Fraction(int(self.sums["moments.sum"][j]), 2 ** self.exponents["moments.sum"]) / n
        second = (
            Fraction(int(self.sums["moments.square"][j]), 2 ** self.exponents["moments.square"]) / n
        )
        variance = max(second - first * first, Fraction(0)) * half * half
        out: dict[str, Any] = {
            "count": int(n) if n.denominator == 1 else float(n),
            "mean": float(centre + half * first),
            "variance": float(variance),
            "deviation": math.sqrt(variance),
            # Every value was rounded by half a step at most.
            "rounding": float(half / 2 ** (self.exponents["moments.sum"] + 1)),
        }
        noise = self.deviations.get("moments.sum", 0.0)
        if noise:
            out["noise"] = {
                "count": self.deviations["moments.count"],
                "mean": float(half) * noise / float(n),
            }
        return out

    def quantiles(self, intervals: Floats) -> dict[str, Any]:
        asked = self.params.statistics
        counts = self.sums["quantiles"].reshape(*intervals.shape[:2], asked.bins + 2)
        after = narrower(self.params, self.contract, self.sums, intervals)
        out: dict[str, Any] = {}
        for j, column in enumerate(self.numbers):
            out[column.name] = [
                self._quantile(column, p, counts[j, k], after[j, k], intervals[j, k])
                for k, p in enumerate(asked.quantiles)
            ]
        return out

    def _quantile(
        self,
        column: Column,
        probability: float,
        counts: NDArray[np.int64],
        found: Floats,
        before: Floats,
    ) -> dict[str, Any]:
        least = self.params.statistics.minimum_cell
        if int(counts.sum()) < least or _bin_of(counts, probability) is None:
            return {"probability": probability, "withheld": f"fewer than {least} rows"}
        inside = counts[1:-1]
        if (found == before).all():
            rows = int(inside.sum())
        else:
            edges = edges_of(float(before[0]), float(before[1]), self.params.statistics.bins)
            at = int(np.searchsorted(edges, found[0], side="right")) - 1
            rows = int(inside[at])
        return {**_between(column, float(found[0]), float(found[1]), probability), "rows": rows}

    def noised_quantiles(self) -> dict[str, Any]:
        asked = self.params.statistics
        levels = tree_levels(asked.bins)
        nodes = np.array(self._natural("quantiles.tree")).reshape(len(self.numbers), -1)
        out: dict[str, Any] = {}
        for j, column in enumerate(self.numbers):
            leaves = consistent(nodes[j].astype(np.float64), levels)
            edges = edges_of(*bounds_of(column), BRANCHES**levels)
            out[column.name] = [
                {
                    **_between(column, *quantile(leaves, edges, p), p),
                    **self._noise("quantiles.tree"),
                }
                for p in asked.quantiles
            ]
        return out

    def schema(self, sites: int) -> dict[str, Any]:
        table = self.sums["schema"].reshape(-1, len(SCHEMA))
        return {
            "sites": sites,
            "columns": {
                column.name: {name: int(n) for name, n in zip(SCHEMA, row, strict=True)}
                for column, row in zip(self.contract.columns, table, strict=True)
            },
        }

    def _natural(self, part: str) -> list[Any]:
        """Numbers of a part in natural units: whole where they are exact."""
        exponent = self.exponents[part]
        if exponent == 0:
            return [int(n) for n in self.sums[part]]
        return [math.ldexp(int(n), -exponent) for n in self.sums[part]]

    def _held(self, counts: list[Any]) -> list[Any]:
        """Counts of one table with the small ones null."""
        least = self.params.statistics.minimum_cell
        out = [None if 0 < count < least else count for count in counts]
        if self.deviations and any(self.deviations.values()):
            return [count if count >= least else None for count in counts]
        if out.count(None) == 1:
            rest = [count for count in out if count]
            if rest:
                out[out.index(min(rest))] = None
        return out

    def _noise(self, part: str) -> dict[str, float]:
        return {"noise": self.deviations[part]} if self.deviations.get(part) else {}


def _between(column: Column, low: float, high: float, probability: float) -> dict[str, Any]:
    """A quantile as the interval that holds it, and the value to use for it."""
    value = (low + high) / 2
    if column.type == "integer":
        inner = [n for n in range(math.ceil(low), math.ceil(low) + 2) if low <= n < high]
        value = float(inner[0]) if len(inner) == 1 else value
    return {"probability": probability, "low": low, "high": high, "value": value}
