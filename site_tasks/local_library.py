"""diffprivlib at one site: its estimators and statistics, charged to the site's own ledger.

For a steward who studies the site's own rows and wants to pass a result on
(:mod:`site_tasks.local_analysis`, ``folkmoot local``).  Nothing is published here: what is returned
stays with the caller.  :class:`LedgerAccountant` is a diffprivlib
``BudgetAccountant`` that reserves in the ledger *before* noise is drawn and commits when the library
says that it spent; a fit that fails in between stays charged.  The library's own composition is not
used: the ledger's accountant is tighter, and holds over the lifetime of the rows.

Bounds and classes come from the contract; ``PrivacyLeakWarning`` is an error.  One record is
replaced, so the number of rows is public to the result.  Where the library counts by bin, leaf or
class (:data:`TWICE`), a record that is replaced leaves one count and enters another, which costs twice
what the library says (0.6.6): it gets half of the epsilon that is charged.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from diffprivlib.accountant import BudgetAccountant
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, PrivacyError
from folkmoot.privacy.events import PureDP
from folkmoot.privacy.ledger import Subject, Terms
from site_tasks.home import SiteHome
from site_tasks.permissions import ceilings
from site_tasks.prepared import Prepared
from site_tasks.release import open_ledger
from site_tasks.train_local_dp import no_leak

__all__ = ["ESTIMATORS", "OPTIONS", "STATISTICS", "TWICE", "LedgerAccountant", "fit", "statistic"]

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
#: What a replaced record enters twice: as the one that goes and as the one that comes.
TWICE = frozenset({"GaussianNB", "RandomForestClassifier", "histogram"})
REQUESTER = "steward"


class LedgerAccountant(BudgetAccountant):  # type: ignore[misc]  # diffprivlib has no types
    """A diffprivlib accountant whose memory is the site's ledger.

    Parameters
    ----------
    home : SiteHome
        The site.
    purpose : str
        What the result is for, as the ledger will show it (its ``run``).
    dataset : str
        Keyed fingerprint of the dataset version.
    stability : int
        Most prepared rows that one record moves; multiplies every charge (group privacy).
    """

    def __init__(self, home: SiteHome, purpose: str, dataset: str, stability: int = 1) -> None:
        super().__init__()
        self._home, self._purpose, self._dataset = home, purpose, dataset
        self._stability = stability
        self._times = 1
        self._open: list[tuple[Subject, int, PureDP]] = []

    @contextmanager
    def share(self, name: str, epsilon: float) -> Iterator[float]:
        """What the library may spend on an analysis so that ``epsilon`` is charged for it."""
        self._times = 2 if name in TWICE else 1
        try:
            yield epsilon / self._times
        finally:
            self._times = 1

    def check(self, epsilon: float, delta: float) -> bool:
        """Reserve what is about to be spent.

        Raises
        ------
        PrivacyError
            ``privacy.ceiling`` over the site's ceilings, ``privacy.mechanism`` for an epsilon that
            is not positive and finite, and for mechanisms with a delta; nothing was drawn.
        """
        if delta or not (math.isfinite(epsilon) and epsilon > 0):
            raise PrivacyError(
                "privacy.mechanism",
                "A local analysis needs a positive, finite epsilon, and no delta.",
                "Choose a pure mechanism and its epsilon.",
                site=self._home.name,
            )
        if "diffprivlib" not in self._home.settings.permissions.mechanisms:
            raise PrivacyError(
                "privacy.not-permitted",
                f"Site {self._home.name}: permissions.mechanisms in site.toml does not permit "
                "diffprivlib.",
                "Let the site's steward change site.toml.",
                site=self._home.name,
            )
        event = PureDP(epsilon * self._times * self._stability)
        told = f"folkmoot-local\0{self._home.name}\0{self._purpose}\0".encode() + os.urandom(32)
        subject = Subject(
            hashlib.sha256(told).hexdigest(),  # every analysis draws noise of its own
            "local",
            self._purpose,
            0,
            "local-analysis",
            self._dataset,
            self._home.settings.dataset.lineage,
            REQUESTER,
        )
        limits = ceilings(self._home, self._home.settings.permissions.delta, "local", REQUESTER)
        attempt = open_ledger(self._home).reserve(subject, [event], terms=Terms(limits))
        self._open.append((subject, attempt, event))
        return True

    def spend(self, epsilon: float, delta: float) -> LedgerAccountant:
        """Commit the oldest open reservation of this size; the library spends what it checked."""
        wanted = PureDP(epsilon * self._times * self._stability)
        found = next((item for item in self._open if item[2] == wanted), None)
        if found is None:
            raise PrivacyError(
                "privacy.order",
                "diffprivlib spent what it had not asked for.",
                "Check the installed version of diffprivlib.",
                site=self._home.name,
            )
        self._open.remove(found)
        subject, attempt, event = found
        events = {"result": event.to_dict()}
        receipt = {"mechanism": "diffprivlib", "events": events, "unaccounted": {}}
        digest = hashlib.sha256(subject.release_id.encode()).hexdigest()
        open_ledger(self._home).commit(subject, digest, attempt=attempt, receipt=receipt)
        return self


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
