"""What federating gains: each site alone, and training on pooled rows.

Only for sites that were made from a recipe, whose rows are on one machine anyway: of real sites
nobody holds the pooled rows, and this module refuses to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot import metrics
from folkmoot.agreement import settled
from folkmoot.errors import ConfigError
from folkmoot.params import Trees
from folkmoot.plan import RunContext
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared, load_prepared

__all__ = ["baselines", "simulated"]

Array = NDArray[Any]
Rows = tuple[Array, Array, Array | None]


def baselines(context: RunContext, sites: Sequence[str]) -> dict[str, Any]:
    """Train each site alone and all rows pooled, with the run's own model settings.

    Parameters
    ----------
    context : RunContext
        A concluded run on a recipe.
    sites : sequence of str
        Sites that took part.

    Returns
    -------
    dict
        ``alone``: by site, metrics of its own model on everybody's held-out rows (``overall``) and
        on its own (``own``); ``pooled``: ``overall`` and per site.

    Raises
    ------
    ConfigError
        Where a site was not made from a recipe.
    """
    if not simulated(context, sites):
        raise ConfigError(
            "config.invalid",
            "Baselines would need the rows of real sites on one machine.",
            "Compare with the metrics that each site computes for itself.",
        )
    prepared = {
        site: load_prepared(settled(context), SiteHome.find(site, context.workspace))
        for site in sorted(sites)
    }
    train = {site: _rows(p, "train") for site, p in prepared.items()}
    test = {site: _rows(p, "test") for site, p in prepared.items()}
    fit = _linear if context.params.model.kind == "linear" else _trees
    types = next(iter(prepared.values())).features.types
    pooled = _by_site(context, fit(context, _stack(train), types), test)
    alone: dict[str, Any] = {}
    for site, rows in train.items():
        if context.contract.task != "regression" and len(np.unique(rows[1])) < 2:
            alone[site] = None  # one class only: nothing can be trained there
            continue
        found = _by_site(context, fit(context, rows, types), test)
        alone[site] = {"overall": found["overall"], "own": found["sites"][site]}
    return {"alone": alone, "pooled": pooled}


def simulated(context: RunContext, sites: Iterable[str]) -> bool:
    """Whether all of ``sites`` lie in this workspace and say themselves that they are simulated."""
    try:
        return all(SiteHome.find(s, context.workspace).settings.simulated for s in sites)
    except ConfigError:  # elsewhere, or not ours to read
        return False


def _rows(prepared: Prepared, part: Any) -> Rows:
    return prepared.matrix(part), prepared.labels(part), prepared.weights(part)


def _stack(rows: Mapping[str, Rows]) -> Rows:
    parts = list(rows.values())
    weights = [w for _, _, w in parts if w is not None]
    return (
        np.concatenate([x for x, _, _ in parts]),
        np.concatenate([y for _, y, _ in parts]),
        np.concatenate(weights) if weights else None,
    )


def _by_site(context: RunContext, scores: Any, test: Mapping[str, Rows]) -> dict[str, Any]:
    task, classes = context.contract.task, len(context.contract.classes)
    counts = {s: metrics.count(task, y, scores(x), classes) for s, (x, y, _) in test.items()}
    pooled = metrics.combine([counts[site] for site in sorted(counts)])
    return {
        "overall": metrics.metrics(task, pooled),
        "sites": {site: metrics.metrics(task, found) for site, found in counts.items()},
    }


def _linear(context: RunContext, rows: Rows, types: Sequence[str]) -> Any:
    """Scikit-learn with the run's penalty on features standardised with the rows at hand."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, weights = rows
    l2 = context.params.model.linear.l2
    task = context.contract.task
    estimator: Any
    if task == "regression":
        estimator = Ridge(alpha=l2) if l2 > 0 else LinearRegression()
    else:
        estimator = LogisticRegression(C=1.0 / l2 if l2 > 0 else np.inf, max_iter=5000)
    fill = SimpleImputer(strategy="mean", keep_empty_features=True)
    model = make_pipeline(fill, StandardScaler(), estimator)
    model.fit(x, y, **{f"{model.steps[-1][0]}__sample_weight": weights})
    if task == "regression":
        return model.predict
    classes = np.asarray(estimator.classes_, dtype=np.int64)

    def scores(matrix: Array) -> Array:
        # A class that the rows at hand lack keeps probability 0.
        full = np.zeros((len(matrix), len(context.contract.classes)))
        full[:, classes] = model.predict_proba(matrix)
        return full[:, 1] if task == "binary" else full

    return scores


def _trees(context: RunContext, rows: Rows, types: Sequence[str]) -> Any:
    """XGBoost with the run's settings and as many boosting steps as the run had rounds."""
    import xgboost

    settings: Trees = context.params.model.trees
    task, classes = context.contract.task, context.contract.classes
    objective = {
        "binary": "binary:logistic",
        "multiclass": "multi:softprob",
        "regression": "reg:squarederror",
    }[task]
    params: dict[str, Any] = {
        "objective": objective,
        "tree_method": "hist",
        **settings.model_dump(
            include={
                "eta", "max_depth", "min_child_weight", "reg_lambda", "reg_alpha", "gamma",
                "subsample", "colsample_bytree", "max_bin", "seed",
            }
        ),
    }  # fmt: skip
    if task == "multiclass":
        params["num_class"] = len(classes)
    x, y, weights = rows
    matrix = xgboost.DMatrix(
        x, y, weight=weights, feature_types=list(types), enable_categorical=True
    )
    booster = xgboost.train(params, matrix, settings.rounds * settings.trees_per_round)

    def scores(held_out: Array) -> Array:
        data = xgboost.DMatrix(held_out, feature_types=list(types), enable_categorical=True)
        found: Array = booster.predict(data)
        return found

    return scores
