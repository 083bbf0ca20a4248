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
    unit: Literal["record"] = "record"
    """Privacy unit."""
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
    rows: Annotated[int, Field(ge=1)] | None = None
    """Training rows of all sites together that the federation expects: a public figure, which clipping `record` plans with."""
    method: Literal["auto", "newton", "gradient", "moments"] = "auto"
    """Clipping `record`: noised histogram, Hessian and gradients; gradients alone; noised second moments (regression); `auto` chooses."""
    adaptive_clip: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Clipping `record`: let the clip norm of gradients follow this quantile of their norms, by a noised count in the same release; null keeps the planner's."""
    evaluation: Literal["exact", "noised", "none"] | None = None
    """Held-out counts: `exact` is not covered by epsilon and refused with clipping `record`; when null `none` there and `exact` elsewhere."""
    seeded: bool = False
    """Noise from a seed, for tests and studies: marks every model, receipt and report as NOT PRIVATE."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise where `seeded`."""

    @model_validator(mode="after")
    def _mechanism(self) -> Self:
        if self.clipping == "record":
            self._record()
            return self
        if self.noise != "site" or self.evaluation == "noised" or self.method != "auto":
            raise ValueError("noise, method and evaluation noised belong to clipping record")
        if self.adaptive_clip is not None:
            raise ValueError("adaptive_clip belongs to clipping record")
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
        return self.evaluation or ("none" if self.clipping == "record" else "exact")
