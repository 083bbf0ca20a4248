"""A linear global model: its parameters, and scikit-learn's own estimator of it, fitted.

Nothing is trained here and nothing is unpickled: the estimator is built from the artefact's
coefficients, and behaves as if scikit-learn had trained it on the pooled rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.models.design import Design
from folkmoot.wire import Artefact

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

__all__ = ["parameters", "to_pipeline", "to_sklearn"]


def parameters(model: Artefact) -> NDArray[np.float64]:
    """Coefficients and intercept of a linear model as one matrix, shape (K, d + 1)."""
    return np.concatenate([model.arrays["coef"], model.arrays["intercept"][:, None]], axis=1)


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
        LinearRegression, whose coefficients belong to scaled features, as the penalty does).  A
        model with a design (:mod:`folkmoot.models.design`) has ``fill`` first, then ``clip``, then
        ``scale`` or, with bins, ``columns``.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a model that is not linear.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline

    estimator = _estimator(model, model.arrays["coef"], model.arrays["intercept"])
    design = Design.of(model.arrays)
    if not design.plain:
        return Pipeline([*_design_steps(design, _rows(model)), ("model", estimator)])
    fill = SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True)
    fill.fit(np.zeros((1, len(design.mean))))
    scaler = _scaler(design.mean, design.scale, _rows(model))
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
        ``protocol.mismatch`` for a model that is not linear, or that clips or bins its features.
    """
    if not Design.of(model.arrays).plain:
        raise ProtocolError(
            "protocol.mismatch",
            "The model clips or bins its features: no bare estimator can stand for it.",
            "Use to_pipeline, which does so first.",
        )
    coef = model.arrays["coef"] / model.arrays["scale"]
    intercept = model.arrays["intercept"] - coef @ model.arrays["mean"]
    return _estimator(model, coef, intercept)


def _scaler(mean: Any, scale: Any, rows: int) -> Any:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_ = np.array(mean), np.array(scale), np.square(scale)
    scaler.n_features_in_ = len(mean)
    scaler.n_samples_seen_ = rows
    return scaler


def _design_steps(design: Design, rows: int) -> list[tuple[str, Any]]:
    """scikit-learn's own steps for what :meth:`folkmoot.models.design.Design.columns` computes."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import KBinsDiscretizer

    width = len(design.mean)
    fill = SimpleImputer(keep_empty_features=True).fit(np.vstack([design.mean, design.mean]))
    if not design.binned:
        return [("fill", fill), *_clipped(design, rows)]
    columns: list[tuple[str, Any, Any]] = []
    if len(design.kept):
        kept = Pipeline([("clip", "passthrough"), ("scale", "passthrough")])
        columns.append(("kept", kept, design.kept.tolist()))
    for j, edges in design.binned:
        bins = KBinsDiscretizer(len(edges) + 1, encode="onehot-dense", strategy="uniform")
        columns.append((f"bins-{j}", Pipeline([("bin", bins), ("scale", "passthrough")]), [j]))
    made = ColumnTransformer(columns).fit(np.vstack([np.zeros(width), np.ones(width)]))
    if len(design.kept):
        made.named_transformers_["kept"].set_params(**dict(_clipped(design.only(), rows)))
    for j, edges in design.binned:
        inner, size = made.named_transformers_[f"bins-{j}"], len(edges) + 1
        outer = np.array([-np.inf]), edges, np.array([np.inf])
        inner["bin"].bin_edges_ = np.array([np.concatenate(outer)], object)
        inner.set_params(scale=_scaler(np.zeros(size), np.full(size, design.scale[j]), rows))
    return [("fill", fill), ("columns", made)]


def _clipped(design: Design, rows: int) -> list[tuple[str, Any]]:
    """Clip to [0, 1], which are each number's own bounds, and standardise from there."""
    from sklearn.preprocessing import MinMaxScaler

    least = design.mean - design.scale if design.lower is None else design.lower
    most = design.mean + design.scale if design.upper is None else design.upper
    most = np.where(most > least, most, least + design.scale)
    clip = MinMaxScaler(clip=design.lower is not None).fit(np.vstack([least, most]))
    span = most - least
    scaler = _scaler((design.mean - least) / span, design.scale / span, rows)
    return [("clip", clip), ("scale", scaler)]


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
