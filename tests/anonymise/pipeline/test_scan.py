"""Columns that look like identifiers stop a run until the steward answers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.scan import Finding, demand_answers, scan_frame
from tests.conftest import REPOSITORY

from .conftest import rows

LABEL = {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]}
N = 200


def scanned(values: Any, name: str = "value", **column: Any) -> set[str]:
    frame = pd.DataFrame({name: values})
    frame["y"] = "no"
    if not column:
        column = {"type": "category", "categories": sorted(map(str, set(values)))}
    contract = Contract.model_validate(
        {"name": "c", "task": "binary", "columns": [{"name": name, **column}, LABEL]}
    )
    return {finding.kind for finding in scan_frame(frame, contract)}


def nhs(i: int) -> str:
    """A number with the check digit of the UK's health service; made up."""
    digits = f"{400000000 + 37 * i:09d}"
    check = -sum((10 - j) * int(d) for j, d in enumerate(digits)) % 11
    return digits + str(check) if check < 10 else nhs(i + N)


SEEN: dict[str, tuple[Callable[[int], str], str]] = {
    "mail": (lambda i: f"p{i}@example.org", "e-mail address"),
    "phone": (lambda i: f"+49 151 {i:07d}", "phone number"),
    "name": (lambda i: f"Ada{chr(97 + i % 26)} Love{chr(97 + i // 26)}", "name of a person"),
    "uuid": (lambda i: f"{i:08x}-1234-4abc-8def-0123456789ab", "identifier"),
    "ssn": (lambda i: f"219-09-{1000 + i}", "insurance or civil number"),
    "nhs": (nhs, "insurance or civil number"),
    "text": (lambda i: f"the patient number {i} said that all is well", "free text"),
    "address": (lambda i: f"10.0.{i}.1", "network address"),
}


@pytest.mark.parametrize("kind", SEEN)
def test_patterns(kind: str) -> None:
    make, wanted = SEEN[kind]
    assert wanted in scanned([make(i) for i in range(N)])


def test_numbers_that_run_or_never_repeat() -> None:
    number = {"type": "integer", "bounds": [0, 10**9]}
    assert scanned(np.arange(N) + 5000, **number) == {"running number"}
    rng = np.random.default_rng(0)
    assert scanned(rng.choice(10**8, N, replace=False), **number) == {"identifier"}
    assert scanned([int(nhs(i)) for i in range(N)], type="integer", bounds=[0, 10**10]) == {
        "identifier",
        "insurance or civil number",
    }


@pytest.mark.parametrize("name", ["PatientID", "last_name", "dob", "eMail", "street"])
def test_names_of_columns(name: str) -> None:
    assert scanned(np.arange(N) % 7, name=name, type="integer", bounds=[0, 9])


def test_plain_features_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    assert not scanned(rng.normal(size=N), bounds=[-9, 9])  # measurements never repeat
    assert not scanned(rng.integers(18, 90, N), type="integer", bounds=[0, 99])
    assert not scanned(rng.choice(["State Gov", "Self Employed"], N))  # two words, not names
    assert not scanned(rng.integers(0, 2, N).astype(bool), type="boolean")


def test_the_clinic_is_clean(contract: Contract) -> None:
    assert scan_frame(rows(300), contract) == []  # its note is dropped, its patient an identifier


def test_an_answer_counts_for_its_finding_alone() -> None:
    found = [Finding("ward", "running number"), Finding("ward", "identifier")]
    with pytest.raises(DataError, match="column ward looks like an identifier") as caught:
        demand_answers(found, ["ward: running number"], "site-a")
    assert '"ward: identifier"' in caught.value.remedy
    assert "running" not in caught.value.message
    demand_answers(found, ["ward: running number", "ward:identifier"], "site-a")


def test_no_error_holds_a_value() -> None:
    make, _ = SEEN["mail"]
    frame = pd.DataFrame({"value": [make(i) for i in range(N)], "y": "no"})
    contract = Contract.model_validate(
        {
            "name": "c",
            "task": "binary",
            "columns": [
                {"name": "value", "type": "category", "categories": frame["value"].tolist()},
                LABEL,
            ],
        }
    )
    with pytest.raises(DataError) as caught:
        demand_answers(scan_frame(frame, contract), [], None)
    assert "example.org" not in str(caught.value)


@pytest.mark.parametrize("kind", ["text", "date"])
def test_free_text_is_refused_unless_dropped(kind: str) -> None:
    from folkmoot.sections import parse

    values = {"name": "c", "task": "binary", "columns": [{"name": "note", "type": kind}, LABEL]}
    with pytest.raises(ConfigError, match="role dropped"):
        parse(Contract, values, source="contract.yaml")


def test_presidio_looks_too_and_stays_off_the_network() -> None:
    """In an environment of its own (``FOLKMOOT_PRESIDIO``), with whatever model is there."""
    python = os.environ.get("FOLKMOOT_PRESIDIO")
    if not python:
        pytest.skip("FOLKMOOT_PRESIDIO names no Python that has presidio-analyzer")
    script = """
import socket
def refused(*_, **__): raise SystemExit("reached for the network")
socket.getaddrinfo = socket.socket.connect = refused
from site_tasks.anonymise.scan import _by_presidio
print(*_by_presidio([f"call 401-555-0{i}, or write to p{i}@example.org" for i in range(100, 120)]))
"""
    found = subprocess.run(
        [python, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split("\n")[0] == "phone number"
