"""Local recoding of a site's table: each class its own cells, one numeric space for all sites.

The table is read as small integer codes (four bytes per row and quasi-identifier), the engine of
``site_tasks.anonymise.local`` finds classes, the obvious checker proves them, and a second pass
writes every row with its class's cells as ``folkmoot.cells`` spells them.  Earlier versions are
respected (``site_tasks.anonymise.series``); class numbers are never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.conversion import converted_contract
from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.account import coded_table, keep_outcome, write_report
from site_tasks.anonymise.chosen import chosen_models
from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.columns import quasi_identifiers
from site_tasks.anonymise.identifiers import converted_chunks, identified_chunks, kept_columns
from site_tasks.anonymise.job import Job, Report, too_few, within_limit
from site_tasks.anonymise.models import DeltaPresence, Model
from site_tasks.anonymise.people import people_behind
from site_tasks.anonymise.population import read_population
from site_tasks.anonymise.recoding import Cells, Ranges, Recoding, Sets
from site_tasks.anonymise.series import (
    NEW,
    RETIRED,
    Classes,
    Keys,
    Series,
    difference,
    row_hashes,
    row_keys,
    settle,
)
from site_tasks.anonymise.spelling import Spelling, arrays_of, fields, flat
from site_tasks.anonymise.verify_recoding import verify_recoding
from site_tasks.table import row_count, write_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["anonymise_locally"]


def anonymise_locally(job: Job) -> Report:
    """Write the locally recoded table; memory O(rows · quasi-identifiers) integers.

    O(chunk + distinct rows + classes) where ``site_tasks.anonymise.streamed`` can do it.

    Parameters
    ----------
    job : Job
        With ``settings.recoding`` ``local``.

    Returns
    -------
    Report

    Raises
    ------
    ConfigError
        For models that contradict each other or the contract.
    DataError
        ``data.too-few-rows``, ``data.suppression``, ``data.privacy-model``; ``data.contract`` for
        values outside the public domains.
    PrivacyError
        ``privacy.unproven`` where the checker does not agree; nothing is written then.
    """
    contract, settings = converted_contract(job.contract), job.settings
    columns = quasi_identifiers(contract)
    if not columns:
        raise ConfigError(
            "config.invalid",
            f"anonymisation.recoding is local, but contract {contract.name} has no quasi-identifier.",
            "Give the columns by which a person can be found role quasi_identifier.",
        )
    models = chosen_models(job.contract, settings)
    asked = tuple(model for model in models if model.reads == "presence")
    _bounded(asked)
    rows = row_count(job.source)
    if rows < settings.k:
        raise too_few(rows, settings.k, job.site)
    if job.series is None and not asked:
        return _alone(job, models)
    people = read_population(job, columns) if asked else None
    coded, keys = coded_table(job), _row_keys(job, rows)
    series = Series() if job.series is None else Series.load(job.series)
    classes, fresh = series.enter(job.fingerprint, keys)
    if fresh:
        plain = tuple(model for model in models if model.reads != "presence")
        _grow(job, coded, keys, series, classes, plain)
        if people is not None:
            _leave_out(coded, people, series, classes, asked)
        if coded.sensitive is not None:
            settle(series, classes, coded.sensitive, len(coded.sensitive_domain) + 1, plain)
    merged = _merged(coded, series, classes)
    later = series.later(job.fingerprint)  # in a first version nothing but models retires
    retired = int(np.count_nonzero(classes == RETIRED)) if later else 0
    waiting = merged.suppressed - retired if later else 0
    within_limit(merged.suppressed, rows, settings, waiting + retired)
    verify_recoding(coded, merged, models, people=people, site=job.site)
    if job.series is not None and fresh:
        series.save(job.series)  # before the table: a version is what it is from here on
    found = difference(series, job.fingerprint, settings.k)
    _finish(job, coded, merged, found)
    return Report(rows, merged.suppressed, rows, waiting, retired, merged.loss(), found)


def _alone(job: Job, models: tuple[Model, ...]) -> Report:
    """A table that no earlier release counts beside: no keys, and less than half the memory."""
    from site_tasks.anonymise.local import recode
    from site_tasks.anonymise.streamed import anonymise_streamed, streams

    if streams(job):
        return anonymise_streamed(job, models)
    coded, settings = coded_table(job), job.settings
    made = recode(
        coded,
        k=settings.k,
        models=models[1:],
        method=settings.method,
        suppression_limit=settings.suppression_limit,
    )
    within_limit(made.suppressed, coded.rows, settings)
    verify_recoding(coded, made, models, site=job.site)
    _finish(job, coded, made, {})
    return Report(coded.rows, made.suppressed, coded.rows, loss=made.loss())


def _finish(job: Job, coded: Coded, made: Recoding, revealed: dict[str, int]) -> None:
    """Write the table that was proven, what became of its rows, and the risk report."""
    write_table(job.target, fields(job, made.columns), _written(job, made))
    arrays = {f"{j}.{n}": v for j, c in enumerate(made.cells) for n, v in arrays_of(c).items()}
    keep_outcome(job, {"classes": made.classes, **arrays})
    write_report(job, made, coded, revealed)


def _bounded(models: tuple[Model, ...]) -> None:
    """Refuse what cells that differ from class to class cannot promise."""
    if any(isinstance(model, DeltaPresence) and model.low > 0 for model in models):
        raise ConfigError(
            "config.invalid",
            "delta_presence.low above 0 asks for rows behind everybody of the population, but "
            "with recoding local some people are behind no class.",
            "Set delta_presence.low to 0, or use recoding public or agreed.",
        )


def _leave_out(
    coded: Coded,
    population: Coded,
    series: Series,
    classes: Classes,
    models: tuple[Model, ...],
) -> None:
    """Suppress classes with too few people of the population behind them, or too many of those."""
    merged = _merged(coded, series, classes)
    behind = people_behind(merged, population)
    whole = merged.sizes()
    if merged.count:  # classes of equal cells are one for whoever sees the table
        table = np.concatenate([flat(cells) for cells in merged.cells], axis=1)
        _, same = np.unique(table, axis=0, return_inverse=True)
        same = same.reshape(-1)
        whole = np.bincount(same, weights=whole).astype(np.int64)[same]
    both = np.stack([np.maximum(behind - whole, 0), whole], axis=1)
    holds = whole <= behind
    for model in models:
        holds &= model.holds(both, both.sum(axis=0))
    broken = np.unique(classes[classes >= 0])[~holds]
    if len(broken):
        series.retire(broken)
        classes[np.isin(classes, broken)] = RETIRED


def _row_keys(job: Job, rows: int) -> Keys:
    """A key for every row, where earlier versions count."""
    if job.series is None:
        return np.arange(rows, dtype=np.uint64)
    names = kept_columns(job.contract, job.settings, identifiers=False)
    read = converted_chunks(job.source, names, job.contract, job.settings, job.secret)
    return row_keys([row_hashes(frame, job.secret) for frame in read])


def _grow(
    job: Job,
    coded: Coded,
    keys: Keys,
    series: Series,
    classes: Classes,
    models: tuple[Model, ...],
) -> None:
    """Recode the new rows among themselves, and give those that need not wait a class."""
    from site_tasks.anonymise.local import recode

    settings = job.settings
    new = np.flatnonzero(classes == NEW)
    first = len(series.versions) == 1
    if len(new) < settings.k:
        return  # they wait
    part = Coded(
        coded.columns,
        np.asfortranarray(coded.codes[new]),
        None if coded.sensitive is None else coded.sensitive[new],
        coded.sensitive_domain,
    )
    limit = settings.suppression_limit if first else 1.0
    try:
        made = recode(
            part, k=settings.k, models=models[1:], method=settings.method, suppression_limit=limit
        )
    except DataError:
        if first:
            raise
        return  # the new rows alone cannot satisfy the models: they wait
    if not first:  # a first version is proven as a whole
        verify_recoding(part, made, models, site=job.site)
    kept = made.classes >= 0
    used, numbered = np.unique(made.classes[kept], return_inverse=True)
    cells: dict[str, NDArray[Any]] = {}
    for j, cell in enumerate(made.cells):
        for name, values in arrays_of(cell).items():
            cells[f"{j}.{name}"] = values[used]
    classes[new[kept]] = series.add(keys[new[kept]], numbered, cells)


def _merged(coded: Coded, series: Series, classes: Classes) -> Recoding:
    """Old and new classes together, numbered without gaps."""
    kept = classes >= 0
    used, numbered = np.unique(classes[kept], return_inverse=True)
    whole = np.full(len(classes), -1, np.int32)
    whole[kept] = numbered
    cells: list[Cells] = []
    for j, column in enumerate(coded.columns):
        if not len(used):
            none = np.zeros(0, np.int32)
            empty = Sets.of(np.zeros((0, column.size), np.bool_))
            cells.append(Ranges(none, none, none.astype(np.bool_)) if column.ordered else empty)
        elif column.ordered:
            low, high, missing = (
                series.cells[f"{j}.{n}"][used] for n in ("low", "high", "missing")
            )
            cells.append(Ranges(low, high, missing))
        else:
            cells.append(Sets(series.cells[f"{j}.words"][used]))
    return Recoding(coded.columns, whole, tuple(cells))


def _written(job: Job, made: Recoding) -> Iterator[pd.DataFrame]:
    spelling, start = Spelling(made, numbered=job.numbered), 0
    for frame in identified_chunks(job.source, job.contract, job.settings, job.secret):
        yield spelling.rows(frame, made.classes[start : start + len(frame)], start)
        start += len(frame)
