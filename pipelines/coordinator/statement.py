"""The privacy statement of a model: as JSON, and in words that a privacy officer can sign.

It is made of what was published (receipts, round records) and of the plan, and claims no more than
they prove: which releases epsilon covers, towards whom, under which unit and relation, by which
accountant, and what it does not cover.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from folkmoot.plan import RunContext
from pipelines.coordinator.published import Published

__all__ = ["budget", "statement", "tags", "words"]

_COLUMNS = ("site", "round", "took part", "releases charged", "epsilon", "delta", "accountant")
_RELATIONS = {
    "replace-one": "one {unit} replaced by another",
    "add-or-remove": "one {unit} added or taken away",
}
_NOISE = {
    "site": "Each site adds all of the noise itself, before anything leaves it: the statement holds "
    "towards the coordinator, the other sites and everybody who reads the model.",
    "distributed": "Each site adds a share of the noise and only the sum is opened: the statement "
    "holds towards whoever sees sums over the sites, as long as no more sites drop out or collude "
    "than planned.",
    "coordinator": "The coordinator adds the noise: it sees exact sums, and the statement does not "
    "hold towards it, only towards those who read the model.",
}


def budget(found: Published) -> dict[str, Any]:
    """Epsilon by site and round, as columns and rows (MLflow shows it as a table).

    Epsilon is that of the run so far at the site's delta; empty where nothing bounds it.
    """
    rows = []
    for record in found.records:
        for site, privacy in sorted(record["privacy"].items()):
            charged = sum(e["count"] for e in privacy["events"] if e["event"] != "exact")
            rows.append(
                [
                    site,
                    record["round"],
                    site in record["participants"],
                    charged,
                    privacy["epsilon"],
                    privacy["delta"],
                    privacy["accountant"],
                ]
            )
    return {"columns": list(_COLUMNS), "data": rows}


def statement(found: Published, context: RunContext) -> dict[str, Any]:
    """What is claimed of the run's model, as JSON values.

    Returns
    -------
    dict
        ``claim`` is ``private``, ``not private`` (no noise, or noise from a seed) or ``private
        towards readers`` (the coordinator saw more); ``sites`` has epsilon, delta, accountant and
        events of each; ``not_covered`` names what no epsilon bounds.
    """
    result, settings = found.outcome(context.run), context.params.privacy
    sites = {
        site: {key: own[key] for key in ("epsilon", "delta", "accountant", "events")}
        for site, own in sorted(result["privacy"].items())
    }
    noisy = settings.mechanism in {"gaussian", "diffprivlib"} and found.epsilon is not None
    trusting = settings.noise == "coordinator" or settings.simulate_sums
    claim = "not private"
    if noisy and not settings.seeded:
        claim = "private towards readers" if trusting else "private" if result["private"] else claim
    return {
        "claim": claim,
        "run": context.run,
        "federation": context.federation,
        "model_digest": result["model_digest"],
        "mechanism": settings.mechanism,
        "clipping": settings.clipping,
        "noise": settings.noise,
        "seeded": noisy and settings.seeded,
        "unit": _all(sites, "unit") or settings.unit,
        "relation": _all(sites, "relation"),
        "accountant": ", ".join(sorted({own["accountant"] for own in sites.values()})) or None,
        "epsilon": found.epsilon if noisy else None,
        "delta": settings.delta if noisy else None,
        "budget": settings.epsilon,
        "rounds": result["rounds"],
        "sites": sites,
        "not_covered": _not_covered(context, noisy),
    }


def tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Tags of runs and model versions: mechanism, unit, relation, accountant."""
    names: tuple[str, ...] = ("mechanism", "unit", "relation", "accountant", "clipping", "noise")
    if values["epsilon"] is None:
        names = ("mechanism", "unit")
    return {f"folkmoot.{name}": str(values[name]) for name in names if values[name] is not None}


def words(values: Mapping[str, Any]) -> str:
    """The statement as Markdown."""
    head = f"# Privacy statement: run {values['run']} of federation {values['federation']}\n\n"
    head += f"Model `{values['model_digest']}`, {values['rounds']} rounds.\n\n"
    return head + _claim(values) + _table(values) + _rest(values)


def _claim(values: Mapping[str, Any]) -> str:
    if values["claim"] == "not private":
        why = "the noise came from a seed" if values["seeded"] else "no noise was added"
        return (
            f"**No differential privacy is claimed: {why} (mechanism `{values['mechanism']}`).** "
            "Assume that anything computed from rows can be found out from the model and the "
            "published updates.\n\n"
        )
    between = _RELATIONS.get(values["relation"] or "", "one {unit} changed")
    return (
        f"**The trained model and every update that it was made of are (ε, δ)-differentially private "
        f"with ε ≤ {values['epsilon']:.4g} and δ = {values['delta']:g}** for each "
        f"{values['unit']} of each site. Neighbouring datasets differ in "
        f"{between.format(unit=values['unit'])} ({values['relation']}). Mechanism: "
        f"{values['mechanism']}, clipping per {values['clipping']}; accountant: "
        f"{values['accountant']}, composed over all rounds in which a site took part.\n\n"
        + ("" if values["mechanism"] == "diffprivlib" else _NOISE[values["noise"]] + "\n\n")
    )


def _table(values: Mapping[str, Any]) -> str:
    if values["epsilon"] is None:
        return ""
    lines = ["| site | releases charged | ε | δ | accountant |", "|---|---|---|---|---|"]
    for site, own in values["sites"].items():
        charged = sum(event["count"] for event in own["events"] if event["event"] != "exact")
        spent = "not bounded" if own["epsilon"] is None else f"{own['epsilon']:.4g}"
        lines.append(f"| {site} | {charged} | {spent} | {own['delta']:g} | {own['accountant']} |")
    return "\n".join(lines) + "\n\n"


def _rest(values: Mapping[str, Any]) -> str:
    lines = ["**Not covered**", "", *(f"- {line}" for line in values["not_covered"]), ""]
    lines += [
        "This speaks of one run. What a site has spent over its lifetime, on this and on other runs, "
        "stands in its own ledger (`folkmoot ledger show`), which never leaves it.",
        "",
        "Signed: ______________________  Date: ______________",
        "",
    ]
    return "\n".join(lines)


def _not_covered(context: RunContext, noisy: bool) -> list[str]:
    settings = context.params.privacy
    lines = []
    if not noisy:
        lines.append("The sites' updates and the statistics of preparation.")
    if settings.evaluates == "exact":
        lines.append("Counts of results on held-out rows, and the metrics made of them: exact.")
    if settings.seeded and noisy:
        lines.append("Anything: who knows the seed can take the noise away.")
    if noisy and settings.unit == "record":
        lines.append("A person with several records, beyond what each single record is given.")
    lines.append("That a site was late, failed or has a new dataset version; timing of its tasks.")
    return lines


def _all(sites: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """Every value that the events of all sites state."""
    events = [event for own in sites.values() for event in own["events"]]
    events += [event["of"] for event in events if "of" in event]
    return ", ".join(sorted({str(event[name]) for event in events if name in event})) or None
