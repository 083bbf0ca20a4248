"""Arrays that a site keeps in ``.npy`` and ``.npz`` files, read by any number of threads at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from site_tasks.one_parser import ONE_PARSER

__all__ = ["read_array", "read_arrays", "read_blocks"]

Array = NDArray[Any]


def read_array(path: Path, *, mapped: bool = False) -> Array:
    """An array of a ``.npy`` file; never pickled objects.

    Parameters
    ----------
    path : Path
        The file.
    mapped : bool
        A read-only memory map instead of an array in memory.

    Raises
    ------
    OSError
        Where the file cannot be read.
    ValueError, EOFError
        Where it holds no whole array.
    """
    mode: Literal["r"] | None = "r" if mapped else None
    with ONE_PARSER:
        found: Array = np.load(path, mmap_mode=mode, allow_pickle=False)
    return found


def read_arrays(path: Path) -> dict[str, Array]:
    """Every array of a ``.npz`` file by its name; never pickled objects.

    Raises
    ------
    OSError
        Where the file cannot be read.
    ValueError, EOFError, zipfile.BadZipFile
        Where it is damaged.
    """
    with ONE_PARSER, np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def read_blocks(path: Path, rows: int) -> Iterator[Array]:
    """Slices of a ``.npy`` file along its first axis, read into fresh memory; memory O(slice)."""
    with path.open("rb") as file:
        with ONE_PARSER:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        width = int(np.prod(shape[1:], dtype=np.int64))
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            block = np.fromfile(file, dtype, count * width)
            yield block.reshape(count, *shape[1:])
