"""Figures and tables of tree models, from the published model alone: no data, no screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from folkmoot.plan import RunContext
from folkmoot.wire import Artefact
from pipelines.coordinator.swarm import canvas, swarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from folkmoot.trees.export import Shape

__all__ = ["figures", "tables"]

#: Made-up rows that contributions are averaged over: at most and at least, and fewer for large models:
#: SHAP walks every path of every tree (rows times bytes of the trees times their depth squared).
ROWS, _LEAST, _WORK = 2000, 20, 6e10
#: Of them in the picture.
_PICTURED = 300
#: Most features and categories that are drawn.
_MOST, _NAMES = 24, 16


def figures(model: Artefact, context: RunContext) -> dict[str, Figure]:
    """Importance and SHAP below ``plots/``, and shapes where the model is additive and private."""
    from folkmoot.trees.export import contributions, shapes

    drawn: dict[str, Figure] = {}
    if model.meta.get("kind") != "trees":
        return drawn
    what, shares = _importance(model)
    order = sorted(shares, key=lambda name: (-shares[name], name))[:_MOST]
    drawn["plots/importance.png"] = _bars({name: shares[name] for name in order}, what)
    if model.meta["trees"]:
        some = min(_PICTURED, _affordable(model))
        found = contributions(model, context.contract, context.params, some)
        drawn["plots/contributions.png"] = swarm(found, _MOST)
    if "leaf_noise" not in model.arrays:
        return drawn
    by_name = {shape.feature: shape for shape in shapes(model, context.contract, context.params)}
    chosen = [by_name[name] for name in order if name in by_name]
    if chosen:
        drawn["plots/shapes.png"] = _shapes(chosen, context)
    return drawn


def tables(model: Artefact, context: RunContext) -> dict[str, str]:
    """``importance.json`` and ``contributions.json`` (SHAP on synthetic rows), as text."""
    from folkmoot.trees.export import contributions

    if model.meta.get("kind") != "trees":
        return {}
    what, shares = _importance(model)
    rows = _affordable(model)
    covers = "summed Hessians" if "hessian" in model.arrays else "nominal covers"
    found: dict[str, Mapping[str, Any]] = {
        "importance.json": {"what": what, "importance": shares},
        "contributions.json": {
            "what": "mean size of SHAP contributions to the margin on synthetic rows, uniform on the "
            f"contract's bounds and categories; {covers} as background",
            "rows": rows,
            "contributions": contributions(model, context.contract, context.params, rows).sizes(),
        },
    }
    return {name: json.dumps(values, indent=1, sort_keys=True) for name, values in found.items()}


def _affordable(model: Artefact) -> int:
    """Rows that SHAP is asked about."""
    walked = len(model.arrays["trees"]) * int(model.meta["max_depth"]) ** 2
    return max(_LEAST, min(ROWS, int(_WORK / max(walked, 1))))


def _importance(model: Artefact) -> tuple[str, dict[str, float]]:
    """What it is, and shares by feature: of the gain where sums of it were released."""
    from folkmoot.trees.export import importance, splits

    if "leaf_noise" in model.arrays:
        return "share of the gain, from released (noised) sums alone", importance(model)
    if "gain" in model.arrays:
        return "share of the gain, from released sums alone", importance(model)
    return "share of the splits; sites release no gain with whole trees", splits(model)


def _bars(shares: Mapping[str, float], what: str) -> Figure:
    figure = canvas(7.0, 1.2 + 0.3 * len(shares))
    axes = figure.add_subplot()
    drawn = axes.barh(list(shares), list(shares.values()), color="tab:blue")
    axes.bar_label(drawn, fmt="%.3f", padding=3, fontsize="small")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(what)
    axes.set_title("Importance of features")
    return figure


def _shapes(chosen: Sequence[Shape], context: RunContext) -> Figure:
    columns = min(3, len(chosen))
    lines = -(-len(chosen) // columns)
    figure = canvas(4.0 * columns, 2.8 * lines)
    classes = list(context.contract.classes)
    labels = classes if context.contract.task == "multiclass" else [""]
    for number, shape in enumerate(chosen):
        axes = figure.add_subplot(lines, columns, number + 1)
        for k, label in enumerate(labels):
            _one(axes, shape, k, label)
        zero = axes.axvline if isinstance(shape.at, tuple) else axes.axhline
        zero(0.0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_title(shape.feature, fontsize="medium")
        axes.tick_params(labelsize="small")
        if number == 0 and len(labels) > 1:
            axes.legend(fontsize="small")
    figure.supylabel("adds to the margin (band: two deviations of the noise)", fontsize="medium")
    return figure


def _one(axes: Any, shape: Shape, k: int, label: str) -> None:
    curve, band = shape.curve[:, k], 2 * shape.band[:, k]
    if isinstance(shape.at, tuple):
        order = sorted(range(len(curve)), key=lambda i: -abs(curve[i]))[:_NAMES]
        order = sorted(order, key=lambda i: curve[i])
        names = [shape.at[i][:18] for i in order]
        axes.errorbar(
            curve[order], range(len(order)), xerr=band[order], fmt="o", markersize=3, label=label
        )
        axes.set_yticks(range(len(order)), names, fontsize="x-small")
        return
    drawn = axes.step(shape.at, curve, where="post", linewidth=1.5, label=label)
    colour = drawn[0].get_color()
    axes.fill_between(shape.at, curve - band, curve + band, step="post", alpha=0.25, color=colour)
    if len(shape.at) > 80:  # a wide range, whose edges grow geometrically
        axes.set_xscale("symlog", linthresh=max(float(shape.at[1] - shape.at[0]), 1e-9))
