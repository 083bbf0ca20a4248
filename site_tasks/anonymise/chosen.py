"""The privacy models that params ask for, over the contract's columns."""

from __future__ import annotations

from folkmoot.contract import Column, Contract
from folkmoot.conversion import converted
from folkmoot.errors import ConfigError
from folkmoot.generalisation import is_categorical
from folkmoot.params import Anonymisation
from site_tasks.anonymise.columns import column_of
from site_tasks.anonymise.models import (
    AlphaK,
    BetaLikeness,
    DeltaDisclosure,
    DeltaPresence,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    KMap,
    Model,
    RecursiveCLDiversity,
    TCloseness,
)
from site_tasks.anonymise.models.marginal import OfColumn
from site_tasks.anonymise.secret import Secret

__all__ = ["chosen_models", "secret_of", "sensitive_columns"]


def chosen_models(contract: Contract, settings: Anonymisation) -> tuple[Model, ...]:
    """Models that have to hold together, k-anonymity first.

    Raises
    ------
    ConfigError
        As :func:`sensitive_columns`; ``config.invalid`` for a hierarchical distance without a
        hierarchy.
    """
    models: list[Model] = [KAnonymity(settings.k)]
    columns = sensitive_columns(contract, settings)
    for index, column in enumerate(columns):
        asked = _of_values(settings, column)
        if len(columns) > 1:
            secret = Secret(tuple(map(column_of, columns)))
            codes, domain = secret.codes(index), secret.columns[index].domain
            asked = [OfColumn(model, column.name, index, codes, domain) for model in asked]
        models += asked
    if settings.delta_presence is not None:
        models.append(DeltaPresence(settings.delta_presence.low, settings.delta_presence.high))
    if settings.k_map is not None:
        models.append(KMap(settings.k_map))
    return tuple(models)


def _of_values(settings: Anonymisation, column: Column) -> list[Model]:
    """Models of one sensitive column."""
    models: list[Model] = []
    diversity, closeness = settings.l_diversity, settings.t_closeness
    if diversity is not None:
        if diversity.kind == "entropy":
            models.append(EntropyLDiversity(diversity.l))
        elif diversity.c is not None:
            models.append(RecursiveCLDiversity(diversity.c, int(diversity.l)))
        else:
            models.append(DistinctLDiversity(int(diversity.l)))
    if closeness is not None:
        levels = _groups(column) if closeness.distance == "hierarchical" else ()
        models.append(TCloseness(closeness.t, closeness.distance, levels))
    if settings.alpha is not None:
        models.append(AlphaK(settings.alpha, settings.k))
    if settings.beta is not None:
        models.append(BetaLikeness(settings.beta))
    if settings.delta_disclosure is not None:
        models.append(DeltaDisclosure(settings.delta_disclosure))
    return models


def sensitive_columns(contract: Contract, settings: Anonymisation) -> tuple[Column, ...]:
    """The columns that models protect, after their conversion; none where no model looks at them.

    All of role ``sensitive``, or those that ``anonymisation.sensitive`` names: every model has to
    hold for each of them.

    Raises
    ------
    ConfigError
        ``config.invalid`` where there is none, or one that is not of public categories.
    """
    if not settings.protects:
        return ()
    named = settings.sensitive
    if named is None:
        found = contract.with_role("sensitive")
    else:
        names = [named] if isinstance(named, str) else named
        able = {c.name: c for c in (*contract.inputs, contract.label)}
        for name in names:
            if name not in able or able[name].role == "quasi_identifier":
                raise _refused(
                    f"anonymisation.sensitive names {name}, which is no sensitive column, feature or "
                    "label of the contract.",
                    "Name columns that the contract has and that are no quasi-identifiers.",
                )
        found = tuple(able[name] for name in names)
    if not found:
        raise _refused(
            "A model of sensitive values is asked for, but no column of the contract has role "
            "sensitive.",
            "Give columns role sensitive, or name some in anonymisation.sensitive.",
        )
    columns = tuple(map(converted, found))
    for column in columns:
        if not is_categorical(column) and column.type != "integer":
            raise _refused(
                f"Sensitive column {column.name} is a number that is not whole: it has no distinct "
                "values.",
                "Give it public categories in the contract, or drop the model.",
            )
    return columns


def secret_of(contract: Contract, settings: Anonymisation) -> Secret | None:
    """The same as codes; None where no model looks at sensitive values."""
    return Secret.of([column_of(column) for column in sensitive_columns(contract, settings)])


def _groups(column: Column) -> tuple[tuple[int, ...], ...]:
    levels = column_of(column).levels
    if not levels:
        raise _refused(
            f"t-closeness by hierarchical distance needs a hierarchy of {column.name}.",
            "Give the column one in the contract, or use distance equal or ordered.",
        )
    # The missing value is a group of its own below the top.
    tops = [*[int(level.max()) + 1 for level in levels[:-1]], 0]
    return tuple((*level.tolist(), top) for level, top in zip(levels, tops, strict=True))


def _refused(message: str, remedy: str) -> ConfigError:
    return ConfigError("config.invalid", message, remedy)
