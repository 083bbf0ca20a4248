"""XGBoost's options that mean something else here, or nothing: each is refused by what to use instead."""

from __future__ import annotations

from typing import Any

__all__ = ["refuse_other_names"]

_BY_LEVEL = "trees grow level by level: bound them by max_depth"
#: Options of XGBoost, and what stands for them.
_INSTEAD = {
    "learning_rate": "is eta",
    "lambda": "is reg_lambda",
    "alpha": "is reg_alpha",
    "min_split_loss": "is gamma",
    "n_estimators": "is rounds",
    "num_boost_round": "is rounds",
    "random_state": "is seed",
    "tree_method": "is always hist",
    "booster": "is always gbtree",
    "grow_policy": f"is always depthwise: {_BY_LEVEL}",
    "max_leaves": f"has no meaning: {_BY_LEVEL}",
    "num_parallel_tree": "is trees_per_round of bagging",
    "scale_pos_weight": "is a column of the contract with the role weight",
    "base_score": "is taken from the sites' summed labels",
    "nthread": "is left to each site: OMP_NUM_THREADS",
    "n_jobs": "is left to each site: OMP_NUM_THREADS",
    "eval_metric": "is the contract's task's: log loss and AUC, or RMSE",
}
_SURVIVAL = (
    "objective {} is not supported: a contract has one label, without bounds per row for censoring, "
    "and Cox's gradients need the order of all sites' rows in time, which sums by bin do not give; "
    "for exact sums write a row per person and interval of time and use count:poisson (piecewise "
    "exponential), or use binary:logistic for the event within a horizon"
)


def refuse_other_names(values: Any) -> Any:
    """Refuse names and objectives that XGBoost has and this section has not; raises ValueError.

    Parameters
    ----------
    values : object
        The section as it was written; returned as it is.
    """
    if isinstance(values, dict):
        for name, instead in _INSTEAD.items():
            if name in values:
                raise ValueError(f"XGBoost's {name} {instead}")
        objective = values.get("objective")
        if isinstance(objective, str) and objective.startswith("survival:"):
            raise ValueError(_SURVIVAL.format(objective))
    return values
