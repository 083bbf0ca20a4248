"""Local recoding of a table larger than memory: two passes over the file, one temporary table.

The first pass counts distinct rows, of which the classes are made.  The second looks each row up,
proves it and writes it; the table gets its name when every model is proven on the rows written.
The risk report needs no more than the distinct rows and their counts, and a sample of fixed size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.account import coded_columns, coded_pieces, write_report
from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.identifiers import identified_chunks
from site_tasks.anonymise.job import Job, Report, within_limit
from site_tasks.anonymise.models import Model
from site_tasks.anonymise.spelling import Spelling, fields
from site_tasks.anonymise.verify_recoding import RecodingChecker
from site_tasks.table import row_count, write_table

if TYPE_CHECKING:
    import pandas as pd

    from site_tasks.anonymise.local.stream import Partition

__all__ = ["Sample", "anonymise_streamed", "lone", "streams"]


def streams(job: Job) -> bool:
    """Whether nothing that is asked for needs all rows at once.

    ``relaxed`` and ``microaggregation`` deal equal rows out one by one, models are trained on rows,
    a series keeps a key per row, an outcome and a population table speak of each row; and each
    combination of values needs a 64-bit number.
    """
    from site_tasks.anonymise.local.stream import streamable

    return job.settings.method == "mondrian" and lone(job) and streamable(*coded_columns(job))


def lone(job: Job) -> bool:
    """Whether nobody asks for single rows: no series, population, outcome or models' use."""
    whole = (job.series, job.population, job.outcome)
    return not job.utility and all(path is None for path in whole)


def anonymise_streamed(job: Job, models: tuple[Model, ...]) -> Report:
    """Write the locally recoded table; memory O(chunk + distinct rows · columns + classes).

    Parameters
    ----------
    job : Job
        For which :func:`streams` holds.
    models : tuple of Model
        Of ``chosen_models``.

    Raises
    ------
    FolkmootError
        As ``site_tasks.anonymise.recode.anonymise_locally``; ``data.version`` where the file
        changes meanwhile.  Then there is no table.
    """
    from site_tasks.anonymise.local.stream import recode_stream

    settings, rows = job.settings, row_count(job.source)
    sample = Sample(rows)
    found = recode_stream(
        lambda: sample.passing(coded_pieces(job)),
        k=settings.k,
        models=models[1:],
        suppression_limit=settings.suppression_limit,
    )
    within_limit(found.suppressed, rows, settings)
    columns, secret = coded_columns(job)
    proof = RecodingChecker(found.whole, models, None if secret is None else secret.domain)
    part = job.target.with_name(f".{job.target.name}.part")
    try:
        write_table(part, fields(job, columns), _written(job, found, proof))
        missing = abs(rows - proof.rows)
        wrong = [f"{missing} rows are neither kept nor suppressed"] if missing else []
        proof.demand(job.site, wrong)
        os.replace(part, job.target)
    finally:
        part.unlink(missing_ok=True)
    del proof
    if job.report is not None:
        write_report(
            job, found.whole, found.distinct(), {}, counts=found.rows, sample=sample.codes()
        )
    return Report(rows, found.suppressed, rows, loss=found.whole.loss(found.rows))


def _written(job: Job, found: Partition, proof: RecodingChecker) -> Iterator[pd.DataFrame]:
    """The second pass: each row is looked up, proven and spelled."""
    columns, secret = coded_columns(job)
    spelling, start = Spelling(found.whole, numbered=job.numbered), 0
    for frame in identified_chunks(job.source, job.contract, job.settings, job.secret):
        piece = Coded.from_frame(frame, columns, secret)
        classes = found.apply(piece).classes
        proof.add(piece.codes, classes, piece.sensitive)
        yield spelling.rows(frame, classes, start)
        start += len(frame)


class Sample:
    """Evenly spread rows of a table that passes by, at most as many as the risk report looks at."""

    def __init__(self, rows: int) -> None:
        from site_tasks.anonymise.risk.report import every

        self._step = every(rows)
        self._parts: list[NDArray[np.int32]] = []

    def passing(self, pieces: Iterator[Coded]) -> Iterator[Coded]:
        """The pieces as they are."""
        start = 0
        self._parts = []
        for piece in pieces:
            self._parts.append(piece.codes[-start % self._step :: self._step].copy())
            start += piece.rows
            yield piece

    def codes(self) -> NDArray[Any]:
        """Codes of each so many-th row; shape (at most 200 000, q)."""
        return np.concatenate(self._parts)
