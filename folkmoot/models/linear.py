"""A linear global model: its parameters, and scikit-learn's own estimator of it, fitted.

Nothing is trained here and nothing is unpickled: the estimator is built from the artefact's
coefficients, and behaves as if scikit-learn had trained it on the pooled rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.wire import Artefact

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

__all__ = ["parameters", "to_pipeline", "to_sklearn"]


def parameters(model: Artefact) -> NDArray[np.float64]:
    """Coefficients and intercept of a linear model as one matrix, shape (K, d + 1)."""
    return np.column_stack([model.arrays["coef"], model.arrays["intercept"]])


def to_pipeline(model: Artefact) -> Pipeline:
    """Scaler and estimator over *encoded* features (``folkmoot.features.encode_frame``).

    Parameters
    ----------
    model : Artefact
        Linear global model.

    Returns
    -------
    sklearn.pipeline.Pipeline
        ``scale`` (StandardScaler with the federation's mean and scale), ``fill`` (missing values
        become 0, the federation's mean), ``model`` (LogisticRegression, Ridge or
        LinearRegression, whose coefficients belong to scaled features, as the penalty does).

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a model that is not linear.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = _estimator(model, model.arrays["coef"], model.arrays["intercept"])
    mean, scale = (np.array(model.arrays[name]) for name in ("mean", "scale"))
    width = len(mean)
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_ = mean, scale, scale**2
    scaler.n_features_in_ = width
    scaler.n_samples_seen_ = _rows(model)
    fill = SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True)
    fill.fit(np.zeros((1, width)))
    return Pipeline([("scale", scaler), ("fill", fill), ("model", estimator)])


def to_sklearn(model: Artefact) -> Any:
    """Bare estimator over encoded features in their own units: the scaling is folded in.

    Parameters
    ----------
    model : Artefact
        Linear global model.

    Returns
    -------
    LogisticRegression, Ridge or LinearRegression
        ``coef_`` is per unit of each feature.  It refuses missing values as scikit-learn does;
        :func:`to_pipeline` fills them.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a model that is not linear.
    """
    coef = model.arrays["coef"] / model.arrays["scale"]
    intercept = model.arrays["intercept"] - coef @ model.arrays["mean"]
    return _estimator(model, coef, intercept)


def _estimator(model: Artefact, coef: Any, intercept: Any) -> Any:
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

    if model.meta.get("kind") != "linear":
        raise ProtocolError(
            "protocol.mismatch",
            "The model is not linear.",
            "Use folkmoot.models.trees for tree models.",
        )
    l2 = float(model.meta.get("l2", 0.0))
    estimator: Any
    if model.meta["task"] == "regression":
        estimator = Ridge(alpha=l2) if l2 > 0 else LinearRegression()
        estimator.coef_, estimator.intercept_ = np.array(coef[0]), float(intercept[0])
    else:
        estimator = LogisticRegression(C=1.0 / l2) if l2 > 0 else LogisticRegression(penalty=None)
        estimator.coef_, estimator.intercept_ = np.array(coef), np.array(intercept)
        estimator.classes_ = np.array(model.meta["classes"])
        estimator.n_iter_ = np.array([max(1, int(model.meta["round"]))], np.int32)
    estimator.n_features_in_ = coef.shape[1]
    return estimator


def _rows(model: Artefact) -> int:
    """Training rows of the federation, as far as they are known."""
    weights: dict[str, float] = model.meta.get("weights", {})
    return max(1, round(sum(weights.values())))
