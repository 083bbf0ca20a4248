"""CSV and Parquet of any size, in batches, by the contract's types; no value gets into an error."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["column_names", "csv_to_parquet", "kind_of", "record_batches"]

#: Texts that mean a missing value in CSV, but where a column has one as a public category.
MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
_BLOCK = 1 << 24
_ROWS = 65_536


def kind_of(path: Path) -> str:
    """``csv`` or ``parquet``, by the file's ending.

    Raises
    ------
    ConfigError
        ``config.missing-file`` where there is no such file, ``config.invalid`` for another ending.
    """
    if not path.is_file():
        raise ConfigError(
            "config.missing-file", f"{path} is not a file.", "Name a .csv or .parquet file."
        )
    kind = path.suffix.lower().removeprefix(".")
    if kind not in {"csv", "parquet"}:
        raise ConfigError(
            "config.invalid", f"{path} ends in neither .csv nor .parquet.", "Convert or rename it."
        )
    return kind


def column_names(path: Path, kind: str) -> list[str]:
    """Names of a file's columns; reads the head or footer only.

    Raises
    ------
    DataError
        ``data.unreadable``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if kind == "parquet":
            return list(pq.read_schema(path).names)
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, kind, [], error) from None


def record_batches(
    path: Path, kind: str, names: Sequence[str], contract: Contract
) -> Iterator[pa.RecordBatch]:
    """Some columns of a file in batches; memory of a batch.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        ``csv`` or ``parquet``.
    names : sequence of str
        Columns to read; they must be there.
    contract : Contract
        Gives the types of CSV columns; Parquet has its own.

    Raises
    ------
    DataError
        ``data.unreadable``, naming the column where one is to blame.
    """
    import pyarrow as pa

    read = _csv if kind == "csv" else _parquet
    try:
        yield from read(path, list(names), contract)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        # Arrow counts the file's columns, not those that were asked for.
        header = column_names(path, kind) if kind == "csv" else []
        raise _unreadable(path, kind, header, error) from None


def csv_to_parquet(path: Path, target: Path, contract: Contract) -> None:
    """Write a CSV file's contract columns as Parquet, in batches; whole or not at all.

    Raises
    ------
    DataError
        ``data.column`` where columns of the contract are lacking, ``data.unreadable``,
        ``data.missing`` for no rows.
    """
    import pyarrow.parquet as pq

    found = column_names(path, "csv")
    names = [column.name for column in contract.columns]
    lacking = [name for name in names if name not in found]
    if lacking:
        raise DataError(
            "data.column",
            f"{path} lacks columns of contract {contract.name}: {', '.join(lacking)}.",
            "Add the columns to the file, or take them out of the contract.",
        )
    part = target.with_name(f".{target.name}.csv-part")
    writer = None
    try:
        for batch in record_batches(path, "csv", names, contract):
            if writer is None:
                writer = pq.ParquetWriter(part, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            raise DataError("data.missing", f"{path} holds no rows.", "Name a file with rows.")
        writer.close()
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _parquet(path: Path, names: list[str], contract: Contract) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_ROWS, columns=names)


def _csv(path: Path, names: list[str], contract: Contract) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import csv as pcsv

    kinds = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}
    taken = {category for column in contract.columns for category in column.categories or ()}
    options = pcsv.ConvertOptions(
        include_columns=names,
        column_types={c.name: kinds.get(c.type, pa.string()) for c in contract.columns},
        null_values=[mark for mark in MISSING if mark not in taken],
        strings_can_be_null=True,
        true_values=["true", "True", "TRUE", "1", "yes"],
        false_values=["false", "False", "FALSE", "0", "no"],
    )
    reading = pcsv.ReadOptions(block_size=_BLOCK)
    with pcsv.open_csv(path, convert_options=options, read_options=reading) as reader:
        yield from reader


def _unreadable(path: Path, kind: str, names: Sequence[str], error: Exception) -> DataError:
    """Arrow's message repeats the value it could not read: only the column's number is kept."""
    found = re.search(r"CSV column #(\d+)", str(error))
    where = ""
    if found and int(found.group(1)) < len(names):
        where = f": column {names[int(found.group(1))]} has values of another type"
    return DataError(
        "data.unreadable",
        f"{path} cannot be read as {kind}{where}.",
        "Mend the file, or the column's type in the contract.",
    )
