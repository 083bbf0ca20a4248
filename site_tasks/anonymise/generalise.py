"""Global generalisation by public hierarchies, and suppression of small equivalence classes.

Every quasi-identifier is generalised to one level for the whole table (full-domain
generalisation; Samarati & Sweeney 1998), then the rows of equivalence classes that break a model are
suppressed.  Three passes over the file: two find classes, one writes, under the eyes of the obvious
checker.

The joint with the steps around it: :func:`anonymise` turns a validated Parquet file into one that
follows ``folkmoot.generalisation.generalised(contract, …)``, without direct identifiers (or with
pseudonyms), with the original row number as column :data:`ROW` where rows were suppressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.conversion import changes, converted
from folkmoot.generalisation import (
    categories_at,
    check_levels,
    generalise_categories,
    generalise_numbers,
    is_categorical,
    level_of,
)
from folkmoot.params import Anonymisation
from site_tasks.anonymise.account import (
    coded_table,
    generalised_recoding,
    keep_outcome,
    write_report,
)
from site_tasks.anonymise.chosen import chosen_models, secret_of
from site_tasks.anonymise.classes import count_classes
from site_tasks.anonymise.identifiers import (
    converted_chunks,
    identified_chunks,
    kept_columns,
    kept_fields,
)
from site_tasks.anonymise.job import Job, Report, too_few, within_limit
from site_tasks.anonymise.models import Model, Table, check, settled
from site_tasks.anonymise.models.marginal import by_column
from site_tasks.anonymise.population import people_per_class, population_chunks
from site_tasks.anonymise.series import (
    NEW,
    RETIRED,
    Keys,
    Series,
    difference,
    row_hashes,
    row_keys,
    settle,
)
from site_tasks.anonymise.verify import Checker
from site_tasks.table import ROW, row_count, schema_of, write_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "anonymise",
    "described",
    "fields_of",
    "generalise_frame",
    "needed",
    "published",
    "stability",
]

Classes = NDArray[np.int64]


def stability(job: Job) -> int:
    """Most rows that one row of the input adds to the result or removes from it.

    In symmetric distance, as OpenDP counts: dropping, pseudonyms and generalisation touch each row
    alone, which is 1.  Suppression by k alone is k-stable: a row that leaves a class of k takes the
    k - 1 others with it.  Models of sensitive values, and earlier versions that must be respected,
    let one row take a class of any size with it: no bound but the number of rows.
    """
    if job.settings.extra or (job.series is not None and job.settings.k > 1):
        return max(row_count(job.source), 1)
    return job.settings.k


def needed(contract: Contract, anonymisation: Anonymisation) -> bool:
    """Whether :func:`anonymise` would change a table at all."""
    return bool(
        anonymisation.active
        or contract.with_role("direct_identifier")
        or contract.with_role("dropped")
        or any(map(changes, contract.columns))
        or any(level_of(column, anonymisation) for column in contract.columns)
    )


@dataclass(frozen=True)
class _Found:
    """Classes of a table: of every row, what stands for each class, sensitive codes, row keys."""

    classes: Classes
    cells: NDArray[np.float64]
    sensitive: NDArray[np.int32] | None
    domain: tuple[Any, ...]
    keys: Keys
    people: NDArray[np.int64] | None


def anonymise(job: Job) -> Report:
    """Write the anonymised table; O(rows · columns), memory O(chunk + rows integers).

    O(chunk + distinct rows) where ``site_tasks.anonymise.counted`` can do it.

    Parameters
    ----------
    job : Job
        With ``settings.recoding`` ``public``, or ``agreed`` once levels are settled.

    Returns
    -------
    Report

    Raises
    ------
    ConfigError
        For models that contradict each other or the contract.
    DataError
        ``data.too-few-rows`` for fewer rows than k, ``data.suppression`` where more rows would be
        suppressed than the limit allows, ``data.privacy-model``.
    PrivacyError
        ``privacy.unproven`` where the checker does not agree.
    """
    contract, settings = job.contract, job.settings
    check_levels(contract, settings)
    rows = row_count(job.source)
    models = chosen_models(contract, settings)
    if settings.active:
        from site_tasks.anonymise.counted import anonymise_counted, counts_only

        if counts_only(job):
            return anonymise_counted(job, models)
    visible = None
    report = Report(rows, 0, stability(job))
    if settings.active:
        visible, report = _visible(job, rows, models)
    write_table(
        job.target,
        fields_of(job, suppressing=visible is not None),
        _written(job, visible, models),
    )
    if visible is not None:
        keep_outcome(job, {"visible": visible})
    if job.report is not None and contract.with_role("quasi_identifier"):
        coded = coded_table(job)
        write_report(job, generalised_recoding(job, coded, visible), coded, report.difference)
    return report


def _visible(job: Job, rows: int, models: tuple[Model, ...]) -> tuple[NDArray[np.bool_], Report]:
    """Which rows may be published, and the report; remembers them in the series."""
    settings = job.settings
    if rows < settings.k:
        raise too_few(rows, settings.k, job.site)
    found = _classes(job, rows)
    names = () if (secret := secret_of(job.contract, settings)) is None else secret.names
    total = None
    if found.sensitive is not None:
        total = np.bincount(found.sensitive, minlength=len(found.domain) + 1)
    people = None if found.people is None else int(found.people.sum())
    for name, asked, values in by_column(models, names, total):
        check(asked, described(job, rows, name, values, people), site=job.site)
    series = Series() if job.series is None else Series.load(job.series)
    classes, fresh = series.enter(job.fingerprint, found.keys)
    if fresh:
        new = np.flatnonzero(classes == NEW)
        chosen = new[_holding(found, new, models)]
        used, numbered = np.unique(found.classes[chosen], return_inverse=True)
        cells = {"cells": found.cells[used]}
        classes[chosen] = series.add(found.keys[chosen], numbered, cells)
        if found.sensitive is not None:
            asked = [model for model in models if model.reads != "presence"]
            settle(series, classes, found.sensitive, len(found.domain) + 1, asked)
    visible = classes >= 0
    suppressed = rows - int(np.count_nonzero(visible))
    later = series.later(job.fingerprint)  # in a first version nothing but models retires
    retired = int(np.count_nonzero(classes == RETIRED)) if later else 0
    waiting = suppressed - retired if later else 0
    within_limit(suppressed, rows, settings, waiting + retired)
    if job.series is not None and fresh:
        series.save(job.series)  # before the table: a version is what it is from here on
    revealed = difference(series, job.fingerprint, settings.k)
    report = Report(rows, suppressed, stability(job), waiting, retired, None, revealed)
    return visible, report


def _holding(found: _Found, new: NDArray[np.int64], models: tuple[Model, ...]) -> NDArray[np.bool_]:
    """Which of the new rows are in classes that hold among the new rows alone."""
    of, count = found.classes[new], len(found.cells)
    sizes = np.bincount(of, minlength=count)
    kept = settled([m for m in models if m.reads == "size"], sizes[:, None])
    asked = [m for m in models if m.reads == "sensitive"]
    if asked and found.sensitive is not None:
        values = len(found.domain) + 1
        flat = of * values + found.sensitive[new]
        counts = np.bincount(flat, minlength=count * values).reshape(count, values)
        kept &= settled(asked, np.where(kept[:, None], counts, 0))
    asked = [m for m in models if m.reads == "presence"]
    if asked and found.people is not None:
        here = np.bincount(found.classes, minlength=count)
        both = np.stack([np.maximum(found.people - here, 0), here], axis=1)
        kept &= settled(asked, both) & (found.people >= here)
    return np.asarray(kept[of])


def described(
    job: Job, rows: int, name: str | None, values: NDArray[Any] | None, people: int | None
) -> Table:
    """What the check for contradictions needs to know of the table and one sensitive column."""
    return Table(
        rows,
        name,
        () if values is None else tuple(n for n in values.tolist() if n),
        tuple(c.name for c in job.contract.with_role("quasi_identifier")),
        people,
    )


def _classes(job: Job, rows: int) -> _Found:
    contract, settings = job.contract, job.settings
    quasi = [column.name for column in contract.with_role("quasi_identifier")]
    secret = secret_of(contract, settings)
    names = [*quasi, *(() if secret is None else secret.names)]
    if job.series is not None or not names:
        names = kept_columns(contract, settings, identifiers=False)

    def read() -> Iterable[pd.DataFrame]:
        return converted_chunks(job.source, names, contract, settings, job.secret)

    sizes = None
    if quasi:
        sizes = count_classes(
            lambda: (
                generalise_frame(frame, contract, settings)
                for frame in converted_chunks(job.source, quasi, contract, settings, job.secret)
            )
        )
    count = len(sizes.keys) if sizes is not None else 1
    classes = np.zeros(rows, np.int64)
    cells = np.zeros((count, len(quasi)))
    sensitive = None if secret is None else np.empty(rows, np.int32)
    hashes = []
    start = 0
    for frame in read():
        end = start + len(frame)
        if sizes is not None:
            values = generalise_frame(frame, contract, settings)
            of = classes[start:end] = sizes.index(values)
            cells[of] = _matrix(values)
        if sensitive is not None and secret is not None:
            sensitive[start:end] = secret.encode(frame)
        if job.series is not None:
            hashes.append(row_hashes(frame, job.secret))
        start = end
    keys = row_keys(hashes) if job.series is not None else np.arange(rows, dtype=np.uint64)
    people = None
    if quasi:
        people = people_per_class(
            job, cells, lambda frame: _matrix(generalise_frame(frame, contract, settings))
        )
    return _Found(classes, cells, sensitive, () if secret is None else secret.domain, keys, people)


def _matrix(values: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Generalised values as numbers, shape (n, q); a missing one is below all others."""
    return np.nan_to_num(np.stack([*values.values()], axis=1).astype(np.float64), nan=-np.inf)


def _written(
    job: Job, visible: NDArray[np.bool_] | None, models: tuple[Model, ...]
) -> Iterator[pd.DataFrame]:
    """Chunks of the table to write; the checker sees them all, and agrees before the last ends."""
    contract, settings = job.contract, job.settings
    protected = secret_of(contract, settings)
    quasi = [column.name for column in contract.with_role("quasi_identifier")]
    proof = Checker(models, () if protected is None else protected.domain)
    start = 0
    for frame in identified_chunks(job.source, contract, settings, job.secret):
        published(frame, contract, settings)
        end = start + len(frame)
        if visible is None:
            yield frame
        else:
            if job.numbered:
                frame[ROW] = np.arange(start, end)
            kept = frame[visible[start:end]]
            secret = None if protected is None else protected.spelled(kept)
            proof.add([kept[name].tolist() for name in quasi], secret, rows=len(kept))
            yield kept
        start = end
    if visible is not None:
        if any(model.reads == "presence" for model in models):
            for frame in population_chunks(job):
                published(frame, contract, settings)
                proof.add_population([frame[name].tolist() for name in quasi])
        proof.demand(job.site)


def published(frame: pd.DataFrame, contract: Contract, settings: Anonymisation) -> pd.DataFrame:
    """Put generalised values into a frame, in place, as they are published."""
    import pandas as pd

    values = generalise_frame(frame, contract, settings)
    for column in map(converted, contract.with_role("quasi_identifier")):
        level = level_of(column, settings)
        if level and is_categorical(column):
            codes = values[column.name].astype(np.int32)
            groups = pd.Index(categories_at(column, level), dtype="str")
            frame[column.name] = pd.Categorical.from_codes(codes, groups)
        elif level:
            frame[column.name] = values[column.name]
    return frame


def fields_of(job: Job, *, suppressing: bool) -> pa.Schema:
    """Arrow schema of the table to write; untouched columns keep their types."""
    import pyarrow as pa

    fields = []
    for column, kind in kept_fields(schema_of(job.source), job.contract, job.settings):
        text = pa.dictionary(pa.int32(), pa.string())
        coarse = text if is_categorical(converted(column)) else pa.float64()
        fields.append(pa.field(column.name, coarse if level_of(column, job.settings) else kind))
    if suppressing and job.numbered:
        fields.append(pa.field(ROW, pa.int64()))
    return pa.schema(fields)


def generalise_frame(
    frame: pd.DataFrame, contract: Contract, anonymisation: Anonymisation
) -> dict[str, NDArray[Any]]:
    """Codes (int32, -1 missing) or midpoints (float64, NaN missing) of the quasi-identifiers."""
    out: dict[str, NDArray[Any]] = {}
    for column in map(converted, contract.with_role("quasi_identifier")):
        level = level_of(column, anonymisation)
        if is_categorical(column):
            out[column.name], _ = generalise_categories(frame[column.name], column, level)
        else:
            values = frame[column.name].to_numpy(np.float64, na_value=np.nan)
            out[column.name] = generalise_numbers(values, column, level)
    return out
