"""The user's own CSV or Parquet, a file or a folder of them, read in batches by the contract.

In a folder, the virtual column ``file`` holds each file's name without its ending, so that
``partition: {kind: natural, column: file}`` gives every site its own file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError
from folkmoot.params import Data

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["FILE", "FileRows", "csv_rows", "rows"]

FILE = "file"
_MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
_BLOCK = 1 << 24
_ROWS = 65_536


def rows(data: Data, contract: Contract) -> FileRows:
    """Rows of ``data.path``.

    Raises
    ------
    ConfigError
        ``config.missing-file`` where nothing lies there.
    DataError
        ``data.unreadable`` or ``data.column``.
    """
    path = Path(str(data.path))
    found = sorted(path.glob(f"*.{data.recipe}")) if path.is_dir() else [path]
    if not found or not all(file.is_file() for file in found):
        raise ConfigError(
            "config.missing-file",
            f"data.path: there is no {data.recipe} file at {path}.",
            f"Name a .{data.recipe} file, or a folder that holds some.",
        )
    extra = data.partition.column
    return FileRows(found, contract, data.recipe, path.is_dir(), [extra] if extra else [])


def csv_rows(path: Path, contract: Contract) -> FileRows:
    """Rows of one CSV file."""
    return FileRows([path], contract, "csv", False, [])


class FileRows:
    """Rows of files with the same columns; memory of a batch.

    Parameters
    ----------
    paths : list of Path
        Files, in order.
    contract : Contract
        Gives the columns and, for CSV, their types.
    kind : str
        ``csv`` or ``parquet``.
    folder : bool
        Whether to add the virtual column ``file``.
    extra : list of str
        Columns to read beside the contract's, where they exist.
    """

    def __init__(
        self, paths: list[Path], contract: Contract, kind: str, folder: bool, extra: list[str]
    ) -> None:
        self._paths, self._contract, self._kind, self._folder = paths, contract, kind, folder
        wanted = [column.name for column in contract.columns]
        self._names = wanted + [name for name in extra if name not in (*wanted, FILE)]
        self._found = {path: self._header(path) for path in paths}
        lacking = [n for n in wanted if any(n not in found for found in self._found.values())]
        if lacking:
            raise DataError(
                "data.column",
                f"{paths[0].parent if folder else paths[0]} lacks columns of contract "
                f"{contract.name}: {', '.join(lacking)}.",
                "Add the columns to the source, or take them out of the contract.",
            )
        self._length: int | None = None

    @property
    def columns(self) -> list[str]:
        """Columns that are there."""
        common = set.intersection(*(set(found) for found in self._found.values()))
        named = [name for name in self._names if name in common]
        return named + ([FILE] if self._folder else [])

    def __len__(self) -> int:
        if self._length is None:
            first = self._contract.label.name
            self._length = sum(len(table) for table in self._tables([first]))
        return self._length

    def column(self, name: str) -> pd.Series[Any]:
        """One column of all files."""
        import pyarrow as pa

        tables = [table.select([name]) for table in self._tables([name])]
        return pa.concat_tables(tables, promote_options="permissive")[name].to_pandas()

    def frame(self) -> pd.DataFrame:
        """All rows at once."""
        import pyarrow as pa

        return pa.concat_tables(self.batches(), promote_options="permissive").to_pandas()

    def batches(self) -> Iterator[pa.Table]:
        """All rows in order."""
        yield from self._tables([name for name in self.columns if name != FILE])

    def _tables(self, names: list[str]) -> Iterator[pa.Table]:
        import pyarrow as pa

        stored = [name for name in names if name != FILE] or [self._contract.label.name]
        for path in self._paths:
            read = _read_csv if self._kind == "csv" else _read_parquet
            try:
                for batch in read(path, stored, self._contract):
                    table = pa.Table.from_batches([batch])
                    if self._folder:
                        table = table.append_column(FILE, pa.array([path.stem] * len(table)))
                    yield table
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
                raise _unreadable(path, self._kind, stored, error) from None

    def _header(self, path: Path) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._kind == "parquet":
                return list(pq.read_schema(path).names)
            import csv

            with path.open(encoding="utf-8-sig", newline="") as file:
                return next(csv.reader(file), [])
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, self._kind, [], error) from None


def _read_parquet(path: Path, names: list[str], contract: Contract) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_ROWS, columns=names)


def _read_csv(path: Path, names: list[str], contract: Contract) -> Iterator[pa.RecordBatch]:
    import pyarrow.csv as csv

    options = csv.ConvertOptions(
        include_columns=names,
        column_types=_types(contract),
        null_values=_missing_marks(contract),
        strings_can_be_null=True,
        true_values=["true", "True", "TRUE", "1", "yes"],
        false_values=["false", "False", "FALSE", "0", "no"],
    )
    reading = csv.ReadOptions(block_size=_BLOCK)
    with csv.open_csv(path, convert_options=options, read_options=reading) as reader:
        yield from reader


def _types(contract: Contract) -> dict[str, pa.DataType]:
    import pyarrow as pa

    types = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}
    return {column.name: types.get(column.type, pa.string()) for column in contract.columns}


def _missing_marks(contract: Contract) -> list[str]:
    """Usual marks of a missing value, but those that a column has as a public category."""
    taken = {category for column in contract.columns for category in column.categories or ()}
    return [mark for mark in _MISSING if mark not in taken]


def _unreadable(path: Path, kind: str, names: list[str], error: Exception) -> DataError:
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
