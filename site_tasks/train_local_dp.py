"""Strategy ``local_dp``: diffprivlib's own estimators, trained at the site, averaged once.

What diffprivlib needs to know of the data comes from the contract's public bounds in the scaled
space, never from the rows; its ``PrivacyLeakWarning`` is an error here.  Two of its settings do
not give the guarantee they claim (0.6.6), so they are not used:

* ``fit_intercept`` leaves the intercept out of the penalty that objective perturbation (Chaudhuri,
  Monteleoni & Sarwate 2011) needs to be strongly convex, and in ``LinearRegression`` the diagonal
  of the moments gets a sensitivity from the lower bounds alone.  The intercept is a constant
  column instead, and bounds are symmetric.
* ``data_norm`` other than 1 enters the curvature of the loss once instead of squared.  Rows are
  divided by their public norm instead, which leaves 1.

``classes_`` would be read from the labels; one public row per class at the centre of the feature
space makes sure that every class is there, whatever the site holds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import PrivacyError
from folkmoot.exchange import ArtifactRef
from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.events import PureDP
from folkmoot.privacy.release import charge
from folkmoot.updates import LinearUpdate
from folkmoot.wire import Artefact
from site_tasks.evaluate import load_model
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared, load_prepared
from site_tasks.privatise import TrainedPrivately, seed_of
from site_tasks.release import release

__all__ = ["fit_classes", "fit_numbers", "no_leak", "train"]

Floats = NDArray[np.float64]


def train(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Train once with ``privacy.epsilon`` and release the change of the global model.

    Returns
    -------
    list of ArtifactRef
        ``round-001/update-<site>`` with the part ``update``: ``delta`` (K, d + 1), weight 1.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for sample weights, which diffprivlib ignores, and where it would
        have to look at the data for a bound; ``privacy.ceiling`` before anything is drawn.

    Notes
    -----
    Privacy cost: ``PureDP(privacy.epsilon)`` per record, replace-one.  Where one record can move
    several prepared rows (small-class suppression), training gets ``epsilon / stability`` (group
    privacy), so that a record still costs no more than epsilon.
    """
    home = SiteHome.find(step.place, context.workspace)
    prepared = load_prepared(context, home)
    model, model_digest = load_model(context, keys.model(step.round - 1), prepared)
    epsilon = context.params.privacy.epsilon
    if epsilon is None or prepared.weights("train") is not None:
        raise PrivacyError(
            "privacy.mechanism",
            "diffprivlib's estimators need an epsilon and ignore sample weights.",
            "Set privacy.epsilon, and drop the weight column from the contract.",
            site=home.name,
        )

    def make() -> dict[str, TrainedPrivately]:
        name = f"{context.run}/{step.name}/{prepared.digest}"
        seed = seed_of(context.params.privacy, name)
        state = None if seed is None else int.from_bytes(seed[:4], "little")
        # The penalty is the federation's: each site takes its share of it.
        l2 = context.params.model.linear.l2 / len(context.params.federation.members)
        rows, bound = _rows(prepared, model)
        own = epsilon / prepared.stability
        task = context.contract.task
        if task == "regression":
            y = _centred(prepared, context.contract)
            after, spent = fit_numbers(rows, y, bound, epsilon=own, l2=l2, random_state=state)
            low, high = context.contract.label.bounds or (0.0, 0.0)
            after *= (high - low) / 2
            after[:, -1] += (low + high) / 2
        else:
            labels = np.asarray(prepared.labels("train"))
            count = len(context.contract.classes)
            after, spent = fit_classes(
                rows, labels, bound, count, epsilon=own, l2=l2, random_state=state
            )
        if not math.isclose(spent * prepared.stability, epsilon, rel_tol=1e-9):
            raise PrivacyError(
                "privacy.mechanism",
                "diffprivlib reports another spend than was planned.",
                "Check the installed version of diffprivlib.",
                site=home.name,
            )
        update = LinearUpdate({"delta": after - parameters(model)}, 1.0)
        return {"update": TrainedPrivately(update, PureDP(epsilon))}

    ref = release(
        step,
        context,
        home,
        key=keys.update(step.round, step.place),
        inputs=[model_digest, prepared.digest],
        make=make,
        fingerprint=prepared.fingerprint,
        costs=charge(context.params.privacy),
    )
    return [ref]


def fit_classes(
    rows: Floats,
    labels: NDArray[Any],
    bound: Floats,
    classes: int,
    *,
    epsilon: float,
    l2: float,
    random_state: int | None = None,
    accountant: Any = None,
) -> tuple[Floats, float]:
    """Private logistic regression (diffprivlib, objective perturbation); one against the rest.

    Parameters
    ----------
    rows : ndarray, shape (n, d)
        Scaled features, within ``[-bound, bound]``.
    labels : ndarray of int, shape (n,)
        Class codes.
    bound : ndarray, shape (d,)
        Public.
    classes : int
        Number of public classes.
    epsilon : float
        Pure epsilon of the whole fit, replace-one.
    l2 : float
        Penalty ``l2/2 · |w|²`` beside the summed loss, intercept included.
    random_state : int, optional
        NOT PRIVATE; without it diffprivlib draws from the system's entropy (``secrets``).
    accountant : diffprivlib.accountant.BudgetAccountant, optional
        Told what is spent; one for this fit alone by default.

    Returns
    -------
    ndarray, shape (K, d + 1), and float
        Coefficients and intercept (K = 1 for two classes), and the epsilon that was spent.
    """
    from diffprivlib.accountant import BudgetAccountant
    from diffprivlib.models import LogisticRegression

    norm = math.sqrt(float(np.sum(bound**2)) + 1)
    centre = np.zeros((classes, rows.shape[1]))
    x = _with_constant(np.vstack([rows, centre])) / norm
    y = np.concatenate([labels, np.arange(classes)])
    accountant = BudgetAccountant(epsilon, 0) if accountant is None else accountant
    with no_leak():
        estimator = LogisticRegression(
            epsilon=epsilon,
            data_norm=1.0,
            C=norm**2 / max(l2, 1e-6),
            fit_intercept=False,
            tol=1e-8,
            max_iter=1000,
            random_state=random_state,
            accountant=accountant,
        ).fit(x, y)
    return np.asarray(estimator.coef_, np.float64) / norm, float(accountant.total()[0])


def fit_numbers(
    rows: Floats,
    y: Floats,
    bound: Floats,
    *,
    epsilon: float,
    l2: float,
    random_state: int | None = None,
    accountant: Any = None,
) -> tuple[Floats, float]:
    """Private least squares: diffprivlib's noisy moments (functional mechanism), solved as ridge.

    diffprivlib minimises the noisy quadratic as it is, which has no minimum where the noise made
    it indefinite.  Here the same noisy moments are projected to the positive semidefinite ones and
    solved with a penalty of the size of the noise, which is public: post-processing, free.

    Parameters
    ----------
    rows : ndarray, shape (n, d)
        Scaled features, within ``[-bound, bound]``.
    y : ndarray, shape (n,)
        Labels within [-1, 1].
    bound, epsilon, l2, random_state, accountant
        As for :func:`fit_classes`; the intercept has no penalty beyond the noise's.

    Returns
    -------
    ndarray, shape (1, d + 1), and float
        Coefficients and intercept, and the epsilon that was spent.
    """
    from diffprivlib.accountant import BudgetAccountant
    from diffprivlib.models import LinearRegression

    edge = np.append(bound, 1.0)
    accountant = BudgetAccountant(epsilon, 0) if accountant is None else accountant
    with no_leak(), np.errstate(all="ignore"):
        estimator = LinearRegression(
            epsilon=epsilon,
            bounds_X=(-edge, edge),
            bounds_y=(-1.0, 1.0),
            fit_intercept=False,
            random_state=random_state,
            accountant=accountant,
        ).fit(_with_constant(rows), y)
    _, xy, xx = estimator._obj_coefs
    values, vectors = np.linalg.eigh((xx + xx.T) / 2)
    xx = (vectors * np.maximum(values, 0.0)) @ vectors.T
    d = len(edge)
    # Laplace scale of an off-diagonal moment at diffprivlib's split of epsilon, in the units of
    # each feature; sqrt(2) makes it a deviation, 2 sqrt(d) the norm of a matrix of such entries.
    scale = 2 * (1 + d + d * (d + 1) / 2) / epsilon
    penalty = 2 * math.sqrt(2 * d) * scale * edge**2
    penalty[:-1] += l2
    return np.linalg.solve(xx + np.diag(penalty), xy).T, float(accountant.total()[0])


def _rows(prepared: Prepared, model: Artefact) -> tuple[Floats, Floats]:
    """Training rows scaled and clipped to their public bounds, and the bound per feature."""
    mean, scale = model.arrays["mean"], model.arrays["scale"]
    lower = (prepared.features.lower - mean) / scale
    upper = (prepared.features.upper - mean) / scale
    bound = np.maximum(np.abs(lower), np.abs(upper))
    rows = (np.array(prepared.matrix("train"), np.float64) - mean) / scale
    np.nan_to_num(rows, copy=False, nan=0.0)
    np.clip(rows, -bound, bound, out=rows)
    return rows, bound


def _centred(prepared: Prepared, contract: Contract) -> Floats:
    low, high = contract.label.bounds or (-1.0, 1.0)
    y = np.asarray(prepared.labels("train"), np.float64)
    return np.clip((y - (low + high) / 2) / ((high - low) / 2), -1.0, 1.0)


def _with_constant(rows: Floats) -> Floats:
    return np.column_stack([rows, np.ones(len(rows))])


@contextmanager
def no_leak() -> Iterator[None]:
    """Turn diffprivlib's ``PrivacyLeakWarning`` into an error; its other warnings are noise."""
    from diffprivlib.utils import PrivacyLeakWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PrivacyLeakWarning)
        try:
            yield
        except PrivacyLeakWarning:
            raise PrivacyError(
                "privacy.mechanism",
                "diffprivlib would have read a bound from the data.",
                "Give every trained column public bounds in the contract.",
            ) from None
