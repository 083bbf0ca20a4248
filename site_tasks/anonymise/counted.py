"""Public levels over a table larger than memory: distinct rows are counted, rows written one by one.

The first pass counts distinct rows; classes are theirs at the levels given, so that what is kept is
decided by counts alone.  The second pass looks each row up, proves and writes it; the table gets its
name when every model is proven on the rows written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import DataError
from site_tasks.anonymise.account import coded_columns, coded_pieces, taken, write_report
from site_tasks.anonymise.chosen import secret_of
from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.full_domain import recode
from site_tasks.anonymise.generalise import described, fields_of, published, stability
from site_tasks.anonymise.identifiers import identified_chunks
from site_tasks.anonymise.job import Job, Report, too_few, within_limit
from site_tasks.anonymise.models import KAnonymity, Model, check, settled
from site_tasks.anonymise.models.marginal import by_column
from site_tasks.anonymise.recoding import Recoding
from site_tasks.anonymise.streamed import Sample, lone
from site_tasks.anonymise.verify import Checker
from site_tasks.table import ROW, row_count, write_table

if TYPE_CHECKING:
    import pandas as pd

    from site_tasks.anonymise.local.stream import Partition

__all__ = ["anonymise_counted", "counts_only"]


def counts_only(job: Job) -> bool:
    """Whether counts of distinct rows are all that is asked for.

    Not where numbers that are not whole keep their value (they have no code), nor for what needs
    single rows (:func:`site_tasks.anonymise.streamed.lone`).
    """
    from site_tasks.anonymise.local.stream import streamable

    columns, secret = coded_columns(job)
    levels = job.settings.chosen
    exact = any(column.width and not levels.get(column.name, 0) for column in columns)
    return bool(columns) and lone(job) and not exact and streamable(columns, secret)


def anonymise_counted(job: Job, models: tuple[Model, ...]) -> Report:
    """Write the generalised table; memory O(chunk + distinct rows · columns).

    Parameters
    ----------
    job : Job
        For which :func:`counts_only` holds.
    models : tuple of Model
        Of ``chosen_models``.

    Raises
    ------
    FolkmootError
        As ``site_tasks.anonymise.generalise.anonymise``; ``data.version`` where the file changes
        meanwhile.  Then there is no table.
    """
    settings, rows = job.settings, row_count(job.source)
    if rows < settings.k:
        raise too_few(rows, settings.k, job.site)
    sample = Sample(rows)
    found = _partition(job, models, sample)
    within_limit(found.suppressed, rows, settings)
    secret = secret_of(job.contract, settings)
    proof = Checker(models, () if secret is None else secret.domain)
    part = job.target.with_name(f".{job.target.name}.part")
    try:
        write_table(part, fields_of(job, suppressing=True), _written(job, found, proof))
        proof.demand(job.site)
        os.replace(part, job.target)
    finally:
        part.unlink(missing_ok=True)
    del proof
    if job.report is not None:
        write_report(
            job, found.whole, found.distinct(), {}, counts=found.rows, sample=sample.codes()
        )
    return Report(rows, found.suppressed, stability(job))


def _partition(job: Job, models: tuple[Model, ...], sample: Sample) -> Partition:
    """Classes of the distinct rows at the levels given, those that break a model suppressed."""
    from site_tasks.anonymise.local.distinct import unpack
    from site_tasks.anonymise.local.stream import Partition, counted

    asked = [model for model in models if model.reads == "sensitive"]
    first, keys, counts, sizes = counted(
        lambda: sample.passing(coded_pieces(job)), sensitive=bool(asked)
    )
    if first is None:
        raise too_few(0, job.settings.k, job.site)
    codes, sensitive = unpack(keys, sizes, len(first.columns))
    domain = () if sensitive is None else first.sensitive_domain
    values = None
    if sensitive is not None:
        values = np.bincount(sensitive, weights=counts, minlength=len(domain) + 1).astype(np.int64)
    secret = secret_of(job.contract, job.settings)
    for name, own, total in by_column(models, () if secret is None else secret.names, values):
        check(own, described(job, int(counts.sum()), name, total, None), site=job.site)
    levels = {c.name: job.settings.chosen.get(c.name, 0) for c in first.columns}
    whole = recode(Coded(first.columns, codes), [KAnonymity(1)], levels)
    kept = _kept(whole, counts, sensitive, len(domain) + 1, models)
    number = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    used = np.flatnonzero(kept)
    cells = tuple(taken(cells, used) for cells in whole.cells)
    recoding = Recoding(whole.columns, number[whole.classes], cells)
    return Partition(recoding, counts, keys, sizes, domain)


def _kept(
    whole: Recoding,
    counts: NDArray[np.int64],
    sensitive: NDArray[np.int32] | None,
    values: int,
    models: tuple[Model, ...],
) -> NDArray[np.bool_]:
    """Which classes hold all models beside one another; shape (classes,)."""
    sizes = whole.sizes(counts)
    kept = settled([m for m in models if m.reads == "size"], sizes[:, None])
    asked = [m for m in models if m.reads == "sensitive"]
    if asked and sensitive is not None:
        table = np.zeros((whole.count, values), np.int64)
        np.add.at(table, (whole.classes, sensitive), counts)
        kept[kept] = settled(asked, table[kept])
    return np.asarray(kept)


def _written(job: Job, found: Partition, proof: Checker) -> Iterator[pd.DataFrame]:
    """The second pass: each row is looked up, generalised and proven."""
    columns, codes = coded_columns(job)
    quasi = [column.name for column in columns]
    secret, seen = secret_of(job.contract, job.settings), 0
    for frame in identified_chunks(job.source, job.contract, job.settings, job.secret):
        visible = found.apply(Coded.from_frame(frame, columns, codes)).classes >= 0
        published(frame, job.contract, job.settings)
        if job.numbered:
            frame[ROW] = np.arange(seen, seen + len(frame))
        kept = frame[visible]
        cells: list[list[Any]] = [kept[name].tolist() for name in quasi]
        proof.add(cells, None if secret is None else secret.spelled(kept), rows=len(kept))
        seen += len(frame)
        yield kept
    if seen != found.rows.sum():
        raise DataError(
            "data.version",
            "The table changed between the two passes of its anonymisation.",
            "Start again from a dataset version that does not change.",
            site=job.site,
        )
