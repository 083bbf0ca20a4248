"""Backup and restore of a site's folder: settings, keys, ledger, releases, repository.

The dataset's bytes are in the site's DVC remote, which has a backup of its own.  A ledger that comes
back older than it was is found out: the coordinator has countersigned its newest entry, and the site
refuses to release until that entry is there (``site_tasks.anchor``).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

from folkmoot.errors import ConfigError, FolkmootError, ProtocolError
from site_tasks.home import SiteHome
from site_tasks.persist import read_stored

__all__ = ["backup", "restore"]

#: Made anew from dataset and keys.
_LEFT_OUT = ("private/work", "private/airflow", "private/dvc", ".dvc/cache", ".dvc/tmp")


def backup(home: SiteHome, target: Path) -> int:
    """Write a backup (mode 0600) of a site's folder; returns the number of files in it.

    It holds the site's keys: keep it as you keep the site.

    Raises
    ------
    ConfigError
        Where the target exists.
    """
    if target.exists():
        raise ConfigError("config.invalid", f"{target} exists.", "Name a new file.", site=home.name)
    data = home.root / home.settings.dataset.path
    part = target.with_name(target.name + ".part")
    count = 0
    with (
        tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".backup-") as folder,
        os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out,
        tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar,
    ):
        for path in sorted(home.root.rglob("*")):
            name = path.relative_to(home.root).as_posix()
            skipped = any(name == left or name.startswith(f"{left}/") for left in _LEFT_OUT)
            if skipped or path == data or not path.is_file() or path.is_symlink():
                continue
            if name.endswith((".part", ".lock", "-wal", "-shm")):
                continue
            source = path
            if path.suffix == ".sqlite":  # as of one moment, with its write-ahead log
                source = Path(folder) / "copy.sqlite"
                source.unlink(missing_ok=True)
                with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(source)) as new:
                    old.backup(new)
                shutil.copymode(path, source)
            if path.parent == home.releases and not path.name.startswith("."):
                whole = read_stored(path)
                if whole is None:
                    continue  # it can be made again, and its file is another release's by now
                source = Path(folder) / "release"
                source.write_bytes(whole)
                source.chmod(0o600)
            tar.add(source, name, recursive=False)
            count += 1
    os.replace(part, target)
    return count


def restore(source: Path, root: Path) -> SiteHome:
    """Bring a site back into a folder that does not exist yet, and verify its ledger.

    Afterwards `dvc pull` brings the dataset, and `folkmoot doctor --site NAME` looks at everything.

    Raises
    ------
    ConfigError
        Where the folder exists.
    ProtocolError
        ``protocol.digest`` for a damaged backup; no folder is left.
    PrivacyError
        ``privacy.ledger`` where the ledger in it does not hold; the folder is left to be looked at.
    """
    if root.exists():
        raise ConfigError(
            "config.invalid",
            f"{root} exists.",
            "Restore into a new folder; move the present one aside.",
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.absolute().parent, prefix=".restore-") as folder:
        stage = Path(folder) / "site"
        stage.mkdir(mode=0o700)
        try:
            with tarfile.open(source) as tar:
                tar.extractall(stage, filter="data")
            home = SiteHome(stage)
        except (OSError, EOFError, tarfile.TarError, FolkmootError):
            raise ProtocolError(
                "protocol.digest",
                f"{source} is no whole backup of a site.",
                "Take another backup; nothing was restored.",
            ) from None
        # Whatever the modes were where the backup was made: these are the owner's alone.
        for path in (stage / "site.toml", stage / "private", *(stage / "private").rglob("*")):
            if path.exists():
                path.chmod(0o700 if path.is_dir() else 0o600)
        os.replace(stage, root)
    home = SiteHome(root)
    if home.ledger_path.exists():
        from site_tasks.release import open_ledger

        open_ledger(home).verify()
    return home
