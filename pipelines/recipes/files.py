"""The user's own CSV or Parquet, a file or a folder of them, read in batches by the contract.

In a folder, the virtual column ``file`` holds each file's name without its ending, so that
``partition: {kind: natural, column: file}`` gives every site its own file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError
from folkmoot.params import Data
from site_tasks.readers import column_names, record_batches

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["FILE", "FileRows", "rows"]

FILE = "file"


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
    extra = [data.partition.column] if data.partition.column else []
    return FileRows(found, contract, str(data.recipe), path.is_dir(), extra)


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
        found = [set(column_names(path, kind)) for path in paths]
        common = set.intersection(*found)
        lacking = [name for name in wanted if name not in common]
        if lacking:
            raise DataError(
                "data.column",
                f"{paths[0].parent if folder else paths[0]} lacks columns of contract "
                f"{contract.name}: {', '.join(lacking)}.",
                "Add the columns to the source, or take them out of the contract.",
            )
        self._stored = wanted + [n for n in extra if n in common and n not in (*wanted, FILE)]
        self._length: int | None = None

    @property
    def columns(self) -> list[str]:
        """The contract's columns, the partition's, and ``file`` in a folder."""
        return self._stored + ([FILE] if self._folder else [])

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(len(table) for table in self._tables([self._stored[0]]))
        return self._length

    def column(self, name: str) -> pd.Series[Any]:
        """One column of all files."""
        series: pd.Series[Any] = _joined(self._tables([name]))[name]
        return series

    def frame(self) -> pd.DataFrame:
        """All rows at once."""
        return _joined(self.batches())

    def batches(self) -> Iterator[pa.Table]:
        """All rows in order."""
        yield from self._tables(self._stored)

    def _tables(self, names: list[str]) -> Iterator[pa.Table]:
        import pyarrow as pa

        stored = [name for name in names if name != FILE] or [self._stored[0]]
        for path in self._paths:
            for batch in record_batches(path, self._kind, stored, self._contract):
                table = pa.Table.from_batches([batch])
                if self._folder:
                    table = table.append_column(FILE, pa.array([path.stem] * len(table)))
                yield table


def _joined(tables: Iterator[pa.Table]) -> pd.DataFrame:
    import pyarrow as pa

    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    return frame
