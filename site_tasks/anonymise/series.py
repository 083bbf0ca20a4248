"""Versions of one dataset that must not be subtracted from each other.

Whoever holds two releases can compare them: who came, who went, and which class a person was in
before.  So a series of releases grows by whole classes only, as m-invariance asks (Xiao & Tao, SIGMOD
2007), without its counterfeits:

* a row that was released keeps its class and cells for good;
* new rows are anonymised among themselves: they appear in classes of at least k new rows, or wait;
* a class that lost a row is retired: the rows left of it are suppressed from then on.

Then everybody shares their whole history with k - 1 others.  The state is private to the site.  It
holds a keyed hash and a class per row that was ever released; an earlier version anonymised again
comes out as it did.  Its parameters are fixed: other params are another series, whose releases
*can* be compared with this one's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import DataError
from site_tasks.anonymise.models import Model, settled
from site_tasks.arrays import read_arrays

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "NEW",
    "RETIRED",
    "Classes",
    "Keys",
    "Series",
    "difference",
    "intersections",
    "row_hashes",
    "row_keys",
    "series_name",
    "settle",
]

Keys = NDArray[np.uint64]
Classes = NDArray[np.int64]
#: Class of a row that is new, and of one whose class was retired.
NEW, RETIRED = -1, -2
_NEVER = np.iinfo(np.int32).max
_FORMAT = 1
_MIX = np.uint64(0x9E3779B97F4A7C15)


def series_name(secret: bytes, *parts: bytes) -> str:
    """File name of a series: keyed, so that it tells nothing."""
    return hmac.digest(secret, b"folkmoot series\x00" + b"\x00".join(parts), "sha256").hex()[:32]


def row_keys(hashes: Sequence[Keys]) -> Keys:
    """Keys of a table's rows: equal rows are told apart by their order; O(n log n).

    Parameters
    ----------
    hashes : sequence of ndarray of uint64
        Of :func:`row_hashes`, chunk by chunk.
    """
    whole: Keys = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    order = np.argsort(whole, kind="stable")
    ranked = whole[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    rank: Keys = np.empty(len(whole), np.uint64)
    runs = np.diff(np.append(starts, len(whole)))
    rank[order] = (np.arange(len(whole)) - np.repeat(starts, runs)).astype(np.uint64)
    return np.asarray(whole + rank * _MIX)  # wraps


def row_hashes(frame: pd.DataFrame, secret: bytes) -> Keys:
    """64-bit hashes of a chunk's rows, salted with the site's secret; shape (n,)."""
    import pandas as pd

    salt = hmac.digest(secret, b"folkmoot series row", "sha256")
    # SipHash over text takes a key of 16 bytes; numbers are mixed with 8 of them.
    key = hashlib.sha256(salt).hexdigest()[:16]
    found: Keys = np.full(len(frame), int.from_bytes(salt[:8], "big"), np.uint64)
    for name in sorted(map(str, frame.columns)):
        column = pd.util.hash_pandas_object(frame[name], index=False, hash_key=key, categorize=True)
        found = np.asarray((found ^ column.to_numpy()) * _MIX, np.uint64)
        found = found ^ (found >> np.uint64(29))
    return found


@dataclass
class Series:
    """What was released so far.

    Parameters
    ----------
    versions : list of str
        Fingerprints in the order in which they were anonymised.
    keys : ndarray of uint64, shape (rows ever released,)
        Sorted.
    classes : ndarray of int64, shape (rows ever released,)
        Class of each, numbered over all versions.
    since, retired : ndarray of int32, shape (classes,)
        Version in which a class appeared, and from which on it is suppressed.
    cells : dict of str to ndarray, each of shape (classes, …)
        Cells of the classes, as the engine gave them; empty where cells follow from values.
    """

    versions: list[str] = field(default_factory=list)
    keys: Keys = field(default_factory=lambda: np.zeros(0, np.uint64))
    classes: Classes = field(default_factory=lambda: np.zeros(0, np.int64))
    since: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    retired: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    cells: dict[str, NDArray[Any]] = field(default_factory=dict)

    @staticmethod
    def load(path: Path) -> Series:
        """Read a state; an empty one where there is no file.

        Raises
        ------
        DataError
            ``data.version`` for a damaged file: going on without it could undo what it protects.
        """
        if not path.exists():
            return Series()
        try:
            values = read_arrays(path)
            if int(values.pop("format")) != _FORMAT:
                raise ValueError
            versions = [str(name) for name in values.pop("versions").tolist()]
            own = {name: values.pop(name) for name in ("keys", "classes", "since", "retired")}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise DataError(
                "data.version",
                f"The record of earlier anonymised versions, private/series/{path.name}, is damaged.",
                "Restore it from the site's backup, or begin a new series: raise "
                "anonymisation.pseudonym_epoch.",
            ) from None
        return Series(versions, **own, cells=values)

    def save(self, path: Path) -> None:
        """Write the state whole or not at all, readable by the site's user alone."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                arrays: dict[str, Any] = {
                    "format": np.int64(_FORMAT),
                    "versions": np.array(self.versions, dtype="U"),
                    "keys": self.keys,
                    "classes": self.classes,
                    "since": self.since,
                    "retired": self.retired,
                    **self.cells,
                }
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @property
    def count(self) -> int:
        """Number of classes so far."""
        return len(self.since)

    def enter(self, fingerprint: str, keys: Keys) -> tuple[Classes, bool]:
        """Classes of a version's rows; retires those that lost rows where the version is new.

        Parameters
        ----------
        fingerprint : str
            Of the dataset version.
        keys : ndarray of uint64, shape (n,)
            Of :func:`row_keys`.

        Returns
        -------
        classes : ndarray of int64, shape (n,)
            Class of every row, :data:`NEW` or :data:`RETIRED`.
        fresh : bool
            Whether the version was not seen before: its new rows may then be added, and must wait
            otherwise.
        """
        at = np.minimum(np.searchsorted(self.keys, keys), max(len(self.keys) - 1, 0))
        found = np.full(len(keys), NEW, np.int64)
        if len(self.keys):
            known = self.keys[at] == keys
            found[known] = self.classes[at[known]]
        fresh = fingerprint not in self.versions
        if fresh:
            self.versions.append(fingerprint)
            whole = np.bincount(self.classes, minlength=self.count)
            here = np.bincount(found[found >= 0], minlength=self.count)
            lost = (here < whole) & (self.retired == _NEVER)
            self.retired[lost] = len(self.versions) - 1
        version = self.versions.index(fingerprint)
        old = np.flatnonzero(found >= 0)
        of = found[old]
        found[old[self.retired[of] <= version]] = RETIRED
        found[old[self.since[of] > version]] = NEW  # it waited then
        return found, fresh

    def later(self, fingerprint: str) -> bool:
        """Whether a version is not the first."""
        return self.versions.index(fingerprint) > 0

    def retire(self, classes: Classes) -> None:
        """Suppress classes from the last version on."""
        chosen = np.unique(classes)
        later = np.int32(len(self.versions) - 1)
        self.retired[chosen] = np.minimum(self.retired[chosen], later)

    def add(self, keys: Keys, classes: Classes, cells: dict[str, NDArray[Any]]) -> Classes:
        """Add classes of new rows, in the last version; returns their classes in the series.

        Parameters
        ----------
        keys : ndarray of uint64, shape (m,)
            Rows to release, new ones.
        classes : ndarray of int64, shape (m,)
            Their classes, from 0.
        cells : dict of str to ndarray
            Cells of these classes.
        """
        count = int(classes.max(initial=-1)) + 1
        numbered: Classes = classes.astype(np.int64) + self.count
        merged = np.concatenate([self.keys, keys])
        order = np.argsort(merged, kind="stable")
        self.keys = merged[order]
        self.classes = np.concatenate([self.classes, numbered])[order]
        self.since = np.append(self.since, np.full(count, len(self.versions) - 1, np.int32))
        self.retired = np.append(self.retired, np.full(count, _NEVER, np.int32))
        for name, values in cells.items():
            before = self.cells.get(name)
            self.cells[name] = values if before is None else np.concatenate([before, values])
        return numbered


def settle(
    series: Series,
    classes: Classes,
    sensitive: NDArray[np.int32],
    values: int,
    models: Sequence[Model],
) -> None:
    """Suppress classes that do not hold beside all others, the older ones included.

    Parameters
    ----------
    series : Series
        Retires them.
    classes : ndarray of int64, shape (n,)
        Class of every row; changed in place.
    sensitive : ndarray of int32, shape (n,)
        Sensitive codes below ``values``.
    models : sequence of Model
        Of sensitive values and sizes.
    """
    kept = classes >= 0
    used, numbered = np.unique(classes[kept], return_inverse=True)
    flat = numbered * values + sensitive[kept]
    counts = np.bincount(flat, minlength=len(used) * values).reshape(len(used), values)
    broken = used[~settled(models, counts)]
    if len(broken):
        series.retire(broken)
        classes[np.isin(classes, broken)] = RETIRED


def difference(series: Series, fingerprint: str, k: int) -> dict[str, int]:
    """What all releases up to a version reveal together; empty for the first of a series.

    Parameters
    ----------
    series : Series
        With that version entered.
    fingerprint : str
        Of the version.
    k : int
        Smallest class.

    Returns
    -------
    dict
        ``appeared`` and ``disappeared``: rows released in only one of this version and the one
        before; ``smallest``: candidates that the whole history leaves for the most exposed person;
        ``below_k``: people with fewer than k.
    """
    version = series.versions.index(fingerprint)
    if not version:
        return {}
    cell = _published(series)[series.classes]
    since, retired = series.since[series.classes], series.retired[series.classes]
    seen = [np.where((since <= v) & (v < retired), cell, -1) for v in range(version + 1)]
    candidates = intersections(*seen)
    people = candidates[candidates > 0]
    before, now = seen[-2] >= 0, seen[-1] >= 0
    return {
        "appeared": int(np.count_nonzero(now & ~before)),
        "disappeared": int(np.count_nonzero(before & ~now)),
        "smallest": int(people.min(initial=np.iinfo(np.int64).max)) if len(people) else 0,
        "below_k": int(np.count_nonzero(people < k)),
    }


def _published(series: Series) -> NDArray[np.int64]:
    """Number of each class's combination of cells; classes with equal cells look alike."""
    flat = [_whole(v.reshape(series.count, -1)) for _, v in sorted(series.cells.items())]
    if not flat or not series.count:
        return np.zeros(series.count, np.int64)
    _, inverse = np.unique(np.concatenate(flat, axis=1), axis=0, return_inverse=True)
    return np.asarray(inverse.reshape(-1), np.int64)


def _whole(values: NDArray[Any]) -> NDArray[np.int64]:
    """Cells as integers, equal where the cells are."""
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, np.float64).view(np.int64)
    return np.asarray(values.astype(np.int64))


def intersections(*releases: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many people share each person's history over releases; the attack on our own output.

    The attacker knows a person's quasi-identifiers and in which releases the person's row is, and
    can follow rows from release to release by their other columns: the worst case.

    Parameters
    ----------
    releases : ndarray of int64, each of shape (people,)
        Which published combination of cells everybody's row has in a release, -1 where in none.

    Returns
    -------
    ndarray of int64, shape (people,)
        Size of each person's set of candidates; 0 for people in no release.
    """
    table = np.stack(releases, axis=1)
    _, inverse, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    sizes = counts[inverse.reshape(-1)]
    return np.where((table >= 0).any(axis=1), sizes, 0)
