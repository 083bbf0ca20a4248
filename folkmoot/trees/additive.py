"""Strategy ``private_additive``: an additive logistic model on public bins, written as a booster.

The mathematics are those of the private linear model with basis ``additive``
(:mod:`folkmoot.privacy.training`): a noised histogram gives bins and scaling, one noised Gram matrix
the Hessian, noised gradients the steps.  Each column of the contract then becomes one tree whose
leaves are its bins or categories, so that the model is an XGBoost booster of one-feature trees: the
intercept, a tree per column, and a stump per column that may be missing.

Rows and edges are rounded to float32 before anything is summed, as XGBoost compares them, so that the
linear model and the booster agree on every row but for the rounding of leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column, Contract
from folkmoot.generalisation import categories_at, is_categorical, level_of
from folkmoot.models.design import Design
from folkmoot.models.tree_format import Tree
from folkmoot.params import Anonymisation, Linear, Params
from folkmoot.trees.booster import tree_of

__all__ = ["additive_trees", "as_linear", "columns_of", "fitting", "linear_rows"]

Floats = NDArray[np.float64]


def as_linear(params: Params) -> Params:
    """Params of the linear model behind the booster."""
    trees = params.model.trees
    linear = Linear(
        strategy="private",
        rounds=trees.rounds,
        l2=trees.reg_lambda,
        basis="additive",
        bins=trees.bins,
    )
    model = params.model.model_copy(update={"kind": "linear", "linear": linear})
    return params.model_copy(update={"model": model})


def linear_rows(
    rows: NDArray[np.floating], contract: Contract, anonymisation: Anonymisation
) -> Floats:
    """Features of a linear model from those of trees (:mod:`folkmoot.features`); O(n · d).

    Parameters
    ----------
    rows : ndarray, shape (n, columns)
        Codes and numbers; NaN where missing.  Rounded to float32.

    Returns
    -------
    ndarray of float64, shape (n, d)
    """
    x = np.asarray(rows, np.float32)
    out: list[NDArray[np.float64]] = []
    for j, column in enumerate(contract.inputs):
        own = x[:, j]
        for code in range(1, _categories(column, anonymisation)):
            out.append((own == code).astype(np.float64))
        if not is_categorical(column):
            out.append(own.astype(np.float64))
        if column.missing:
            out.append(np.isnan(own).astype(np.float64))
    return np.column_stack(out) if out else np.zeros((len(x), 0))


def fitting(design: Design) -> Design:
    """The design whose every column is a function of bins, on float32 edges.

    A number for which the noised histogram found no two bins is a constant, which says nothing.
    """
    edge = None if design.edge is None else design.edge.astype(np.float32).astype(np.float64)
    if design.lower is None or design.upper is None:
        return replace(design, edge=edge)
    number = design.lower < design.upper
    number &= ~((design.lower == 0) & (design.upper == 1) & (design.mean == 0))  # 0/1 features
    number[[j for j, _ in design.binned]] = False
    lower = np.where(number, design.mean, design.lower)
    upper = np.where(number, design.mean, design.upper)
    return replace(design, lower=lower, upper=upper, edge=edge)


def additive_trees(
    design: Design,
    coef: Floats,
    intercept: Floats,
    contract: Contract,
    anonymisation: Anonymisation,
) -> list[Tree]:
    """One tree per column, step by step and class by class; O(classes · width).

    Parameters
    ----------
    design : Design
        As :func:`fitting` made it.
    coef : ndarray of float64, shape (K, design.width)
    intercept : ndarray of float64, shape (K,)
    contract, anonymisation : Contract, Anonymisation
        What the linear features came from.
    """
    at = columns_of(design)
    trees = [_leaf(float(value)) for value in intercept]
    feature = 0
    for j, column in enumerate(contract.inputs):
        own: list[list[Tree]] = []
        count = _categories(column, anonymisation)
        if count:
            flags = range(feature, feature + count - 1)
            rest = [_flag(design, at, coef, flag, 0.0) for flag in flags]
            zero = np.sum(rest, axis=0) if rest else np.zeros(len(coef))
            values = [zero]
            for number, flag in enumerate(flags):
                values.append(zero - rest[number] + _flag(design, at, coef, flag, 1.0))
            own.append([_categorical(j, column, np.array(values)[:, k]) for k in range(len(coef))])
            feature += count - 1
        else:
            curve = _curve(design, at, coef, feature)
            edges = dict(design.binned).get(feature, np.zeros(0))
            usual = int(np.searchsorted(edges, design.mean[feature], side="right"))
            own.append([_number(j, edges, curve[:, k], usual) for k in range(len(coef))])
            feature += 1
        if column.missing:
            pair = [_flag(design, at, coef, feature, value) for value in (1.0, 0.0)]
            stumps = zip(*pair, strict=True)
            levels = count if count and column.type != "boolean" else 0
            own.append([_stump(j, levels, float(yes), float(no)) for yes, no in stumps])
            feature += 1
        trees += [tree for step in own for tree in step]
    return trees


def _categories(column: Column, anonymisation: Anonymisation) -> int:
    """Public categories of a column; 0 for a number."""
    if not is_categorical(column):
        return 0
    return len(categories_at(column, level_of(column, anonymisation)))


def columns_of(design: Design) -> dict[int, slice]:
    """Columns of the design by feature."""
    found = {int(j): slice(n, n + 1) for n, j in enumerate(design.kept)}
    at = len(found)
    for j, edges in design.binned:
        found[j] = slice(at, at + len(edges) + 1)
        at += len(edges) + 1
    return found


def _flag(design: Design, at: dict[int, slice], coef: Floats, feature: int, value: float) -> Floats:
    """What a 0/1 feature adds, per class."""
    own = coef[:, at[feature]][:, 0]
    return np.asarray((value - design.mean[feature]) / design.scale[feature] * own)


def _curve(design: Design, at: dict[int, slice], coef: Floats, feature: int) -> Floats:
    """What a number adds, by bin and class; 0 where it has no bins."""
    if feature not in dict(design.binned):
        return np.zeros((1, len(coef)))
    return np.asarray(coef[:, at[feature]].T / design.scale[feature])


def _leaf(value: float) -> Tree:
    return tree_of(np.array([-1]), np.array([-1]), np.array([0]), np.array([value]))


def _number(feature: int, edges: Floats, values: Floats, usual: int) -> Tree:
    """Bins of a number; missing values go where the mean does."""

    def split(node: int, first: int, last: int) -> tuple[float, bool, None]:
        middle = (first + last) // 2
        return float(edges[middle - 1]), usual < middle, None

    return _balanced(feature, values, split)


def _categorical(feature: int, column: Column, values: Floats) -> Tree:
    """A leaf per category; missing values go with the first, as in the linear features."""

    def split(node: int, first: int, last: int) -> tuple[float, bool, list[int] | None]:
        middle = (first + last) // 2
        codes = None if column.type == "boolean" else list(range(middle, last))
        return 0.5, True, codes

    return _balanced(feature, values, split)


def _stump(feature: int, levels: int, missing: float, present: float) -> Tree:
    """Whether a value is missing: whatever is there goes right."""
    least = float(np.finfo(np.float32).min)
    sets = {0: list(range(levels))} if levels else None
    return tree_of(
        np.array([1, -1, -1]),
        np.array([2, -1, -1]),
        np.array([feature, 0, 0]),
        np.array([least, missing, present]),
        default_left=np.array([True, False, False]),
        categories=sets,
    )


def _balanced(feature: int, values: Sequence[float] | Floats, split: object) -> Tree:
    """A balanced tree over leaves in order; ``split`` says how nodes part [first, last)."""
    left: list[int] = []
    right: list[int] = []
    value: list[float] = []
    default: list[bool] = []
    sets: dict[int, list[int]] = {}

    def grow(first: int, last: int) -> int:
        own = len(left)
        left.append(-1)
        right.append(-1)
        value.append(float(values[first]))
        default.append(False)
        if last - first > 1:
            middle = (first + last) // 2
            value[own], default[own], codes = split(own, first, last)  # type: ignore[operator]
            if codes is not None:
                sets[own] = codes
            left[own] = grow(first, middle)
            right[own] = grow(middle, last)
        return own

    grow(0, len(values))
    return tree_of(
        np.array(left),
        np.array(right),
        np.full(len(left), feature),
        np.array(value),
        default_left=np.array(default),
        categories=sets,
    )
