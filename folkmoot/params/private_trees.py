"""Options of privately trained trees."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from folkmoot.sections import Section

__all__ = ["PRIVATE", "SUMMED_PRIVATELY", "PrivateOptions", "refuse_unfit_private"]

#: Strategies whose sums are made of clipped records (``privacy.clipping: record``).
SUMMED_PRIVATELY = ("private_trees", "private_additive")
#: Strategies with a bounded sensitivity.
PRIVATE = (*SUMMED_PRIVATELY, "local_forests")

#: What each strategy uses of the section; anything else must be left as it is.
_USED = {
    "private_trees": {
        "trees_per_round",
        "eta",
        "max_depth",
        "reg_lambda",
        "features_per_tree",
        "seed",
    },
    "private_additive": {"reg_lambda", "bins"},
    "local_forests": {"trees_per_round", "max_depth"},
}


class PrivateOptions(Section):
    """What the private strategies know beside the options of all trees."""

    features_per_tree: Annotated[int, Field(ge=1, le=8)] = 1
    """`private_trees`: features that one tree splits on; with 1 the model is additive, a curve per feature."""
    bins: Annotated[int, Field(ge=2, le=64)] = 8
    """`private_additive`: most bins of a number."""


def refuse_unfit_private(trees: Any) -> None:
    """Hold the options against the strategy; raises ValueError.

    Parameters
    ----------
    trees : Trees
        The whole section.
    """
    if trees.strategy not in _USED:
        for name, field in PrivateOptions.model_fields.items():
            if getattr(trees, name) != field.get_default():
                raise ValueError(f"{name} belongs to the private strategies of trees")
        return
    used = _USED[trees.strategy] | {"strategy", "rounds"}
    for name, field in type(trees).model_fields.items():
        default = field.get_default(call_default_factory=True)
        if name not in used and getattr(trees, name) != default:
            raise ValueError(f"{name} has no meaning for strategy {trees.strategy}: leave it out")
    if trees.strategy == "local_forests" and trees.rounds != 1:
        raise ValueError("local_forests trains once: set rounds to 1")
