"""Figures of a run, drawn from what was published: no data, no screen (matplotlib's Agg)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from folkmoot.metrics import HIGHER_IS_BETTER, PRIMARY
from pipelines.coordinator.published import Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figures"]

#: More lines than this cannot be told apart: beyond it sites share one colour and no legend.
_LEGEND = 10
#: More names than this are counted in the legend.
_NAMED = 4
Series = dict[int, float]


def figures(found: Published, task: str, ceiling: float | None = None) -> dict[str, Figure]:
    """Figures that the published material allows, by file name.

    Parameters
    ----------
    found : Published
        What a run has published.
    task : str
        ``binary``, ``multiclass`` or ``regression``.
    ceiling : float, optional
        Budget of the run (``privacy.epsilon``), a line in the plot of epsilon.

    Returns
    -------
    dict of str to Figure
        ``plots/<metric>.png``; ``plots/epsilon.png`` where a site spends budget;
        ``plots/comparison.png`` where baselines were computed.
    """
    name = PRIMARY[task]
    drawn: dict[str, Figure] = {}
    overall, sites = metric_series(found, name)
    if overall:
        drawn[f"plots/{name}.png"] = _over_rounds(name, overall, sites)
    spent = epsilon_series(found)
    if spent:
        drawn["plots/epsilon.png"] = _over_rounds("epsilon spent", {}, _alike(spent), ceiling)
    bars = comparison(found, name)
    if bars:
        drawn["plots/comparison.png"] = _bars(name, bars)
    return drawn


def metric_series(found: Published, name: str) -> tuple[Series, dict[str, Series]]:
    """A metric by round of the model it belongs to: overall, and by site."""
    overall: Series = {}
    sites: dict[str, Series] = {}
    pairs = [(record["metrics_round"], record["metrics"]) for record in found.records]
    if found.result is not None:
        pairs.append((found.result["rounds"], found.result["metrics"]))
    for step, values in pairs:
        if step is None or not values:
            continue
        if name in values["overall"]:
            overall[step] = values["overall"][name]
        for site, own in values["sites"].items():
            if name in own:
                sites.setdefault(site, {})[step] = own[name]
    return overall, sites


def epsilon_series(found: Published) -> dict[str, Series]:
    """Epsilon spent so far by round, for every site that spends; the last with the evaluation."""
    spent: dict[str, Series] = {}
    told = [(record["round"], record["privacy"]) for record in found.records]
    if found.result is not None:
        told.append((found.result["rounds"], found.result["privacy"]))
    for step, sites in told:
        for site, privacy in sites.items():
            if privacy["epsilon"] is not None:
                spent.setdefault(site, {})[step] = privacy["epsilon"]
    return spent


def comparison(found: Published, name: str) -> dict[str, float]:
    """Metric on everybody's held-out rows: each site alone, federated, pooled."""
    if found.result is None or not found.baselines:
        return {}
    alone: Mapping[str, Any] = found.baselines.get("alone") or {}
    bars = {
        f"{site} alone": (own or {}).get("overall", {}).get(name) for site, own in alone.items()
    }
    bars["federated"] = found.result["metrics"].get("overall", {}).get(name)
    bars["pooled"] = (found.baselines.get("pooled") or {}).get("overall", {}).get(name)
    return {label: value for label, value in bars.items() if value is not None}


def _alike(sites: Mapping[str, Series]) -> dict[str, Series]:
    """One line for all sites that spent the same, by all their names."""
    names: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for site in sorted(sites):
        names.setdefault(tuple(sorted(sites[site].items())), []).append(site)
    return {
        ", ".join(same) if len(same) <= _NAMED else f"{same[0]} and {len(same) - 1} others": dict(
            line
        )
        for line, same in names.items()
    }


def _over_rounds(
    name: str, overall: Series, sites: Mapping[str, Series], ceiling: float | None = None
) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, axes = _canvas()
    named = len(sites) <= _LEGEND
    for site in sorted(sites):
        label, colour = (site, None) if named else (None, "0.7")
        axes.plot(*_xy(sites[site]), marker=".", linewidth=1, label=label, color=colour)
    if overall:
        axes.plot(*_xy(overall), marker="o", color="black", linewidth=2, label="all sites")
    if ceiling is not None:
        label = f"ceiling of the run, {ceiling:g}"
        axes.axhline(ceiling, color="black", linestyle="--", label=label)
        axes.set_ylim(
            0.0, 1.1 * max(ceiling, *(y for line in sites.values() for y in line.values()))
        )
    axes.set_xlabel("round")
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{name} over rounds" + ("" if named else f", {len(sites)} sites"))
    if named or overall or ceiling is not None:
        axes.legend(fontsize="small")
    return figure


def _bars(name: str, bars: Mapping[str, float]) -> Figure:
    figure, axes = _canvas(height=1.2 + 0.3 * len(bars))
    colours = ["tab:blue" if label == "federated" else "0.7" for label in bars]
    drawn = axes.barh(list(bars), list(bars.values()), color=colours)
    axes.bar_label(drawn, fmt="%.4f", padding=3, fontsize="small")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(f"{name} ({'higher' if name in HIGHER_IS_BETTER else 'lower'} is better)")
    axes.set_title("On everybody's held-out rows")
    return figure


def _canvas(height: float = 4.0) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, height), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no screen
    return figure, figure.add_subplot()


def _xy(series: Series) -> tuple[list[int], list[float]]:
    steps = sorted(series)
    return steps, [series[step] for step in steps]
