"""The dataset version that a run uses at this site: resolved once, and the same bytes ever after."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from folkmoot.errors import DataError
from folkmoot.plan import RunContext
from site_tasks.home import SiteHome
from site_tasks.prepared import read_json, run_record, write_json

__all__ = ["dataset_file", "demand_unchanged", "record_of", "resolve_version"]


def resolve_version(
    context: RunContext, home: SiteHome, expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Resolve the version anew, and write it down for the run; O(1) where the file did not change.

    Raises
    ------
    DataError
        ``data.version`` where it is not the version of the record that is ``expected``.
    """
    from site_tasks.dataset import resolve

    found = resolve(home, home.settings.dataset.revision)
    if expected is not None and found.fingerprint != expected["fingerprint"]:
        raise _changed()
    record = {"fingerprint": found.fingerprint, "path": str(found.path), "stat": _stat(found.path)}
    path = run_record(context, home)
    if read_json(path) != record:
        write_json(path, record)
    return record


def record_of(context: RunContext, home: SiteHome) -> dict[str, Any]:
    """What was written down for the run: fingerprint, path and state of the file."""
    return read_json(run_record(context, home)) or resolve_version(context, home)


def dataset_file(record: Mapping[str, Any]) -> Path:
    """The file of a record; raises as :func:`demand_unchanged`."""
    demand_unchanged(record)
    return Path(record["path"])


def demand_unchanged(record: Mapping[str, Any]) -> None:
    """The bytes that are read must be those whose version was resolved.

    Raises
    ------
    DataError
        ``data.missing`` or ``data.version``.
    """
    path = Path(record["path"])
    if not path.exists():
        raise DataError(
            "data.missing",
            f"The dataset {path.name} does not exist.",
            "Add one with `folkmoot site refresh`, or fetch the recorded version with `dvc pull`.",
        )
    if _stat(path) != record["stat"]:
        raise _changed()


def _stat(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def _changed() -> DataError:
    return DataError(
        "data.version",
        "The dataset changed after this run had resolved its version.",
        "Restore the version with `dvc checkout`, or start a new run on the new version.",
    )
