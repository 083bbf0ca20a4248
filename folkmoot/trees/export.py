"""What a tree model says of itself: curves, importance, contributions.  No data anywhere.

A model of one-feature trees is additive: the margin is a sum of one curve per feature, and each
curve a sum of trees.  The noise of a leaf has a known deviation (the model's array ``leaf_noise``), and
noise of different trees is independent, so that a curve has a band.  Rows that anything is computed on
here are made from the contract's bounds and categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.features import feature_space
from folkmoot.generalisation import categories_at, is_categorical, level_of
from folkmoot.models.tree_format import Tree, TreeSpace, parse_trees
from folkmoot.models.trees import outputs, to_xgboost, tree_bytes, tree_count
from folkmoot.params import Params
from folkmoot.privacy.bins import public_edges
from folkmoot.trees.booster import margins
from folkmoot.trees.private_splits import Grid
from folkmoot.wire import Artefact

__all__ = ["Explained", "Shape", "contributions", "importance", "public_rows", "shapes", "splits"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """What one feature adds to the margin.

    Parameters
    ----------
    feature : str
    at : ndarray of float64, shape (m,), or tuple of str
        Lower ends of the intervals of a number, or names of categories.
    curve : ndarray of float64, shape (m, K)
        Centred over ``at``.
    band : ndarray of float64, shape (m, K)
        Standard deviation that the noise gives to the curve.
    missing : ndarray of float64, shape (K,), or None
        What a missing value adds, centred alike; None where none may be missing.
    """

    feature: str
    at: Floats | tuple[str, ...]
    curve: Floats
    band: Floats
    missing: Floats | None


def shapes(model: Artefact, contract: Contract, params: Params) -> list[Shape]:
    """Curves of an additive model; none where a tree has more than one feature; O(cells · trees).

    Parameters
    ----------
    model : Artefact
        Of strategy ``private_trees`` or ``private_additive``.
    contract, params : Contract, Params
        The run's.

    Returns
    -------
    list of Shape
        One per feature, in the contract's order.
    """
    trees = _trees(model)
    if "leaf_noise" not in model.arrays or any(len(_features(tree)) > 1 for tree in trees):
        return []
    noise, classes = _noise_trees(trees, model.arrays["leaf_noise"]), outputs(model.meta)
    grid = Grid.of(contract, params)
    found = []
    for j, column in enumerate(contract.inputs):
        own = [n for n in range(0, len(trees), classes) if j in _features(trees[n])]
        steps = [n + k for n in own for k in range(classes)]
        cells, at = _cells(grid, j, contract, params)
        rows = np.zeros((len(cells) + 1, len(grid)))
        rows[:-1, j], rows[-1, j] = cells, np.nan
        zero = [0.0] * classes
        values = margins([trees[n] for n in steps], rows, zero).reshape(-1, classes)
        spread = margins([noise[n] for n in steps], rows, zero).reshape(-1, classes)
        level = values[:-1].mean(axis=0)
        found.append(
            Shape(
                column.name,
                at,
                np.asarray(values[:-1] - level, np.float64),
                np.sqrt(spread[:-1].astype(np.float64)),
                np.asarray(values[-1] - level, np.float64) if column.missing else None,
            )
        )
    return found


def importance(model: Artefact) -> dict[str, float]:
    """Gain per feature from released sums alone, as shares of one; empty where none was released.

    Private trees carry it by feature (without what the noise adds), summed histograms and live sessions
    by node.  Sites take the gain off whole trees before these leave (``bagging``, ``cyclic``).
    """
    if "gain" not in model.arrays:
        return {}
    gain = np.maximum(np.asarray(model.arrays["gain"], np.float64), 0.0)
    if "hessian" in model.arrays:
        gain = _by_feature(model, gain)
    return _shares(model, gain)


def splits(model: Artefact) -> dict[str, float]:
    """Share of the model's splits on each feature (XGBoost's ``weight``)."""
    nodes = sum(len(tree["left_children"]) for tree in _trees(model))
    return _shares(model, _by_feature(model, np.ones(nodes)))


@dataclass(frozen=True)
class Explained:
    """SHAP's contributions to the margins of made-up rows.

    Parameters
    ----------
    features : tuple of str
    rows : ndarray of float64, shape (n, d)
        From :func:`public_rows`.
    values : ndarray of float32, shape (n, K, d)
        What each feature adds to each of the K margins of a row.
    """

    features: tuple[str, ...]
    rows: Floats
    values: NDArray[np.float32]

    def sizes(self) -> dict[str, float]:
        """Mean size by feature, summed over the margins."""
        found = np.abs(self.values).sum(axis=1).mean(axis=0)
        return {name: float(size) for name, size in zip(self.features, found, strict=True)}


def contributions(model: Artefact, contract: Contract, params: Params, rows: int) -> Explained:
    """SHAP's contributions on synthetic rows; O(rows · trees · depth²).

    XGBoost's own ``pred_contribs`` (Lundberg et al. 2020, doi:10.1038/s42256-019-0138-9).  Its
    background are the model's covers: of summed histograms the released sums, of other strategies
    nominal ones, which send half of the rows each way.
    """
    import xgboost

    booster = to_xgboost(model, threads=1)
    names = tuple(str(name) for name in model.meta["features"])
    made = public_rows(contract, params, rows)
    data = xgboost.DMatrix(
        made,
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
        enable_categorical=True,
    )
    found = booster.predict(data, pred_contribs=True).reshape(rows, -1, len(names) + 1)
    return Explained(names, made, found[:, :, :-1])


def public_rows(contract: Contract, params: Params, rows: int) -> Floats:
    """Made-up rows: every public cell and category as likely as any other, columns independent."""
    space = feature_space(contract, params.anonymisation, "trees")
    rng = np.random.default_rng(0)
    out = np.zeros((rows, len(space)))
    at = 0
    for column in contract.inputs:
        own = [j for j in range(at, len(space)) if space.names[j].startswith(f"{column.name}=")]
        if space.names[at] != column.name and own:  # a feature per category
            out[np.arange(rows), rng.choice(own, rows)] = 1.0
            at += len(own)
            continue
        low, high = float(space.lower[at]), float(space.upper[at])
        if is_categorical(column):
            cells = np.arange(low, high + 1)
        else:
            cells = np.unique(np.append(public_edges(low, high), low).astype(np.float32))
        out[:, at] = rng.choice(cells, rows)
        at += 1
    return out


def _by_feature(model: Artefact, values: Floats) -> Floats:
    """Sums of a number per node over the splits on each feature, shape (d,)."""
    trees = _trees(model)
    if not trees:
        return np.zeros(len(model.meta["features"]))
    inner = np.concatenate([np.asarray(tree["left_children"]) for tree in trees]) != -1
    features = np.concatenate([np.asarray(tree["split_indices"]) for tree in trees])
    found = np.bincount(features[inner], values[inner], minlength=len(model.meta["features"]))
    return np.asarray(found, np.float64)


def _shares(model: Artefact, values: Floats) -> dict[str, float]:
    total = float(values.sum()) or 1.0
    names = [str(name) for name in model.meta["features"]]
    return {name: float(value) / total for name, value in zip(names, values, strict=True)}


def _trees(model: Artefact) -> list[Tree]:
    space, count = TreeSpace.from_meta(model.meta), tree_count(model)
    return parse_trees(tree_bytes(model), space, count=count, what="The global model")


def _features(tree: Tree) -> set[int]:
    pairs = zip(tree["split_indices"], tree["left_children"], strict=True)
    return {int(feature) for feature, child in pairs if child != -1}


def _noise_trees(trees: Sequence[Tree], noise: NDArray[Any]) -> list[Tree]:
    """The same trees, whose leaves are variances."""
    found, start = [], 0
    for tree in trees:
        child = np.asarray(tree["left_children"])
        own = noise[start : start + len(child)]
        start += len(child)
        values = np.where(child == -1, np.square(own), tree["split_conditions"])
        found.append({**tree, "split_conditions": values.tolist()})
    return found


def _cells(
    grid: Grid, feature: int, contract: Contract, params: Params
) -> tuple[Floats, Floats | tuple[str, ...]]:
    """One value in every public cell of a feature, and where the cell begins or what it is called."""
    column = contract.inputs[feature]
    if is_categorical(column):
        names = categories_at(column, level_of(column, params.anonymisation))
        return np.arange(len(names), dtype=np.float64), tuple(str(name) for name in names)
    edges = grid.edges[feature]
    inner = np.zeros(0) if edges is None else edges.astype(np.float64)
    low = min((column.bounds or (0.0, 1.0))[0], float(inner[0]) if len(inner) else np.inf)
    starts = np.unique(np.concatenate([[low], inner]))
    return starts, starts
