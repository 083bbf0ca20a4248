"""The step ``columns``: what statistics count, as arrays beside the data; nothing of it leaves.

All rows count, held-out ones too, as they are in the validated dataset: dates and codes converted,
numbers held to their public bounds, categories as codes.  Direct identifiers are not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column, Contract
from folkmoot.conversion import convert
from folkmoot.errors import DataError
from folkmoot.exchange import ArtifactRef
from folkmoot.generalisation import bounds_of, generalise_categories, is_categorical
from folkmoot.params import Params
from folkmoot.plan import RunContext, Step
from folkmoot.statistics.questions import counted
from folkmoot.wire import canonical_json
from site_tasks import permissions
from site_tasks.arrays import read_array
from site_tasks.home import SiteHome
from site_tasks.prepared import read_json, write_folder, write_json

__all__ = ["Columns", "columns", "load_columns"]


@dataclass(frozen=True)
class Columns:
    """A site's rows as statistics see them.

    Parameters
    ----------
    rows : int
    fingerprint : str
        Keyed fingerprint of the dataset version.
    digest : str
        Name of the arrays: version, contract and columns.
    folder : Path
    """

    rows: int
    fingerprint: str
    digest: str
    folder: Path

    def values(self, column: Column) -> NDArray[np.float64]:
        """Numbers of a column within its public bounds, float64 (rows,), NaN where missing."""
        found: NDArray[np.float64] = self._load(column)
        return found

    def codes(self, column: Column) -> NDArray[np.int32]:
        """Categories of a column, int32 (rows,), -1 where missing."""
        found: NDArray[np.int32] = self._load(column)
        return found

    def _load(self, column: Column) -> Any:
        return read_array(self.folder / f"{_file(column)}.npy")


def columns(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Make the arrays, and release a signed receipt with the dataset's keyed fingerprint.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted`` for what the steward does not permit.
    DataError
        ``data.too-few-rows`` below the site's ``minimum_rows``; as the validation.
    """
    from site_tasks.release import release

    home = SiteHome.find(step.place, context.workspace)
    permissions.check(context, home)
    fingerprint, digest = _found(context, home)
    return [
        release(
            step,
            context,
            home,
            key=step.outputs[0],
            inputs=[fingerprint, digest],
            make=dict,
            fingerprint=fingerprint,
        )
    ]


def _found(context: RunContext, home: SiteHome) -> tuple[str, str]:
    if _tables(context.params):
        made = load_columns(context, home)
        return made.fingerprint, made.digest
    from site_tasks.prepare import dataset_of  # schema or overlap alone: no row is counted here

    fingerprint, _ = dataset_of(context, home)
    return fingerprint, ""


def _tables(params: Params) -> bool:
    return bool(set(params.statistics.ask) - {"schema", "overlap"})


def load_columns(context: RunContext, home: SiteHome) -> Columns:
    """The arrays of the run's dataset version; made where they are not there.

    Raises
    ------
    DataError
        ``data.too-few-rows``; as ``site_tasks.validate``.
    """
    from site_tasks.prepare import dataset_of, validated_table

    fingerprint, _ = dataset_of(context, home)
    wanted = counted(context.params, context.contract)
    digest = hashlib.sha256(
        canonical_json([fingerprint, context.contract.digest(), [c.name for c in wanted]])
    ).hexdigest()
    folder = home.work / "columns" / digest
    about = read_json(folder / "columns.json")
    if about is None:
        path = validated_table(context, home)
        with write_folder(folder) as part:
            rows = _write(path, part, context.contract, wanted)
            write_json(part / "columns.json", {"rows": rows})
        about = {"rows": rows}
    least = home.settings.permissions.minimum_rows
    if about["rows"] < least:
        raise DataError(
            "data.too-few-rows",
            f"Fewer than {least} rows, the least that site.toml permits "
            "(permissions.minimum_rows).",
            "Add rows, or lower permissions.minimum_rows.",
            site=home.name,
        )
    return Columns(int(about["rows"]), fingerprint, digest, folder)


def _write(path: Path, folder: Path, contract: Contract, wanted: tuple[Column, ...]) -> int:
    """Arrays of the columns; memory O(rows) of one column type at a time per chunk."""
    from site_tasks.table import chunks

    original = {column.name: column for column in contract.columns}
    parts: Mapping[str, list[NDArray[Any]]] = {column.name: [] for column in wanted}
    rows = 0
    for frame in chunks(path, list(parts)):
        rows += len(frame)
        for column in wanted:
            series = convert(frame[column.name], original[column.name])
            if is_categorical(column):
                parts[column.name].append(generalise_categories(series, column, 0)[0])
            else:
                values = series.to_numpy(np.float64, na_value=np.nan)
                parts[column.name].append(np.clip(values, *bounds_of(column)))
    for column in wanted:
        np.save(folder / f"{_file(column)}.npy", np.concatenate(parts[column.name]))
    return rows


def _file(column: Column) -> str:
    """Names of columns may hold anything; files are named by their hash."""
    return hashlib.sha256(column.name.encode()).hexdigest()[:32]
