"""The risk report as one page: nothing to load, nothing that leaves.  Column names and counts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from site_tasks.anonymise.risk.charts import AFTER, BEFORE, columns, rows

__all__ = ["page"]

Report = Mapping[str, Any]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1d2733;background:#f4f6f8;margin:0}
main{max-width:1240px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:0 0 6px}
p{margin:0 0 12px;color:#4a5868}.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}
.tile{background:#fff;border:1px solid #dde3ea;border-radius:8px;padding:12px 16px;flex:1 1 120px}
.tile b{display:block;font-size:18px;white-space:nowrap}.tile span{color:#5b6a7b;font-size:13px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(520px,1fr));gap:16px}
section{background:#fff;border:1px solid #dde3ea;border-radius:8px;padding:18px 20px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:5px 8px;text-align:right;border-bottom:1px solid #e8edf2}
td:first-child,th:first-child{text-align:left}th{font-weight:600;color:#4a5868}
.chip{display:inline-block;background:#e3eef8;border-radius:12px;padding:2px 10px;margin:2px 6px 2px 0}
svg{width:100%;height:auto;font:14px system-ui,sans-serif;fill:#1d2733}
svg .grid{stroke:#e2e8ee}svg .axis{fill:#5b6a7b}svg .figure{fill:#4a5868}
"""


def page(report: Report) -> str:
    """HTML of a risk report, self-contained.

    Parameters
    ----------
    report : mapping
        Of :func:`site_tasks.anonymise.risk.report.assess`.
    """
    chips = "".join(f'<span class="chip">{escape(m)}</span>' for m in report["models"])
    cards = [
        _histogram(report),
        _attackers(report),
        *(_sensitive(report, name) for name in report["sensitive"]),
        _combinations(report),
        _population(report),
        _loss(report),
        _utility(report),
        _difference(report),
    ]
    name = escape(str(report["site"])) or "this table"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Risk report of {name}</title><style>{_STYLE}</style><main>"
        f"<h1>Risk report of {name}</h1>"
        f"<p>Stays at the site. Quasi-identifiers: {escape(', '.join(report['quasi_identifiers']))}."
        f"</p><div>{chips or '<span class=chip>no privacy model asked for</span>'}</div>"
        f"{_tiles(report)}<div class=cards>{''.join(card for card in cards if card)}</div>"
        "</main></html>\n"
    )


def _tiles(report: Report) -> str:
    before, after = report["before"], report.get("after")

    def change(figure: str) -> str:
        now = f" → {after[figure]:,}" if after else ""
        return f"{before[figure]:,}{now}"

    worst = f"{before['risk']['prosecutor']['highest']:.0%}"
    if after:
        worst += f" → {after['risk']['prosecutor']['highest']:.1%}"
    tiles = [
        (f"{report['rows']:,}", "rows"),
        (change("k"), "rows in the smallest class (k)"),
        (change("classes"), "equivalence classes"),
        (change("unique"), "rows that are unique"),
        (worst, "highest risk of re-identification"),
    ]
    if after:
        share = report["suppressed"] / max(report["rows"], 1)
        tiles.append((f"{report['suppressed']:,} ({share:.1%})", "rows suppressed"))
        tiles.append((f"{report['loss']['gcp']:.1%}", "information lost (GCP)"))
    inner = "".join(
        f'<div class="tile"><b>{escape(figure)}</b><span>{escape(what)}</span></div>'
        for figure, what in tiles
    )
    return f'<div class="tiles">{inner}</div>'


def _parts(report: Report) -> list[tuple[str, str, Report]]:
    found = [("before", BEFORE, report["before"])]
    if "after" in report:
        found.append(("after", AFTER, report["after"]))
    return found


def _histogram(report: Report) -> str:
    parts = _parts(report)
    used = [
        i
        for i in range(len(report["before"]["histogram"]))
        if any(part["histogram"][i]["rows"] for _, _, part in parts)
    ]
    last = max(used, default=0) + 1
    labels = [b["sizes"].replace(" and more", "+") for b in report["before"]["histogram"][:last]]
    series = [
        (when, colour, [b["rows"] / max(part["rows"], 1) for b in part["histogram"][:last]])
        for when, colour, part in parts
    ]
    chart = columns(labels, series, unit="share of rows", axis="rows in the equivalence class")
    return _card(
        "How many others share a row's quasi-identifiers",
        "Rows in small classes are found easily; a class of one is unique.",
        chart,
    )


def _attackers(report: Report) -> str:
    limit = report["threshold"]
    labels = [
        "prosecutor, highest",
        "prosecutor, average",
        f"prosecutor, rows above {limit:.0%}",
        "journalist, highest",
        "journalist, average",
        f"journalist, rows above {limit:.0%}",
        "marketer",
    ]
    series = []
    for when, colour, part in _parts(report):
        risk = part["risk"]
        figures = [
            risk[who][what]
            for who in ("prosecutor", "journalist")
            for what in ("highest", "average", "at_risk")
        ]
        series.append((when, colour, [*figures, risk["marketer"]]))
    return _card(
        "Re-identification",
        "A prosecutor knows that somebody is in the table, a journalist finds somebody in it, a "
        "marketer links everybody.",
        rows(labels, series, most=1.0),
    )


def _sensitive(report: Report, name: str) -> str:
    parts = _parts(report)
    names = [
        ("distinct_l", "distinct l-diversity", "l"),
        ("entropy_l", "entropy l-diversity", "l"),
        ("recursive_c", "recursive (c,l)-diversity, at that l", "c above"),
        ("t_equal", "t-closeness, equal distance", "t"),
        ("t_ordered", "t-closeness, ordered distance", "t"),
        ("alpha", "(α,k)-anonymity", "α"),
        ("beta", "basic β-likeness", "β"),
        ("enhanced_beta", "enhanced β-likeness", "β"),
        ("delta", "δ-disclosure, values that occur in a class", "δ above"),
    ]
    body = [
        [
            f"{what} ({symbol})",
            *(_figure(part["sensitive"].get(name, {}).get(key)) for *_, part in parts),
        ]
        for key, what, symbol in names
    ]
    return _card(
        f"What classes tell about {name}",
        "The strictest parameter with which every class satisfies the model; – where none does.",
        _table(["model", *(when for when, *_ in parts)], body),
    )


def _combinations(report: Report) -> str:
    found = report["combinations"][:10]
    if not found:
        return ""
    labels = [" × ".join(one["columns"]) for one in found]
    return _card(
        "Columns that identify, before",
        "Share of rows that are alone in their values of these columns.",
        rows(labels, [("before", BEFORE, [one["unique"] for one in found])]),
    )


def _population(report: Report) -> str:
    found = report["population"]
    if not found:
        return ""
    names = sorted({name for one in found for name in one["estimates"]})
    body = [
        [
            f"{one['population']:,}",
            f"{report['rows'] / max(one['population'], 1):.1%}",
            f"{one['share']:.1%}",
            *(_share(one["estimates"].get(name)) for name in names),
        ]
        for one in found
    ]
    return _card(
        "Unique in the population, before",
        "If the rows are a random sample of so many people: the share of those who are unique by "
        "the quasi-identifiers, as estimated, and what each estimator says.",
        _table(["people", "rows are", "unique", *names], body),
    )


def _loss(report: Report) -> str:
    if "loss" not in report:
        return ""
    found = report["loss"]
    chart = rows(list(found["ncp"]), [("lost", AFTER, list(found["ncp"].values()))], most=1.0)
    body = [
        ["discernibility", f"{found['discernibility']:,}"],
        ["mean class size over k (C_avg)", f"{found['average_class']:.2f}"],
        ["entropy lost", f"{found['entropy']:.1%}"],
    ]
    return _card(
        "What it cost, by column (NCP)",
        "Mean share of a column's values that a cell no longer rules out; suppressed rows count 1.",
        chart + _table(["over all columns", ""], body),
    )


def _utility(report: Report) -> str:
    found = report.get("utility")
    if not found:
        return ""
    body = [
        [
            name,
            f"{one['before']:.3f}",
            f"{one['after']:.3f}",
            f"{one['after'] - one['before']:+.3f}",
        ]
        for name, one in found.items()
    ]
    return _card(
        "What a model still learns",
        "Area under the ROC curve on rows held out, trained on the quasi-identifiers alone.",
        _table(["model", "before", "after", "change"], body),
    )


def _difference(report: Report) -> str:
    found = report.get("difference")
    if not found:
        return ""
    body = [
        ["rows that appear in this release alone", f"{found['appeared']:,}"],
        ["rows that appear in the release before alone", f"{found['disappeared']:,}"],
        ["candidates left for the most exposed person", f"{found['smallest']:,}"],
        ["people with fewer than k candidates", f"{found['below_k']:,}"],
    ]
    return _card(
        "What the difference to earlier releases reveals",
        "Somebody who holds all releases of this table, and follows rows from one to the next, "
        "is left with so many candidates.",
        _table(["all releases together", ""], body),
    )


def _card(title: str, text: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>{body}</section>"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in body
    )
    return f"<table><tr>{top}</tr>{lines}</table>"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
