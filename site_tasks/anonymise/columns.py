"""A contract's quasi-identifiers as the columns that anonymisers work on."""

from __future__ import annotations

from folkmoot.contract import Column as ContractColumn
from folkmoot.contract import Contract
from folkmoot.hierarchies import ValueHierarchy, hierarchy_of
from site_tasks.anonymise.coded import Column

__all__ = ["column_of", "quasi_identifiers"]


def quasi_identifiers(contract: Contract) -> tuple[Column, ...]:
    """All quasi-identifiers with their public domains and hierarchies, in the contract's order."""
    return tuple(column_of(column) for column in contract.with_role("quasi_identifier"))


def column_of(column: ContractColumn | ValueHierarchy, name: str | None = None) -> Column:
    """A contract's column, or a hierarchy under a name, as the anonymisers' column.

    ``levels`` are those of the hierarchy from level 1, so that numbers of levels agree everywhere.
    """
    if isinstance(column, ValueHierarchy):
        tree, name = column, name or column.source
    else:
        tree, name = hierarchy_of(column), column.name
    return Column(name, tree.ordered, tree.domain, tree.groups, tree.width)
