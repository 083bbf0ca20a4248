"""The best split of a node, from whole-number sums, as XGBoost's ``hist`` chooses it.

The rules are those of XGBoost 3.2 (``src/tree/hist/evaluate_splits.h``, ``split_evaluator.h`` and
``param.h``), with its roundings: sums are added in double precision, weights and gains are rounded
to float32 after every step, and of equal gains the lower feature and the earlier bin win.  Given
the same sums, the same split comes out.

Numerical features are scanned from the left with missing values on the right, and where some are
missing from the right with them on the left.  Categorical features with fewer than
``max_cat_to_onehot`` categories part one category from the rest; others are sorted by the weight
that each category's rows ask for and cut in two (Fisher 1958, doi:10.1080/01621459.1958.10501479).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.trees.compiled import compiled, still

__all__ = ["Rules", "Splits", "best_splits", "settle"]

Array = NDArray[Any]
_F, _U = np.float32, np.uint64
#: Splits of no more gain than this are not made (XGBoost's kRtEps).
LEAST_GAIN = np.float32(1e-6)


@dataclass(frozen=True)
class Rules:
    """Regularisation of a split, with XGBoost's names; numbers are rounded to float32."""

    reg_lambda: float = 1.0
    reg_alpha: float = 0.0
    gamma: float = 0.0
    min_child_weight: float = 1.0
    max_delta_step: float = 0.0
    max_cat_to_onehot: int = 4
    max_cat_threshold: int = 64
    #: Whether any feature is bound to be monotone: gains are then computed in another way.
    constrained: bool = False

    @cached_property
    def numbers(self) -> tuple[float, float, float, float, bool]:
        """What the kernels take: lambda, alpha, least Hessian, largest step, whether constrained."""
        values = (self.reg_lambda, self.reg_alpha, self.min_child_weight, self.max_delta_step)
        a, b, c, d = (float(np.float32(value)) for value in values)
        return a, b, c, d, self.constrained


@dataclass(frozen=True)
class Splits:
    """Best split per node.

    Parameters
    ----------
    gain : ndarray of float32, shape (S,)
        0 where there is none.
    feature, bin : ndarray of int64, shape (S,)
        Rows in bins up to and including ``bin`` (within the feature) go left; -1: none of them, only
        missing values do.  The category that goes right, or -1 for a set, where categorical.
    default_left : ndarray of bool, shape (S,)
    left : ndarray of int64, shape (S, 2)
        Sums of gradients and Hessians that go left.
    right_codes : ndarray of bool, shape (S, most bins of a feature)
        Categories that go right.
    """

    gain: NDArray[np.float32]
    feature: NDArray[np.int64]
    bin: NDArray[np.int64]
    default_left: NDArray[np.bool_]
    left: NDArray[np.int64]
    right_codes: NDArray[np.bool_]


def best_splits(
    sums: NDArray[np.int64],
    totals: NDArray[np.int64],
    first: NDArray[np.int64],
    categorical: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    monotone: NDArray[np.int64],
    bounds: NDArray[np.float32],
    root_gain: NDArray[np.float32],
    units: tuple[float, float],
    rules: Rules,
) -> Splits:
    """Best split of every node; O(nodes · bins).

    Parameters
    ----------
    sums : ndarray of int64, shape (S, bins, 2)
        Summed gradients and Hessians per node and bin, all features behind one another.
    totals : ndarray of int64, shape (S, 2)
        The nodes' sums, missing values included.
    first : ndarray of int64, shape (d + 1,)
        First bin of every feature.
    categorical : ndarray of bool, shape (d,)
    allowed : ndarray of bool, shape (S, d)
        Features that a node may split on (sampling of columns, interaction constraints).
    monotone : ndarray of int64, shape (d,)
        1 for increasing, -1 for decreasing, 0 for free.
    bounds : ndarray of float32, shape (S, 2)
        Least and largest weight of a node's leaves under monotone constraints.
    root_gain : ndarray of float32, shape (S,)
        Gain of the node as a leaf.
    units : (float, float)
        Value of one step of gradients and Hessians.
    rules : Rules
    """
    nodes = len(sums)
    most = int(np.diff(first).max(initial=1))
    out = Splits(
        np.zeros(nodes, np.float32),
        np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros(nodes, bool),
        np.zeros((nodes, 2), np.int64),
        np.zeros((nodes, most), bool),
    )
    _scan(
        still(sums), still(totals), still(first), still(categorical), still(allowed),
        still(monotone), still(bounds), still(root_gain),
        units[0], units[1], rules.numbers, rules.max_cat_to_onehot, rules.max_cat_threshold,
        out.gain, out.feature, out.bin, out.default_left, out.left, out.right_codes,
    )  # fmt: skip
    return out


def settle(
    sums: NDArray[np.int64], bounds: NDArray[np.float32], units: tuple[float, float], rules: Rules
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight, before the learning rate, and gain of nodes as leaves; O(nodes).

    Parameters
    ----------
    sums : ndarray of int64, shape (S, 2)
        Summed gradients and Hessians.
    bounds : ndarray of float32, shape (S, 2)
        Least and largest weight under monotone constraints.
    units : (float, float)
        Value of one step of gradients and Hessians.
    rules : Rules

    Returns
    -------
    weights, gains : ndarray of float32, shape (S,)
    """
    weights, gains = np.empty(len(sums), np.float32), np.empty(len(sums), np.float32)
    _settle(still(sums), still(bounds), units[0], units[1], rules.numbers, weights, gains)
    return weights, gains


@compiled
def _threshold(g: float, alpha: float) -> float:
    if g > alpha:
        return g - alpha
    if g < -alpha:
        return g + alpha
    return 0.0


@compiled
def _weight(g: float, h: float, rules: Any) -> Any:
    """XGBoost's CalcWeight: in double, rounded to float32."""
    reg_lambda, alpha, least, step, _ = rules
    if h < least or h <= 0.0:
        return _F(0.0)
    w = -_threshold(g, alpha) / (h + reg_lambda)
    if step != 0.0:
        w = min(max(w, -step), step)
    return _F(w)


@compiled
def _bounded(g: float, h: float, lower: Any, upper: Any, rules: Any) -> Any:
    w = _weight(g, h, rules)
    if rules[4]:
        if w < lower:
            return lower
        if w > upper:
            return upper
    return w


@compiled
def _gain(g: float, h: float, w: Any, rules: Any) -> Any:
    """XGBoost's CalcGainGivenWeight."""
    reg_lambda, alpha, _, step, constrained = rules
    if h <= 0.0:
        return _F(0.0)
    if step == 0.0 and not constrained:
        t = _threshold(g, alpha)
        return _F(t * t) / _F(h + reg_lambda)
    gf, hf = _F(g), _F(h)
    return -(_F(2.0) * gf * w + (hf + _F(reg_lambda)) * (w * w))


@compiled
def _settle(
    sums: Array, bounds: Array, ug: float, uh: float, rules: Any, weights: Array, gains: Array
) -> None:
    for s in range(len(sums)):
        g, h = sums[s, 0] * ug, sums[s, 1] * uh
        weights[s] = _bounded(g, h, bounds[s, 0], bounds[s, 1], rules)
        gains[s] = _gain(g, h, weights[s], rules)


@compiled
def _split_gain(
    lg: float, lh: float, rg: float, rh: float, direction: int, lower: Any, upper: Any, rules: Any
) -> Any:
    """Gain of both sides, or minus infinity where the constraint is broken."""
    wl, wr = _bounded(lg, lh, lower, upper, rules), _bounded(rg, rh, lower, upper, rules)
    if (direction > 0 and wl > wr) or (direction < 0 and wl < wr):
        return _F(-np.inf)
    return _gain(lg, lh, wl, rules) + _gain(rg, rh, wr, rules)


@compiled
def _plain_gains(
    g: Array, h: Array, size: int, tg: int, th: int, ug: float, uh: float, root: Any, rules: Any,
    gains: Array,
) -> None:  # fmt: skip
    """Gain over ``root`` of every cut of a feature; without constraints, several at a time.

    The same operations in the same order as :func:`_gain`, with no branch that would part them.
    ``g`` and ``h`` are sums of the one side.
    """
    reg_lambda, alpha, least = rules[0], rules[1], rules[2]
    for i in range(size):
        ng, nh, og, oh = g[i] * ug, h[i] * uh, (tg - g[i]) * ug, (th - h[i]) * uh
        nt = ng - alpha if ng > alpha else (ng + alpha if ng < -alpha else 0.0)
        ot = og - alpha if og > alpha else (og + alpha if og < -alpha else 0.0)
        a = _F(nt * nt) / _F(nh + reg_lambda)
        b = _F(ot * ot) / _F(oh + reg_lambda)
        found = ((a if nh > 0.0 else _F(0.0)) + (b if oh > 0.0 else _F(0.0))) - root
        gains[i] = found if (nh >= least) & (oh >= least) else _F(0.0)


@compiled
def _gains(
    g: Array, h: Array, size: int, tg: int, th: int, ug: float, uh: float, direction: int,
    lower: Any, upper: Any, root: Any, rules: Any, gains: Array,
) -> None:  # fmt: skip
    """The same under monotone constraints, ``direction`` that of this side, or with a largest step."""
    least = rules[2]
    for i in range(size):
        gains[i] = _F(0.0)
        ng, nh, og, oh = g[i] * ug, h[i] * uh, (tg - g[i]) * ug, (th - h[i]) * uh
        if nh >= least and oh >= least:
            gains[i] = _split_gain(ng, nh, og, oh, direction, lower, upper, rules) - root


@compiled
def _scan(
    sums: Array, totals: Array, first: Array, categorical: Array, allowed: Array,
    monotone: Array, bounds: Array, root_gain: Array, ug: float, uh: float, rules: Any,
    onehot: int, threshold: int,
    gain: Array, feature: Array, place: Array, default_left: Array, left: Array, codes: Array,
) -> None:  # fmt: skip
    least = rules[2]
    most = codes.shape[1]
    order, weights = np.empty(most, np.int64), np.empty(most, np.float32)
    # Sums up to and including a bin, from the left or from the right.
    g, h, gains = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.float32)
    plain = rules[3] == 0.0 and not rules[4]
    for s in range(sums.shape[0]):
        tg, th = totals[s, 0], totals[s, 1]
        lower, upper, root = bounds[s, 0], bounds[s, 1], root_gain[s]
        best = _F(0.0)
        for f in range(len(first) - 1):
            if not allowed[s, f]:
                continue
            start, end = first[f], first[f + 1]
            size = end - start
            direction = monotone[f]
            if not categorical[f]:
                for backward in range(2):
                    ag, ah = 0, 0
                    for i in range(size):
                        at = _U(end - 1 - i if backward else start + i)
                        ag += sums[s, at, _U(0)]
                        ah += sums[s, at, _U(1)]
                        g[_U(i)], h[_U(i)] = ag, ah
                    if plain:
                        _plain_gains(g, h, size, tg, th, ug, uh, root, rules, gains)
                    else:
                        sign = -direction if backward else direction
                        _gains(g, h, size, tg, th, ug, uh, sign, lower, upper, root, rules, gains)
                    for i in range(size):
                        if gains[i] > best:
                            best = gains[i]
                            feature[s], default_left[s] = f, backward == 1
                            if backward:
                                place[s] = size - 2 - i
                                left[s, 0], left[s, 1] = tg - g[i], th - h[i]
                            else:
                                place[s] = i
                                left[s, 0], left[s, 1] = g[i], h[i]
                    if ag == tg and ah == th:
                        break  # nothing is missing
            elif size < onehot:
                mg, mh = tg, th
                for i in range(start, end):
                    mg -= sums[s, i, 0]
                    mh -= sums[s, i, 1]
                for i in range(start, end):
                    for with_missing in range(2):
                        rg, rh = sums[s, i, 0], sums[s, i, 1]
                        if with_missing:
                            rg, rh = rg + mg, rh + mh
                        if rh * uh < least or (th - rh) * uh < least:
                            continue
                        found = (
                            _split_gain(
                                (tg - rg) * ug, (th - rh) * uh, rg * ug, rh * uh,
                                direction, lower, upper, rules,
                            ) - root
                        )  # fmt: skip
                        if found > best:
                            best = found
                            feature[s], place[s], default_left[s] = f, i - start, not with_missing
                            left[s, 0], left[s, 1] = tg - rg, th - rh
                            codes[s, :] = False
                            codes[s, i - start] = True
            else:
                for i in range(size):  # stable, by the weight that each category asks for
                    w = _weight(sums[s, start + i, 0] * ug, sums[s, start + i, 1] * uh, rules)
                    j = i
                    while j > 0 and weights[j - 1] > w:
                        weights[j], order[j] = weights[j - 1], order[j - 1]
                        j -= 1
                    weights[j], order[j] = w, i
                steps = min(threshold, size) - 1
                for backward in range(2):
                    ag, ah = 0, 0
                    taken = 0
                    for i in range(steps):
                        at = start + order[size - 1 - i if backward else i]
                        ag += sums[s, at, 0]
                        ah += sums[s, at, 1]
                        if ah * uh < least or (th - ah) * uh < least:
                            continue
                        lg, lh = (ag, ah) if backward else (tg - ag, th - ah)
                        found = (
                            _split_gain(
                                lg * ug, lh * uh, (tg - lg) * ug, (th - lh) * uh,
                                direction, lower, upper, rules,
                            ) - root
                        )  # fmt: skip
                        if found > best:
                            best = found
                            taken = size - 1 - i if backward else i + 1
                            feature[s], place[s], default_left[s] = f, -1, not backward
                            left[s, 0], left[s, 1] = lg, lh
                    if taken:
                        codes[s, :] = False
                        for j in range(taken):
                            codes[s, order[j]] = True
        gain[s] = best
