"""What is done about poisoned and broken updates: section ``aggregation.defence``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from folkmoot.params.kinds import Name, NonNegative, Positive
from folkmoot.sections import Section

__all__ = ["Defence"]


TRADES = {
    "none": "nothing but what is malformed is stopped",
    "private": "single updates may stay hidden; a site's pull is bounded by its own clipping, and rounds "
    "that harm are taken back; a backdoor without loss of accuracy is not stopped",
    "grouped": "the coordinator sees the sum of every group, of group_minimum sites at least; fewer than "
    "half of the groups may hold hostile sites, and it is groups that are named",
    "robust": "the coordinator sees every update, noised if privacy says so; a minority of hostile sites "
    "is outvoted and named",
}


class Defence(Section):
    """Who may spoil the model, and what is done about it."""

    mode: Literal["none", "private", "grouped", "robust"] = "none"
    """`private`: updates may be masked, the site bounds their norm, a gate takes back what harms; `grouped`: the coordinator sees masked sums of random groups of sites and combines them by `rule`; `robust`: the coordinator sees updates and combines them by `rule`."""
    rule: Literal[
        "nearest_neighbour_mixing",
        "median",
        "trimmed_mean",
        "krum",
        "multi_krum",
        "geometric_median",
        "centred_clipping",
        "fltrust",
    ] = "nearest_neighbour_mixing"
    """How `robust` combines the sites' changes, and `grouped` those of groups."""
    hostile: Annotated[int, Field(ge=0)] = 1
    """Most sites that may be hostile; each rule refuses more than it can bear."""
    groups: Annotated[int, Field(ge=3)] | None = None
    """`grouped`: number of groups, more than twice as many as `hostile`; a hostile site spoils its group."""
    group_minimum: Annotated[int, Field(ge=2)] = 3
    """`grouped`: sites that must be left of a group in a round; a smaller one sits the round out."""
    trusted_site: Name | None = None
    """Site whose own update `fltrust` measures the others by."""
    weight_limit: Positive | None = None
    """`private` and `grouped`: most rows that a site's update counts for, about those of a middling site; without it a site that claims many rows has many sites' weight."""
    radius: Positive | None = None
    """Radius of `centred_clipping`; the median distance of the updates when null."""
    gate: NonNegative | None = 0.05
    """Relative rise of the sites' median held-out loss above which a round's model is taken back; no gate when null."""
    quarantine_after: Annotated[int, Field(ge=0)] = 0
    """Suspicious rounds after which a site's updates no longer count, under `robust` (and its group's under `grouped`); 0 only reports."""

    @model_validator(mode="after")
    def _trusted(self) -> Self:
        if self.mode == "robust" and (self.rule == "fltrust") != (self.trusted_site is not None):
            raise ValueError("rule fltrust and trusted_site go together")
        if self.weight_limit is not None and self.mode not in {"private", "grouped"}:
            raise ValueError(
                "weight_limit belongs to modes private and grouped: rules of robust treat all sites alike"
            )
        if (self.mode == "grouped") != (self.groups is not None):
            raise ValueError("mode grouped and groups go together")
        if self.mode == "grouped" and self.groups is not None:
            if self.rule == "fltrust":
                raise ValueError("rule fltrust needs a trusted site's own update: not with groups")
            if self.groups <= 2 * self.hostile:
                raise ValueError(
                    "mode grouped needs more than twice as many groups as hostile sites, each of "
                    "which may be in another"
                )
            if self.hostile > self.bears(self.groups):
                raise ValueError(
                    f"rule {self.rule} bears {self.bears(self.groups)} hostile groups among "
                    f"{self.groups}: lower hostile, or choose another rule"
                )
        return self

    @property
    def trade(self) -> str:
        """What the mode lets the coordinator see, and what it stops: stands in every record."""
        return TRADES[self.mode]

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
