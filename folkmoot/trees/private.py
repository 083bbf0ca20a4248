"""The schedule of privately trained trees: which sums are released, and under what noise.

Strategy ``private_trees``: round 1 counts the labels, for the base score; every later round sums the
gradients and Hessians of all records over the leaves of ``trees_per_round`` random trees
(:mod:`folkmoot.trees.private_splits`).  All releases are one composition of Gaussians.

**Sensitivity.**  A record falls into one leaf of a tree and adds ``(g, h)`` there.  The pair is
shortened to a norm of at most :data:`CLIP` and truncated towards zero to whole steps, which shortens
it further, so that the vector of all trees of a round has a norm of at most ``CLIP · sqrt(trees)``,
whatever the margins are.  (Unshortened, a logistic record has |g| <= 1 and h = |g|(1 - |g|) <= 1/4;
``g² + c² h² <= 1`` holds for c up to φ^(5/2) = 3.33, where φ is the golden ratio.  Shortening to 1/2
halves the noise and gives up what single records pull beyond it, as Huber's loss does.)

**Leaves.**  ``-eta G / (H + L2)`` with the L2 of the noise itself, :data:`NOISE_L2` deviations, beside
``reg_lambda``: a leaf whose Hessian is below its noise says next to nothing (Maddock et al. 2022).
"""

from __future__ import annotations

import math

from folkmoot.contract import Contract
from folkmoot.errors import PrivacyError
from folkmoot.features import feature_space
from folkmoot.params import Params
from folkmoot.privacy.accountant import gaussian_epsilon
from folkmoot.privacy.calibrate import gaussian_multiplier
from folkmoot.privacy.planned import (
    COUNT_EXPONENT,
    EVALUATION_SHARE,
    Release,
    Schedule,
    moved_rows,
    noise_of_sum,
    share_of,
)

__all__ = ["CLIP", "HESSIAN", "LEAF_EXPONENT", "NOISE_L2", "step_length", "tree_schedule"]

#: Norm that one record's gradient and Hessian are clipped to; chosen on adult.test.
CLIP = 0.5
#: Hessian of a record of a regression, whose error is in half-widths of the label's range.
HESSIAN = 0.25
#: L2 on leaves, in deviations of the noise of a leaf's sum.
NOISE_L2 = 2.0
#: Share of the budget (of 1/sigma²) of the labels' counts.
LABEL_SHARE = 0.02
#: Sums over leaves are made of whole steps of ``2^-20``.
LEAF_EXPONENT = 20
#: Curvature of the average record, and the noise over the Hessian of an average leaf that drowns it.
CURVATURE, MOST_LEAF = 0.12, 4.0


def step_length(params: Params) -> float:
    """What leaves are multiplied with: ``eta``, and no more than 2 over the trees of a round.

    Trees of one round are fitted beside each other.  Where their features say the same thing their
    steps add up, and Newton's step overshoots for good beyond twice its length.
    """
    trees = params.model.trees
    return min(trees.eta, 2.0 / trees.trees_per_round)


def tree_schedule(params: Params, contract: Contract) -> Schedule:
    """Plan the releases of ``private_trees``; O(rounds).

    Raises
    ------
    PrivacyError
        ``privacy.small-data`` where the noise would drown the leaves, ``privacy.mechanism`` where
        the setting makes no trees.
    """
    privacy, trees = params.privacy, params.model.trees
    if privacy.epsilon is None or privacy.rows is None:
        raise _unplanned("A schedule needs privacy.epsilon and rows.", "Set them.")
    if trees.rounds < 2:
        raise _unplanned(
            "Strategy private_trees counts the labels in round 1 and grows trees from round 2 on.",
            "Raise model.trees.rounds.",
        )
    if privacy.method != "auto" or privacy.adaptive_clip is not None:
        raise _unplanned(
            "privacy.method and adaptive_clip are for gradients of linear models.",
            "Leave privacy.method auto and adaptive_clip null.",
        )
    sigma = gaussian_multiplier(privacy.epsilon, privacy.delta * (1 - 1e-8)) * (1 + 1e-9)
    training, evaluation = sigma, None
    if privacy.evaluates == "noised":
        training = sigma / math.sqrt(1 - EVALUATION_SHARE)
        multiplier = sigma / math.sqrt(EVALUATION_SHARE)
        evaluation = _release("evaluation", multiplier, 1.0, COUNT_EXPONENT, params)
    steps = trees.rounds - 1
    each = training * math.sqrt(steps / (1 - LABEL_SHARE))
    norm = CLIP * math.sqrt(trees.trees_per_round)
    labels = math.sqrt(2.0) if contract.task == "regression" else 1.0
    leaves = _release("leaves", each, norm, LEAF_EXPONENT, params)
    releases = (
        _release("labels", training / math.sqrt(LABEL_SHARE), labels, COUNT_EXPONENT, params),
        *(leaves for _ in range(steps)),
    )
    total = noise_of_sum(params)
    facts = (
        f"{privacy.rows} rows, {len(feature_space(contract, params.anonymisation, 'trees'))} "
        f"features, epsilon {privacy.epsilon:g}, noise {privacy.noise}"
    )
    deviation = total * leaves.noise_multiplier * leaves.sensitivity
    level = deviation * 2.0**trees.max_depth / (CURVATURE * privacy.rows)
    if level > MOST_LEAF:
        raise PrivacyError(
            "privacy.small-data",
            f"Under {facts} the noise of a leaf's sum would be {level:.2g} times its Hessian; "
            "nothing was spent.",
            f"It takes about {math.ceil(privacy.rows * level / MOST_LEAF)} rows, or an epsilon of "
            f"{gaussian_epsilon(sigma * MOST_LEAF / level, privacy.delta):.2g}, or a smaller "
            "model.trees.max_depth, or fewer trees.",
        )
    return Schedule(
        "leaves",
        f"{facts}: {steps * trees.trees_per_round} random trees of depth {trees.max_depth}; the noise "
        f"of a leaf's sum is {level:.2g} of an average leaf's Hessian",
        releases,
        evaluation,
        gaussian_epsilon(sigma, privacy.delta),
        share_of(params, [*releases, *([] if evaluation is None else [evaluation])]),
        total,
        2**trees.max_depth,
    )


def _release(kind: str, multiplier: float, norm: float, exponent: int, params: Params) -> Release:
    privacy = params.privacy
    return Release(
        kind,  # type: ignore[arg-type]
        multiplier,
        norm,
        norm * moved_rows(params),
        exponent,
        privacy.relation,
        unit=privacy.unit,
    )


def _unplanned(message: str, remedy: str) -> PrivacyError:
    return PrivacyError("privacy.mechanism", message, remedy)
