"""Rows of a recipe, read as a whole or in batches, so that a large one never fills the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["FrameRows", "Rows", "deal"]

#: Rows that wait to be written, over all sites.
_BUFFERED = 262_144


class Rows(Protocol):
    """A table that can be read more than once."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        ...

    def __len__(self) -> int: ...

    def column(self, name: str) -> pd.Series[Any]:
        """One column, whole."""
        ...

    def batches(self) -> Iterator[pa.Table]:
        """All rows in order, in tables of bounded size."""
        ...

    def frame(self) -> pd.DataFrame:
        """All rows at once."""
        ...


class FrameRows:
    """Rows of a DataFrame."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [str(name) for name in self._frame.columns]

    def __len__(self) -> int:
        return len(self._frame)

    def column(self, name: str) -> pd.Series[Any]:
        """One column."""
        return self._frame[name]

    def batches(self) -> Iterator[pa.Table]:
        """The frame as one table."""
        import pyarrow as pa

        yield pa.Table.from_pandas(self._frame, preserve_index=False)

    def frame(self) -> pd.DataFrame:
        """The frame itself."""
        return self._frame


def deal(
    rows: Rows, columns: list[str], site: NDArray[np.int32], names: tuple[str, ...], folder: Path
) -> dict[str, Path]:
    """Write each site's rows to its own Parquet file in one pass; O(rows) time, bounded memory.

    Parameters
    ----------
    rows : Rows
        All rows.
    columns : list of str
        Columns to write.
    site : ndarray of int32, shape (n,)
        Index into ``names`` per row.
    names : tuple of str
        Sites.
    folder : Path
        Where the files are written.

    Returns
    -------
    dict of str to Path

    Raises
    ------
    DataError
        ``data.column`` where the rows lack one of ``columns``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    lacking = [name for name in columns if name not in rows.columns]
    if lacking:
        raise DataError(
            "data.column",
            f"The source lacks columns of the contract: {', '.join(lacking)}.",
            "Name another source (data.path), or mend the contract.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in names}
    most = max(4096, _BUFFERED // len(names))
    writers: dict[str, pq.ParquetWriter] = {}
    waiting: dict[str, list[pa.Table]] = {name: [] for name in names}
    start = 0

    def flush(name: str) -> None:
        table = pa.concat_tables(waiting[name])
        if name not in writers:
            writers[name] = pq.ParquetWriter(paths[name], table.schema)
        writers[name].write_table(table)
        waiting[name] = []

    try:
        for batch in rows.batches():
            table = batch.select(columns).replace_schema_metadata(None)
            part = site[start : start + len(table)]
            start += len(table)
            order = np.argsort(part, kind="stable")
            table = table.take(pa.array(order))
            edges = np.searchsorted(part[order], np.arange(len(names) + 1))
            for i, name in enumerate(names):
                if edges[i] < edges[i + 1]:
                    waiting[name].append(table.slice(edges[i], edges[i + 1] - edges[i]))
                    if sum(map(len, waiting[name])) >= most:
                        flush(name)
        for name in names:
            if waiting[name]:
                flush(name)
    finally:
        for writer in writers.values():
            writer.close()
    return {name: paths[name] for name in writers}
