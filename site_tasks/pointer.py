"""DVC's pointer to a dataset, read without DVC, and whether a file is what it points to.

The pointer (``dataset.parquet.dvc``) is a small YAML file with the hash and size that DVC recorded,
in the working copy or at a commit of the site's repository.  A file that was hashed once is known
by its size, time of change and inode afterwards, so that resolving a version costs a look.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from folkmoot.errors import DataError
from site_tasks.git import git

if TYPE_CHECKING:
    from site_tasks.home import SiteHome

__all__ = ["commit_of", "pointer_path", "read_pointer", "remember", "verify"]

_MD5 = re.compile(r"[0-9a-f]{32}")


def pointer_path(home: SiteHome) -> Path:
    """The pointer beside the dataset in the working copy."""
    return home.dataset.with_name(home.dataset.name + ".dvc")


def read_pointer(home: SiteHome, revision: str | None = None) -> tuple[str, int | None]:
    """Hash and size that DVC recorded, in the working copy or at a commit.

    Raises
    ------
    DataError
        ``data.missing`` where there is no pointer, ``data.version`` where it is damaged.
    """
    path = pointer_path(home)
    text: str | None
    if revision is None:
        text = path.read_text(encoding="utf-8") if path.exists() else None
    else:
        name = path.relative_to(home.root).as_posix()
        text = git(home.root, "show", f"{revision}:{name}", check=False)
    if text is None:
        raise DataError(
            "data.missing",
            f"Site {home.name} has no dataset: there is no {path.name}.",
            f"Add one with `folkmoot site refresh {home.name} --data FILE`.",
            site=home.name,
        )
    try:
        out = yaml.safe_load(text)["outs"][0]
        md5, size = str(out["md5"]), out.get("size")
    except (yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError):
        md5, size = "", None
    if not _MD5.fullmatch(md5):
        raise DataError(
            "data.version",
            f"{path.name} of site {home.name} is not a DVC pointer to one file.",
            "Restore it with `git checkout` in the site's folder.",
            site=home.name,
        )
    return md5, size if isinstance(size, int) else None


def commit_of(home: SiteHome, revision: str) -> str:
    """Hash of the commit that a revision names; `DataError` ``data.version`` where there is none."""
    commit = git(
        home.root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False
    )
    if not commit:
        raise DataError(
            "data.version",
            f"The repository of site {home.name} has no revision {revision}.",
            "Name a commit or tag that `git log` shows in the site's folder.",
            site=home.name,
        )
    return commit


def verify(home: SiteHome, path: Path, md5: str, size: int | None) -> None:
    """Refuse a file that differs from what DVC recorded; O(bytes) the first time, then a look.

    Raises
    ------
    DataError
        ``data.version``.
    """
    known = _stamp(path)
    if _remembered(home).get(path.name) == [md5, *known]:
        return
    if size is not None and known[0] != size:
        raise _differs(home)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise _differs(home)
    remember(home, path, md5)


def _differs(home: SiteHome) -> DataError:
    return DataError(
        "data.version",
        f"The dataset of site {home.name} differs from the version that DVC recorded.",
        f"Record the change with `folkmoot site refresh {home.name}`, or undo it with "
        "`dvc checkout` in the site's folder.",
        site=home.name,
    )


def _stamp(path: Path) -> list[int]:
    info = path.stat()
    return [info.st_size, info.st_mtime_ns, info.st_ino]


def _remembered(home: SiteHome) -> dict[str, Any]:
    try:
        values = json.loads((home.work / "verified.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def remember(home: SiteHome, path: Path, md5: str) -> None:
    """Note that a file, as it is now, has this hash."""
    values = {**_remembered(home), path.name: [md5, *_stamp(path)]}
    home.work.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = home.work / f".verified-{os.getpid()}.part"
    part.write_text(json.dumps(values), encoding="utf-8")
    os.replace(part, home.work / "verified.json")
