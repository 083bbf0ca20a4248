"""Anonymise one CSV or Parquet file outside any federation, all or nothing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError
from folkmoot.params import Anonymisation
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.scan import demand_answers, scan_table
from site_tasks.anonymise.table import anonymise_table
from site_tasks.readers import csv_to_parquet, kind_of
from site_tasks.validate import validate_table

__all__ = ["anonymise_file"]


def anonymise_file(
    source: Path,
    target: Path,
    contract: Contract,
    settings: Anonymisation,
    *,
    report: Path,
    secret: bytes | None = None,
    accepted: Iterable[str] = (),
    series: Path | None = None,
    population: Path | None = None,
    utility: bool = False,
) -> dict[str, Any]:
    """Write the anonymised file and its risk report; memory as the engine's.

    Rows are read and written in chunks.  Only distinct rows and classes stay in memory under local
    recoding with ``mondrian`` and under public levels (``site_tasks.anonymise.streamed``,
    ``counted``).  Else, and with ``series``, ``population`` or ``utility``, codes of all
    quasi-identifiers (4 bytes each), classes and what the risk report sorts do, some 200 bytes per
    row in all.

    Parameters
    ----------
    source, target : Path
        ``.csv`` or ``.parquet``.
    contract, settings : Contract, Anonymisation
        What the columns are, and what is to happen to them.
    report : Path
        Folder for ``risk.json`` and ``risk.html``: it tells of the table before, and stays with
        whoever holds that.
    secret : bytes, optional
        32 bytes for pseudonyms and date shifts; without one a secret is drawn and forgotten.
    accepted : iterable of str
        Answers to the identifier scan, ``column: finding``.
    series : Path, optional
        Record of earlier releases of the same table; it is written too.
    population : Path, optional
        Parquet file of the population table.
    utility : bool
        Whether models are trained before and after for the report.

    Returns
    -------
    dict
        Rows, suppressed rows and so on; see ``site_tasks.anonymise.job.Report``.

    Raises
    ------
    FolkmootError
        One clear error; then neither target nor report nor series is written.
    """
    kinds = kind_of(source), target.suffix.lower()
    if kinds[1] not in {".csv", ".parquet"}:
        raise ConfigError(
            "config.invalid", f"{target} ends in neither .csv nor .parquet.", "Rename it."
        )
    if target.resolve() == source.resolve():
        raise ConfigError(
            "config.invalid", "The file would be written over itself.", "Name another --out."
        )
    if not target.absolute().parent.is_dir():
        raise ConfigError(
            "config.missing-file", f"{target.parent} is not a folder.", "Make it first."
        )
    if series is not None and secret is None:
        raise ConfigError(
            "config.invalid",
            "A series of releases needs the same secret each time.",
            "Name it with --secret-file.",
        )
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".anonymise-") as name:
        folder = Path(name)  # mode 0700, on the target's file system
        table = source
        if kinds[0] == "csv":
            table = folder / "source.parquet"
            csv_to_parquet(source, table, contract)
        validate_table(table, contract)
        demand_answers(scan_table(table, contract), accepted, None)
        made = folder / "target.parquet"
        job = Job(
            table,
            made,
            contract,
            settings,
            secret or os.urandom(32),
            _digest(source),
            series,
            population,
            numbered=False,
            report=folder / "report",
            utility=utility,
        )
        values = anonymise_table(job).to_dict()
        if kinds[1] == ".csv":
            csv = folder / "target.csv"
            _to_csv(made, csv)
            made = csv
        report.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in sorted((folder / "report").glob("risk.*")):
            os.replace(file, report / file.name)
        os.replace(made, target)
    return values


def _to_csv(source: Path, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    with pq.ParquetFile(source) as file:
        found = file.schema_arrow
        plain = pa.schema(
            [
                pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type)
                for f in found
            ]
        )
        with csv.CSVWriter(target, plain) as writer:
            for batch in file.iter_batches():
                writer.write_table(pa.Table.from_batches([batch]).cast(plain))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
