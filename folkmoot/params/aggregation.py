"""How updates become the global model: section ``aggregation``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from folkmoot.params.defence import Defence
from folkmoot.sections import Section

__all__ = ["Aggregation"]


class Aggregation(Section):
    """How updates become the global model."""

    weighting: Literal["rows", "uniform"] = "rows"
    """Mean of updates weighted by training rows, or every site alike."""
    evaluate_every: Annotated[int, Field(ge=0)] = 1
    """Rounds between evaluations of the global model at the sites; 0 evaluates after the last round only."""
    defence: Defence = Defence()
    """What is done about poisoned and broken updates."""
