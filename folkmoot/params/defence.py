"""What is done about poisoned and broken updates: section ``aggregation.defence``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from folkmoot.params.kinds import Name, NonNegative, Positive
from folkmoot.sections import Section

__all__ = ["Defence"]


class Defence(Section):
    """Who may spoil the model, and what is done about it."""

    mode: Literal["none", "private", "robust"] = "none"
    """`private`: updates may be masked, the site bounds their norm, a gate takes back what harms; `robust`: the coordinator sees updates and combines them by `rule`."""
    rule: Literal[
        "median",
        "trimmed_mean",
        "krum",
        "multi_krum",
        "geometric_median",
        "centred_clipping",
        "fltrust",
    ] = "multi_krum"
    """How `robust` combines the sites' changes."""
    hostile: Annotated[int, Field(ge=0)] = 1
    """Most sites that may be hostile; each rule refuses more than it can bear."""
    trusted_site: Name | None = None
    """Site whose own update `fltrust` measures the others by."""
    radius: Positive | None = None
    """Radius of `centred_clipping`; the median distance of the updates when null."""
    gate: NonNegative | None = 0.05
    """Relative rise of the sites' median held-out loss above which a round's model is taken back; no gate when null."""
    quarantine_after: Annotated[int, Field(ge=0)] = 0
    """Suspicious rounds after which a site's updates no longer count, under `robust`; 0 only reports."""

    @model_validator(mode="after")
    def _trusted(self) -> Self:
        if self.mode == "robust" and (self.rule == "fltrust") != (self.trusted_site is not None):
            raise ValueError("rule fltrust and trusted_site go together")
        return self

    def bears(self, sites: int) -> int:
        """Most hostile sites among ``sites`` that ``rule`` can bear."""
        if self.rule in {"krum", "multi_krum"}:
            return max(0, (sites - 3) // 2)
        if self.rule == "fltrust":
            return sites - 1
        return (sites - 1) // 2

    @property
    def gated(self) -> bool:
        """Whether each round's model must pass the validation gate."""
        return self.mode != "none" and self.gate is not None
