"""What a site holds on disk of a live session: ``private/work/live``, until the trees are released."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from folkmoot.wire import digest
from site_tasks.prepared import read_json, write_json

__all__ = ["Kept"]


@dataclass(frozen=True)
class Kept:
    """The folder of one run, round and incoming model.

    Parameters
    ----------
    folder : Path
        Made when it is first needed.
    prepared : str
        Digest of the prepared rows; trees of other rows are not found again.
    """

    folder: Path
    prepared: str

    def keep(self, trees: bytes, figures: Mapping[str, NDArray[np.float32]]) -> None:
        """Write a session's trees, which must have been checked, and their figures down."""
        numbers = {name: array.tolist() for name, array in figures.items()}
        values = {"prepared": self.prepared, "trees": trees.decode("ascii"), "figures": numbers}
        write_json(self.folder / "kept.json", values)

    def have(self) -> tuple[str, bytes] | None:
        """Digest and bytes of the trees that an earlier attempt left."""
        values = read_json(self.folder / "kept.json") or {}
        if values.get("prepared") != self.prepared:
            return None
        trees = str(values["trees"]).encode("ascii")
        return digest(trees), trees

    def figures(self) -> dict[str, NDArray[np.float32]]:
        """Gain and cover of the trees that are here; none where an older version left them."""
        values = read_json(self.folder / "kept.json") or {}
        return {
            name: np.asarray(numbers, np.float32)
            for name, numbers in values.get("figures", {}).items()
        }

    def forget(self) -> None:
        """Remove all of it: the trees were released."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def attempt(self) -> Iterator[Path]:
        """A folder for keys and margins that is gone with the attempt, or with the next one."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self.folder.glob(".attempt-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=".attempt-")).absolute()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
