"""Scaled rows: ``x' = (x - mean) / scale`` with the global model's numbers, missing values as 0.

Small matrices are scaled once and kept in the context's cache.  Larger ones are scaled chunk by
chunk while they are read from the prepared file, so that no second copy of a site's rows exists on
disk or in memory; pages that were read are given back to the system after each chunk.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.design import Design
from folkmoot.plan import RunContext
from folkmoot.wire import Artefact
from site_tasks.prepared import Prepared

__all__ = ["ScaledRows", "scaled_rows"]

Floats = NDArray[np.float64]
Chunk = tuple[Floats, NDArray[Any], Floats | None]

#: A matrix up to this many bytes (as float64) is kept in memory.
KEEP_BYTES = 16 * 2**20
#: Most bytes of matrices that one process keeps, over all sites it serves.
CACHE_BYTES = 512 * 2**20
#: Bytes of one chunk (as float64): it stays in a core's own cache while it is worked on.
CHUNK_BYTES = 512 * 2**10
#: Bytes of the blocks within which rows are shuffled.
BLOCK_BYTES = 8 * 2**20


class ScaledRows:
    """Rows of one part of a site's data, scaled.

    Parameters
    ----------
    matrix : ndarray, shape (n, d)
        Encoded features, float64 or float32; NaN where missing.
    labels : ndarray, shape (n,)
    weights : ndarray of float64, shape (n,), or None
        Sample weights.
    mean, scale : ndarray of float64, shape (d,)
        From the global model.
    design : Design, optional
        Where the global model does more than standardise.
    """

    def __init__(
        self,
        matrix: NDArray[Any],
        labels: NDArray[Any],
        weights: NDArray[Any] | None,
        mean: Floats,
        scale: Floats,
        design: Design | None = None,
    ) -> None:
        self._matrix, self._labels, self._weights = matrix, labels, weights
        self._mean, self._scale, self._design = mean, scale, design
        self._kept: Chunk | None = None
        self._row = 8 * max(1, matrix.shape[1] if design is None else design.width)
        if len(matrix) * self._row <= KEEP_BYTES:
            self._kept = self._scaled(0, len(matrix))

    def __len__(self) -> int:
        return len(self._matrix)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the scaled matrix that are kept in memory."""
        return 0 if self._kept is None else self._kept[0].nbytes

    @property
    def weight(self) -> float:
        """Summed sample weights; rows where there are none."""
        return float(len(self) if self._weights is None else np.sum(self._weights))

    def chunks(self) -> Iterator[Chunk]:
        """Features, labels and weights, chunk by chunk in the order of the rows."""
        step = max(256, CHUNK_BYTES // self._row)
        for start in range(0, len(self), step):
            yield self._rows(start, start + step)

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[Chunk]:
        """One pass in random order: blocks in random order, rows in random order within a block.

        A matrix that is kept in memory is one block.  Blocks are whole batches, so that only one
        batch of a pass is smaller than ``size``.
        """
        if self._kept is not None:
            step = max(1, len(self))
        else:
            step = size * max(1, BLOCK_BYTES // self._row // size)
        starts = np.arange(0, len(self), step)
        for start in starts if len(starts) < 2 else rng.permutation(starts):
            x, y, weights = self._rows(int(start), int(start) + step)
            order = rng.permutation(len(y))
            x, y = x[order], y[order]
            weights = None if weights is None else weights[order]
            for at in range(0, len(y), size):
                batch = slice(at, at + size)
                yield x[batch], y[batch], None if weights is None else weights[batch]

    def _rows(self, start: int, stop: int) -> Chunk:
        if self._kept is not None:
            x, y, weights = self._kept
            at = slice(start, stop)
            return x[at], y[at], None if weights is None else weights[at]
        rows = self._scaled(start, stop)
        for array in (self._matrix, self._labels, self._weights):
            _give_back(array)
        return rows

    def _scaled(self, start: int, stop: int) -> Chunk:
        if self._design is not None:
            x = self._design.columns(self._matrix[start:stop])
        else:
            x = np.array(self._matrix[start:stop], np.float64)
            x -= self._mean
            x /= self._scale
            # One reduction finds out whether anything is missing at all: a NaN makes the sum NaN.
            if np.isnan(x.sum()):
                np.nan_to_num(x, copy=False, nan=0.0)
        weights = self._weights
        return (
            x,
            np.array(self._labels[start:stop]),
            None if weights is None else np.array(weights[start:stop], np.float64),
        )


def scaled_rows(
    prepared: Prepared,
    part: Literal["train", "test"],
    model: Artefact,
    context: RunContext,
    site: str,
) -> ScaledRows:
    """Rows of a part under a model's scaling; found in the context's cache the next time.

    The cache holds one entry per site and part, for the latest prepared data and scaling, and
    never more than :data:`CACHE_BYTES` of kept matrices, however many sites one process serves.
    """
    mean, scale = model.arrays["mean"], model.arrays["scale"]
    design = Design.of(model.arrays)
    told = b"".join(array.tobytes() for _, array in sorted(design.arrays().items()))
    stamp = prepared.digest + hashlib.sha256(told).hexdigest()
    found: tuple[str, ScaledRows] | None = context.cache.get(("scaled", site, part))
    if found is not None and found[0] == stamp:
        return found[1]
    rows = ScaledRows(
        prepared.matrix(part),
        prepared.labels(part),
        prepared.weights(part),
        mean,
        scale,
        None if design.plain else design,
    )
    taken = context.cache.get("scaled-bytes", 0) - (found[1].kept_bytes if found else 0)
    context.cache.pop(("scaled", site, part), None)
    if taken + rows.kept_bytes <= CACHE_BYTES:
        context.cache["scaled", site, part] = stamp, rows
        taken += rows.kept_bytes
    context.cache["scaled-bytes"] = taken
    return rows


def _give_back(array: Any) -> None:
    """Unmap the pages of a memory-mapped file that were read; they stay in the system's cache."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(array, "madvise"):
        array.madvise(mmap.MADV_DONTNEED)
