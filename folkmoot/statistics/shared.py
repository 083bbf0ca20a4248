"""Counts that are shared among three computing sites, and what these compute of them.

A site's counts become Shamir shares of degree 1 over the field of 2^127 - 1, one per computing site:
one of them alone learns nothing whatever its power, two together read every site's counts.  The
computing sites add up the shares and work on the sums with MPyC (Schoenmakers, mpyc.readthedocs.io),
secure against one of them that follows the protocol but is curious.

======  =============================================================  ==========================
figure  shares of every site                                           what is opened
======  =============================================================  ==========================
median  rows per bin of every column                                   the bin, by a binary search
                                                                       whose path *is* the answer
auc     rows per bin of the score, of either class                     the area, to 2^-20
both    is there a row per column at all (and per class)               one bit each
======  =============================================================  ==========================
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column, Contract
from folkmoot.generalisation import bounds_of
from folkmoot.params import Params
from folkmoot.statistics.questions import edges_of, numeric

__all__ = ["AREA_BITS", "BYTES", "FIELD", "Figure", "figures", "from_bytes", "split", "to_bytes"]

#: Mersenne prime: room for products of counts beside MPyC's 30 bits of statistical security.
FIELD = 2**127 - 1
BYTES = 16
#: The area under the curve is opened to this many binary places.
AREA_BITS = 20


@dataclass(frozen=True)
class Figure:
    """One number that is computed: a column's median, or the area.

    Parameters
    ----------
    kind : {"median", "auc"}
    column : str
        Of the contract.
    bins : int
        Counts of it, per class for ``auc``.
    start, end : int
        Where its counts lie in a site's vector.
    """

    kind: str
    column: str
    bins: int
    start: int
    end: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


def figures(params: Params, contract: Contract) -> tuple[Figure, ...]:
    """What is computed, in the order of the shared vector; O(columns)."""
    asked, out, at = params.statistics, [], 0
    for column in numeric(params, contract):
        bins = bins_of(column, asked.resolution)
        if "median" in asked.computed:
            out.append(Figure("median", column.name, bins, at, at + bins))
            at += bins
        if "auc" in asked.computed and column.name == asked.score:
            out.append(Figure("auc", column.name, bins, at, at + 2 * bins))
            at += 2 * bins
    return tuple(out)


def bins_of(column: Column, resolution: int) -> int:
    """Bins of a column: one per whole number where they are few enough."""
    low, high = bounds_of(column)
    if column.type == "integer" and high - low + 1 <= resolution:
        return round(high - low) + 1
    return resolution


def bin_edges(column: Column, bins: int) -> NDArray[np.float64]:
    """Edges of a column's bins, float64 (bins + 1,)."""
    low, high = bounds_of(column)
    if column.type == "integer" and bins == round(high - low) + 1:
        return edges_of(low - 0.5, high + 0.5, bins)
    return edges_of(low, high, bins)


def split(counts: NDArray[np.int64]) -> list[bytes]:
    """Three shares of counts: points 1, 2 and 3 of random lines; O(counts).

    Parameters
    ----------
    counts : ndarray of int64 (n,)
        Not negative.

    Returns
    -------
    list of bytes
        Per computing site n numbers of 16 bytes, little-endian.
    """
    out: list[list[bytes]] = [[], [], []]
    for value in counts.tolist():
        slope = secrets.randbelow(FIELD)
        for point, share in enumerate(out, start=1):
            share.append(((value + slope * point) % FIELD).to_bytes(BYTES, "little"))
    return [b"".join(share) for share in out]


def from_bytes(data: bytes) -> list[int]:
    """Numbers of a share."""
    return [int.from_bytes(data[i : i + BYTES], "little") for i in range(0, len(data), BYTES)]


def to_bytes(numbers: list[int]) -> bytes:
    """Inverse of :func:`from_bytes`."""
    return b"".join(number.to_bytes(BYTES, "little") for number in numbers)


def counts_of(
    found: tuple[Figure, ...],
    columns: Mapping[str, Column],
    values: Mapping[str, NDArray[np.float64]],
    classes: NDArray[np.int32] | None,
) -> NDArray[np.int64]:
    """A site's vector of counts; O(rows · figures).

    Parameters
    ----------
    values : mapping of str to ndarray of float64 (rows,)
        By column; rows with NaN are not counted.
    classes : ndarray of int32 (rows,), optional
        0 or 1, for the area.
    """
    out = []
    for figure in found:
        x = values[figure.column]
        edges = bin_edges(columns[figure.column], figure.bins)
        at = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, figure.bins - 1)
        present = ~np.isnan(x)
        if figure.kind == "median" or classes is None:
            out.append(np.bincount(at[present], minlength=figure.bins))
            continue
        for label in (0, 1):
            out.append(np.bincount(at[present & (classes == label)], minlength=figure.bins))
    return np.concatenate(out).astype(np.int64)
