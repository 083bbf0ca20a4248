"""Anonymisation inside a run: pins, answers, the record of releases, unchanged versions, one space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from folkmoot.errors import DataError, FolkmootError, PrivacyError
from folkmoot.params import Params, parse_params
from pipelines.hosts.embedded import run
from pipelines.simulation import ensure_sites
from site_tasks.home import SiteHome
from site_tasks.settings import AnonymisationSettings, save_settings

from .conftest import COLUMNS, rows

SITES = ["site-a", "site-b"]


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """``made(extra columns, **anonymisation)``: params of two sites, with their rows dealt."""

    def params(columns: list[dict[str, Any]] = COLUMNS, **values: Any) -> Params:
        frame = rows(400)
        for column in columns:
            if column["name"] not in frame:
                frame[column["name"]] = range(400)
        frame.to_parquet(tmp_path / "rows.parquet", index=False)
        contract = {"name": "clinic", "task": "binary", "columns": columns}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(contract), encoding="utf-8")
        found = parse_params(
            {
                "federation": {"name": "clinic", "sites": SITES},
                "data": {
                    "recipe": "parquet",
                    "path": str(tmp_path / "rows.parquet"),
                    "contract": str(tmp_path / "c.yaml"),
                },
                "anonymisation": {"recoding": "local", "k": 5, **values},
                "model": {"linear": {"rounds": 2}},
                "tracking": {"enabled": False},
            }
        )
        ensure_sites(found, tmp_path / "work")
        return found

    return params


def settle(home: SiteHome, **values: Any) -> None:
    settings = AnonymisationSettings.model_validate(values)
    changed = home.settings.model_copy(update={"anonymisation": settings})
    save_settings(changed, home.root / "site.toml")


def test_a_run_over_cells(made: Any, tmp_path: Path) -> None:
    params, work = made(), tmp_path / "work"
    first = run(params, workspace=work, run="one")
    home = SiteHome.find("site-a", work)
    (folder,) = (home.work / "anonymised").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "outcome.npz",
        "proof.json",
        "report.json",
        "risk.html",
        "risk.json",
        "table.parquet",
    }
    (record,) = (home.private / "series").iterdir()
    before = {path: path.stat().st_mtime_ns for path in [record, *folder.iterdir()]}
    again = run(params, workspace=work, run="two")
    assert again["model_digest"] == first["model_digest"] or again["metrics"] == first["metrics"]
    assert {path: path.stat().st_mtime_ns for path in before} == before  # unchanged costs nothing
    exchange = b"".join(p.read_bytes() for p in (work / "exchange").rglob("*") if p.is_file())
    assert b"prosecutor" not in exchange  # the risk report stays


def test_pins_of_the_site(made: Any, tmp_path: Path) -> None:
    params, work = made(), tmp_path / "work"
    settle(SiteHome.find("site-b", work), minimum_k=6)
    with pytest.raises(PrivacyError, match=r"minimum_k in site\.toml asks for k of at least 6"):
        run(params, workspace=work)
    settle(SiteHome.find("site-b", work), contract="0" * 64)
    with pytest.raises(PrivacyError, match="pins another data contract"):
        run(params, workspace=work)
    from folkmoot.contract import load_contract

    settle(
        SiteHome.find("site-b", work),
        minimum_k=5,
        contract=load_contract(tmp_path / "c.yaml").digest(),
    )
    run(params, workspace=work)


def test_a_finding_stops_the_run_until_the_steward_answers(made: Any, tmp_path: Path) -> None:
    column = {"name": "visit", "type": "integer", "bounds": [0, 1000]}
    params, work = made([*COLUMNS[:-1], column, COLUMNS[-1]]), tmp_path / "work"
    with pytest.raises(DataError, match=r"column visit looks like an identifier") as caught:
        run(params, workspace=work)
    assert caught.value.code == "data.identifier"
    for site in SITES:
        assert not (SiteHome.find(site, work).work / "anonymised").exists()
        settle(SiteHome.find(site, work), accepted=["visit: identifier"])
    run(params, workspace=work)


def test_only_the_figures_that_the_site_allows_leave(made: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    from folkmoot.identity import Roster
    from folkmoot.updates import open_released
    from pipelines.coordinator import mlflow_store, tracking
    from pipelines.coordinator.published import risk_summaries
    from pipelines.hosts.execute import open_context, store_of

    params, work = made(), tmp_path / "work"
    settle(SiteHome.find("site-a", work), summary=["k", "rows"])
    run(params, workspace=work, run="one")
    roster = Roster.load(work / "roster.toml")
    folder = work / "exchange/clinic/runs/one/round-000"
    released = {
        site: open_released((folder / f"statistics-{site}").read_bytes(), roster, {"site": site})
        for site in SITES
    }
    assert released["site-a"].meta["risk"] == {"k": 5, "rows": 200}
    assert "risk" not in released["site-b"].meta
    # The coordinator sees them, as tags of the site's run in MLflow.
    context = open_context("one", "clinic", store_of(params, work), work)
    assert risk_summaries(context) == {"site-a": {"k": 5, "rows": 200}}
    changed = parse_params({**params.model_dump(mode="json"), "tracking": {"enabled": True}})
    tracked = tracking.sync(replace(context, params=changed))
    client = mlflow_store.connect(changed, work)
    whole = client.get_run(tracked.run_id)
    sites = client.search_runs(
        [whole.info.experiment_id], f"tags.`mlflow.parentRunId` = '{tracked.run_id}'"
    )
    told = {
        run.data.tags["folkmoot.site"]: {
            k: v for k, v in run.data.tags.items() if k.startswith("folkmoot.risk.")
        }
        for run in sites
    }
    assert told == {
        "site-a": {"folkmoot.risk.k": "5", "folkmoot.risk.rows": "200"},
        "site-b": {},
    }


def test_a_site_with_fewer_rows_than_k_refuses(made: Any, tmp_path: Path) -> None:
    params = made(k=250)
    with pytest.raises(FolkmootError, match=r"has 200 rows, fewer than k = 250") as caught:
        run(params, workspace=tmp_path / "work")
    assert caught.value.site in SITES


@pytest.mark.parametrize("recoding", ["local", "public"])
def test_the_table_that_was_written_is_proven_again(
    made: Any, tmp_path: Path, recoding: str
) -> None:
    import pandas as pd

    from folkmoot.plan import RunContext
    from pipelines.hosts.execute import execute, open_context, store_of
    from pipelines.plans import plan_of

    public = {"levels": {"age": 2, "region": 1, "weight": 2}, "suppression_limit": 0.5}
    params = made(recoding=recoding, **({} if recoding == "local" else public))
    work = tmp_path / "work"
    run(params, workspace=work, run="one")
    context: RunContext = open_context("one", "clinic", store_of(params, work), work)
    plan = plan_of(context.params, context.contract)
    names = [step.name for step in plan.stage("prepare/") if step.place == "site-a"]
    bodies = ("version", "validate", "recode", "verify", "report", "encode")
    assert names == [f"prepare/{body}/site-a" for body in bodies]
    (folder,) = (SiteHome.find("site-a", work).work / "anonymised").iterdir()
    # One row unlike those that were proven, all by itself: the checker reads what lies there.
    table = folder / "table.parquet"
    frame = pd.read_parquet(table)
    frame.loc[0, "weight"] = None
    frame.to_parquet(table, index=False)
    execute(plan.step("prepare/verify/site-a"), context)  # proven before: nothing to do
    (folder / "proof.json").unlink()
    with pytest.raises(PrivacyError, match=r"k-anonymity.* does not hold in 1 of") as caught:
        execute(plan.step("prepare/verify/site-a"), context)
    assert caught.value.code == "privacy.unproven"
    assert not (folder / "proof.json").exists()


def test_a_population_table_makes_the_journalist_less_sure(made: Any, tmp_path: Path) -> None:
    import json

    import pandas as pd

    params, work = made(), tmp_path / "work"
    home = SiteHome.find("site-a", work)
    everybody = pd.concat([pd.read_parquet(tmp_path / "rows.parquet"), rows(2000, seed=1)])
    everybody.drop(columns=["patient", "note"]).to_parquet(home.root / "data/people.parquet")
    settle(home, population="data/people.parquet", summary=["journalist", "prosecutor"])
    run(params, workspace=work, run="one")
    (file,) = (home.work / "anonymised").glob("*/risk.json")
    found = json.loads(file.read_text())
    for part in ("before", "after"):
        risk = found[part]["risk"]
        assert risk["marketer"] == risk["journalist"]["average"] < risk["prosecutor"]["average"]
    assert found["after"]["risk"]["marketer"] < found["after"]["risk"]["prosecutor"]["average"] / 2
    assert found["population"][0]["population"] == len(everybody)


def test_no_exact_figure_leaves_under_a_budget(made: Any, tmp_path: Path) -> None:
    params = made(
        recoding="public", levels={"age": 2, "region": 1, "weight": 2}, suppression_limit=1
    )
    values = params.model_dump(mode="json")
    values |= {
        "privacy": {"mechanism": "gaussian", "noise_multiplier": 2.0},
        "aggregation": {"weighting": "uniform"},
        "model": {"linear": {"strategy": "fedavg", "rounds": 1}},
    }
    values["data"]["scaling"] = "bounds"
    work = tmp_path / "work"
    settle(SiteHome.find("site-a", work), summary=["rows"])
    run(parse_params(values), workspace=work, run="one")
    statistics = (work / "exchange/clinic/runs/one/round-000/statistics-site-a").read_bytes()
    assert b"risk" not in statistics


def test_the_report_of_a_version_tells_what_the_releases_reveal_together(
    made: Any, tmp_path: Path
) -> None:
    import json

    import pandas as pd

    from site_tasks import dataset

    params, work = made(suppression_limit=0.5), tmp_path / "work"
    run(params, workspace=work, run="one")
    home = SiteHome.find("site-a", work)
    (first,) = (home.work / "anonymised").iterdir()
    assert json.loads((first / "risk.json").read_text())["difference"] == {}
    assert "earlier releases" not in (first / "risk.html").read_text()
    present = pd.read_parquet(home.dataset)
    more = present.iloc[:30].assign(patient=[f"Q-{i}" for i in range(30)])
    dataset.add(home, pd.concat([present, more], ignore_index=True), "Thirty more")
    run(params, workspace=work, run="two")
    (second,) = (f for f in (home.work / "anonymised").iterdir() if f != first)
    found = json.loads((second / "risk.json").read_text())["difference"]
    assert found["appeared"] > 0
    assert (found["disappeared"], found["below_k"]) == (0, 0)
    assert found["smallest"] >= 5
    page = (second / "risk.html").read_text()
    assert "What the difference to earlier releases reveals" in page
    assert f"<td>{found['smallest']}</td>" in page
