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

__all__ = ["chosen_models", "sensitive_column"]


def chosen_models(contract: Contract, settings: Anonymisation) -> tuple[Model, ...]:
    """Models that have to hold together, k-anonymity first.

    Raises
    ------
    ConfigError
        As :func:`sensitive_column`; ``config.invalid`` for a hierarchical distance without a
        hierarchy.
    """
    models: list[Model] = [KAnonymity(settings.k)]
    column = sensitive_column(contract, settings)
    diversity, closeness = settings.l_diversity, settings.t_closeness
    if diversity is not None:
        if diversity.kind == "entropy":
            models.append(EntropyLDiversity(diversity.l))
        elif diversity.c is not None:
            models.append(RecursiveCLDiversity(diversity.c, int(diversity.l)))
        else:
            models.append(DistinctLDiversity(int(diversity.l)))
    if closeness is not None and column is not None:
        levels = _groups(column) if closeness.distance == "hierarchical" else ()
        models.append(TCloseness(closeness.t, closeness.distance, levels))
    if settings.alpha is not None:
        models.append(AlphaK(settings.alpha, settings.k))
    if settings.beta is not None:
        models.append(BetaLikeness(settings.beta))
    if settings.delta_disclosure is not None:
        models.append(DeltaDisclosure(settings.delta_disclosure))
    if settings.delta_presence is not None:
        models.append(DeltaPresence(settings.delta_presence.low, settings.delta_presence.high))
    if settings.k_map is not None:
        models.append(KMap(settings.k_map))
    return tuple(models)


def sensitive_column(contract: Contract, settings: Anonymisation) -> Column | None:
    """The column that models protect, after its conversion; None where none of them looks at it.

    Raises
    ------
    ConfigError
        ``config.invalid`` where there is none, several, or one that is not of public categories.
    """
    if not settings.protects:
        return None
    if settings.sensitive is not None:
        found = [c for c in (*contract.inputs, contract.label) if c.name == settings.sensitive]
        if not found or found[0].role == "quasi_identifier":
            raise _refused(
                f"anonymisation.sensitive names {settings.sensitive}, which is no sensitive column, "
                "feature or label of the contract.",
                "Name a column that the contract has and that is no quasi-identifier.",
            )
    else:
        found = list(contract.with_role("sensitive"))
    if len(found) != 1:
        held = "no column" if not found else f"{len(found)} columns"
        raise _refused(
            f"A model of sensitive values is asked for, but {held} of the contract "
            f"{'have' if found else 'has'} role sensitive.",
            "Give one column role sensitive, or name one in anonymisation.sensitive.",
        )
    column = converted(found[0])
    if not is_categorical(column) and column.type != "integer":
        raise _refused(
            f"Sensitive column {column.name} is a number that is not whole: it has no distinct values.",
            "Give it public categories in the contract, or drop the model.",
        )
    return column


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
