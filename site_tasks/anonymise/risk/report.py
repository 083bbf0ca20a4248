"""The risk report of a site: every figure about a table before and after anonymisation.

It stays in the site's private folder (mode 0600).  It holds names of columns, counts and figures,
never a row or a value of one.  Only what ``site.toml`` lists under ``anonymisation.summary`` may
leave, by :func:`summary`; nothing by default.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.risk.attackers import THRESHOLD, risks
from site_tasks.anonymise.risk.combinations import identifying
from site_tasks.anonymise.risk.figures import Figures, figures, keys_of
from site_tasks.anonymise.risk.loss import loss
from site_tasks.anonymise.risk.uniqueness import estimate

if TYPE_CHECKING:
    from site_tasks.anonymise.coded import Coded
    from site_tasks.anonymise.models import Model
    from site_tasks.anonymise.recoding import Recoding

__all__ = ["FORMAT", "assess", "every", "summary", "write"]

FORMAT = "folkmoot-risk/1"
#: Shares of an unknown population that the rows are tried as.
FRACTIONS = (0.01, 0.1, 0.5)
#: Upper ends of the class sizes of the histogram; the last bin is open.
BINS = (1, 2, 4, 9, 19, 49, 99, 199, 499, 999)
#: Most rows whose combinations of columns and population are looked at.
_MOST = 200_000


def assess(
    coded: Coded,
    recoding: Recoding | None,
    models: Sequence[Model] = (),
    *,
    site: str = "",
    sensitive: Mapping[str, tuple[NDArray[Any], int]] | None = None,
    name: str = "sensitive",
    people: tuple[NDArray[Any], NDArray[Any]] | None = None,
    population: int | None = None,
    label: NDArray[Any] | None = None,
    test: NDArray[np.bool_] | None = None,
    threshold: float = THRESHOLD,
    counts: NDArray[np.int64] | None = None,
    sample: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """All figures of a table, as JSON values.

    Parameters
    ----------
    coded : Coded
        The table before.
    recoding : Recoding or None
        What became of it; None reports on the table alone.
    models : sequence of Model
        What was asked for.
    site : str
        Named in the report.
    sensitive : mapping of str to (ndarray of int of shape (n,), int), optional
        Codes and number of codes of sensitive columns; that of ``coded`` when absent.
    name : str
        Name of the sensitive column of ``coded``.
    people : tuple of ndarray of int, optional
        People of the population per row of the table before, shape (n,), and per row that is kept:
        those in the population table with the same (recoded) quasi-identifiers.
    population : int, optional
        People of the population; when absent the rows are tried as 1, 10 and 50 % of it.
    label : ndarray of int, shape (n,), optional
        Two classes to predict: with them, models are trained before and after.
    test : ndarray of bool, shape (n,), optional
        Rows that they are tested on.
    threshold : float
        Probability from which a row counts as at risk.
    counts : ndarray of int64, shape (n,), optional
        How many rows of the table each row of ``coded`` stands for; one when absent.  Then neither
        ``people`` nor ``label`` can be told apart by rows, and ``sample`` is needed.
    sample : ndarray of int, shape (at most 200 000, q), optional
        Codes of each :func:`every`-th row of the table.

    Returns
    -------
    dict
        See the keys; a figure is None where there is none.
    """
    if sensitive is None and coded.sensitive is not None:
        sensitive = {name: (coded.sensitive, len(coded.sensitive_domain) + 1)}
    sensitive = sensitive or {}
    if counts is not None and (sample is None or people is not None or label is not None):
        raise ValueError("rows that were counted need a sample, and have neither people nor label")
    n = coded.rows if counts is None else int(counts.sum())
    names = [column.name for column in coded.columns]
    report: dict[str, Any] = {
        "format": FORMAT,
        "site": site,
        "models": [str(model) for model in models],
        "quasi_identifiers": names,
        "sensitive": list(sensitive),
        "rows": n,
        "suppressed": 0 if recoding is None else n - int(recoding.sizes(counts).sum()),
        "threshold": threshold,
    }
    key, radix = keys_of(coded)
    before = figures(key, radix, sensitive, counts)
    report["before"] = _part(before, _per_class(key, people and people[0]), threshold)
    if recoding is not None:
        kept = recoding.classes >= 0
        learnt = {column: (codes[kept], size) for column, (codes, size) in sensitive.items()}
        key, radix = keys_of(coded, recoding)
        after = figures(key, radix, learnt, None if counts is None else counts[kept])
        report["after"] = _part(after, _per_class(key, people and people[1]), threshold)
        k = max((int(getattr(model, "k", 1)) for model in models), default=1)
        report["loss"] = loss(coded, recoding, k, counts).to_dict()
    some = coded.codes[:: every(n)] if sample is None else sample
    report["combinations"] = [
        found.to_dict() for found in identifying(some, names, [c.size for c in coded.columns])[:12]
    ]
    report["population"] = _population(coded, some, before, population)
    if recoding is not None and label is not None:
        from site_tasks.anonymise.risk.utility import utility

        report["utility"] = utility(coded, recoding, label, test)
    return report


def every(rows: int) -> int:
    """Of how many rows one is looked at where a table is too large to look at all."""
    return max(-(-rows // _MOST), 1)


def _per_class(key: NDArray[np.int64], people: NDArray[Any] | None) -> NDArray[Any] | None:
    """People of every class from those of its rows, in the order of the sorted keys."""
    if people is None or not len(key):
        return None
    _, first = np.unique(key, return_index=True)
    return np.asarray(people[first])


def _part(found: Figures, people: NDArray[Any] | None, threshold: float) -> dict[str, Any]:
    values = {name: asdict(learnt) for name, learnt in found.sensitive.items()}
    edges = np.searchsorted(np.array(BINS), found.sizes)
    classes = np.bincount(edges, minlength=len(BINS) + 1)
    rows = np.bincount(edges, weights=found.sizes, minlength=len(BINS) + 1)
    return {
        "rows": found.rows,
        "classes": found.classes,
        "k": found.k,
        "unique": found.unique,
        "risk": risks(found.sizes, people, threshold).to_dict(),
        "sensitive": values,
        "histogram": [
            {"sizes": label, "classes": int(a), "rows": int(b)}
            for label, a, b in zip(_labels(), classes, rows, strict=True)
        ],
    }


def _labels() -> list[str]:
    starts = [1, *[end + 1 for end in BINS]]
    ends = [*map(str, BINS), ""]
    return [
        str(start) if str(start) == end else f"{start}–{end}" if end else f"{start} and more"
        for start, end in zip(starts, ends, strict=True)
    ]


def _population(
    coded: Coded, sample: NDArray[Any], before: Figures, population: int | None
) -> list[dict[str, Any]]:
    """Uniqueness in the population, which the attacker of the raw table would use."""
    if not before.rows:
        return []
    sizes = [population] if population else [round(before.rows / share) for share in FRACTIONS]
    ordered = tuple(column.ordered for column in coded.columns)
    return [asdict(estimate(before.sizes, size, sample, ordered)) for size in sizes]


def summary(report: Mapping[str, Any], allowed: Iterable[str]) -> dict[str, Any]:
    """What may leave the site: the figures that ``site.toml`` lists, and nothing else.

    Parameters
    ----------
    report : mapping
        Of :func:`assess`.
    allowed : iterable of str
        Of ``rows``, ``suppressed``, ``k``, ``prosecutor``, ``journalist``, ``marketer``, ``loss``;
        each tells of the table as published (``rows``: those that are kept).

    Raises
    ------
    KeyError
        For a figure that is none of these.
    """
    part = report.get("after", report["before"])
    known = {
        "rows": part["rows"],
        "suppressed": report["suppressed"],
        "k": part["k"],
        "prosecutor": part["risk"]["prosecutor"],
        "journalist": part["risk"]["journalist"],
        "marketer": part["risk"]["marketer"],
        "loss": report.get("loss", {}).get("gcp"),
    }
    return {name: known[name] for name in sorted(set(allowed))}


def write(report: Mapping[str, Any], folder: Path, name: str = "risk") -> tuple[Path, Path]:
    """Write ``<name>.json`` and ``<name>.html`` (mode 0600), each whole or not at all.

    Parameters
    ----------
    report : mapping
        Of :func:`assess`.
    folder : Path
        The site's private folder, or a folder in it.

    Returns
    -------
    Path, Path
        The JSON and the HTML file.
    """
    from site_tasks.anonymise.risk.page import page

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    paths = folder / f"{name}.json", folder / f"{name}.html"
    for path, content in zip(paths, (text, page(report)), strict=True):
        part = path.with_suffix(path.suffix + ".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
        os.replace(part, path)
    return paths
