"""Which row goes to which site.

``dirichlet`` is the label skew of Hsu, Qi and Brown (2019, arXiv:1909.06335), ``quantity`` and
``feature_shift`` follow NIID-Bench (Li et al. 2022, arXiv:2102.02079).  All are seeded: the same
params deal the same rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError
from folkmoot.params import Params

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.recipes.rows import Rows

__all__ = ["assign"]

_ATTEMPTS = 1000
_LEAST = 10


def assign(rows: Rows, contract: Contract, params: Params) -> NDArray[np.int32]:
    """Deal rows to the sorted sites of ``params``; O(n log n).

    Parameters
    ----------
    rows : Rows
        All rows.
    contract : Contract
        Names the label.
    params : Params
        ``federation.sites`` and ``data.partition``.

    Returns
    -------
    ndarray of int32, shape (n,)
        Index into ``params.federation.members`` per row; every site gets rows.

    Raises
    ------
    ConfigError
        Where the partition's column does not exist, or does not have one value per site.
    DataError
        Where there are fewer rows than sites, values of the column are missing, or no draw leaves
        every site enough rows.
    """
    sites = params.federation.members
    wanted = params.data.partition
    if len(rows) < len(sites):
        raise DataError(
            "data.too-few-rows",
            f"{len(rows)} rows cannot be dealt to {len(sites)} sites.",
            "Name fewer sites, or use a larger source.",
        )
    rng = np.random.default_rng(wanted.seed)
    if wanted.kind == "natural":
        return _natural(_column(rows, wanted.column), sites, str(wanted.column))
    if wanted.kind == "feature_shift":
        return _feature_shift(_column(rows, wanted.column), len(sites), rng)
    if wanted.kind == "dirichlet":
        label = _column(rows, contract.label.name)
        return _dirichlet(_groups(label, contract.task), len(sites), wanted.alpha, rng)
    if wanted.kind == "quantity":
        return _quantity(len(rows), len(sites), wanted.alpha, rng)
    return _split(rng.permutation(len(rows)), np.full(len(sites), 1 / len(sites)))


def _column(rows: Rows, name: str | None) -> pd.Series[Any]:
    if name not in rows.columns:
        raise ConfigError(
            "data.column",
            f"data.partition.column: the source has no column {name}.",
            f"Choose one of: {', '.join(rows.columns)}.",
        )
    return rows.column(name)


def _natural(column: pd.Series[Any], sites: tuple[str, ...], name: str) -> NDArray[np.int32]:
    import pandas as pd

    missing = int(column.isna().sum())
    if missing:
        raise DataError(
            "data.column",
            f"Column {name} of the natural partition is missing in {missing} rows.",
            "Fill the column, or choose another one.",
        )
    codes, values = pd.factorize(column, sort=True)
    texts = [str(value) for value in values]
    if len(texts) != len(sites):
        raise ConfigError(
            "config.invalid",
            f"Column {name} has {len(texts)} values, federation.sites names {len(sites)} sites.",
            "A natural partition needs one site per value: name as many sites.",
        )
    if set(texts) == set(sites):
        order = np.array([sites.index(text) for text in texts], np.int32)
        return order[codes]
    return codes.astype(np.int32)


def _split(order: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.int32]:
    """Consecutive runs of ``order`` go to the sites by their shares."""
    edges = np.round(np.cumsum(shares)[:-1] * len(order)).astype(int)
    site = np.empty(len(order), np.int32)
    for i, part in enumerate(np.split(order, edges)):
        site[part] = i
    return site


def _groups(label: pd.Series[Any], task: str) -> NDArray[np.int64]:
    """Classes of the label; tenths of its range of ranks for regression."""
    import pandas as pd

    if task == "regression":
        rank = label.rank(method="first").to_numpy() - 1
        return (rank * 10 // max(len(label), 1)).astype(np.int64)
    return np.asarray(pd.factorize(label, sort=True)[0], np.int64)


def _dirichlet(
    groups: NDArray[np.int64], sites: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.int32]:
    for _ in range(_ATTEMPTS):
        site = np.empty(len(groups), np.int32)
        for group in np.unique(groups):
            members = rng.permutation(np.flatnonzero(groups == group))
            site[members] = _split(np.arange(len(members)), rng.dirichlet(np.full(sites, alpha)))
        if _enough(site, sites):
            return site
    raise _uneven(sites)


def _quantity(n: int, sites: int, alpha: float, rng: np.random.Generator) -> NDArray[np.int32]:
    for _ in range(_ATTEMPTS):
        site = _split(rng.permutation(n), rng.dirichlet(np.full(sites, alpha)))
        if _enough(site, sites):
            return site
    raise _uneven(sites)


def _feature_shift(
    column: pd.Series[Any], sites: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Sorted by the column, each row moved by noise of half a site's share; missing values last."""
    rank = column.rank(method="first", na_option="bottom").to_numpy() / len(column)
    order = np.argsort(rank + rng.normal(0, 0.5 / sites, len(column)), kind="stable")
    return _split(order, np.full(sites, 1 / sites))


def _enough(site: NDArray[np.int32], sites: int) -> bool:
    """Whether the smallest site has ten rows, or a tenth of its even share where that is fewer."""
    least = max(1, min(_LEAST, len(site) // (10 * sites)))
    return bool(np.bincount(site, minlength=sites).min() >= least)


def _uneven(sites: int) -> DataError:
    return DataError(
        "data.too-few-rows",
        f"No draw of data.partition left each of {sites} sites enough rows.",
        "Raise data.partition.alpha, name fewer sites, or use more rows.",
    )
