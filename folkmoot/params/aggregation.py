"""How updates become the global model: section ``aggregation``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from folkmoot.params.defence import Defence
from folkmoot.sections import Section

__all__ = ["Aggregation"]


class Aggregation(Section):
    """How updates become the global model."""

    weighting: Literal["rows", "uniform"] = "rows"
    """Mean of updates weighted by training rows, or every site alike."""
    evaluate_every: Annotated[int, Field(ge=0)] = 1
    """Rounds between evaluations of the global model at the sites; 0 evaluates after the last round only."""
    protection: Literal["none", "masks", "ckks"] = "none"
    """`masks`: the coordinator learns the sum of the sites' contributions and no single one (secure aggregation, linear models); `ckks`: the same by encrypted sums, whose one secret key all sites hold; `none`: it sees every update."""
    threshold: Annotated[int, Field(ge=2)] | None = None
    """Secure sums: sites that must answer to open a sum; floor(2n/3) + 1 when null, more than half always."""
    value_limit: Annotated[float, Field(ge=2**-20, le=2**20)] = 1024.0
    """Masks: largest change of a parameter (larger ones are clipped), and largest share of one row in a sum."""
    rows_limit: Annotated[int, Field(ge=1, le=2**40)] = 1_048_576
    """Masks: most rows of a site; with `value_limit` and the number of sites it decides the resolution of the sums."""
    colluding: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """Masks, for hundreds of sites: largest share of sites that may collude with the coordinator; set it with `failing` for a sparse graph of neighbours."""
    failing: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """Masks, for hundreds of sites: largest share of sites that may be missing from a round."""
    defence: Defence = Defence()
    """What is done about poisoned and broken updates."""

    @model_validator(mode="after")
    def _masks(self) -> Self:
        if (self.colluding is None) != (self.failing is None):
            raise ValueError("colluding and failing go together")
        if self.colluding is not None and self.protection == "ckks":
            raise ValueError("encrypted sums have no graph of neighbours: leave colluding null")
        if self.colluding is not None and self.failing is not None:
            if self.colluding + self.failing >= 0.5:
                raise ValueError("colluding and failing must stay below one half together")
            if self.threshold is not None:
                raise ValueError("with colluding and failing the threshold follows from them")
        return self

    @property
    def masked(self) -> bool:
        """Whether single contributions are hidden from the coordinator: masked, or encrypted."""
        return self.protection != "none"
