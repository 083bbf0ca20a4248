"""A site's side of secure sums: set-up, masks on what it releases, one answer per sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from folkmoot.plan import RunContext, Step

__all__ = ["summed"]

#: Tasks whose releases are summed under masks.
SUMMED = frozenset({"levels", "statistics", "train", "evaluate"})


def summed(step: Step, context: RunContext) -> bool:
    """Whether what a step releases leaves under masks."""
    task = step.name.split("/")[1]
    return context.params.aggregation.masked and task in SUMMED
