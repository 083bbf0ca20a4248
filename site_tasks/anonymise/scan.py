"""Columns that look like identifiers although the contract calls them something else.

Looks at names, at values and at how many are distinct, over the first chunk of a dataset; a finding
names column and kind, never a value.  Numbers with check digits are python-stdnum's business; with
the optional extra ``text`` Presidio looks for names and addresses in text as well, with whatever
language model is installed.  Nothing reaches for the network.

A run stops at a finding until the contract changes, or the steward answers in ``site.toml``::

    [anonymisation]
    accepted = ["ward_no: running number"]
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from folkmoot.contract import Column, Contract
from folkmoot.errors import DataError
from site_tasks.table import chunks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Finding", "demand_answers", "scan_frame", "scan_table"]

#: Share of a column's distinct values that must follow a pattern.
SHARE = 0.6
#: Share of rows with a value of their own that makes a whole number or text an identifier.
UNIQUE = 0.95
#: Fewer rows say nothing about how many values are distinct.
ROWS = 30
#: Distinct values that are looked at per column.
MOST = 2_000

_WORDS = {
    "name of a person": "name surname lastname firstname forename vorname nachname nom prenom",
    "e-mail address": "email mail",
    "phone number": "phone telephone telefon mobile fax",
    "insurance or civil number": "ssn nhs nhsnumber insurance sozialversicherungsnummer ahv",
    "identifier": "id uuid guid mrn pid patientid patientnumber caseid recordid personid",
    "address": "address street adresse strasse",
    "birth date": "birthdate birthday dob geburtsdatum",
}
_PATTERNS: dict[str, Callable[[str], bool]] = {
    "e-mail address": lambda s: bool(re.fullmatch(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}", s)),
    "phone number": lambda s: bool(
        re.fullmatch(r"(\+|00)\d[\d ()/.-]{6,18}|0\d[\d ()/.-]{7,15}|\(\d{3}\) ?\d{3}-\d{4}", s)
    ),
    "network address": lambda s: bool(re.fullmatch(r"(\d{1,3}\.){3}\d{1,3}", s)),
    "identifier": lambda s: bool(
        re.fullmatch(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", s)
    ),
    "name of a person": lambda s: bool(
        re.fullmatch(r"((Dr|Prof|Mr|Mrs|Ms|Herr|Frau)\.? )?[A-ZÀ-Þ][\w'’-]+,? [A-ZÀ-Þ][\w'’-]+", s)
    ),
    "free text": lambda s: len(s.split()) >= 5,
}
#: python-stdnum's modules of numbers that people have.
_NUMBERS = (
    "us.ssn",
    "gb.nhs",
    "de.idnr",
    "ch.ssn",
    "fr.nir",
    "it.codicefiscale",
    "es.dni",
    "nl.bsn",
    "se.personnummer",
    "iban",
)
#: Patterns that a public category may follow by chance (two words with capitals, a long group).
_LOOSE = {"name of a person", "free text"}


@dataclass(frozen=True, order=True)
class Finding:
    """What a column looks like."""

    column: str
    kind: str

    def __str__(self) -> str:
        return f"{self.column}: {self.kind}"


def scan_table(path: Path, contract: Contract) -> list[Finding]:
    """Scan the first chunk of a dataset; O(rows of the chunk · columns)."""
    names = [column.name for column in _looked_at(contract)]
    for frame in chunks(path, names):
        return scan_frame(frame, contract)
    return []


def scan_frame(frame: pd.DataFrame, contract: Contract) -> list[Finding]:
    """Findings in a frame's columns that the contract does not call identifiers, sorted.

    Parameters
    ----------
    frame : pandas.DataFrame, shape (n, …)
        The contract's columns as they stand in a dataset.
    contract : Contract
        Roles and types.

    Returns
    -------
    list of Finding
    """
    found = set()
    for column in _looked_at(contract):
        kinds = {*_by_name(column), *_by_value(frame[column.name].dropna(), column)}
        found |= {Finding(column.name, kind) for kind in kinds}
    return sorted(found)


def demand_answers(findings: Iterable[Finding], accepted: Iterable[str], site: str | None) -> None:
    """Refuse to go on while a finding has no answer.

    Parameters
    ----------
    findings : iterable of Finding
        Of :func:`scan_table`.
    accepted : iterable of str
        ``anonymisation.accepted`` of ``site.toml``.
    site : str, optional
        Named in the error.

    Raises
    ------
    DataError
        ``data.identifier``, naming columns and findings.
    """
    known = {tuple(part.strip() for part in entry.split(":", 1)) for entry in accepted}
    left = [f for f in findings if (f.column, f.kind) not in known]
    if left:
        answers = ", ".join(f'"{finding}"' for finding in left)
        raise DataError(
            "data.identifier",
            "Columns look like identifiers although the contract does not call them so: "
            + "; ".join(f"column {f.column} looks like {_article(f.kind)}" for f in left)
            + ".",
            "Give them role direct_identifier or dropped in the contract. Where the steward has "
            f"found them harmless: anonymisation.accepted = [{answers}] in site.toml.",
            site=site,
        )


def _looked_at(contract: Contract) -> Iterator[Column]:
    hidden = {"direct_identifier", "dropped", "split"}
    return (column for column in contract.columns if column.role not in hidden)


def _by_name(column: Column) -> Iterator[str]:
    if column.convert is not None:
        return  # a birth date that becomes an age is what the contract means it to be
    words = set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column.name).lower().split("_"))
    whole = re.sub(r"[^a-zäöüß]", "", column.name.lower())
    for kind, listed in _WORDS.items():
        if (words | {whole}) & set(listed.split()):
            yield kind


def _by_value(series: pd.Series[Any], column: Column) -> Iterator[str]:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if not len(series) or column.convert is not None or is_bool_dtype(series.dtype):
        return
    distinct = series.drop_duplicates()
    unique = len(series) >= ROWS and len(distinct) >= UNIQUE * len(series)
    if is_numeric_dtype(series.dtype):
        values = distinct.to_numpy(np.float64)
        if not np.isfinite(values).all() or (values % 1 != 0).any():
            return  # measurements with decimals are distinct by nature
        if unique and np.ptp(values) + 1 <= 1.05 * len(values):
            yield "running number"
        elif unique and column.role != "quasi_identifier":
            yield "identifier"
        if unique:
            yield from _numbers(distinct.head(MOST).astype("int64").astype(str).tolist())
        return
    texts = distinct.head(MOST).astype(str).str.strip().tolist()
    if unique:
        yield "identifier"
    public = column.categories is not None
    for kind, matches in _PATTERNS.items():
        if public and kind in _LOOSE and not unique:
            continue
        if sum(map(matches, texts)) >= SHARE * len(texts):
            yield kind
    yield from _numbers(texts)
    if not public or unique:
        yield from _by_presidio(texts[:200])


def _numbers(texts: list[str]) -> Iterator[str]:
    """Numbers of people, by their check digits: one in ten to a hundred passes by chance."""
    if not texts or max(map(len, texts)) < 8:
        return
    for name in _NUMBERS:
        module = importlib.import_module(f"stdnum.{name}")
        if sum(bool(module.is_valid(text)) for text in texts) >= SHARE * len(texts):
            yield "insurance or civil number"
            return


def _by_presidio(texts: list[str]) -> Iterator[str]:
    """Names and the like that the optional extra finds; nothing where it is not installed."""
    analyzer = _analyzer()
    if analyzer is None:
        return
    # Presidio finds e-mail addresses with a list of domains that it would download: ours come first.
    wanted = {
        "PERSON": "name of a person",
        "LOCATION": "address",
        "PHONE_NUMBER": "phone number",
        "IBAN_CODE": "number of an account or card",
        "CREDIT_CARD": "number of an account or card",
    }
    known = [entity for entity in wanted if entity in analyzer.get_supported_entities("en")]
    hits = dict.fromkeys(known, 0)
    for text in texts:
        found = analyzer.analyze(text=text, language="en", entities=known)
        for entity in {result.entity_type for result in found}:
            hits[entity] += 1
    yield from dict.fromkeys(wanted[e] for e, n in hits.items() if n >= SHARE * len(texts))


_loaded: list[Any] = []


def _analyzer() -> Any:
    """Presidio with an English model of spaCy, where both are installed; else None.

    Without a trained model Presidio still knows what has a pattern, but no names and addresses.
    """
    if not _loaded:
        _loaded.append(None)
        try:
            spacy = importlib.import_module("spacy")
            presidio = importlib.import_module("presidio_analyzer")
            engines = importlib.import_module("presidio_analyzer.nlp_engine")
        except ImportError:
            return None
        trained = [f"en_core_web_{size}" for size in ("sm", "md", "lg", "trf")]
        name = next(filter(spacy.util.is_package, trained), None)
        models = [{"lang_code": "en", "model_name": name or trained[0]}]
        engine = engines.SpacyNlpEngine(models=models)
        # Presidio downloads models that are not installed: it is given what there is.
        engine.nlp = {"en": spacy.load(name) if name else spacy.blank("en")}
        _loaded[0] = presidio.AnalyzerEngine(nlp_engine=engine)
    return _loaded[0]


def _article(kind: str) -> str:
    return kind if kind == "free text" else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
