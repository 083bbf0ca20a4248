"""Unit person: few rows of each are used, and every event, receipt and statement says so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, PrivacyError
from folkmoot.params import Params, parse_params
from folkmoot.privacy.events import from_dict
from folkmoot.privacy.release import charge, planned
from folkmoot.privacy.training import charges, schedule
from site_tasks.encode import encode_table, few_of_each
from site_tasks.prepared import Stages

PERSON = ("privacy.unit=person", "anonymisation.identifiers=pseudonymise")


def params(*overrides: str) -> Params:
    values = {
        "data": {"scaling": "bounds", "holdout": {"by": "content"}},
        "model": {"linear": {"strategy": "private", "rounds": 6}},
        "privacy": {"mechanism": "gaussian", "clipping": "record", "epsilon": 1.0, "rows": 60000},
        "aggregation": {"weighting": "uniform", "evaluate_every": 0},
    }
    return parse_params(values, overrides)


def contract(*identifiers: str) -> Contract:
    columns: list[dict[str, Any]] = [
        {"name": name, "type": "text", "role": "direct_identifier", "missing": True}
        for name in identifiers
    ]
    columns += [
        {"name": "x", "bounds": [0.0, 1.0]},
        {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]},
    ]
    return Contract.model_validate({"name": "c", "task": "binary", "columns": columns})


def rows(people: dict[str | None, int], seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    names = [name for name, count in people.items() for _ in range(count)]
    labels = rng.choice(["no", "yes"], len(names))
    return pd.DataFrame({"id": names, "x": rng.random(len(names)), "y": labels})


def used(frame: pd.DataFrame, folder: Path, *overrides: str) -> tuple[Counter[Any], int]:
    """Encoded rows (of both parts) as a multiset, and how many."""
    folder.mkdir()
    frame.to_parquet(folder / "table.parquet")
    settings = params(*PERSON, *overrides)
    count = encode_table(folder / "table.parquet", len(frame), folder, contract("id"), settings)
    found: Counter[Any] = Counter()
    for part in ("train", "test"):
        matrix, labels = (np.load(folder / f"{part}{end}.npy") for end in ("", "-labels"))
        found.update(
            (part, *row, label) for row, label in zip(matrix.tolist(), labels, strict=True)
        )
    return found, sum(count.values())


def test_a_person_has_no_more_rows_than_the_bound() -> None:
    persons = np.array([3, 1, 3, 3, -1, 1, 0, -1])
    order = np.array([9, 5, 2, 7, 0, 5, 1, 1], np.uint64)
    for most in (1, 2, 5):
        kept = few_of_each(persons, order, most)
        assert not kept[persons < 0].any()  # nobody knows whose they are
        for person in (0, 1, 3):
            own = np.flatnonzero(persons == person)
            assert kept[own].sum() == min(most, len(own))
            if most < len(own):
                assert order[own[kept[own]]].max() <= order[own[~kept[own]]].min()


@pytest.mark.parametrize("most", [1, 3])
def test_without_a_person_no_more_rows_change_than_the_bound(most: int, tmp_path: Path) -> None:
    """The neighbouring dataset, in another order as well: nobody else's rows come or go."""
    people: dict[str | None, int] = {"many": 200, None: 9}
    people.update((f"p{i}", 1 + i % 5) for i in range(40))
    frame = rows(people)
    bound = f"privacy.rows_per_person={most}"
    whole, count = used(frame, tmp_path / "whole", bound)
    assert count == sum(min(most, n) for name, n in people.items() if name is not None)
    without = frame[frame["id"] != "many"].sample(frac=1, random_state=1)
    fewer, _ = used(without, tmp_path / "without", bound)
    assert not fewer - whole
    assert sum((whole - fewer).values()) == most


def test_the_noise_grows_with_the_rows_of_a_person_and_the_cost_stays() -> None:
    one, four = (params(*PERSON, f"privacy.rows_per_person={m}") for m in (1, 4))
    a, b = (schedule(p, contract("id")) for p in (one, four))
    assert a.method == b.method
    for first, second in zip(a.releases, b.releases, strict=True):
        assert second.deviation == pytest.approx(4 * first.deviation)
        assert first.event.to_dict()["unit"] == second.event.to_dict()["unit"] == "person"
    assert a.epsilon == b.epsilon
    found = [from_dict(e.to_dict()) for e in planned(four, contract("id"))]
    assert {e.to_dict()["unit"] for e in found} == {"person"}
    assert charges(one, contract("id"), 1)["update"].to_dict()["unit"] == "person"
    names = {Stages.of("f", contract("id"), p).encoded for p in (params(), one, four)}
    assert len(names) == 3  # rows bounded otherwise are never found in their place


def test_people_must_be_told_apart() -> None:
    for agreed, said in ((contract(), "has none"), (contract("id", "card"), "id, card")):
        with pytest.raises(PrivacyError, match=said):
            schedule(params(*PERSON), agreed)
    schedule(params(*PERSON, "privacy.person=card"), contract("id", "card"))
    with pytest.raises(PrivacyError):
        schedule(params(*PERSON, "privacy.person=x"), contract("id", "card"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("privacy.unit=person",), "pseudonymise"),
        ((*PERSON, "anonymisation.k=3"), "set k to 1"),
        (("privacy.rows_per_person=2",), "unit person"),
        ((*PERSON, "privacy.rows_per_person=0"), "rows_per_person"),
    ],
)
def test_what_would_not_bound_a_person_is_refused(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        params(*overrides)


def test_a_site_refuses_a_split_that_moves_other_peoples_rows() -> None:
    """In the schedule, which the site computes itself: the coordinator's plan is not trusted."""
    for more in (("privacy.relation=replace-one", *PERSON), ("privacy.relation=add-or-remove",)):
        with pytest.raises(ConfigError, match="deals all later rows anew"):
            schedule(params(*more, "data.holdout.by=position"), contract("id"))


def test_clipping_a_whole_site_bounds_its_people() -> None:
    values = {
        "data": {"scaling": "bounds"},
        "model": {"linear": {"strategy": "fedavg"}},
        "privacy": {"mechanism": "gaussian", "noise_multiplier": 2.0, "unit": "person"},
        "aggregation": {"weighting": "uniform"},
    }
    privacy = parse_params(values).privacy
    assert charge(privacy)["update"].to_dict()["unit"] == "person"
    with pytest.raises(ConfigError, match="unit person"):
        parse_params(values, ["privacy.mechanism=clip", "privacy.noise_multiplier=0"])


def test_a_run_with_people_says_so_everywhere(tmp_path: Path) -> None:
    """From a CSV of several rows per person to receipts, result and statement."""
    from folkmoot.exchange import ExchangeStore
    from pipelines.coordinator.published import published
    from pipelines.coordinator.statement import statement, words
    from pipelines.hosts.embedded import run
    from pipelines.hosts.execute import open_context

    rng = np.random.default_rng(0)
    ids = [f"P{number:06d}" for number in rng.integers(0, 1000, 3000)]
    frame = pd.DataFrame({"id": ids, "x": rng.random(3000)})
    frame["y"] = np.where(frame["x"] > 0.5, "yes", "no")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    agreed = contract("id").model_dump_json(exclude_defaults=True)
    (tmp_path / "contract.yaml").write_text(agreed)  # JSON is YAML
    settings = params(
        *PERSON,
        "data.recipe=csv",
        f"data.path={tmp_path / 'rows.csv'}",
        f"data.contract={tmp_path / 'contract.yaml'}",
        "federation.sites=[site-a, site-b]",
        "privacy.epsilon=8",
        "privacy.rows=1000",
        "tracking.enabled=false",
    )
    workspace = tmp_path / "workspace"
    result = run(settings, run="r", workspace=workspace)
    for site in result["privacy"].values():
        assert {event["unit"] for event in site["events"]} == {"person"}
    store = ExchangeStore(workspace / "exchange")
    context = open_context("r", "demo", store, workspace)
    claims = statement(published(context), context)
    assert (claims["unit"], claims["claim"]) == ("person", "private")
    assert "each person of each site" in words(claims)
    assert not any("several records" in line for line in claims["not_covered"])
