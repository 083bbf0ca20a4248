"""The population table that a steward names: how many of its people fall into each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.coded import Coded, Column, encode
from site_tasks.anonymise.identifiers import converted_chunks
from site_tasks.anonymise.job import Job
from site_tasks.table import schema_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["people_per_class", "population_chunks", "read_population"]

Matrix = Callable[["pd.DataFrame"], NDArray[np.float64]]


def people_per_class(
    job: Job, cells: NDArray[np.float64], matrix: Matrix
) -> NDArray[np.int64] | None:
    """People of the population table in each of the dataset's classes.

    Parameters
    ----------
    job : Job
        Its ``population`` has the contract's quasi-identifiers.
    cells : ndarray of float64, shape (classes, q)
        Generalised values of each class, as ``matrix`` makes them.
    matrix : callable
        Generalised values of a frame, shape (rows, q).

    Returns
    -------
    ndarray of int64, shape (classes,), or None
        None where no model asks for it.

    Raises
    ------
    ConfigError, DataError
        As :func:`population_chunks`.
    """
    if job.settings.k_map is None and job.settings.delta_presence is None:
        return None
    people = np.zeros(len(cells), np.int64)
    for frame in population_chunks(job):
        both = np.concatenate([cells, matrix(frame)])
        _, inverse = np.unique(both, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        here = np.bincount(inverse[len(cells) :], minlength=int(inverse.max()) + 1)
        people += here[inverse[: len(cells)]]
    return people


def population_chunks(job: Job) -> Iterator[pd.DataFrame]:
    """Quasi-identifiers of the population table, converted; memory O(chunk).

    Raises
    ------
    ConfigError
        ``config.invalid`` where the steward has named no population table.
    DataError
        ``data.column`` where it lacks a quasi-identifier.
    """
    if job.population is None:
        raise ConfigError(
            "config.invalid",
            "delta-presence or k-map is asked for, but no population table is named.",
            "Name one in site.toml (anonymisation.population), or drop the model.",
            site=job.site,
        )
    quasi = [column.name for column in job.contract.with_role("quasi_identifier")]
    lacking = sorted(set(quasi) - set(schema_of(job.population).names))
    if lacking:
        raise DataError(
            "data.column",
            f"The population table lacks columns {', '.join(lacking)}.",
            "Give it every quasi-identifier of the contract.",
            site=job.site,
        )
    yield from converted_chunks(job.population, quasi, job.contract, job.settings, job.secret)


def read_population(job: Job, columns: Sequence[Column]) -> Coded:
    """The population table as codes; memory 4 bytes per person and column.

    Raises
    ------
    ConfigError, DataError
        As :func:`population_chunks`; ``data.contract`` for values outside a public domain.
    """
    parts = [
        np.stack([encode(frame[column.name], column) for column in columns], axis=1)
        for frame in population_chunks(job)
    ]
    empty = np.zeros((0, len(columns)), np.int32)
    return Coded(tuple(columns), np.asfortranarray(np.concatenate([empty, *parts])))
