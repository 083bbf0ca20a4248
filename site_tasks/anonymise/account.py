"""The risk report of a table that was just anonymised, written beside it at the site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.conversion import converted, converted_contract
from folkmoot.features import encode_label
from site_tasks.anonymise.chosen import chosen_models, secret_of
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.columns import quasi_identifiers
from site_tasks.anonymise.identifiers import converted_chunks
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.people import people_behind, people_like
from site_tasks.anonymise.population import read_population
from site_tasks.anonymise.recoding import Cells, Ranges, Recoding, Sets
from site_tasks.anonymise.secret import Secret
from site_tasks.arrays import read_arrays
from site_tasks.table import row_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = [
    "coded_columns",
    "coded_pieces",
    "coded_table",
    "generalised_recoding",
    "keep_outcome",
    "load_outcome",
    "taken",
    "write_report",
]

Codes = NDArray[np.int32]


def write_report(
    job: Job,
    recoding: Recoding | None,
    coded: Coded | None,
    revealed: Mapping[str, int],
    *,
    counts: NDArray[np.int64] | None = None,
    sample: NDArray[Any] | None = None,
) -> dict[str, Any] | None:
    """Write ``risk.json`` and ``risk.html`` into ``job.report``, where it is given.

    Parameters
    ----------
    job : Job
        What was anonymised.
    recoding : Recoding or None
        What became of the table; nothing is reported on a table without one.
    coded : Coded or None
        The table before; read again where absent.
    revealed : mapping
        What the difference to earlier releases reveals.
    counts, sample : ndarray, optional
        Where ``coded`` has each distinct row once; see ``site_tasks.anonymise.risk.report.assess``.

    Returns
    -------
    dict or None
        The report; see ``site_tasks.anonymise.risk``.
    """
    if job.report is None or recoding is None:
        return None
    from site_tasks.anonymise.risk.report import assess, write

    coded = coded or coded_table(job)
    population = None if job.population is None else read_population(job, coded.columns)
    secret, values = secret_of(job.contract, job.settings), coded.sensitive
    label = _labels(job) if job.utility and len(job.contract.classes) == 2 else None
    report = assess(
        coded,
        recoding,
        chosen_models(job.contract, job.settings),
        site=job.site or "",
        sensitive={} if secret is None or values is None else secret.apart(values),
        people=None if population is None else _people(coded, recoding, population),
        population=None if population is None else max(population.rows, coded.rows),
        label=label,
        counts=counts,
        sample=sample,
    )
    report["difference"] = dict(revealed)
    write(report, job.report)
    return report


def keep_outcome(job: Job, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep what became of every row in ``job.outcome``, where it is given; see `load_outcome`."""
    if job.outcome is not None:
        np.savez(job.outcome, **dict(arrays))  # type: ignore[arg-type]


def load_outcome(job: Job, path: Path, coded: Coded | None = None) -> Recoding | None:
    """What became of every row, as classes and cells.

    Parameters
    ----------
    job : Job
        What was anonymised.
    path : Path
        Of an earlier ``job.outcome``.
    coded : Coded, optional
        The table before, for global recoding; read again where absent.

    Returns
    -------
    Recoding or None
        None as :func:`generalised_recoding`.
    """
    found = read_arrays(path)
    if "visible" in found:
        return generalised_recoding(job, coded or coded_table(job), found["visible"])
    columns = quasi_identifiers(converted_contract(job.contract))
    cells: list[Cells] = []
    for j, column in enumerate(columns):
        own = {k.partition(".")[2]: v for k, v in found.items() if k.startswith(f"{j}.")}
        cells.append(Ranges(**own) if column.ordered else Sets(**own))
    return Recoding(columns, found["classes"], tuple(cells))


def coded_table(job: Job) -> Coded:
    """Quasi-identifiers and the models' sensitive columns as codes; memory 4 bytes a cell."""
    columns, secret = coded_columns(job)
    rows = row_count(job.source)
    codes = np.empty((rows, len(columns)), np.int32, order="F")
    sensitive = None if secret is None else np.empty(rows, np.int32)
    start = 0
    for piece in coded_pieces(job):
        end = start + piece.rows
        codes[start:end] = piece.codes
        if sensitive is not None and piece.sensitive is not None:
            sensitive[start:end] = piece.sensitive
        start = end
    return Coded(columns, codes, sensitive, () if secret is None else secret.domain)


def coded_columns(job: Job) -> tuple[tuple[Column, ...], Secret | None]:
    """The quasi-identifiers after their conversion, and the models' sensitive columns."""
    secret = secret_of(job.contract, job.settings)
    return quasi_identifiers(converted_contract(job.contract)), secret


def coded_pieces(job: Job) -> Iterator[Coded]:
    """The same as :func:`coded_table`, chunk by chunk; memory O(chunk)."""
    columns, secret = coded_columns(job)
    names = [column.name for column in columns]
    names += [name for name in (() if secret is None else secret.names) if name not in names]
    for frame in converted_chunks(job.source, names, job.contract, job.settings, job.secret):
        yield Coded.from_frame(frame, columns, secret)


def generalised_recoding(
    job: Job, coded: Coded, visible: NDArray[np.bool_] | None
) -> Recoding | None:
    """A globally generalised table as classes and cells.

    None where a number that is not whole keeps its value: it has no code of its own.
    """
    from site_tasks.anonymise.full_domain import recode
    from site_tasks.anonymise.models import KAnonymity

    levels = {column.name: job.settings.chosen.get(column.name, 0) for column in coded.columns}
    if not levels or any(column.width and not levels[column.name] for column in coded.columns):
        return None
    whole = recode(coded, [KAnonymity(1)], levels)
    if visible is None:
        return whole
    kept = np.where(visible, whole.classes, -1)
    used, numbered = np.unique(kept[visible], return_inverse=True)
    classes = np.full(len(kept), -1, np.int32)
    classes[visible] = numbered
    return Recoding(whole.columns, classes, tuple(taken(c, used) for c in whole.cells))


def _people(
    coded: Coded, recoding: Recoding, population: Coded
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """People who look like each row before, and those behind the class of each row that is kept.

    Never fewer than the rows themselves: a population table may lack some of them.
    """
    of, sizes = coded.distinct(), recoding.sizes()
    before = np.maximum(people_like(coded, population), of.counts[of.inverse])
    behind = np.maximum(people_behind(recoding, population), sizes)
    return before, behind[recoding.classes[recoding.classes >= 0]]


def taken(cells: Cells, at: NDArray[Any]) -> Cells:
    """Some classes' cells."""
    if isinstance(cells, Ranges):
        return Ranges(cells.low[at], cells.high[at], cells.missing[at])
    return Sets(cells.words[at])


def _labels(job: Job) -> NDArray[Any]:
    label = converted(job.contract.label)
    chunks = converted_chunks(job.source, [label.name], job.contract, job.settings, job.secret)
    return np.concatenate([encode_label(frame[label.name], job.contract) for frame in chunks])
