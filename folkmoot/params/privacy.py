"""What is done to an update before it leaves a site: section ``privacy``."""

from __future__ import annotations

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
    seeded: bool = False
    """Noise from a seed, for tests and studies: marks every model, receipt and report as NOT PRIVATE."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise where `seeded`."""

    @model_validator(mode="after")
    def _mechanism(self) -> Self:
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
