"""A site's table as codes, for the search of the lattice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from folkmoot.conversion import converted
from site_tasks.anonymise.chosen import sensitive_column
from site_tasks.anonymise.coded import Coded, Column, encode
from site_tasks.anonymise.columns import column_of, quasi_identifiers
from site_tasks.anonymise.identifiers import converted_chunks
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.population import read_population

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_coded"]


def read_coded(job: Job) -> tuple[Coded, Coded | None]:
    """Quasi-identifiers and the sensitive column of a table, and of its population where asked for.

    O(rows · columns); memory is 4 bytes per row and column.

    Raises
    ------
    DataError
        ``data.contract`` for values outside a public domain, with column and count.
    """
    columns = quasi_identifiers(job.contract)
    found = sensitive_column(job.contract, job.settings)
    sensitive = None if found is None else column_of(converted(found))
    names = [column.name for column in columns]
    read = names if sensitive is None else [*names, sensitive.name]
    chunks = converted_chunks(job.source, read, job.contract, job.settings, job.secret)
    wanted = columns if sensitive is None else (*columns, sensitive)
    codes = _codes(chunks, wanted)
    table = Coded(columns, np.asfortranarray(codes[:, : len(columns)]))
    if sensitive is not None:
        last = np.ascontiguousarray(codes[:, -1])
        table = Coded(columns, table.codes, last, sensitive.domain)
    asked = job.settings.k_map is not None or job.settings.delta_presence is not None
    if not asked:
        return table, None
    return table, read_population(job, columns)


def _codes(chunks: Iterable[pd.DataFrame], columns: Sequence[Column]) -> NDArray[np.int32]:
    parts = [
        np.stack([encode(frame[column.name], column) for column in columns], axis=1)
        for frame in chunks
    ]
    empty = np.zeros((0, len(columns)), np.int32)
    return np.asfortranarray(np.concatenate([empty, *parts]))
