"""Figures hold the published numbers, and only what was published."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.coordinator.plots import comparison, figures
from pipelines.coordinator.published import Published


def record(number: int, *, epsilon: float | None, sites: int = 2) -> dict[str, Any]:
    names = [f"s{i}" for i in range(sites)]
    metrics = {"overall": {"auc": 0.5 + number / 10}, "sites": {s: {"auc": 0.5} for s in names}}
    return {
        "round": number,
        "metrics_round": number - 1 if number > 1 else None,
        "metrics": metrics if number > 1 else {},
        "privacy": {s: {"epsilon": epsilon and number * epsilon} for s in names},
        "datasets": {},
    }


RESULT = {
    "rounds": 3,
    "metrics": {"overall": {"auc": 0.9}, "sites": {"s0": {"auc": 0.8}, "s1": {}}},
    "privacy": {"s0": {"epsilon": None}, "s1": {"epsilon": None}},
}
BASELINES = {
    "alone": {"s0": {"overall": {"auc": 0.7}, "own": {"auc": 0.75}}, "s1": None},
    "pooled": {"overall": {"auc": 0.95}, "sites": {}},
}


def lines(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    (axes,) = figure.axes
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
    }


def test_metric_over_rounds() -> None:
    found = Published(tuple(record(r, epsilon=None) for r in (1, 2, 3)), RESULT, None)
    drawn = figures(found, "binary")
    assert set(drawn) == {"plots/auc.png"}
    shown = lines(drawn["plots/auc.png"])
    assert shown["all sites"] == ([1, 2, 3], [0.7, 0.8, 0.9])
    assert shown["s0"] == ([1, 2, 3], [0.5, 0.5, 0.8])
    assert shown["s1"] == ([1, 2], [0.5, 0.5])


def test_epsilon_over_rounds() -> None:
    found = Published(tuple(record(r, epsilon=0.5) for r in (1, 2, 3)), None, None)
    shown = lines(figures(found, "binary")["plots/epsilon.png"])
    assert shown == {"s0, s1": ([1, 2, 3], [0.5, 1.0, 1.5])}  # what covers another is told
    assert found.epsilon == 1.5
    paid = {"s0": {"epsilon": 1.75}, "s1": {"epsilon": 1.5}}  # evaluation at the end
    found = Published(found.records, {**RESULT, "privacy": paid}, None)
    shown = lines(figures(found, "binary")["plots/epsilon.png"])
    assert shown == {"s0": ([1, 2, 3], [0.5, 1.0, 1.75]), "s1": ([1, 2, 3], [0.5, 1.0, 1.5])}


def test_federated_against_alone_and_pooled() -> None:
    found = Published((), RESULT, BASELINES)
    bars = comparison(found, "auc")
    assert bars == {"s0 alone": 0.7, "federated": 0.9, "pooled": 0.95}
    (axes,) = figures(found, "binary")["plots/comparison.png"].axes
    assert [bar.get_width() for bar in axes.patches] == list(bars.values())


@pytest.mark.parametrize("sites", [1, 256])
def test_any_number_of_sites_is_drawn(sites: int, tmp_path: Any) -> None:
    found = Published(tuple(record(r, epsilon=0.1, sites=sites) for r in (1, 2)), None, None)
    for name, figure in figures(found, "binary").items():
        path = tmp_path / name.replace("/", "-")
        figure.savefig(path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_nothing_published_draws_nothing() -> None:
    assert figures(Published((), None, None), "regression") == {}
