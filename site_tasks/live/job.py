"""What a session's worker is asked to do, in numbers and under XGBoost's names."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from folkmoot.trees import options

if TYPE_CHECKING:
    from folkmoot.contract import Contract
    from folkmoot.params import Params
    from site_tasks.prepared import Prepared

__all__ = ["grid", "job_of", "settings_of"]


def job_of(
    contract: Contract, params: Params, prepared: Prepared, round: int, threads: int
) -> dict[str, Any]:
    """All but where the tracker is and which files are used; plain JSON values."""
    trees = params.model.trees
    bounds = options.bounds_of_derivatives(contract, params)
    first = (round - 1) * trees.trees_per_round
    return {
        "task": contract.task,
        "rows": str(prepared.folder.absolute()),
        "weighted": prepared.weights("train") is not None,
        "types": list(prepared.features.types),
        "settings": settings_of(contract, params, prepared, threads),
        "steps": trees.trees_per_round,
        "first_step": first,
        "rates": [options.eta_of(params, first + n) for n in range(trees.trees_per_round)],
        "subsample": trees.subsample,
        "seed": trees.seed,
        "grid": list(zip(grid(contract, params), bounds, strict=True)),
    }


def grid(contract: Contract, params: Params) -> tuple[int, int]:
    """Exponents s of gradients and Hessians: multiples of ``2**-s`` whose sums are exact in float64.

    As long as no site has more than ``aggregation.rows_limit`` rows and derivatives keep their
    public bounds, any sum stays within ``2**52`` steps.
    """
    rows = params.aggregation.rows_limit * len(params.federation.members)
    gradient, hessian = (
        52 - math.ceil(math.log2(bound * rows))
        for bound in options.bounds_of_derivatives(contract, params)
    )
    return gradient, hessian


def settings_of(
    contract: Contract, params: Params, prepared: Prepared, threads: int
) -> dict[str, Any]:
    """Parameters of XGBoost's booster."""
    trees, names = params.model.trees, prepared.features.names
    found: dict[str, Any] = trees.model_dump(
        include={
            "eta", "max_depth", "min_child_weight", "reg_lambda", "reg_alpha", "gamma",
            "colsample_bytree", "colsample_bylevel", "colsample_bynode", "max_bin", "seed",
            "max_cat_to_onehot", "max_cat_threshold",
        }
    )  # fmt: skip
    objective = options.objective_of(contract, params)
    # Margins come from outside; a base score that is set spares XGBoost an estimate over all rows.
    base = {"binary:logistic": 0.5, "count:poisson": 1.0}.get(objective, 0.0)
    found |= {
        "objective": objective,
        "tree_method": "hist",
        "base_score": base,
        "disable_default_eval_metric": True,
        "max_delta_step": options.max_delta_step(contract, params),
        "seed_per_iteration": True,
        "nthread": threads,
        "verbosity": 0,
    }
    if trees.monotone_constraints:
        signs = [trees.monotone_constraints.get(name, 0) for name in names]
        found["monotone_constraints"] = f"({','.join(map(str, signs))})"
    if trees.interaction_constraints:
        groups = [[names.index(name) for name in g] for g in trees.interaction_constraints]
        found["interaction_constraints"] = json.dumps(groups)
    if contract.task == "multiclass":
        found["num_class"] = len(contract.classes)
    return found
