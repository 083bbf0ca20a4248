"""A site's table as codes, for the search of the lattice."""

from __future__ import annotations

import numpy as np

from folkmoot.conversion import converted_contract
from site_tasks.anonymise.chosen import secret_of
from site_tasks.anonymise.coded import Coded, encode
from site_tasks.anonymise.columns import quasi_identifiers
from site_tasks.anonymise.identifiers import converted_chunks
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.population import read_population

__all__ = ["read_coded"]


def read_coded(job: Job) -> tuple[Coded, Coded | None]:
    """Quasi-identifiers and the sensitive columns of a table, and of its population where asked for.

    O(rows · columns); memory is 4 bytes per row and column.

    Raises
    ------
    DataError
        ``data.contract`` for values outside a public domain, with column and count.
    """
    columns = quasi_identifiers(converted_contract(job.contract))
    secret = secret_of(job.contract, job.settings)
    names = [column.name for column in columns]
    read = [*names, *(() if secret is None else secret.names)]
    codes = [np.zeros((0, len(columns)), np.int32)]
    values = [np.zeros(0, np.int32)]
    for frame in converted_chunks(job.source, read, job.contract, job.settings, job.secret):
        codes.append(np.stack([encode(frame[c.name], c) for c in columns], axis=1))
        if secret is not None:
            values.append(secret.encode(frame))
    table = Coded(columns, np.asfortranarray(np.concatenate(codes)))
    if secret is not None:
        table = Coded(columns, table.codes, np.concatenate(values), secret.domain)
    asked = job.settings.k_map is not None or job.settings.delta_presence is not None
    if not asked:
        return table, None
    return table, read_population(job, columns)
