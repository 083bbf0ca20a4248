"""A site's DVC repository: the only module of a site that knows DVC.

Everything DVC keeps of the data, hashes too, stays inside the site's folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.errors import ConfigError, DataError, FolkmootError, TransientError

if TYPE_CHECKING:
    from site_tasks.home import SiteHome

__all__ = ["fetch", "holds", "init_repository", "push", "repository", "room"]

_ENVIRONMENT = threading.Lock()


def init_repository(root: Path, remote: str) -> None:
    """``dvc init`` with a default remote; analytics and update checks off.  Repeatable.

    Parameters
    ----------
    root : Path
        The site's folder, a git repository already.
    remote : str
        URL of the remote, or a folder relative to ``root``.
    """
    Repo = _dvc()
    with _private_cache(root):
        repo = Repo(str(root)) if (root / ".dvc" / "config").exists() else Repo.init(str(root))
        try:
            from dvc.config_schema import RelPath

            url = remote
            if "://" not in remote and not os.path.isabs(remote):
                # Stays relative in the file, so that a workspace can be moved.
                folder = Path(os.path.normpath(root / remote))
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                url = RelPath(folder)
            with repo.config.edit("repo", validate=False) as config:
                config["core"] = {
                    "analytics": False,
                    "check_update": False,
                    "autostage": True,
                    "remote": "storage",
                }
                config["remote"] = {"storage": {"url": url}}
            with repo.config.edit("local", validate=False) as config:
                config["core"] = {"site_cache_dir": str(root / "private" / "dvc")}
        finally:
            repo.close()
    ignore = root / ".dvcignore"
    if "/private" not in ignore.read_text(encoding="utf-8"):
        with ignore.open("a", encoding="utf-8") as file:
            file.write("/private\n/site.toml\n")


def _dvc() -> Any:
    try:
        from dvc.repo import Repo
    except ImportError:
        raise ConfigError(
            "config.installation",
            "DVC is not installed, and the site's dataset needs it.",
            "Install the site extra: uv pip install -e '.[site]'.",
        ) from None
    import logging

    for name in ("dvc", "dvc_data", "dvc_objects"):  # they print hashes of the dataset
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return Repo


@contextmanager
def _private_cache(root: Path) -> Iterator[None]:
    """Keep DVC's index and state, which hold hashes of the data, inside the site's folder."""
    with _ENVIRONMENT:
        before = os.environ.get("DVC_SITE_CACHE_DIR")
        os.environ["DVC_SITE_CACHE_DIR"] = str(root / "private" / "dvc")
        try:
            yield
        finally:
            if before is None:
                del os.environ["DVC_SITE_CACHE_DIR"]
            else:
                os.environ["DVC_SITE_CACHE_DIR"] = before


@contextmanager
def repository(home: SiteHome) -> Iterator[Any]:
    """The site's open DVC ``Repo``; what DVC and the disk say is told as the site's own errors.

    Raises
    ------
    TransientError
        ``transient.locked`` where another process works in it, ``transient.disk-full``.
    DataError
        ``data.version`` where DVC fails.
    """
    Repo = _dvc()
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        with room(home), _private_cache(home.root), Repo(str(home.root)) as repo:
            yield repo
    except LockError:
        raise TransientError(
            "transient.locked",
            f"Another process works in the DVC repository of site {home.name}.",
            "Wait until it is done and start again.",
            site=home.name,
        ) from None
    except FolkmootError:
        raise
    except DvcException as error:
        raise DataError(
            "data.version",
            f"DVC failed in the repository of site {home.name} ({type(error).__name__}).",
            "Run `dvc status` in the site's folder and mend what it reports.",
            site=home.name,
        ) from None


@contextmanager
def room(home: SiteHome) -> Iterator[None]:
    """Tell a full disk as `TransientError` ``transient.disk-full``."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise TransientError(
            "transient.disk-full",
            f"No space is left for the dataset of site {home.name}; the former version stands.",
            "Free space at the site and start again.",
            site=home.name,
        ) from None


def push(home: SiteHome, repo: Any) -> None:
    """Push every version in DVC's cache: one that an earlier push missed is made good."""
    from dvc_data.hashfile.hash_info import HashInfo

    try:
        versions = [HashInfo("md5", oid) for oid in repo.cache.local.all()]
        failed = bool(repo.cloud.push(versions).failed)
    except Exception:  # every kind of remote has its own exceptions
        failed = True
    if failed:
        raise TransientError(
            "transient.remote",
            f"The DVC remote of site {home.name} did not take the dataset; it is committed, but "
            "has no second copy.",
            f"Check `dvc remote list` in the site's folder, and that the remote answers and has space "
            f"left; then run `folkmoot site refresh {home.name}`.",
            site=home.name,
        ) from None


def fetch(home: SiteHome, md5: str, path: Path) -> None:
    """Bring a version from DVC's cache, or the remote, to ``path``."""
    from dvc_data.hashfile.hash_info import HashInfo

    with repository(home) as repo:
        odb = repo.cache.local
        if not odb.exists(md5):
            try:
                repo.cloud.pull([HashInfo("md5", md5)])
            except Exception:  # every kind of remote has its own exceptions
                raise _gone(home) from None
        if not odb.exists(md5):
            raise _gone(home)
        source = odb.oid_to_path(md5)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    shutil.copyfile(source, part)
    os.replace(part, path)


def holds(home: SiteHome, md5: str) -> bool:
    """Whether the site's DVC remote answers and holds a version.

    Raises
    ------
    TransientError
        ``transient.remote`` where the remote does not answer.
    """
    with repository(home) as repo:
        try:
            return bool(repo.cloud.get_remote_odb(command="status").exists(md5))
        except Exception:  # every kind of remote has its own exceptions
            raise TransientError(
                "transient.remote",
                f"The DVC remote of site {home.name} does not answer.",
                "Check `dvc remote list` in the site's folder, its credentials and the network.",
                site=home.name,
            ) from None


def _gone(home: SiteHome) -> DataError:
    return DataError(
        "data.version",
        f"The dataset version of site {home.name} is neither on its disk nor on its DVC remote.",
        "Check the remote with `folkmoot doctor --site`, or record the dataset anew with "
        "`folkmoot site refresh`.",
        site=home.name,
    )
