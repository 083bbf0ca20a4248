"""Arrays at a site: read by several threads at once, and no pickled objects."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from site_tasks.arrays import read_array, read_arrays, read_blocks


class Slow:
    """Rubbish whose collection lets another thread go on, as a file's or a lock's may."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(0)


@pytest.fixture
def hurry() -> Iterator[None]:
    """Collect rubbish and change threads as often as the interpreter can."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(10)
    sys.setswitchinterval(1e-6)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


READERS: dict[str, Callable[[Path], object]] = {
    "whole": lambda folder: read_array(folder / "a.npy"),
    "mapped": lambda folder: read_array(folder / "a.npy", mapped=True),
    "several": lambda folder: read_arrays(folder / "a.npz"),
    "blocks": lambda folder: list(read_blocks(folder / "a.npy", 2)),
}


@pytest.mark.parametrize("reader", READERS)
def test_threads_read_headers_at_once(reader: str, tmp_path: Path, hurry: None) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    np.savez(tmp_path / "a.npz", a=np.zeros((3, 4)))

    def read(_: int) -> None:
        for _ in range(200):
            Slow()
            READERS[reader](tmp_path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickled_objects_are_refused(name: str, tmp_path: Path) -> None:
    objects = np.array([{}], dtype=object)
    if name == "a.npy":
        np.save(tmp_path / name, objects)
    else:
        np.savez(tmp_path / name, a=objects)
    with pytest.raises(ValueError, match="allow_pickle"):
        (read_array if name == "a.npy" else read_arrays)(tmp_path / name)
