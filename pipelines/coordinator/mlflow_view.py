"""A run as MLflow shows it: settings as params, round records as metrics, a page in words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from folkmoot.metrics import PRIMARY
from folkmoot.plan import RunContext
from pipelines.coordinator.published import Published, largest_epsilon

if TYPE_CHECKING:
    from mlflow.entities import Metric

__all__ = ["flat_params", "guarantee", "masked", "metrics_at", "record_metrics", "summary"]

_HIDDEN = ("key", "secret", "token", "password", "credential")


def flat_params(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """``section.key`` and value of the settings that were used; secrets are hidden.

    The model section that was not chosen is left out.
    """
    values = masked(values)
    other = "trees" if values["model"]["kind"] == "linear" else "linear"
    return [(k, v) for k, v in _flat(values, "") if not k.startswith(f"model.{other}.")]


def summary(found: Published, context: RunContext) -> str:
    """What the run's page in MLflow begins with."""
    result = found.outcome(context.run)
    name = PRIMARY[context.contract.task]
    value = result["metrics"].get("overall", {}).get(name)
    lines = [
        f"**{result['kind']}, {result['strategy']}**, {result['rounds']} rounds"
        + (f" (ended: {result['stop']})" if result["stop"] else "")
        + (f", {name} {value:.4f} on all sites' held-out rows" if value is not None else ""),
        "",
        guarantee(context, result, found.epsilon),
        "",
        "| site | dataset version | " + name + " | epsilon |",
        "|---|---|---|---|",
    ]
    for site, fingerprints in found.datasets.items():
        own = result["metrics"].get("sites", {}).get(site, {}).get(name)
        spent = (result["privacy"].get(site) or {}).get("epsilon")
        cells = [
            site,
            ", ".join(f"`{fingerprint[:12]}`" for fingerprint in fingerprints),
            "" if own is None else f"{own:.4f}",
            "" if spent is None else f"{spent:.4g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def guarantee(context: RunContext, result: Mapping[str, Any], epsilon: float | None) -> str:
    """One sentence on differential privacy, which never claims more than holds."""
    privacy = context.params.privacy
    if result["private"] and epsilon is not None:
        return (
            f"Updates are differentially private per training {privacy.unit} and site: "
            f"epsilon ≤ {epsilon:.4g} at delta {privacy.delta:g}. "
            "Counts on held-out rows are exact: no epsilon covers them."
        )
    if epsilon is not None:
        return "**NOT PRIVATE**: the noise came from a seed."
    return "Not differentially private: no noise was added to the updates."


def _flat(values: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def masked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose options of the exchange store hold no credentials."""
    federation = dict(values["federation"])
    federation["exchange_options"] = {
        key: "(hidden)" if any(word in key.lower() for word in _HIDDEN) else value
        for key, value in federation["exchange_options"].items()
    }
    return {**values, "federation": federation}


def record_metrics(
    record: Mapping[str, Any], site: str | None, ceiling: float | None
) -> list[Metric]:
    """What a round record says of the federation (None) or of a site; epsilon has its ceiling."""
    metrics = record["metrics"] or {"overall": {}, "sites": {}}
    if site is None:
        own = metrics["overall"]
        values = {
            "participants": len(record["participants"]),
            "left_out": len(record["missing"]),
            "epsilon": largest_epsilon(record),
            "change": record.get("change"),
        }
    else:
        own = metrics["sites"].get(site, {})
        values = {
            "took_part": int(site in record["participants"]),
            "epsilon": (record["privacy"].get(site) or {}).get("epsilon"),
            "distance": (_standing(record).get(site) or {}).get("distance"),
        }
    if values["epsilon"] is not None:
        values["epsilon_ceiling"] = ceiling
    number, step = record["round"], record["metrics_round"]
    return metrics_at({"round": number, **values}, number) + (metrics_at(own, step) if own else [])


def _standing(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record.get("defence", {}).get("standing", {})
    return found


def metrics_at(values: Mapping[str, float | None], step: int) -> list[Metric]:
    """Metrics of now at a step, of the values that are known."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    pairs = [(key, value) for key, value in values.items() if value is not None]
    return [Metric(key, float(value), now, step) for key, value in pairs]
