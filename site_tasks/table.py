"""Parquet tables in chunks: no step of a site ever holds all rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from folkmoot.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["CHUNK", "ROW", "chunks", "row_count", "schema_of", "write_table"]

#: Rows per chunk: large enough that pandas' overhead vanishes, 20 MB for 20 columns of float64.
CHUNK = 131_072
#: Reserved column: number of the row in the dataset, where anonymisation left rows out.
ROW = "__row__"


def schema_of(path: Path) -> pa.Schema:
    """Arrow schema of a file; reads its footer only.

    Raises
    ------
    DataError
        ``data.missing`` or ``data.unreadable``.
    """
    import pyarrow.parquet as pq

    with _readable(path):
        return pq.read_schema(path)


def row_count(path: Path) -> int:
    """Rows of a file, from its footer; raises as :func:`schema_of`."""
    import pyarrow.parquet as pq

    with _readable(path):
        return int(pq.read_metadata(path).num_rows)


def chunks(path: Path, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """Frames of at most :data:`CHUNK` rows, in the file's order; memory O(chunk).

    Raises
    ------
    DataError
        ``data.missing`` or ``data.unreadable``.
    """
    import pyarrow.parquet as pq

    with _readable(path):
        # Pre-buffering would hold whole row groups.
        file = pq.ParquetFile(path, pre_buffer=False)
    with file:
        batches = file.iter_batches(CHUNK, columns=None if columns is None else list(columns))
        while True:
            with _readable(path):
                batch = next(batches, None)
            if batch is None:
                return
            frame = batch.to_pandas(ignore_metadata=True, split_blocks=True)
            del batch
            yield frame


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise DataError(
            "data.missing",
            f"The dataset {path.name} does not exist.",
            "Add one with `folkmoot site refresh`, or fetch the recorded version with `dvc pull`.",
        ) from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # Arrow's own message may quote bytes of the file.
        raise DataError(
            "data.unreadable",
            f"The dataset {path.name} cannot be read as Parquet: it is damaged, truncated or of "
            "another format.",
            "Restore the recorded version with `dvc checkout`, or add the dataset again.",
        ) from None


def write_table(path: Path, schema: pa.Schema, frames: Iterable[pd.DataFrame]) -> None:
    """Write frames one after the other under a schema; memory O(chunk)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Dictionaries of numbers cost more than they save.
    text = [
        f.name for f in schema if not (pa.types.is_floating(f.type) or pa.types.is_integer(f.type))
    ]
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=text) as writer:
        for frame in frames:
            if len(frame):
                writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
