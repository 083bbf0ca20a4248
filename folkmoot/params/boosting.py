"""Options of trees from histograms of all sites, by the names that XGBoost's users know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from folkmoot.params.kinds import NonNegative
from folkmoot.sections import Section

__all__ = ["HISTOGRAMS", "HistogramOptions", "refuse_unfit"]

#: Strategies whose splits are chosen from histograms of all sites.
HISTOGRAMS = ("summed_histograms", "xgboost_federated")
#: Options of the first of them alone.
_SUMMED_ONLY = (
    "bin_edges",
    "sketch_exchanges",
    "spare_exchanges",
    "keep_sums",
)

Share = Annotated[float, Field(gt=0, le=1)]


class HistogramOptions(Section):
    """What `summed_histograms` and `xgboost_federated` know beside the options of all trees."""

    objective: (
        Literal["binary:logistic", "multi:softprob", "reg:squarederror", "count:poisson"] | None
    ) = None
    """`summed_histograms`, `xgboost_federated`: XGBoost's objective; that of the contract's task when null. `count:poisson` is for labels from 0."""
    max_delta_step: NonNegative | None = None
    """`summed_histograms`, `xgboost_federated`: largest weight of a leaf, 0 for any; when null 0.7 for `count:poisson`, 0 for the others."""
    learning_rates: list[Share] = []
    """`summed_histograms`, `xgboost_federated`: learning rate of every boosting step, in place of `eta`."""
    colsample_bylevel: Share = 1.0
    """`summed_histograms`, `xgboost_federated`: share of columns per level."""
    colsample_bynode: Share = 1.0
    """`summed_histograms`, `xgboost_federated`: share of columns per node."""
    monotone_constraints: dict[str, Literal[-1, 0, 1]] = {}
    """`summed_histograms`, `xgboost_federated`: by feature, 1 where the prediction must not fall as it grows, -1 where not rise."""
    interaction_constraints: list[Annotated[list[str], Field(min_length=1)]] = []
    """`summed_histograms`, `xgboost_federated`: groups of features that may stand on one path of a tree together."""
    max_cat_to_onehot: Annotated[int, Field(ge=1)] = 4
    """`summed_histograms`, `xgboost_federated`: features of fewer categories part one of them from the rest, others part sets."""
    max_cat_threshold: Annotated[int, Field(ge=1)] = 64
    """`summed_histograms`, `xgboost_federated`: most categories that a set is sought among."""
    early_stopping_rounds: Annotated[int, Field(ge=1)] | None = None
    """`summed_histograms`, `xgboost_federated`: end after so many steps without a better loss on all sites' held-out rows; the best model is kept. `xgboost_federated` looks at whole sessions, of `trees_per_round` steps."""
    bin_edges: Literal["sketch", "bounds"] = "sketch"
    """`summed_histograms`: edges at the federation's quantiles, from summed counts, or evenly between the contract's bounds."""
    sketch_exchanges: Annotated[int, Field(ge=1, le=4)] = 2
    """`summed_histograms`: times that cells are counted for the quantiles, each time more finely where rows are dense."""
    spare_exchanges: Annotated[int, Field(ge=0, le=1000)] = 0
    """`summed_histograms`: exchanges beyond `rounds` × `max_depth`, for trees that begin again because a site was lost."""
    keep_sums: bool = False
    """`summed_histograms`: whether the exchange store keeps the sites' sums of finished trees. DVC keeps them in any case: they are its outputs."""


def refuse_unfit(trees: Any) -> None:
    """Hold the options of all trees against the strategy; raises ValueError.

    Parameters
    ----------
    trees : Trees
        The whole section.
    """
    if trees.strategy != "xgboost_federated" and trees.tracker != type(trees.tracker)():
        raise ValueError("tracker belongs to strategy xgboost_federated")
    if trees.strategy != "summed_histograms":
        live = trees.strategy == "xgboost_federated"
        for name, field in HistogramOptions.model_fields.items():
            if live and name not in _SUMMED_ONLY:
                continue
            if getattr(trees, name) != field.get_default():
                raise ValueError(f"{name} belongs to strategy summed_histograms")
        if live:
            _refuse_twice(trees, trees.rounds * trees.trees_per_round)
        return
    if trees.trees_per_round != 1:
        raise ValueError("summed_histograms makes one step per round: set trees_per_round to 1")
    if trees.early_stopping.tolerance:
        raise ValueError(
            "summed_histograms stops by early_stopping_rounds: leave early_stopping.tolerance at 0"
        )
    _refuse_twice(trees, trees.rounds)
    if trees.max_bin > 4096:
        raise ValueError("summed_histograms keeps to a max_bin of at most 4096")


def _refuse_twice(trees: Any, steps: int) -> None:
    """One learning rate per step, and one way to stop."""
    if trees.learning_rates and len(trees.learning_rates) < steps:
        raise ValueError(f"learning_rates needs one for each of the {steps} boosting steps")
    if trees.early_stopping_rounds is not None and trees.early_stopping.tolerance:
        raise ValueError("set early_stopping_rounds or early_stopping.tolerance, not both")
