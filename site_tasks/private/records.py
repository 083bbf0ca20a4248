"""Clipping record by record, on a grid: what one record adds to a sum is bounded exactly.

A design row is clipped to a norm and truncated towards zero to whole steps of ``2^-12``
(:meth:`folkmoot.secure.grid.Grid.clip_rows`); a gradient is such a row times a factor, clipped and
truncated to whole steps of ``2^-14``.  Products of whole numbers are whole: every sum below is made
of integers below 2^53, where float64 is exact in whatever order BLAS adds, so that the sum of the
records is the sum of their integers and the sensitivity has no rounding in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.design import Design
from folkmoot.plan import RunContext
from folkmoot.privacy.planned import FACTOR_EXPONENT, ROW_EXPONENT
from folkmoot.secure.grid import Grid
from site_tasks.prepared import Prepared
from site_tasks.scaled import CACHE_BYTES, CHUNK_BYTES, KEEP_BYTES

__all__ = ["Records", "gradient_sum", "gram_sum", "integer_rows", "records_of"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Chunk = tuple[Floats, NDArray[Any]]

ROW_STEP, FACTOR_STEP = 2.0**-ROW_EXPONENT, 2.0**-FACTOR_EXPONENT
#: Sums of integers below this are exact in float64.
EXACT = 2.0**53
#: Keeps a factor's product with its row inside the norm; far above the rounding of float64.
SLACK = 1.0 - 2.0**-30


class Records:
    """A site's training rows as integer design rows.

    Parameters
    ----------
    matrix : ndarray, shape (n, d)
        Encoded features; NaN where missing.
    labels : ndarray, shape (n,)
    design : Design
        From the global model.
    norm : float
        L2 norm that every row, constant and label included, is clipped to.
    centre : tuple of float, optional
        For regression: public midpoint and half-width of the label, which becomes the last column.
    """

    def __init__(
        self,
        matrix: NDArray[Any],
        labels: NDArray[Any],
        design: Design,
        norm: float,
        centre: tuple[float, float] | None = None,
    ) -> None:
        self._matrix, self._labels, self._design = matrix, labels, design
        self._norm, self._centre = norm, centre
        self._kept: Chunk | None = None
        self._row = 8 * (design.width + 2)
        if len(matrix) * self._row <= KEEP_BYTES:
            self._kept = self._made(0, len(matrix))

    @property
    def kept_bytes(self) -> int:
        """Bytes of rows that are kept in memory."""
        return 0 if self._kept is None else self._kept[0].nbytes

    def chunks(self) -> Iterator[Chunk]:
        """Integer rows (as float64) and labels, chunk by chunk."""
        step = max(256, CHUNK_BYTES // self._row)
        for start in range(0, len(self._matrix), step):
            if self._kept is not None:
                x, y = self._kept
                yield x[start : start + step], y[start : start + step]
            else:
                yield self._made(start, start + step)

    def _made(self, start: int, stop: int) -> Chunk:
        columns = self._design.columns(self._matrix[start:stop])
        y = np.array(self._labels[start:stop])
        parts = [columns, np.ones((len(columns), 1))]
        if self._centre is not None:
            middle, half = self._centre
            with np.errstate(invalid="ignore"):
                parts.append(np.clip((y.astype(np.float64) - middle) / half, -1, 1)[:, None])
        return integer_rows(np.hstack(parts), self._norm), y


def integer_rows(rows: Floats, norm: float) -> Floats:
    """Rows clipped to ``norm`` and truncated to whole steps of ``2^-12``; O(numbers).

    Returns
    -------
    ndarray of float64, shape (n, D)
        Whole numbers; each row's sum of squares is at most ``(norm · 2^12)²``.  A row that is not
        finite counts as zero.
    """
    grid = Grid(64, ROW_EXPONENT, norm, 1)
    return grid.clip_rows(rows, norm).astype(np.float64)


def gram_sum(records: Records) -> Integers:
    """Upper triangle of the sum of ``x x'`` in whole steps of ``2^-24``; O(n · D²).

    The upper triangle of ``x x'`` has an L2 norm of at most ``|x|²``: the clip norm squared.
    """
    total: Integers | None = None
    for x, _ in records.chunks():
        bound = float(np.abs(x).max(initial=0.0))
        _exact(len(x) * bound * bound)
        gram = x.T @ x
        upper = gram[np.triu_indices(len(gram))].astype(np.int64)
        total = upper if total is None else total + upper
    return np.zeros(0, np.int64) if total is None else total


def gradient_sum(
    task: str, w: Floats, records: Records, clip: float, counted: float = 0.0
) -> Integers:
    """Sum of the records' clipped gradients in whole steps of ``2^-26``; O(n · D · K).

    Per-example clipping (Abadi et al. 2016, arXiv 1607.00133): the gradient of record i is
    ``slope_i ⊗ x_i`` with norm ``|slope_i| |x_i|``, and its factor is shortened until that is at
    most ``clip``.

    Parameters
    ----------
    task : {"binary", "multiclass"}
    w : ndarray of float64, shape (K, D)
        Parameters, the constant's last.
    records : Records
    clip : float
        L2 norm.
    counted : float
        Where above 0, gradients are divided by ``clip`` and shortened to a norm of
        ``sqrt(1 - counted²)``, and one more number adds ``counted`` for every gradient that was not
        clipped: a private quantile for the next clip (Andrew et al. 2021, arXiv 1905.03871).  The
        norm of a record's whole vector is then at most 1.

    Returns
    -------
    ndarray of int64, shape (K * D,), or (K * D + 1,) with the count
    """
    total, within = np.zeros(w.size, np.int64), 0
    unit = clip if counted else 1.0
    norm = math.sqrt(1 - counted * counted) if counted else clip
    bound = (norm / ROW_STEP / FACTOR_STEP) ** 2
    for x, y in records.chunks():
        slope = _slope(task, (x @ w.T) * ROW_STEP, y)
        row = np.einsum("ij,ij->i", x, x)  # whole, exact
        with np.errstate(divide="ignore", invalid="ignore"):
            length = np.sqrt(np.einsum("ij,ij->i", slope, slope)) * np.sqrt(row) * ROW_STEP
            factor = np.minimum(1.0, norm * unit / length) * (SLACK / unit)
        factor[~np.isfinite(factor)] = 0.0
        steps = np.trunc(slope * factor[:, None] / FACTOR_STEP)
        # The last word, in whole numbers: what does not keep the bound does not count.
        kept = np.einsum("ij,ij->i", steps, steps) * row <= bound * SLACK
        steps *= kept[:, None]
        _exact(len(x) * float(np.abs(steps).max(initial=0.0)) * float(np.abs(x).max(initial=0.0)))
        total += (steps.T @ x).ravel().astype(np.int64)
        within += int(np.count_nonzero(length <= clip))
    if not counted:
        return total
    step = math.floor(counted * SLACK / ROW_STEP / FACTOR_STEP)
    return np.append(total, within * step)


def records_of(
    prepared: Prepared,
    design: Design,
    norm: float,
    context: RunContext,
    site: str,
    centre: tuple[float, float] | None = None,
) -> Records:
    """Training rows under a model's design; found in the context's cache the next time."""
    stamp = hashlib.sha256(prepared.digest.encode() + repr(norm).encode())
    for name, array in sorted(design.arrays().items()):
        stamp.update(name.encode() + array.tobytes())
    key, name = ("records", site), stamp.hexdigest()
    found: tuple[str, Records] | None = context.cache.get(key)
    if found is not None and found[0] == name:
        return found[1]
    records = Records(prepared.matrix("train"), prepared.labels("train"), design, norm, centre)
    taken = context.cache.get("scaled-bytes", 0) - (found[1].kept_bytes if found else 0)
    context.cache.pop(key, None)
    if taken + records.kept_bytes <= CACHE_BYTES:
        context.cache[key] = name, records
        taken += records.kept_bytes
    context.cache["scaled-bytes"] = taken
    return records


def _slope(task: str, z: Floats, y: NDArray[Any]) -> Floats:
    """Derivative of each record's loss by its scores, shape (n, K)."""
    if task == "multiclass":
        z = np.exp(z - z.max(axis=1, keepdims=True))
        slope = z / z.sum(axis=1, keepdims=True)
        slope[np.arange(len(y)), y] -= 1.0
        return np.asarray(slope, np.float64)
    decay = np.exp(-np.abs(z[:, 0]))
    p = np.where(z[:, 0] >= 0, 1.0, decay) / (1.0 + decay)
    return np.asarray((p - y)[:, None], np.float64)


def _exact(largest: float) -> None:
    if not largest < EXACT:
        raise OverflowError("a sum of integers would leave the exact range of float64")
