"""Strategy ``local_forests``: diffprivlib's RandomForestClassifier at each site, combined by votes.

diffprivlib's trees split at random and label each leaf by permute-and-flip on its counts of classes
(McKenna & Sheldon 2020); every tree sees rows of its own.  Two of its claims hold for less than they
say under ``replace-one`` (0.6.6): a row that changes takes one from a count and adds one to another,
in one leaf or in two, while the choice is calibrated to counts that move one way; so the estimator is
given half the epsilon that is charged.  Rows are dealt to trees by position, which replacing a row
does not change.

What leaves are its trees with votes for leaves, in the form of all trees
(:mod:`folkmoot.models.tree_format`): public thresholds' draws and noised labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError
from folkmoot.exchange import ArtifactRef
from folkmoot.models.tree_format import Tree, dump_trees
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.events import PureDP
from folkmoot.privacy.release import charge
from folkmoot.trees.booster import tree_of
from folkmoot.updates import TreeUpdate
from site_tasks.evaluate import load_model
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared
from site_tasks.privatise import TrainedPrivately, seed_of
from site_tasks.release import release
from site_tasks.train_local_dp import no_leak

__all__ = ["fit_forest", "train", "voting_trees"]

#: Margin of a unanimous vote.
VOTE = 4.0


def train(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Grow a forest once with ``privacy.epsilon`` and release it.

    Returns
    -------
    list of ArtifactRef
        ``round-001/update-<site>`` with the part ``update``: ``trees_per_round`` trees per class.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for sample weights, which diffprivlib ignores; ``privacy.ceiling``
        before anything is drawn.

    Notes
    -----
    Privacy cost: ``PureDP(privacy.epsilon)`` per record, replace-one; the estimator gets half of it,
    and less where one record can move several prepared rows.
    """
    home = SiteHome.find(step.place, context.workspace)
    prepared = load_prepared(context, home)
    _, model_digest = load_model(context, keys.model(step.round - 1), prepared)
    epsilon = context.params.privacy.epsilon
    if epsilon is None or prepared.weights("train") is not None:
        raise PrivacyError(
            "privacy.mechanism",
            "diffprivlib's forests need an epsilon and ignore sample weights.",
            "Set privacy.epsilon, and drop the weight column from the contract.",
            site=home.name,
        )

    def make() -> dict[str, TrainedPrivately]:
        settings, space = context.params.model.trees, prepared.features
        name = f"{context.run}/{step.name}/{prepared.digest}"
        seed = seed_of(context.params.privacy, name)
        forest = fit_forest(
            np.asarray(prepared.matrix("train"), np.float64),
            np.asarray(prepared.labels("train"), np.int64),
            space.lower,
            space.upper,
            len(context.contract.classes),
            epsilon=epsilon / prepared.stability,
            trees=settings.trees_per_round,
            max_depth=settings.max_depth,
            random_state=None if seed is None else int.from_bytes(seed[:4], "little"),
        )
        categorical = tuple(kind == "c" for kind in space.types)
        trees = [
            tree
            for grown in forest.estimators_
            for tree in voting_trees(grown.tree_, space.centre, space.upper, categorical)
        ]
        scale = VOTE / settings.trees_per_round
        return {"update": TrainedPrivately(TreeUpdate(_dumped(trees, scale), 1.0), PureDP(epsilon))}

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


def fit_forest(
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    classes: int,
    *,
    epsilon: float,
    trees: int,
    max_depth: int,
    random_state: int | None = None,
) -> Any:
    """A diffprivlib forest that is epsilon-private for one row replaced; O(n · depth) in Python.

    Parameters
    ----------
    rows : ndarray, shape (n, d)
        Encoded features; missing ones count as the public midpoint.
    labels : ndarray of int64, shape (n,)
        Codes of the public classes.
    lower, upper : ndarray, shape (d,)
        Public bounds.
    classes : int
    epsilon : float
        Of the whole forest, replace-one: the estimator itself gets half.
    trees, max_depth : int
    random_state : int, optional
        NOT PRIVATE; without it diffprivlib draws from the system's entropy.

    Returns
    -------
    diffprivlib.models.RandomForestClassifier
    """
    from diffprivlib.accountant import BudgetAccountant
    from diffprivlib.models import RandomForestClassifier

    filled = np.where(np.isnan(rows), (lower + upper) / 2, rows)
    with no_leak():
        forest = RandomForestClassifier(
            n_estimators=trees,
            max_depth=max_depth,
            epsilon=epsilon / 2,
            bounds=(lower, np.maximum(upper, lower + 1e-9)),
            classes=np.arange(classes),
            n_jobs=1,
            random_state=random_state,
            accountant=BudgetAccountant(epsilon, 0),
        )
        return forest.fit(filled, labels)


def voting_trees(
    tree: Any,
    centre: NDArray[np.float64],
    upper: NDArray[np.float64],
    categorical: tuple[bool, ...],
) -> list[Tree]:
    """A scikit-learn tree whose leaves vote, as travelling trees: one for two classes, else K.

    A leaf for class 1 of two is 1, for class 0 it is -1; of more classes the one voted for has 1.
    scikit-learn goes left up to the threshold, XGBoost below it: the threshold is the next float32.
    Codes of categories above the threshold go right, and missing values where the midpoint goes.
    """
    left = np.asarray(tree.children_left, np.int64)
    feature = np.where(left == -1, 0, np.asarray(tree.feature, np.int64))
    threshold = np.asarray(tree.threshold, np.float64)
    below = threshold.astype(np.float32)
    below = np.where(below > threshold, np.nextafter(below, np.float32(-np.inf)), below)
    above = np.nextafter(below, np.float32(np.inf))
    votes = np.asarray(tree.value)[:, 0, :].argmax(axis=1)
    inner = np.flatnonzero(left != -1)
    sets = {
        int(node): list(range(int(np.floor(threshold[node])) + 1, int(upper[feature[node]]) + 1))
        for node in inner
        if categorical[feature[node]]
    }
    order, places = _parents_first(left, np.asarray(tree.children_right, np.int64))
    count = tree.value.shape[2]
    values = [np.where(votes == 1, 1.0, -1.0)]
    if count > 2:
        values = [(votes == k).astype(np.float64) for k in range(count)]
    return [
        tree_of(
            np.where(left[order] == -1, -1, places[left[order]]),
            np.where(left[order] == -1, -1, places[np.asarray(tree.children_right)[order]]),
            feature[order],
            np.where(left == -1, vote, above)[order],
            default_left=(centre[feature] <= threshold)[order],
            categories={int(places[node]): codes for node, codes in sets.items()},
        )
        for vote in values
    ]


def _parents_first(
    left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nodes in an order in which children stand behind parents, and the place of each."""
    order, level = [], [0]
    while level:
        order += level
        level = [int(c) for node in level if left[node] != -1 for c in (left[node], right[node])]
    places = np.empty(len(left), np.int64)
    places[order] = np.arange(len(order))
    return np.asarray(order), places


def _dumped(trees: list[Tree], scale: float) -> bytes:
    from folkmoot.models.tree_format import scale_leaves

    return dump_trees([scale_leaves(tree, scale) for tree in trees])
