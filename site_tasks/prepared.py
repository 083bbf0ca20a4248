"""Where a site keeps what it prepared, and how training reads it.

Everything lies in the site's private ``work`` folder under names derived from the keyed dataset
fingerprint, the contract and the params that matter (:class:`Stages`), so that an unchanged
dataset version and unchanged params find their prepared rows at once, without pandas or pyarrow::

    work/runs/<federation>--<run>.json          dataset version that a run resolved
    work/validated/<stage>/report.json
    work/anonymised/<stage>/table.parquet       absent where the dataset already is that table
    work/anonymised/<stage>/outcome.npz, proof.json, risk.json, risk.html   with a privacy model
    work/encoded/<stage>/{train,test}.npy, -labels.npy, -weights.npy, prepared.json, statistics.bin
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import DataError, PrivacyError, RoundError
from folkmoot.features import FeatureSpace, feature_space
from folkmoot.params import Params
from folkmoot.plan import RunContext
from folkmoot.privacy.events import EXACT
from folkmoot.wire import canonical_json
from site_tasks.arrays import read_array, read_blocks
from site_tasks.home import SiteHome

__all__ = [
    "Part",
    "Prepared",
    "Stages",
    "accounted",
    "enough_rows",
    "hold_rows_limit",
    "load_prepared",
    "run_record",
    "write_folder",
]

Part = Literal["train", "test"]
#: Raised with every change to what the steps make of the same rows.
FORMAT = 3
#: Prepared versions kept per stage; older ones are made again when asked for.
KEEP = 4


@dataclass(frozen=True)
class Stages:
    """Name of each stage's result; equal names mean equal results.

    Derived from the *keyed* fingerprint, so that the names may enter a published release id
    without letting anyone test a guess of the dataset.
    """

    validated: str
    anonymised: str
    encoded: str

    @staticmethod
    def of(fingerprint: str, contract: Contract, params: Params) -> Stages:
        """Names for a dataset version under a contract and params; O(contract)."""
        validated = _name("validate", fingerprint, contract.digest())
        settings = params.anonymisation.stated()
        anonymised = _name("anonymise", validated, settings, accounted(params))
        privacy = params.privacy
        persons: tuple[object, ...] = ()
        if privacy.unit == "person" and privacy.clipping == "record":  # few rows of each are used
            persons = (privacy.person, privacy.rows_per_person)
        encoded = _name(
            "encode",
            anonymised,
            params.model.kind,
            params.data.holdout.stated(),
            params.data.precision,
            *persons,
        )
        return Stages(validated, anonymised, encoded)


def accounted(params: Params) -> bool:
    """Whether what leaves is noise with a budget, which composes over versions of a dataset.

    Otherwise earlier anonymised versions count (``site_tasks.anonymise.series``); they would leave
    the stability of suppression without a bound.
    """
    return params.privacy.mechanism not in EXACT


@dataclass(frozen=True)
class Prepared:
    """A site's rows as numbers.

    Parameters
    ----------
    features : FeatureSpace
        Names, types and public bounds of the d features.
    rows : dict
        Number of rows per part, ``train`` and ``test``.
    fingerprint : str
        Keyed fingerprint of the dataset version.
    digest : str
        Names dataset version, contract and preparation together (``Stages.encoded``).
    stability : int
        Most prepared rows that one row of the dataset adds, removes or changes (symmetric
        distance); multiplies the sensitivity of whatever is computed from them.  The number of rows
        where nothing else bounds it.
    folder : Path
        Private folder of the arrays.
    """

    features: FeatureSpace
    rows: dict[str, int]
    fingerprint: str
    digest: str
    stability: int
    folder: Path
    _open: dict[str, NDArray[Any]] = field(default_factory=dict, compare=False, repr=False)

    def matrix(self, part: Part) -> NDArray[Any]:
        """Features (n, d) of ``data.precision``, a read-only memory map; missing is NaN.

        Pages that are touched count as memory of the process: read large sites in slices.
        """
        return self._map(part)

    def labels(self, part: Part) -> NDArray[Any]:
        """Labels (n,): int64 class codes, or float64 for regression."""
        return self._map(f"{part}-labels")

    def weights(self, part: Part) -> NDArray[np.float64] | None:
        """Sample weights (n,), or None where the contract has no weight column."""
        name = f"{part}-weights"
        return self._map(name) if (self.folder / f"{name}.npy").exists() else None

    def blocks(
        self, part: Part, rows: int = 65_536
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]]:
        """Features, labels and weights in slices of ``rows``, read from disk; memory O(slice).

        Unlike slices of :meth:`matrix`, nothing stays mapped behind the iteration.
        """
        names = [part, f"{part}-labels"]
        if (self.folder / f"{part}-weights.npy").exists():
            names.append(f"{part}-weights")
        readers = [read_blocks(self.folder / f"{name}.npy", rows) for name in names]
        for arrays in zip(*readers, strict=True):
            yield arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None

    def _map(self, name: str) -> NDArray[Any]:
        if name not in self._open:
            self._open[name] = read_array(self.folder / f"{name}.npy", mapped=True)
        return self._open[name]


def hold_rows_limit(prepared: Prepared, context: RunContext, home: SiteHome) -> None:
    """Refuse more training rows than sums of gradients are exact for.

    Raises
    ------
    RoundError
        ``round.diverged``.
    """
    if prepared.rows["train"] > context.params.aggregation.rows_limit:
        raise RoundError(
            "round.diverged",
            "A site has more training rows than aggregation.rows_limit, for which sums are exact.",
            "Raise aggregation.rows_limit to the rows of the largest site.",
            site=home.name,
        )


def load_prepared(context: RunContext, home: SiteHome) -> Prepared:
    """Rows that the run's preparation left at the site; prepares them again where they are gone.

    Returns
    -------
    Prepared

    Raises
    ------
    DataError
        Where the run's dataset version can neither be found prepared nor be prepared again;
        ``data.too-few-rows`` below the site's ``minimum_rows``, whichever steps were asked for.
    """
    record = _resolved(context, home)
    if record is not None:
        name = ("stages", record["fingerprint"])
        if name not in context.cache:  # a run has one contract and one set of params
            context.cache[name] = Stages.of(*name[1:], context.contract, context.params)
        found = find_prepared(context, home, context.cache[name].encoded)
        if found is not None:
            enough_rows(found, home, context.params)
            return found
    from site_tasks.prepare import prepare_again  # imports this module

    made = prepare_again(context, home, record)
    enough_rows(made, home, context.params)
    return made


def enough_rows(prepared: Prepared, home: SiteHome, params: Params) -> None:
    """Refuse to release anything about too few training rows.

    Raises
    ------
    DataError
        ``data.too-few-rows`` below the site's ``minimum_rows``.
    PrivacyError
        ``privacy.mechanism`` where delta is more than one over the site's rows: a mechanism that gave
        one of them away whole would keep it.  The number itself is not told.
    """
    delta = min(params.privacy.delta, home.settings.permissions.delta)
    if params.privacy.mechanism == "gaussian" and delta * prepared.rows["train"] > 1:
        raise PrivacyError(
            "privacy.mechanism",
            f"Delta {delta:g} is more than one over the number of training rows: it would permit "
            "giving some of them away whole.",
            "Lower privacy.delta, or permissions.delta in site.toml.",
            site=home.name,
        )
    least = home.settings.permissions.minimum_rows
    if prepared.rows["train"] < least:
        raise DataError(
            "data.too-few-rows",
            f"Fewer than {least} training rows are left, the least that site.toml permits "
            "(permissions.minimum_rows).",
            "Add rows, hold out or suppress fewer, or lower permissions.minimum_rows.",
            site=home.name,
        )


def find_prepared(context: RunContext, home: SiteHome, digest: str) -> Prepared | None:
    """Prepared rows of a digest, or None; remembered in ``context.cache``."""
    remembered: Prepared | None = context.cache.get(("prepared", home.root, digest))
    if remembered is not None and remembered.folder.is_dir():
        return remembered
    folder = home.work / "encoded" / digest
    values = read_json(folder / "prepared.json")
    if values is None:
        return None
    space = feature_space(context.contract, context.params.anonymisation, context.params.model.kind)
    prepared = Prepared(
        features=space,
        rows=values["rows"],
        fingerprint=values["fingerprint"],
        digest=digest,
        stability=values["stability"],
        folder=folder,
    )
    with suppress(OSError):
        os.utime(folder)  # in use: the oldest folders are dropped first
    context.cache["prepared", home.root, digest] = prepared
    return prepared


def _resolved(context: RunContext, home: SiteHome) -> dict[str, Any] | None:
    """The run's record, read again where the file is another one than before."""
    name = ("run record", home.root)
    if name not in context.cache:
        context.cache[name] = str(run_record(context, home)), None, None
    path: str = context.cache[name][0]
    try:
        found = os.stat(path)
    except OSError:
        return None
    stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
    if context.cache[name][1] != stamp:
        context.cache[name] = path, stamp, read_json(Path(path))
    record: dict[str, Any] | None = context.cache[name][2]
    return record


def run_record(context: RunContext, home: SiteHome) -> Path:
    """File that holds the dataset version of a run."""
    return home.work / "runs" / f"{context.federation}--{context.run}.json"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where the file is absent or damaged (it is made again)."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object whole or not at all, readable by the site's user alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(canonical_json(values))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder that appears whole under its name, or not at all; then drop the oldest.

    Of two processes that fill the same folder the first one wins: both made the same.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))  # mode 0700
    try:
        yield part
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    others = [f for f in folder.parent.iterdir() if f != folder and not f.name.startswith(".")]
    for old in sorted(others, key=lambda f: f.stat().st_mtime, reverse=True)[KEEP - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


def _name(stage: str, *parts: object) -> str:
    return hashlib.sha256(canonical_json([stage, FORMAT, *parts])).hexdigest()
