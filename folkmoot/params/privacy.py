"""What is done to an update before it leaves a site: section ``privacy``."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from folkmoot.params.kinds import NonNegative, Positive
from folkmoot.privacy.accountant import gaussian_epsilon
from folkmoot.sections import Section

__all__ = ["Privacy"]


class Privacy(Section):
    """What is done to an update before it leaves a site."""

    mechanism: Literal["none", "clip", "gaussian", "diffprivlib"] = "none"
    """`clip` bounds the update's L2 norm; `gaussian` adds noise as well; `diffprivlib` trains its own estimators at the site."""
    clip_norm: Positive = 1.0
    """Largest L2 norm of a site's update (per-site clipping)."""
    noise_multiplier: NonNegative = 0.0
    """Standard deviation of the noise over the sensitivity; must be positive for `gaussian`."""
    epsilon: Positive | None = None
    """Epsilon of the training with `diffprivlib`; with `gaussian` the budget of a run: rounds end before it would be passed."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Delta at which epsilon is reported."""
    unit: Literal["record", "person"] = "record"
    """Privacy unit: one row, or all rows of one person. Clipping `record` then takes few rows of a person, by the pseudonym at the site; clipping `site` bounds any number of them."""
    person: str | None = None
    """Unit `person`: the contract's direct identifier that tells people apart; the only one there is when null."""
    rows_per_person: Annotated[int, Field(ge=1)] = 1
    """Unit `person` with clipping `record`: most rows of a person that are used, chosen by the person's own rows alone; the noise grows with it."""
    clipping: Literal["site", "record"] = "site"
    """`site` bounds a site's whole update; `record` every record's share of a sum, with strategy `private`."""
    relation: Literal["add-or-remove", "replace-one"] = "add-or-remove"
    """How two neighbouring datasets differ, for clipping `record`; clipping `site` is accounted as `replace-one`."""
    noise: Literal["site", "distributed", "coordinator"] = "site"
    """Who adds the noise: each site all of it, each site a share of it (secure sums only), or the coordinator, which sees exact sums."""
    simulate_sums: bool = False
    """`distributed` without secure sums, in a simulation: the coordinator sees single shares, so NOTHING IS PRIVATE TOWARDS IT."""
    dropouts: Annotated[int, Field(ge=0)] = 0
    """`distributed`: sites that may drop out or subtract their own noise before the sum has less noise than planned."""
    colluders: Annotated[int, Field(ge=0)] = 0
    """`distributed`: sites that may, beside those dropouts, tell a reader of the sum their noise; count one where a member site must learn nothing either."""
    rows: Annotated[int, Field(ge=1)] | None = None
    """Training rows of all sites together that the federation expects: a public figure, which clipping `record` plans with."""
    method: Literal["auto", "newton", "gradient", "moments"] = "auto"
    """Clipping `record`: noised histogram, Hessian and gradients; gradients alone; noised second moments (regression); `auto` chooses."""
    adaptive_clip: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Clipping `record`: let the clip norm of gradients follow this quantile of their norms, by a noised count in the same release; null keeps the planner's."""
    evaluation: Literal["exact", "noised", "none"] | None = None
    """Held-out counts: `exact`, which no epsilon covers and `gaussian` and `diffprivlib` refuse (but for `seeded` studies with clipping `site`); `noised` with clipping `record`; `none`. When null `exact` for `none` and `clip`, else `none`."""
    seeded: bool = False
    """Noise from a seed, for tests and studies: marks every model, receipt and report as NOT PRIVATE."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise where `seeded`."""

    @model_validator(mode="after")
    def _mechanism(self) -> Self:
        self._unit()
        if self.clipping == "record":
            self._record()
            return self
        if self.evaluation == "noised":
            raise ValueError(
                "evaluation noised needs clipping record, whose schedule pays for it: a plan with "
                "clipping site or mechanism diffprivlib spends its epsilon on training alone; set "
                "evaluation none and measure the model at each site, or clipping record"
            )
        if self.noise != "site" or self.method != "auto":
            raise ValueError("noise and method belong to clipping record")
        if self.adaptive_clip is not None:
            raise ValueError("adaptive_clip belongs to clipping record")
        if self.private and self.evaluation == "exact" and not self.seeded:
            raise ValueError(
                f"evaluation exact is not covered by epsilon: choose none with mechanism "
                f"{self.mechanism}, or clipping record, which has noised counts"
            )
        if self.mechanism == "gaussian" and self.noise_multiplier <= 0:
            raise ValueError("mechanism gaussian needs a noise_multiplier above 0")
        if self.mechanism == "diffprivlib" and self.epsilon is None:
            raise ValueError("mechanism diffprivlib needs an epsilon")
        if self.mechanism == "gaussian" and self.epsilon is not None:
            one = gaussian_epsilon(self.noise_multiplier, self.delta)
            if one > self.epsilon:
                raise ValueError(
                    f"the first round alone would spend epsilon {one:.4g}, more than the budget of "
                    f"{self.epsilon:g}: raise noise_multiplier or epsilon"
                )
        return self

    def _unit(self) -> None:
        if self.unit == "person" and self.mechanism != "gaussian":
            raise ValueError(
                f"unit person needs mechanism gaussian: {self.mechanism} bounds no person's rows"
            )
        bounded = self.unit == "person" and self.clipping == "record"
        if not bounded and (self.person is not None or self.rows_per_person != 1):
            raise ValueError("person and rows_per_person belong to unit person, clipping record")

    def _record(self) -> None:
        if self.mechanism != "gaussian":
            raise ValueError("clipping record needs mechanism gaussian")
        if self.epsilon is None or not math.isfinite(self.epsilon):
            raise ValueError(
                "clipping record needs an epsilon: the noise of every release follows from it"
            )
        if self.noise_multiplier > 0:
            raise ValueError(
                "clipping record derives each release's noise from epsilon: leave noise_multiplier 0"
            )
        if self.rows is None:
            raise ValueError(
                "clipping record needs rows, the public number of training rows to plan with: the "
                "real number is private"
            )
        if self.delta > 1 / self.rows:
            raise ValueError(
                f"delta {self.delta:g} is more than 1/rows: it would permit giving some records "
                f"away whole; choose at most {1 / self.rows:.1g}"
            )
        if self.evaluation == "exact":
            raise ValueError(
                "evaluation exact is not covered by epsilon: choose noised or none with clipping record"
            )
        if self.simulate_sums and self.noise != "distributed":
            raise ValueError("simulate_sums belongs to noise distributed")

    @property
    def evaluates(self) -> Literal["exact", "noised", "none"]:
        """How held-out counts leave."""
        return self.evaluation or ("none" if self.private else "exact")

    @property
    def private(self) -> bool:
        """Whether the mechanism claims differential privacy."""
        return self.mechanism in {"gaussian", "diffprivlib"}
