"""Whole runs of statistics over four sites: figures, ledger, leaks, refusals and lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from folkmoot.errors import FolkmootError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import Params
from folkmoot.plan import RunContext, keys
from folkmoot.secure.run import index_of, session_of
from folkmoot.secure.unmask import survivor_list
from folkmoot.wire import Artefact, canonical_json, decode, encode
from pipelines.coordinator import orders
from pipelines.coordinator.open_round import open_run
from pipelines.hosts import embedded
from pipelines.hosts.execute import execute
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of
from site_tasks.home import SiteHome
from site_tasks.release import check_releases, open_ledger
from site_tasks.settings import save_settings
from tests.leaks import leaks, outside

from .conftest import ALL, SITES, ports, tables

QUESTIONS = ["auc", "median", "overlap", *ALL]


@pytest.fixture(scope="module")
def asked(asking: Callable[..., Params]) -> Params:
    """Everything at once, without noise."""
    addresses = [f"127.0.0.1:{port}" for port in ports(3)]
    return asking(
        QUESTIONS,
        score="pressure",
        overlap_size=160,
        resolution=64,
        exchanges=2,
        minimum_cell=1,
        compute=dict(zip(SITES[:3], addresses, strict=True)),
    )


@pytest.fixture(scope="module")
def done(
    asked: Params, prototype: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], pd.DataFrame]:
    """A finished run, its result and the pooled rows."""
    workspace = tmp_path_factory.mktemp("asked") / "workspace"
    shutil.copytree(prototype(asked), workspace, symlinks=True)
    result = embedded.run(asked, run="s", workspace=workspace)
    return workspace, result, pd.concat(tables(workspace).values())


def test_sums_are_those_of_pooled_rows(done: tuple[Path, dict[str, Any], pd.DataFrame]) -> None:
    _, result, rows = done
    told = result["statistics"]
    for column, bounds in (("age", (0, 100)), ("pressure", (60, 240))):
        values = rows[column].dropna().to_numpy(float)
        edges = np.array(told["histogram"][column]["edges"])
        assert (edges[0], edges[-1]) == bounds
        counted = np.histogram(values, edges)[0]
        assert told["histogram"][column]["counts"] == counted.tolist()
        moments = told["moments"][column]
        assert moments["count"] == len(values)
        assert moments["mean"] == pytest.approx(values.mean(), abs=moments["rounding"])
        assert moments["variance"] == pytest.approx(values.var(), rel=1e-3)
        for entry in told["quantiles"][column]:
            true = np.quantile(values, entry["probability"], method="inverted_cdf")
            assert entry["low"] <= true < entry["high"]
            assert entry["high"] - entry["low"] <= (bounds[1] - bounds[0] + 1) / 16 + 1e-9
    for column, categories in (("sex", ["female", "male", "other"]), ("ill", ["healthy", "ill"])):
        counts = {name: int((rows[column] == name).sum()) for name in categories}
        assert told["categories"][column]["counts"] == counts
        assert told["categories"][column]["occur"] == [n for n, c in counts.items() if c]
    assert told["classes"]["shares"]["ill"] == (rows["ill"] == "ill").mean()


def test_encrypted_sums_are_those_under_masks(
    done: tuple[Path, dict[str, Any], pd.DataFrame],
    asking: Callable[..., Params],
    workspace_of: Callable[..., Path],
) -> None:
    pytest.importorskip("tenseal", reason="the extra folkmoot[ckks] is not installed")
    sections = {"aggregation": {"protection": "ckks"}}
    params = asking(["moments", "classes"], minimum_cell=1, sections=sections)
    told = embedded.run(params, run="c", workspace=workspace_of(params))["statistics"]
    assert told["moments"] == done[1]["statistics"]["moments"]
    assert told["classes"] == done[1]["statistics"]["classes"]


def test_computed_figures_are_those_of_pooled_rows(
    done: tuple[Path, dict[str, Any], pd.DataFrame],
) -> None:
    _, result, rows = done
    told = result["statistics"]
    for column in ("age", "pressure"):
        true = np.quantile(rows[column].dropna(), 0.5, method="inverted_cdf")
        assert told["median"][column]["low"] <= true <= told["median"][column]["high"]
    scored = rows.dropna(subset=["pressure"])
    binned = np.clip(np.floor((scored["pressure"] - 60) / 180 * 64), 0, 63)
    area = roc_auc_score(scored["ill"] == "ill", binned)
    assert told["auc"]["auc"] == np.floor(area * 2**20 + 1e-6) / 2**20
    assert result["participants"]["compute"] == SITES


def test_overlaps_are_those_of_the_people(
    done: tuple[Path, dict[str, Any], pd.DataFrame],
) -> None:
    workspace, result, _ = done
    people = {site: set(table["person"]) for site, table in tables(workspace).items()}
    told = {tuple(one["sites"]): one["people"] for one in result["statistics"]["overlap"]}
    assert told == {(a, b): len(people[a] & people[b]) for a in SITES for b in SITES if a < b}
    assert min(told.values()) > 20  # there is something to find


def test_nothing_but_figures_leaves(done: tuple[Path, dict[str, Any], pd.DataFrame]) -> None:
    workspace, result, rows = done
    assert len(list(outside(workspace))) > 40
    needles: dict[str, Any] = {f"person {i}": v for i, v in enumerate(rows["person"].unique()[:40])}
    odd = [v for v in rows["pressure"].dropna() if v * 8 != int(v * 8)][:60]
    needles |= {f"pressure {v}": float(v) for v in odd}
    needles["identifier, spelt alike"] = rows["person"].iloc[0].replace("-", "").lower()
    for site in SITES:
        needles[f"secret of {site}"] = SiteHome.find(site, workspace).secret()
    assert leaks(outside(workspace), needles) == []
    told = json.dumps(result)
    assert not any(name in told for name in rows["person"].unique())


def test_the_ledger_notes_every_release_once(
    asked: Params, done: tuple[Path, dict[str, Any], pd.DataFrame]
) -> None:
    workspace, result, _ = done
    home = SiteHome.find("site-a", workspace)
    ledger = open_ledger(home)
    before = ledger.verify()
    commits = [entry for entry in ledger if entry.kind == "commit"]
    # A receipt of the columns; the overlap, the shares and two exchanges of sums.
    steps = [entry.content["step"] for entry in commits]
    assert len(steps) == len(set(steps)) == 5
    assert check_releases(home, ledger) == 5
    # The same run again, as after a crash: the same bytes, nothing charged anew.
    (workspace / "exchange/demo/runs/s/final/result.json").unlink()
    again = embedded.run(asked, run="s", workspace=workspace)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    assert open_ledger(home).verify() == before


class Trial:
    """A run that is walked step by step, with a hand on everything in between."""

    def __init__(self, params: Params, workspace: Path, run: str = "t") -> None:
        contract = contract_for(params)
        self.plan, self.workspace = plan_of(params, contract), workspace
        store = ExchangeStore(workspace / "exchange")
        self.context = open_run(params, contract, roster_for(workspace), run, store, workspace)

    def fresh(self) -> RunContext:
        old = self.context
        return RunContext(old.run, old.params, old.contract, old.roster, old.store, old.workspace)

    def walk(self, *stages: str, until: str = "\n") -> Trial:
        for stage in stages:
            for step in self.plan.stage(stage):
                if until in step.name:
                    return self
                execute(step, self.fresh())
        return self

    def publish(self, key: str, values: Any) -> None:
        """What a dishonest coordinator signs in the place of ``key``."""
        for path in (self.path(key), self.path(f"{key}.signature")):
            path.unlink(missing_ok=True)
        data = values if isinstance(values, bytes) else canonical_json(values)
        orders.publish(self.fresh(), key, data)

    def refused(self, step: str, code: str, *words: str) -> None:
        with pytest.raises(FolkmootError) as caught:
            execute(self.plan.step(step), self.fresh())
        assert caught.value.code == code, str(caught.value)
        assert all(word in str(caught.value) for word in words), str(caught.value)

    def path(self, key: str) -> Path:
        return self.workspace / "exchange" / self.context.key(key)


OPENING = ("prepare/", "setup/", "round-000/")


def listed(trial: Trial, sites: list[str]) -> dict[str, Any]:
    found = {s: trial.context.store.ref(trial.context.key(keys.letters(1, s))) for s in sites}
    context = trial.context
    digests = {site: ref.digest for site, ref in found.items() if ref is not None}
    return {"federation": context.federation, "run": context.run, "round": 1, "sites": digests}


def test_lies_about_overlaps_are_refused(
    asking: Callable[..., Params], workspace_of: Callable[..., Path]
) -> None:
    params = asking(["overlap"], overlap_size=160)
    trial = Trial(params, workspace_of(params)).walk(*OPENING).walk("round-001/", until="relay")
    where = keys.survivors("round-001")
    trial.publish(where, listed(trial, ["site-a"]))  # one site alone
    trial.refused("round-001/reblind/site-a", "secure.contributors", "site-a")
    trial.publish(where, {**listed(trial, SITES), "run": "another"})  # a list of another run
    trial.refused("round-001/reblind/site-a", "protocol.format")
    mixed = listed(trial, SITES)
    mixed["sites"]["site-b"] = mixed["sites"]["site-c"]  # one site's box in another's name
    trial.publish(where, mixed)
    trial.refused("round-001/reblind/site-a", "protocol.digest")
    trial.publish(where, listed(trial, ["site-b", "site-c"]))  # then another list
    execute(trial.plan.step("round-001/reblind/site-b"), trial.fresh())
    trial.path(keys.answer("round-001", "site-b")).unlink()
    trial.publish(where, listed(trial, SITES))
    trial.refused("round-001/reblind/site-b", "secure.again", "second list")


def test_questions_that_were_not_agreed_are_refused(
    asking: Callable[..., Params], workspace_of: Callable[..., Path]
) -> None:
    """Intervals beyond the public bounds; none at all; a state that nobody signed."""
    params = asking(["quantiles"], sections={"aggregation": {"protection": "none"}})
    trial = Trial(params, workspace_of(params)).walk("prepare/", "round-000/")
    step, key = "round-001/statistics/site-a", keys.model(0)
    state = decode(trial.path(key).read_bytes(), kind="model")
    wide = state.arrays["intervals"] + np.array([-1.0, 0.0])
    trial.publish(key, encode(Artefact("model", state.meta, {"intervals": wide})))
    trial.refused(step, "protocol.mismatch", "public bounds")
    narrow = state.arrays["intervals"].copy()
    narrow[..., 1] = narrow[..., 0]
    trial.publish(key, encode(Artefact("model", state.meta, {"intervals": narrow})))
    trial.refused(step, "protocol.mismatch", "public bounds")
    trial.path(key).write_bytes(encode(state))  # signed for the narrow ones
    trial.refused(step, "protocol.signature")


def test_a_sum_of_one_site_is_refused(
    asking: Callable[..., Params], workspace_of: Callable[..., Path]
) -> None:
    params = asking(["moments", "classes"])
    trial = Trial(params, workspace_of(params)).walk(*OPENING).walk("round-001/", until="survivors")
    step = trial.plan.step("round-001/unmask/site-a")
    context = trial.fresh()
    statements = {
        site: context.store.get(context.key(keys.statement("round-001", site))) for site in SITES
    }
    binding = session_of(context).binding(index_of(step, context))
    path = trial.workspace / "exchange" / context.key(keys.survivors("round-001"))
    path.write_bytes(survivor_list(binding, {"site-a": statements["site-a"]}))
    trial.refused(step.name, "secure.contributors")


FORBIDDEN: list[tuple[str, Any, list[str], dict[str, Any], str]] = [
    ("kinds", ["moments"], ["moments", "classes"], {}, "statistics.kinds"),
    ("exact", False, ["moments"], {}, "statistics.exact"),
    ("minimum_cell", 10, ["classes"], {}, "statistics.minimum_cell"),
    ("cells_at_site", True, ["classes"], {}, "statistics.cells_at_site"),
    ("alone", False, ["classes"], {"aggregation": {"protection": "none"}}, "statistics.alone"),
]


def test_a_steward_forbids(
    asking: Callable[..., Params], workspace_of: Callable[..., Path]
) -> None:
    workspace = workspace_of(asking(["moments"]))
    home = SiteHome.find("site-a", workspace)
    original = home.settings
    for number, (key, value, ask, sections, words) in enumerate(FORBIDDEN):
        stricter = original.statistics.model_copy(update={key: value})
        save_settings(original.model_copy(update={"statistics": stricter}), home.root / "site.toml")
        trial = Trial(asking(ask, sections=sections), workspace, f"f{number}")
        execute(trial.plan.step("prepare/version/site-a"), trial.fresh())
        execute(trial.plan.step("prepare/validate/site-a"), trial.fresh())
        trial.refused("prepare/encode/site-a", "privacy.not-permitted", words)
    assert not home.ledger_path.exists()


def test_a_second_overlap_with_the_same_partner_is_refused(
    asking: Callable[..., Params], workspace_of: Callable[..., Path]
) -> None:
    params = asking(["overlap"], overlap_size=160)
    workspace = workspace_of(params)
    home = SiteHome.find("site-a", workspace)
    once = home.settings.statistics.model_copy(update={"overlap_times": 1})
    save_settings(home.settings.model_copy(update={"statistics": once}), home.root / "site.toml")
    Trial(params, workspace, "one").walk(*OPENING).walk("round-001/", until="relay")
    again = Trial(params, workspace, "two").walk(*OPENING)
    again.refused("round-001/blind/site-a", "privacy.not-permitted", "overlap_times")
    execute(again.plan.step("round-001/blind/site-b"), again.fresh())


def test_noised_statistics_are_charged_and_near(
    asking: Callable[..., Params], workspace_of: Callable[..., Path]
) -> None:
    privacy = {
        "mechanism": "gaussian",
        "clipping": "record",
        "epsilon": 4.0,
        "rows": 600,
        "evaluation": "none",
        "noise": "distributed",
    }
    params = asking(
        ["overlap", *ALL],
        overlap_size=160,
        overlap_epsilon=2.0,
        sections={"privacy": privacy},
    )
    workspace = workspace_of(params)
    result = embedded.run(params, run="s", workspace=workspace)
    told, rows = result["statistics"], pd.concat(tables(workspace).values())
    true = np.histogram(rows["age"], told["histogram"]["age"]["edges"])[0]
    sigma = told["histogram"]["age"]["noise"]
    pairs = [
        (float(t), n) for t, n in zip(true, told["histogram"]["age"]["counts"], strict=True) if n
    ]
    assert len(pairs) >= 8
    assert all(abs(t - n) < 6 * sigma for t, n in pairs)
    assert any(t != n for t, n in pairs)
    assert told["classes"]["counts"]["ill"] == pytest.approx(
        (rows["ill"] == "ill").sum(), abs=6 * told["classes"]["noise"]
    )
    median = next(e for e in told["quantiles"]["age"] if e["probability"] == 0.5)
    assert abs(median["value"] - rows["age"].median()) < 15
    people = {site: set(table["person"]) for site, table in tables(workspace).items()}
    for one in told["overlap"]:
        a, b = one["sites"]
        assert abs(one["people"] - len(people[a] & people[b])) < 12 * one["noise"]
    # Sums within epsilon 4, three overlaps of epsilon 2 each: charged, and stated.
    spent, _ = open_ledger(SiteHome.find("site-a", workspace)).spent(1e-5)
    assert 8.0 < spent <= 10.1
    assert result["private"]
    assert result["privacy"]["site-a"]["epsilon"] == pytest.approx(spent, rel=1e-6)
