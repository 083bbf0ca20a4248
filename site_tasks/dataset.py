"""Dataset versions of a site, kept by DVC.

A version is DVC's hash (md5) of the Parquet file.  It leaves the site only as a fingerprint,
keyed with the site's secret, so that equal versions compare equal and nobody can test a guess.
Resolving a version reads DVC's pointer (``site_tasks.pointer``) and imports no DVC; adding,
pushing and fetching do.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from folkmoot.errors import DataError
from site_tasks.git import git
from site_tasks.pointer import commit_of, pointer_path, read_pointer, remember, verify
from site_tasks.storage import fetch, holds, push, repository, room

if TYPE_CHECKING:
    import pandas as pd

    from site_tasks.home import SiteHome

__all__ = [
    "DatasetVersion",
    "add",
    "fingerprint",
    "note_version",
    "record",
    "resolve",
    "status",
]


@dataclass(frozen=True)
class DatasetVersion:
    """One version of a site's dataset.

    Parameters
    ----------
    path : Path
        Parquet file with exactly these rows.
    md5 : str
        DVC's hash; private to the site.
    revision : str or None
        Git commit of the site's repository that recorded it; None where not committed yet.
    fingerprint : str
        HMAC-SHA256 (hex) of the hash under the site's secret: the only form that leaves.
    """

    path: Path
    md5: str
    revision: str | None
    fingerprint: str


def fingerprint(home: SiteHome, md5: str) -> str:
    """Keyed fingerprint of a DVC hash: HMAC-SHA256(secret, "dataset" || hash), hex."""
    return hmac.new(home.secret(), b"dataset" + md5.encode(), hashlib.sha256).hexdigest()


def add(
    home: SiteHome, data: pd.DataFrame | Path | str, message: str, *, move: bool = False
) -> DatasetVersion:
    """Make ``data`` the site's dataset: ``dvc add``, ``dvc push``, ``git commit``.

    Rows that are already the dataset make no new version.

    Parameters
    ----------
    home : SiteHome
        The site.
    data : DataFrame or path
        Rows, or a Parquet file of them.
    message : str
        Subject of the commit in the site's repository.
    move : bool
        Whether a file may be moved rather than copied.

    Returns
    -------
    DatasetVersion

    Raises
    ------
    DataError
        ``data.missing`` for no rows, ``data.unreadable`` for no Parquet file; the former version
        stays in place.
    TransientError
        Where the disk is full, another process holds DVC's lock, or the remote does not answer
        (the version is then committed, and ``folkmoot site refresh`` pushes it).
    """
    target = home.dataset
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with room(home):
            _write(data, part, home.name, move)
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return record(home, message)


def record(home: SiteHome, message: str) -> DatasetVersion:
    """Record the file that lies at the dataset's path as it is now; raises as :func:`add`."""
    target = home.dataset
    _rows(target, home.name)
    with repository(home) as repo:
        repo.add(str(target))
        recorded = (pointer_path(home), note_version(home), target.parent / ".gitignore")
        git(home.root, "add", "--", *map(str, recorded))
        if git(home.root, "diff", "--cached", "--quiet", check=False) is None:
            git(home.root, "commit", "--quiet", "-m", message)
        push(home, repo)
    remember(home, target, read_pointer(home)[0])
    return resolve(home)


def note_version(home: SiteHome) -> Path:
    """Write the fingerprint of the version in use beside the dataset, as ``dataset.version``.

    A pipeline of the coordinator can watch this file for new versions: the hash in DVC's own
    pointer would let anyone test a guess of the dataset.  It is committed with the pointer, so
    that a checkout brings both.

    Raises
    ------
    DataError
        ``data.missing`` where the site has no dataset.
    """
    pinned = home.settings.dataset.revision
    md5, _ = read_pointer(home, None if pinned is None else commit_of(home, pinned))
    path = home.dataset.with_suffix(".version")
    text = fingerprint(home, md5) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    return path


def resolve(home: SiteHome, revision: str | None = None) -> DatasetVersion:
    """Find the rows of a dataset version and make sure that they are those DVC recorded.

    The working copy costs a look at size and time of change where the file was verified before;
    O(bytes) otherwise.  A version that is not on this disk is fetched from the site's remote.

    Parameters
    ----------
    home : SiteHome
        The site.
    revision : str, optional
        Git revision of the site's repository; ``dataset.revision`` of ``site.toml`` by default,
        and the working copy where that is absent too.

    Returns
    -------
    DatasetVersion

    Raises
    ------
    DataError
        ``data.missing`` where the site has no dataset, ``data.version`` where the file differs
        from what DVC recorded or the revision is unknown.
    """
    revision = revision or home.settings.dataset.revision
    if revision is None:
        md5, size = read_pointer(home)
        path = home.dataset
        if not path.exists():
            fetch(home, md5, path)
        verify(home, path, md5, size)
        note_version(home)
        pointer = str(pointer_path(home).relative_to(home.root))
        commit = git(home.root, "log", "-1", "--format=%H", "--", pointer, check=False)
        return DatasetVersion(path, md5, commit or None, fingerprint(home, md5))
    commit = commit_of(home, revision)
    md5, size = read_pointer(home, commit)
    path = home.dataset
    if not (path.exists() and pointer_path(home).exists() and read_pointer(home)[0] == md5):
        path = home.work / "versions" / f"{md5}{home.dataset.suffix}"
        if not path.exists():
            fetch(home, md5, path)
    verify(home, path, md5, size)
    if revision == home.settings.dataset.revision:
        note_version(home)
    return DatasetVersion(path, md5, commit, fingerprint(home, md5))


def status(home: SiteHome) -> bool:
    """Whether the site's DVC remote answers and holds the recorded dataset; imports DVC.

    Raises
    ------
    DataError
        ``data.missing`` where there is no dataset.
    TransientError
        ``transient.remote`` where the remote does not answer.
    """
    return holds(home, read_pointer(home)[0])


def _write(data: pd.DataFrame | Path | str, path: Path, site: str, move: bool) -> None:
    """Write rows as Parquet; a file of no rows or of another format is refused."""
    if isinstance(data, str | Path):
        source = Path(data)
        _rows(source, site)
        if move:
            shutil.move(source, path)
        else:
            shutil.copyfile(source, path)
    elif len(data) == 0:
        raise _empty(site)
    else:
        data.to_parquet(path, index=False)


def _rows(path: Path, site: str) -> int:
    """Rows of a Parquet file, from its footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = int(pq.read_metadata(path).num_rows)
    except FileNotFoundError:
        raise DataError(
            "data.missing", f"{path} does not exist.", "Name an existing file.", site=site
        ) from None
    except (OSError, pa.ArrowInvalid):
        raise DataError(
            "data.unreadable",
            f"{path} is not a whole Parquet file.",
            "Name a Parquet file, or a CSV file with its contract.",
            site=site,
        ) from None
    if rows == 0:
        raise _empty(site)
    return rows


def _empty(site: str) -> DataError:
    return DataError(
        "data.missing", "The dataset holds no rows.", "Add a dataset with rows.", site=site
    )
