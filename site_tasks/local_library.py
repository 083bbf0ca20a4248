"""diffprivlib at one site: its estimators and statistics, charged to the site's own ledger.

For a steward who studies the site's own rows and wants to pass a result on
(:mod:`site_tasks.local_analysis`, ``folkmoot local``).  Nothing is published here: what is returned
stays with the caller.  Who charges is :class:`~site_tasks.ledger_accountant.LedgerAccountant`.

Bounds and classes come from the contract; ``PrivacyLeakWarning`` is an error.  One record is
replaced, so the number of rows is public to the result.  Where the library counts by bin, leaf or
class (:data:`~site_tasks.ledger_accountant.TWICE`), a record that is replaced leaves one count and
enters another, which costs twice what the library says (0.6.6): it gets half of the epsilon that is
charged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, PrivacyError
from site_tasks.ledger_accountant import LedgerAccountant
from site_tasks.prepared import Prepared
from site_tasks.train_local_dp import no_leak

__all__ = ["ESTIMATORS", "OPTIONS", "STATISTICS", "fit", "statistic"]

Floats = NDArray[np.float64]

#: Estimators of diffprivlib.models that :func:`fit` trains.
ESTIMATORS = (
    "GaussianNB",
    "LinearRegression",
    "LogisticRegression",
    "PCA",
    "RandomForestClassifier",
    "StandardScaler",
)
#: Functions of diffprivlib.tools that :func:`statistic` computes.
STATISTICS = ("histogram", "mean", "quantile")
#: Options of each, with the values that they take; bounds, norms and classes are the contract's.
OPTIONS: dict[str, dict[str, tuple[type, float, float]]] = {
    "GaussianNB": {},
    "LinearRegression": {"l2": (float, 0.0, math.inf)},
    "LogisticRegression": {"l2": (float, 0.0, math.inf)},
    "PCA": {"n_components": (int, 1, math.inf)},
    "RandomForestClassifier": {"n_estimators": (int, 1, 1000), "max_depth": (int, 1, 15)},
    "StandardScaler": {},
    "histogram": {"bins": (int, 1, 100_000)},
    "mean": {},
    "quantile": {"quant": (float, 0.0, 1.0)},
}


def fit(
    name: str,
    prepared: Prepared,
    contract: Contract,
    epsilon: float,
    accountant: LedgerAccountant,
    **options: Any,
) -> Any:
    """Fit one of diffprivlib's estimators on a site's training rows.

    Parameters
    ----------
    name : str
        One of :data:`ESTIMATORS`.
    prepared : Prepared
        The site's rows.
    contract : Contract
        Public classes and bounds of the label.
    epsilon : float
        Of the whole fit; the ledger is charged ``epsilon · stability``.
    accountant : LedgerAccountant
        Of the site.
    **options
        Those of :data:`OPTIONS`; never bounds, norms, classes or a random state.

    Returns
    -------
    estimator
        Fitted, over encoded features clipped to their bounds; missing values count as the midpoint.
        ``LogisticRegression`` and ``LinearRegression`` are those of
        :mod:`site_tasks.train_local_dp`: an array (K, d + 1) of coefficients and intercept over
        features scaled to their bounds, as two settings of the library's do not hold.

    Raises
    ------
    ConfigError
        ``config.invalid`` for another name or option, or an estimator that does not fit the task.
    PrivacyError
        ``privacy.mechanism`` where the library would look at the data for a bound;
        ``privacy.ceiling`` before anything is drawn.
    """
    task = contract.task
    fits = name in ESTIMATORS and (
        name in {"PCA", "StandardScaler"} or (name == "LinearRegression") == (task == "regression")
    )
    if not fits:
        raise ConfigError(
            "config.invalid",
            f"{name} cannot be trained for task {task}.",
            f"Choose of {', '.join(ESTIMATORS)} what fits the task.",
        )
    _demand(name, epsilon, options)
    if int(options.get("n_components", 1)) > len(prepared.features):
        raise _no_option(name, "n_components")
    x, lower, upper = _rows(prepared)
    labels = np.asarray(prepared.labels("train"))
    if name in {"LogisticRegression", "LinearRegression"}:
        return _linear(name, x, labels, lower, upper, contract, epsilon, accountant, options)
    from diffprivlib import models

    settings: dict[str, Any] = {"accountant": accountant, **options}
    # About the middle: the library takes a sum to move by the width of the bounds at most, which
    # holds for a row that comes or goes where zero lies in their middle.
    middle = (lower + upper) / 2
    shift = middle if name == "GaussianNB" else np.zeros_like(middle)
    settings["bounds"] = (lower - shift, upper - shift)
    if name == "RandomForestClassifier":
        settings["classes"] = np.arange(len(contract.classes))
    if name == "PCA":
        settings["data_norm"] = float(np.linalg.norm(upper - lower))
    with no_leak(), accountant.share(name, epsilon) as share:
        estimator = getattr(models, name)(epsilon=share, **settings)
        if name in {"PCA", "StandardScaler"}:
            return estimator.fit(x)
        # One public row per class at the midpoint: which classes a site has is not told.
        centre = np.tile(middle, (len(contract.classes), 1))
        estimator.fit(
            np.vstack([x, centre]) - shift, np.concatenate([labels, np.arange(len(centre))])
        )
    if name == "GaussianNB":
        estimator.theta_ += shift
    return estimator


def statistic(
    name: str,
    prepared: Prepared,
    feature: str,
    epsilon: float,
    accountant: LedgerAccountant,
    **options: Any,
) -> Any:
    """Compute one of diffprivlib's statistics of one encoded feature.

    Parameters
    ----------
    name : str
        One of :data:`STATISTICS`.
    prepared : Prepared
        The site's rows.
    feature : str
        Name of an encoded feature.
    epsilon : float
        The ledger is charged ``epsilon · stability``.
    accountant : LedgerAccountant
        Of the site.
    **options
        ``quant`` for a quantile; ``bins`` (a number) for a histogram.

    Returns
    -------
    float, or (counts, edges) for a histogram

    Raises
    ------
    ConfigError, PrivacyError
        As :func:`fit`.
    """
    if name not in STATISTICS or feature not in prepared.features.names:
        raise ConfigError(
            "config.invalid",
            f"There is no statistic {name} of a feature {feature}.",
            f"Choose of {', '.join(STATISTICS)} and of the encoded features.",
        )
    _demand(name, epsilon, options)
    if name == "quantile" and "quant" not in options:
        raise _no_option(name, "quant")
    bins = options.get("bins", 10)
    from diffprivlib import tools

    x, lower, upper = _rows(prepared)
    j = prepared.features.names.index(feature)
    bounds = (float(lower[j]), float(upper[j]))
    with no_leak(), accountant.share(name, epsilon) as share:
        if name == "histogram":
            return tools.histogram(
                x[:, j], epsilon=share, bins=bins, range=bounds, accountant=accountant
            )
        function = getattr(tools, name)
        return float(
            function(x[:, j], epsilon=share, bounds=bounds, accountant=accountant, **options)
        )


def _demand(name: str, epsilon: float, options: dict[str, Any]) -> None:
    """Nothing is reserved for what could not be carried out."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise PrivacyError(
            "privacy.mechanism",
            "A local analysis needs a positive, finite epsilon.",
            "Choose one, such as 0.1 for a statistic or 1 for a model.",
        )
    for option, value in options.items():
        kind, least, most = OPTIONS[name].get(option, (None, 0.0, 0.0))
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind is None or not number or (kind is int and not isinstance(value, int)):
            raise _no_option(name, option)
        if not least <= value <= most or value == math.inf:
            raise _no_option(name, option)


def _no_option(name: str, option: str) -> ConfigError:
    known = ", ".join(
        f"{known} ({kind.__name__}, {least:g} to {most:g})"
        for known, (kind, least, most) in OPTIONS[name].items()
    )
    return ConfigError(
        "config.invalid",
        f"{name} does not take this value of the option {option}, or takes no such option.",
        f"Options of {name}: {known or 'none'}. Bounds and classes are the contract's.",
    )


def _rows(prepared: Prepared) -> tuple[Floats, Floats, Floats]:
    lower, upper = prepared.features.lower, prepared.features.upper
    x = np.array(prepared.matrix("train"), np.float64)
    np.copyto(x, np.broadcast_to((lower + upper) / 2, x.shape), where=np.isnan(x))
    return np.clip(x, lower, upper), lower, upper


def _linear(
    name: str,
    x: Floats,
    labels: NDArray[Any],
    lower: Floats,
    upper: Floats,
    contract: Contract,
    epsilon: float,
    accountant: LedgerAccountant,
    options: dict[str, Any],
) -> Floats:
    from site_tasks.train_local_dp import fit_classes, fit_numbers

    half = np.where(upper > lower, (upper - lower) / 2, 1.0)
    scaled, bound = (x - (lower + upper) / 2) / half, np.ones(len(half))
    l2 = float(options.get("l2", 1.0))
    if name == "LinearRegression":
        low, high = contract.label.bounds or (-1.0, 1.0)
        y = np.clip((labels - (low + high) / 2) / ((high - low) / 2), -1.0, 1.0)
        w, _ = fit_numbers(scaled, y, bound, epsilon=epsilon, l2=l2, accountant=accountant)
        w *= (high - low) / 2
        w[:, -1] += (low + high) / 2
        return w
    classes = len(contract.classes)
    w, _ = fit_classes(
        scaled, labels, bound, classes, epsilon=epsilon, l2=l2, accountant=accountant
    )
    return w
