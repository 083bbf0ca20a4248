"""Published files: from a folder that the user names, else downloaded once and checked by md5."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from folkmoot.errors import ConfigError, DataError
from folkmoot.params import Data

__all__ = ["cache_folder", "source_files"]

_TIMEOUT = 30


def source_files(data: Data, published: Mapping[str, tuple[str, str]]) -> dict[str, Path]:
    """Find a recipe's files.

    Looked for in ``data.path``, in ``$FOLKMOOT_DATA/<recipe>`` and in the cache, in this order; a
    file that is in none of them is downloaded into the cache.  Only downloaded files are compared
    with the published md5: a folder that the user names is the user's word.

    Parameters
    ----------
    data : Data
        ``params.data``.
    published : mapping of str to (str, str)
        URL and md5 by file name.

    Returns
    -------
    dict of str to Path

    Raises
    ------
    ConfigError
        ``config.missing-file`` where a named folder lacks a file, ``config.network`` where a
        download fails.
    DataError
        ``data.digest`` where a downloaded file does not have the published md5.
    """
    folder = _named_folder(data)
    if folder is None:
        cache = cache_folder() / str(data.recipe)
        return {name: _cached(cache / name, *source) for name, source in published.items()}
    lacking = [name for name in published if not (folder / name).is_file()]
    if lacking:
        raise ConfigError(
            "config.missing-file",
            f"{folder} lacks files of recipe {data.recipe}: {', '.join(lacking)}.",
            "Put them there, or leave data.path and FOLKMOOT_DATA empty to download them.",
        )
    return {name: folder / name for name in published}


def cache_folder() -> Path:
    """``$FOLKMOOT_CACHE``, else ``folkmoot`` in the user's cache folder."""
    own = os.environ.get("FOLKMOOT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "folkmoot"


def _named_folder(data: Data) -> Path | None:
    if data.path is not None:
        return Path(data.path)
    shared = os.environ.get("FOLKMOOT_DATA")
    folder = Path(shared) / str(data.recipe) if shared else None
    return folder if folder is not None and folder.is_dir() else None


def _cached(path: Path, url: str, md5: str) -> Path:
    if path.is_file() and _md5(path) == md5:
        return path
    import urllib.request

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        answer = urllib.request.urlopen(url, timeout=_TIMEOUT)  # noqa: S310 - a constant https URL
        with answer, part.open("wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
        if _md5(part) != md5:
            raise DataError(
                "data.digest",
                f"{url} does not have the published md5 {md5}.",
                "Try again, or get the file elsewhere and name its folder in data.path.",
            )
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(
            "config.network",
            f"{url} could not be downloaded ({type(error).__name__}).",
            "Allow the download, or put the files into a folder and name it in data.path.",
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return path


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
