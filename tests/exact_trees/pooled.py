"""Summed histograms without hosts, and what pooled XGBoost makes of the same bins."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from folkmoot.models.tree_format import Tree
from folkmoot.trees import cuts as edges
from folkmoot.trees.cuts import Cuts
from folkmoot.trees.grow import Columns, advance, begin, complete, finished
from folkmoot.trees.histograms import Grid, bin_rows, build, leaves, missing_code
from folkmoot.trees.objectives import derivatives, on_grid
from folkmoot.trees.split import Rules

Array = NDArray[Any]


@dataclass
class Table:
    """Rows of all sites, in the order of the sites."""

    x: Array
    y: Array
    weights: Array | None = None
    #: Categories per feature; 0 for a number.
    levels: Sequence[int] = ()
    parts: list[NDArray[np.int64]] = field(default_factory=list)

    def cuts(self) -> Cuts:
        """One bin per distinct value, so that XGBoost's own sketch of the table gives the same."""
        found = []
        for j, size in enumerate(self.levels):
            column = self.x[:, j].astype(np.float32)
            values = np.unique(column[~np.isnan(column)])
            if size:
                found.append(np.arange(size, dtype=np.float32))
            elif len(values) < 2:
                found.append(np.float32([values[-1] + 1 if len(values) else 1.0]))
            else:
                found.append(np.append(values[1:], values[-1] + np.float32(1)))
        lower = np.nanmin(np.where(np.isnan(self.x), 0, self.x), axis=0)
        return edges._joined(found, lower, self.levels)


def train(
    table: Table,
    cuts: Cuts,
    objective: str,
    base_margin: Any,
    rules: Rules,
    columns: Columns,
    *,
    steps: int,
    depth: int | Sequence[int],
    classes: int = 1,
    eta: float = 0.3,
    grid: Grid | None = None,
    with_rows: Callable[[int], NDArray[np.int64]] | None = None,
) -> tuple[list[Tree], Array]:
    """Trees, and margins (n, K) of the rows: the loop that sites and coordinator walk."""
    missing, grid = missing_code(cuts), grid or Grid.fit(4, 2**12, 64.0, 64.0)
    bins = bin_rows(table.x, cuts)
    margins = np.full((len(table.y), classes), np.float32(base_margin), np.float32)
    trees: list[Tree] = []
    for step in range(steps):
        g, h = derivatives(
            objective, margins, table.y, table.weights, max_delta_step=rules.max_delta_step
        )
        if with_rows is not None:
            out = np.setdiff1d(np.arange(len(table.y)), with_rows(step))
            g[:, out] = h[:, out] = 0
        gradient, hessian = on_grid(g, grid.gradient), on_grid(h, grid.hessian)
        growing, full = begin(step, classes), None
        levels = depth if isinstance(depth, int) else depth[step]
        while growing.wanted:
            sums = np.zeros((len(growing.wanted), cuts.bins, 2), np.int64)
            for rows in table.parts or [np.arange(len(table.y))]:
                at = 0
                for k, tree in enumerate(growing.trees):
                    wanted = [built[0] for built in tree.built]
                    if wanted:
                        nodes = leaves(bins[rows], missing, tree.route(missing))
                        own = np.zeros((len(wanted), cuts.bins, 2), np.int64)
                        build(bins[rows], cuts.first, missing, nodes, wanted,
                              gradient[k, rows], hessian[k, rows], own)  # fmt: skip
                        sums[at : at + len(wanted)] += own
                        at += len(wanted)
            totals = np.stack([gradient.sum(axis=1), hessian.sum(axis=1)], axis=1)
            root = totals if growing.level == 0 else None
            asked, full = complete(growing, sums, full)
            growing = advance(growing, asked, full, cuts, grid, rules, columns, eta, levels, root)
        for k, tree in enumerate(growing.trees):
            nodes = leaves(bins, missing, tree.route(missing))
            margins[:, k] += np.asarray(tree.value, np.float32)[nodes]
        trees += finished(growing, cuts)[0]
    return trees, margins


def pooled(
    table: Table, cuts: Cuts, settings: dict[str, Any], steps: int
) -> tuple[list[dict[str, Any]], xgboost.Booster, xgboost.DMatrix]:
    """XGBoost on the bins' numbers, which its own sketch leaves as they are."""
    codes = bin_rows(table.x, cuts).astype(np.float32)
    codes[codes == missing_code(cuts)] = np.nan
    types = ["c" if size else "q" for size in table.levels]
    matrix = xgboost.DMatrix(
        codes, table.y, weight=table.weights, feature_types=types, enable_categorical=True
    )
    defaults = {"tree_method": "hist", "nthread": 1, "max_bin": 4096, "verbosity": 0}
    booster = xgboost.train(defaults | settings, matrix, steps)
    saved = json.loads(bytes(booster.save_raw("json")))
    return saved["learner"]["gradient_booster"]["model"]["trees"], booster, matrix


def same_structure(
    ours: Sequence[Tree], theirs: Sequence[dict[str, Any]], cuts: Cuts, codes: Array
) -> None:
    """Same nodes, features, rows on either side, categories and leaves, tree by tree."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for name in ("left_children", "right_children", "split_indices", "split_type"):
            assert a[name] == b[name], name
        assert a["categories"] == b["categories"]
        for node, left in enumerate(a["left_children"]):
            value = np.float32(a["split_conditions"][node])
            if left == -1:
                assert value == pytest.approx(np.float32(b["split_conditions"][node]), rel=3e-7)
                continue
            feature = a["split_indices"][node]
            found = codes[:, feature]
            if np.isnan(found).any():
                assert a["default_left"][node] == b["default_left"][node]
            if a["split_type"][node]:
                continue
            first, last = cuts.first[feature], cuts.first[feature + 1]
            place = np.searchsorted(cuts.values[first:last], value)
            below = -1 if value == cuts.lowest[feature] else place
            ours_left = found <= below
            theirs_left = found < np.float32(b["split_conditions"][node])
            assert np.array_equal(ours_left, theirs_left)
