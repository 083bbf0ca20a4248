"""A private analysis of one site's rows, for the site's own people: prepare, charge, compute, describe.

The result is plain numbers (JSON) with a statement of what it cost.  Nothing is published and no
federation is involved; the site's ledger is charged, because whoever gets the result may pass it on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from folkmoot.contract import Contract
from folkmoot.errors import PrivacyError
from folkmoot.params import Params
from folkmoot.plan import RunContext
from site_tasks.home import SiteHome
from site_tasks.ledger_accountant import LedgerAccountant
from site_tasks.local_library import ESTIMATORS, fit, statistic
from site_tasks.prepare import prepare_again
from site_tasks.prepared import Prepared, enough_rows

__all__ = ["analyse", "prepared_rows"]

#: Learnt attributes of diffprivlib's estimators, by estimator; all of them came out of noise.
_LEARNT = {
    "GaussianNB": ("class_prior_", "theta_", "var_"),
    "PCA": ("mean_", "components_", "explained_variance_"),
    "StandardScaler": ("mean_", "var_", "scale_"),
}


def analyse(
    home: SiteHome,
    workspace: Path,
    params: Params,
    contract: Contract,
    name: str,
    epsilon: float,
    *,
    feature: str | None = None,
    **options: float,
) -> dict[str, Any]:
    """Fit an estimator of diffprivlib, or compute a statistic, on a site's training rows.

    Parameters
    ----------
    home : SiteHome
        The site.
    workspace : Path
        Folder of the installation.
    params : Params
        Their sections ``data`` and ``anonymisation`` say how rows are prepared.
    contract : Contract
        Public bounds and classes.
    name : str
        One of :data:`site_tasks.local_library.ESTIMATORS` or ``STATISTICS``.
    epsilon : float
        Of this analysis, per prepared row.
    feature : str, optional
        An encoded feature, for a statistic.
    **options
        As :data:`site_tasks.local_library.OPTIONS`.

    Returns
    -------
    dict
        ``what``; ``result``, JSON numbers; ``privacy``: what a reader of the result has to know.

    Raises
    ------
    ConfigError, DataError, PrivacyError
        As preparation and :mod:`site_tasks.local_library`; nothing is charged before rows are
        prepared and options hold.

    Notes
    -----
    Privacy cost: pure ``epsilon · stability`` per record, replace-one, in the site's ledger.
    """
    prepared = prepared_rows(home, workspace, params, contract)
    if prepared.weights("train") is not None:
        raise PrivacyError(
            "privacy.mechanism",
            "diffprivlib ignores sample weights.",
            "Drop the weight column from the contract.",
            site=home.name,
        )
    purpose = name if feature is None else f"{name} of {feature}"
    accountant = LedgerAccountant(home, purpose, prepared.fingerprint, prepared.stability)
    if name in ESTIMATORS:
        made = fit(name, prepared, contract, epsilon, accountant, **options)
        result = _described(name, made, prepared, contract)
    else:
        made = statistic(name, prepared, feature or "", epsilon, accountant, **options)
        result = {"feature": feature, **_statistic(made)}
    return {
        "what": purpose,
        "result": result,
        "privacy": {
            "mechanism": "diffprivlib",
            "epsilon": epsilon * prepared.stability,
            "delta": 0.0,
            "unit": "record",
            "relation": "replace-one",
            "lineage": home.settings.dataset.lineage,
        },
    }


def prepared_rows(home: SiteHome, workspace: Path, params: Params, contract: Contract) -> Prepared:
    """The newest dataset version of a site as numbers; prepared where it is not yet."""
    privacy = params.privacy.model_copy(update={"mechanism": "diffprivlib"})
    model = params.model.model_copy(update={"kind": "linear"})
    local = params.model_copy(update={"privacy": privacy, "model": model})
    absent = cast("Any", None)  # no roster and no exchange store: nothing leaves
    context = RunContext("local", local, contract, absent, absent, workspace)
    prepared = prepare_again(context, home, None)
    enough_rows(prepared, home, local)
    return prepared


def _statistic(made: Any) -> dict[str, Any]:
    if isinstance(made, tuple):
        counts, edges = made
        return {"counts": [float(n) for n in counts], "edges": [float(e) for e in edges]}
    return {"value": float(made)}


def _described(name: str, made: Any, prepared: Prepared, contract: Contract) -> dict[str, Any]:
    space = prepared.features
    found: dict[str, Any] = {
        "features": list(space.names),
        "lower": space.lower.tolist(),
        "upper": space.upper.tolist(),
    }
    if name not in {"PCA", "StandardScaler"} and contract.task != "regression":
        found["classes"] = list(contract.classes)
    if name in {"LinearRegression", "LogisticRegression"}:
        # Over features scaled from their bounds to [-1, 1].
        return {**found, "coefficients": made[:, :-1].tolist(), "intercept": made[:, -1].tolist()}
    if name == "RandomForestClassifier":
        return {**found, "trees": [_tree(one.tree_) for one in made.estimators_]}
    learnt = {key.rstrip("_"): getattr(made, key) for key in _LEARNT[name]}
    return {**found, **{key: np.asarray(value).tolist() for key, value in learnt.items()}}


def _tree(tree: Any) -> dict[str, Any]:
    """Nodes in the order of their numbers; leaves have the children -1 and a class's number."""
    leaf = tree.children_left < 0
    return {
        "left": tree.children_left.tolist(),
        "right": tree.children_right.tolist(),
        "feature": np.where(leaf, -1, tree.feature).tolist(),
        "threshold": np.where(leaf, 0.0, tree.threshold).tolist(),
        "class": np.where(leaf, tree.value[:, 0].argmax(axis=1), -1).tolist(),
    }
