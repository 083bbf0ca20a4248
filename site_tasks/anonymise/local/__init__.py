"""Local recoding: cells that differ from class to class, as narrow as the rows of each allow.

:func:`recode` is the one entrance.  Loading this package costs nothing; the first call loads Numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.recoding import Recoding

if TYPE_CHECKING:
    from site_tasks.anonymise.models import Model

__all__ = ["Method", "recode"]

Method = Literal["mondrian", "relaxed", "microaggregation"]


def recode(
    coded: Coded,
    *,
    k: int,
    models: Sequence[Model] = (),
    method: Method = "mondrian",
    suppression_limit: float = 0.0,
) -> Recoding:
    """Partition a table into classes that satisfy k-anonymity and further models, losing little.

    The same table gives the same classes, whatever its order of rows (``relaxed`` and
    ``microaggregation`` deal equal rows out in the order they come in).  Where classes lie depends
    on the rows: the stability of this transformation is unbounded, so features made from it need
    a fixed numeric space, and a mechanism that does not count on neighbouring tables staying close.

    Parameters
    ----------
    coded : Coded
        The table; n rows, q quasi-identifiers.
    k : int
        Rows of every class, at least.
    models : sequence of Model
        What else has to hold for every class.
    method : {"mondrian", "relaxed", "microaggregation"}
        ``mondrian`` never parts equal rows: each class is a box of its own.  ``relaxed`` may, which
        makes smaller classes.  ``microaggregation`` groups the rows that lie nearest (MDAV),
        for tables of ordered columns.
    suppression_limit : float
        Share of the rows that may be suppressed.  ``mondrian`` without models suppresses rows where
        that loses less in all; nothing else does, as every table that can be recoded can be
        recoded without.

    Returns
    -------
    Recoding

    Raises
    ------
    DataError
        ``data.too-few-rows`` for fewer rows than k; ``data.privacy-model`` where the whole table as
        one class breaks a model, so that no recoding can satisfy it.
    ConfigError
        ``config.invalid`` for a model that cannot be decided class by class, or an unknown method;
        ``config.installation`` without Numba.

    References
    ----------
    LeFevre et al., ICDE 2006 (Mondrian, strict and relaxed); Domingo-Ferrer & Torra, Data Mining
    and Knowledge Discovery 11(2), 2005 (MDAV).
    """
    from site_tasks.anonymise.local.engine import METHODS, prepare

    if method not in METHODS:
        raise ConfigError(
            "config.invalid",
            f"There is no method {method} of local recoding.",
            f"Choose one of: {', '.join(METHODS)}.",
        )
    if coded.rows < k:
        raise DataError(
            "data.too-few-rows",
            f"The table has {coded.rows} rows, fewer than k = {k}.",
            "Lower k, or leave this dataset out.",
        )
    return METHODS[method](coded, prepare(coded, k, models, method), suppression_limit)
