"""Membership inference on final models: the likelihood ratio attack with shadow models (LiRA).

Carlini et al. (2022), *Membership inference attacks from first principles*: every shadow model is
trained on a random half of the rows.  Under each row lies then one normal of its confidences in
models that saw it and one in models that did not; the attack on a model is the ratio of the two at
what that model says.  Each model is attacked in turn with all the others as shadows.

Training is a function of rows, so that any trainer can be asked; :func:`private_linear` trains with
the sites' own code (:mod:`site_tasks.private.records`, :mod:`site_tasks.privatise`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.calibrate import noise_multiplier
from folkmoot.privacy.events import Event
from folkmoot.privacy.noise import Entropy
from folkmoot.privacy.planned import FACTOR_EXPONENT, ROW_EXPONENT, Release
from folkmoot.privacy.shares import Shares
from pipelines.audit.bounds import Bound, from_one_run
from pipelines.audit.canaries import Rows, privacy_of
from site_tasks.private.records import Records, gradient_sum, integer_rows
from site_tasks.privatise import ClippedSum, privatise

__all__ = ["Attack", "PrivateLinear", "Trainer", "attack", "private_linear"]

Floats = NDArray[np.float64]
#: Rows and labels of one training set to the probability of class 1 on all rows.
Trainer = Callable[[Floats, Floats, Floats], Floats]
#: False positive rate at which the true positive rate is told.
LOW = 1e-3
#: Models' worth of the average row's variance in each row's own.
PRIOR = 5


@dataclass(frozen=True)
class Attack:
    """How well members were told from non-members, over all models.

    Parameters
    ----------
    auc : float
        Area under the curve of the attack; 1/2 is chance.
    tpr : float
        True positive rate at a false positive rate of 0.1 %.
    bound : Bound
        Lower bound on epsilon: of each model by its own canaries, the best of them, with the error
        shared among the models.
    models, rows : int
        How many.
    """

    auc: float
    tpr: float
    bound: Bound
    models: int
    rows: int


def attack(
    train: Trainer,
    x: Floats,
    y: Floats,
    delta: float,
    *,
    models: int = 48,
    canaries: int = 1000,
    confidence: float = 0.95,
    progress: Callable[[int], None] | None = None,
) -> Attack:
    """Train ``models`` models on random halves of the rows and attack each; O(models) trainings.

    Parameters
    ----------
    train : callable
        Trains on the rows and labels it gets and returns probabilities for all of ``x``.
    x, y : ndarray, shapes (n, d) and (n,)
        Rows and 0/1 labels.
    delta : float
        Of the claim, for the bound.
    models : int
        At least 4.
    canaries : int
        Rows, drawn at random, whose membership the bound is made of.
    confidence : float
        Of the bound.
    progress : callable, optional
        Told how many models are trained.

    Returns
    -------
    Attack
    """
    n = len(y)
    entropy = Entropy()
    member = np.empty((models, n), bool)
    confidences = np.empty((models, n))
    for model in range(models):
        member[model] = entropy.words(n, "u1") & 1 == 1
        p = train(x[member[model]], y[member[model]], x)
        right = np.clip(np.where(y == 1, p, 1 - p), 1e-12, 1 - 1e-12)
        confidences[model] = np.log(right) - np.log1p(-right)
        if progress is not None:
            progress(model + 1)
    scores = _ratios(confidences, member)
    chosen = np.argsort(entropy.words(n, "<u8"))[:canaries]
    bounds = [
        from_one_run(
            score[chosen][truth[chosen]],
            score[chosen][~truth[chosen]],
            delta,
            1 - (1 - confidence) / models,
        )
        for score, truth in zip(scores, member, strict=True)
    ]
    best = max(bounds, key=lambda bound: bound.epsilon)
    bound = Bound(best.epsilon, "one-run", confidence, f"best of {models} models: {best.detail}")
    auc, tpr = _curve(scores.ravel(), member.ravel())
    return Attack(auc, tpr, bound, models, n)


def _ratios(confidences: Floats, member: NDArray[np.bool_]) -> Floats:
    """Log likelihood ratios of each row in each model, from all the other models; O(models · n).

    Each row has normals of its own with it and without it (the online attack).  Few models tell
    little of a row's variances, so each is drawn towards the average row's as if :data:`PRIOR` more
    models had shown that one.
    """
    inside, outside = _normal(confidences, member), _normal(confidences, ~member)
    known = (inside.models > 0) & (outside.models > 0)
    ratio = outside.surprise(confidences) - inside.surprise(confidences)
    return np.asarray(np.where(known, ratio, 0.0))


@dataclass(frozen=True)
class _Normal:
    """Of each row in each model, over the other models that are chosen: how many, mean, variance."""

    models: NDArray[np.int64]
    mean: Floats
    variance: Floats

    def surprise(self, confidences: Floats) -> Floats:
        """Minus the log density, up to a constant."""
        return np.asarray(
            (confidences - self.mean) ** 2 / (2 * self.variance) + np.log(self.variance) / 2
        )


def _normal(confidences: Floats, chosen: NDArray[np.bool_]) -> _Normal:
    values = np.where(chosen, confidences, 0.0)
    models = chosen.sum(axis=0) - chosen
    many = np.maximum(models, 1)
    mean = (values.sum(axis=0) - values) / many
    squares = (np.square(values).sum(axis=0) - np.square(values)) / many
    variance = np.maximum(squares - np.square(mean), 0.0)
    average = float(variance.mean()) + 1e-12
    return _Normal(models, mean, (variance * models + PRIOR * average) / (models + PRIOR))


def _curve(scores: Floats, member: NDArray[np.bool_]) -> tuple[float, float]:
    """AUC by ranks, and the true positive rate at a false positive rate of 0.1 %."""
    from scipy import stats

    inside, outside = scores[member], scores[~member]
    ranks = stats.rankdata(np.concatenate([inside, outside]))[: len(inside)]
    auc = (ranks.sum() - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside))
    cut = np.quantile(outside, 1 - LOW, method="higher")
    return float(auc), float((inside > cut).mean())


@dataclass(frozen=True)
class PrivateLinear:
    """A trainer of logistic models by noised gradient sums, and what it claims."""

    train: Trainer
    events: dict[Event, int]
    claimed: float


def private_linear(
    budget: float, delta: float, *, rounds: int = 12, step: float = 3.0, norm: float = 2.0
) -> PrivateLinear:
    """Logistic regression by noised gradients of clipped records, with the sites' code.

    Parameters
    ----------
    budget, delta : float
        Of one training, add-or-remove, record.
    rounds : int
        Gradients.
    step : float
        Of descent, for the mean gradient.
    norm : float
        L2 norm that rows are clipped to; the gradients are clipped to half of it.
    """
    clip = norm / 2
    multiplier = noise_multiplier(budget, delta, rounds)
    release = Release(
        "gradient", multiplier, clip, clip, ROW_EXPONENT + FACTOR_EXPONENT, "add-or-remove"
    )
    share = Shares(release.deviation, 1).share / release.deviation
    privacy = privacy_of(budget, delta)

    def train(x: Floats, y: Floats, everything: Floats) -> Floats:
        rows = integer_rows(np.column_stack([x, np.ones(len(x))]), norm)
        records = cast(Records, Rows(rows, y))
        w = np.zeros((1, rows.shape[1]))
        iterates: list[Any] = []
        for _ in range(rounds):
            values = gradient_sum("binary", w, records, clip)
            made = privatise({"update": ClippedSum(values, release, share)}, privacy)
            total = made.parts["update"].arrays["sum"]
            w = w - step * (total * 2.0**-release.exponent) / len(everything) * 2
            iterates.append(w)
        w = np.mean(iterates[-max(1, rounds // 3) :], axis=0)
        z = np.column_stack([everything, np.ones(len(everything))]) @ w[0]
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -700, 700))))

    events: dict[Event, int] = {release.event: rounds}
    return PrivateLinear(train, events, epsilon(events, delta)[0])
