"""The rows of a locally recoded table as they are written: each class's cells as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.cells import interval_text, set_text
from site_tasks.anonymise.coded import Column
from site_tasks.anonymise.identifiers import kept_fields
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.recoding import Cells, Ranges, Recoding
from site_tasks.table import ROW, schema_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Spelling", "arrays_of", "fields", "flat"]

Codes = NDArray[np.int32]


class Spelling:
    """Spells the cells of a recoding's classes; memory O(classes · columns).

    Parameters
    ----------
    recoding : Recoding
        Its cells; the classes of rows come with the rows.
    numbered : bool
        Whether each row keeps its number in the dataset.
    """

    def __init__(self, recoding: Recoding, *, numbered: bool) -> None:
        self._columns = [
            (column.name, *_texts(column, cells))
            for column, cells in zip(recoding.columns, recoding.cells, strict=True)
        ]
        self._numbered = numbered

    def rows(self, frame: pd.DataFrame, classes: Codes, start: int) -> pd.DataFrame:
        """Those rows of a chunk that are kept, with the cells of their classes.

        Parameters
        ----------
        frame : pandas.DataFrame, shape (n, ...)
            Of ``identifiers.identified_chunks``.
        classes : ndarray of int32, shape (n,)
            -1 where a row is suppressed.
        start : int
            Number of the chunk's first row.
        """
        import pandas as pd

        kept = classes >= 0
        rows = frame[kept].copy()
        for name, spelled, of in self._columns:
            rows[name] = pd.Categorical.from_codes(of[classes[kept]], spelled)
        if self._numbered:
            rows[ROW] = start + np.flatnonzero(kept)
        return rows


def fields(job: Job, columns: tuple[Column, ...]) -> pa.Schema:
    """Arrow schema of the table: cells are text, other columns keep their types."""
    import pyarrow as pa

    cells = {column.name for column in columns}
    found = []
    for column, kind in kept_fields(schema_of(job.source), job.contract, job.settings):
        text = pa.dictionary(pa.int32(), pa.string())
        found.append(pa.field(column.name, text if column.name in cells else kind))
    if job.numbered:
        found.append(pa.field(ROW, pa.int64()))
    return pa.schema(found)


def flat(cells: Cells) -> NDArray[np.int64]:
    """Cells as rows of integers, equal where the cells are."""
    if isinstance(cells, Ranges):
        return np.stack([cells.low, cells.high, cells.missing], axis=1).astype(np.int64)
    return np.asarray(cells.words.view(np.int64))


def arrays_of(cell: Cells) -> dict[str, NDArray[Any]]:
    """Cells of a column as named arrays, one entry per class."""
    if isinstance(cell, Ranges):
        return {"low": cell.low, "high": cell.high, "missing": cell.missing}
    return {"words": cell.words}


def _texts(column: Column, cells: Cells) -> tuple[pd.Index[Any], Codes]:
    """Distinct cells as text, and which of them each class has (-1 where all is missing)."""
    import pandas as pd

    table = flat(cells)
    distinct, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    spelled: list[str] = []
    code = np.full(len(distinct), -1, np.int32)
    for i, at in enumerate(first.tolist()):
        text = _text(column, cells, at)
        if text is not None:
            code[i] = len(spelled)
            spelled.append(text)
    return pd.Index(spelled, dtype="str"), code[inverse.reshape(-1)]


def _text(column: Column, cells: Cells, at: int) -> str | None:
    if isinstance(cells, Ranges) and not isinstance(column.domain[0], str):
        low, high = int(cells.low[at]), int(cells.high[at])
        if low > high:
            return None
        half = column.width / 2
        return interval_text(
            column.domain[low] - half,
            column.domain[high] + half,
            closed=not half or high == len(column.domain) - 1,
            missing=bool(cells.missing[at]),
        )
    one = type(cells)(**{name: values[at : at + 1] for name, values in arrays_of(cells).items()})
    allowed = one.allowed(column.size)[0]
    values = [str(column.domain[i]) for i in np.flatnonzero(allowed[:-1])]
    return set_text(values, missing=bool(allowed[-1])) if values else None
