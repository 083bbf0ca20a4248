"""Models that cannot hold together, or not on this table: one clear error each.

Asked before anything is written.  Messages name counts and columns, never a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from folkmoot.errors import ConfigError, DataError, FolkmootError
from site_tasks.anonymise.models.base import Model
from site_tasks.anonymise.models.closeness import TCloseness
from site_tasks.anonymise.models.diversity import (
    DistinctLDiversity,
    EntropyLDiversity,
    RecursiveCLDiversity,
)
from site_tasks.anonymise.models.likeness import AlphaK, BetaLikeness, DeltaDisclosure
from site_tasks.anonymise.models.population import DeltaPresence, KMap
from site_tasks.anonymise.models.size import KAnonymity

__all__ = ["Table", "check"]

Trouble = tuple[str, str]


@dataclass(frozen=True)
class Table:
    """What the checks need to know of a table.

    Parameters
    ----------
    rows : int
        Its rows.
    sensitive : str, optional
        Name of the sensitive column.
    values : tuple of int
        Rows of every sensitive value that occurs, in any order.
    quasi_identifiers : tuple of str
        Their names.
    population : int, optional
        People of the population table.
    """

    rows: int
    sensitive: str | None = None
    values: tuple[int, ...] = ()
    quasi_identifiers: tuple[str, ...] = ()
    population: int | None = None


def check(models: Sequence[Model], table: Table | None = None, *, site: str | None = None) -> None:
    """Refuse models that contradict themselves, each other or the table.

    Parameters
    ----------
    models : sequence of Model
        What has to hold together.
    table : Table, optional
        Without one, only what the models say by themselves is checked.
    site : str, optional
        Whose table it is.

    Raises
    ------
    ConfigError
        ``config.invalid`` for parameters out of range, models that contradict each other, and
        models of a column or population table that is not there.
    DataError
        ``data.too-few-rows`` for fewer rows than k, ``data.privacy-model`` where no way of
        generalising this table can satisfy a model.
    """
    for problem in (_range(models), _pair(models)):
        for message, remedy in problem:
            raise ConfigError("config.invalid", message, remedy, site=site)
    if table is None:
        return
    for error in (*_needs(models, table, site), *_reach(models, table, site)):
        raise error


def _range(models: Sequence[Model]) -> Iterator[Trouble]:
    for m in models:
        wrong = ""
        match m:
            case KAnonymity(k=k) | KMap(k=k) if k < 1:
                wrong = "k must be at least 1"
            case DistinctLDiversity(l=l) | EntropyLDiversity(l=l) if not 1 <= l < math.inf:
                wrong = "l must be at least 1"
            case RecursiveCLDiversity(c=c, l=l) if l < 1 or not 0 < c < math.inf:
                wrong = "l must be at least 1 and c above 0"
            case TCloseness(t=t) if not 0 <= t <= 1:
                wrong = "t must lie between 0 and 1"
            case TCloseness(distance="hierarchical", levels=levels) if not _nested(levels):
                wrong = "its levels must be groups of groups that end in one group of all values"
            case AlphaK(alpha=alpha, k=k) if k < 1 or not 0 < alpha <= 1:
                wrong = "α must lie between 0 and 1, and k must be at least 1"
            case BetaLikeness(beta=bound) | DeltaDisclosure(delta=bound) if (
                not 0 < bound < math.inf
            ):
                wrong = "its bound must be above 0"
            case DeltaPresence(low=low, high=high) if not 0 <= low <= high <= 1:
                wrong = "δ needs 0 ≤ low ≤ high ≤ 1"
        if wrong:
            yield f"{m}: {wrong}.", "Correct it in section anonymisation of params.yaml."


def _nested(levels: tuple[tuple[int, ...], ...]) -> bool:
    """Whether every level merges groups of the one before, and the last merges all."""
    if not levels or len({len(level) for level in levels}) != 1 or len(set(levels[-1])) > 1:
        return False
    return all(
        len(set(zip(fine, coarse, strict=True))) == len(set(fine))
        for fine, coarse in pairwise(levels)
    )


def _pair(models: Sequence[Model]) -> Iterator[Trouble]:
    seen: dict[tuple[type[Model], str], Model] = {}
    for m in models:
        key = (type(m), getattr(m, "distance", ""))
        if key in seen and seen[key] != m:
            yield (
                f"{m.name} is asked for twice, with different parameters: {seen[key]} and {m}.",
                "Keep the stricter of the two.",
            )
        seen[key] = m
    sizes = [m for m in models if isinstance(m, KAnonymity | AlphaK)]
    if len({m.k for m in sizes if not isinstance(m, AlphaK) or m.k > 1}) > 1:
        yield (
            f"{' and '.join(map(str, sizes))} ask for classes of different sizes.",
            "Give both the same k.",
        )


def _needs(models: Sequence[Model], table: Table, site: str | None) -> Iterator[FolkmootError]:
    for m in models:
        if m.reads == "sensitive" and table.sensitive is None:
            yield ConfigError(
                "config.invalid",
                f"{m} is asked for, but no column of the contract has role sensitive.",
                "Give the column that must not be learned role sensitive in the contract, or drop "
                "the model.",
                site=site,
            )
        if m.reads == "presence" and table.population is None:
            yield ConfigError(
                "config.invalid",
                f"{m} is asked for, but no population table is named.",
                "Name the population table, or drop the model.",
                site=site,
            )
        if m.reads != "presence" and not table.quasi_identifiers and not isinstance(m, KAnonymity):
            yield ConfigError(
                "config.invalid",
                f"{m} is asked for, but no column of the contract is a quasi-identifier.",
                "Give the columns by which a person can be found role quasi_identifier.",
                site=site,
            )


def _reach(models: Sequence[Model], table: Table, site: str | None) -> Iterator[FolkmootError]:
    """What even one class of all rows would not satisfy."""
    at = f"Site {site}" if site else "The table"
    most = max(table.values, default=0)
    for m in models:
        k = m.k if isinstance(m, KAnonymity | AlphaK) else 0
        if k > table.rows:
            yield DataError(
                "data.too-few-rows",
                f"{at} has {table.rows} rows, fewer than k = {k}.",
                "Lower k, or take part with more rows: no class of this table can reach k.",
                site=site,
            )
        people = table.population
        if people is not None and people < table.rows:
            yield DataError(
                "data.privacy-model",
                f"{at} has {table.rows} rows, but its population table holds {people} people only.",
                "Name a population table that holds everybody who could be in the table.",
                site=site,
            )
        if people and isinstance(m, DeltaPresence) and m.low > table.rows / people * (1 + 1e-12):
            yield DataError(
                "data.privacy-model",
                f"{m} is asked for, but {table.rows} of {people} people are in the table: some "
                "class must lie below the lower bound.",
                "Lower δ's lower bound.",
                site=site,
            )
        if people is not None and isinstance(m, KMap) and m.k > people:
            yield DataError(
                "data.too-few-rows",
                f"The population table holds {people} people, fewer than k = {m.k}.",
                "Lower k, or name a larger population table.",
                site=site,
            )
        if m.reads != "sensitive" or not table.values:
            continue
        impossible = ""
        match m:
            case DistinctLDiversity(l=l) | RecursiveCLDiversity(l=l) if l > len(table.values):
                impossible = f"but {table.sensitive} has {len(table.values)} values at this site"
            case EntropyLDiversity(l=l) if l > _entropy_l(table.values) * (1 + 1e-12):
                impossible = f"but all rows together reach l = {_entropy_l(table.values):.3f} only"
            case RecursiveCLDiversity(c=c, l=l) if most >= c * sum(
                sorted(table.values, reverse=True)[l - 1 :]
            ):
                impossible = "but the most frequent value is too frequent in all rows together"
            case AlphaK(alpha=alpha) if most > alpha * table.rows * (1 + 1e-12):
                impossible = "but the most frequent value is more frequent in all rows together"
        if impossible:
            yield DataError(
                "data.privacy-model",
                f"{m} is asked for, {impossible}: no class can hold.",
                f"Weaken the model, or choose another sensitive column than {table.sensitive}.",
                site=site,
            )


def _entropy_l(values: Sequence[int]) -> float:
    whole = sum(values)
    return math.exp(-sum(n / whole * math.log(n / whole) for n in values if n))
