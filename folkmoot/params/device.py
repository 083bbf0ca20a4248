"""Where XGBoost grows trees at a site."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from folkmoot.sections import Section

__all__ = ["DeviceOptions", "refuse_unfit_device"]

#: Strategies in which XGBoost itself grows trees on a site's rows.
_GROWN_BY_XGBOOST = ("bagging", "cyclic")


class DeviceOptions(Section):
    """XGBoost's ``device``."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$")] = "cpu"
    """`bagging`, `cyclic`: `cuda` or `cuda:<number>` grows trees on a site's GPU, and on its CPU with a warning where there is none."""


def refuse_unfit_device(trees: Any) -> None:
    """Hold the device against the strategy; raises ValueError.

    Parameters
    ----------
    trees : Trees
        The whole section.
    """
    if trees.device != "cpu" and trees.strategy not in _GROWN_BY_XGBOOST:
        raise ValueError(
            f"device {trees.device} has no meaning for {trees.strategy}, whose sums are made on the "
            f"CPU: leave it out, or use {' or '.join(_GROWN_BY_XGBOOST)}"
        )
