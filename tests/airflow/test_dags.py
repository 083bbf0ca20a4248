"""DAG files: they import cleanly, lightly and quickly, and say what they do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import yaml

from .conftest import ROOT, fresh_python

#: Read every case's DAG files in one interpreter: importing Airflow takes seconds.
READ = """
import json, os, sys, time, warnings
import airflow
from airflow.dag_processing.dagbag import BundleDagBag
import pipelines.hosts.airflow
from airflow.serialization.serialized_objects import DagSerialization

def task(t):
    return {
        "doc": t.doc_md, "owner": t.owner, "queue": t.queue, "title": t.task_display_name,
        "rule": str(t.trigger_rule.value), "up": sorted(t.upstream_task_ids),
        "timeout": t.execution_timeout.total_seconds() if t.execution_timeout else None,
    }

def following(d):
    whole = DagSerialization.from_dict(DagSerialization.to_dict(d))
    coming = whole.next_dagrun_info(last_automated_run_info=None)
    return coming and coming.run_after.isoformat()

def dag(d):
    return {
        "doc": d.doc_md, "tags": sorted(d.tags), "catchup": d.catchup, "active": d.max_active_runs,
        "params": {k: v.schema for k, v in d.params.items()},
        "timetable": type(d.timetable).__name__, "next": following(d),
        "tasks": {t.task_id: task(t) for t in d.tasks},
        "copies": sum(len(t.params) for t in d.tasks),
    }

warnings.simplefilter("error")
heavy = {"pandas", "sklearn", "scipy", "xgboost", "mlflow", "dvc", "pandera", "pyarrow", "matplotlib"}
loaded, found = heavy & set(sys.modules), {}
for name, environment in CASES.items():
    os.environ.update(environment)
    bag = BundleDagBag(FOLDER, bundle_path=FOLDER, bundle_name="dags-folder", safe_mode=True)
    found[name] = {
        "errors": {k: str(v) for k, v in bag.import_errors.items()},
        "heavy": sorted((heavy & set(sys.modules)) - loaded),
        "dags": {k: dag(v) for k, v in bag.dags.items()},
    }
    for key in environment:
        del os.environ[key]
print(json.dumps(found))
"""

CYCLIC = {"model": {"trees": {"strategy": "cyclic", "rounds": 5}}}
PRIVATE = {
    "data": {"scaling": "bounds"},
    "privacy": {"mechanism": "gaussian", "noise_multiplier": 1.0},
    "aggregation": {"weighting": "uniform"},
    "model": {"linear": {"strategy": "fedavg"}},
}
MASKED = {
    "aggregation": {"protection": "masks"},
    "model": {"linear": {"strategy": "fedavg", "rounds": 2}},
}
STATISTICS = {
    "aggregation": {"protection": "masks"},
    "statistics": {
        "ask": ["moments", "median"],
        "compute": {
            f"site-{one}": f"localhost:{port}" for one, port in zip("abc", (1, 2, 3), strict=True)
        },
    },
}
WITH_QUASI = {"data": {"recipe": "synthetic"}}
FAULTY = {"model": {"linear": {"round": 3}}}
ONE_TASK = {
    "_AIRFLOW_PARSING_CONTEXT_DAG_ID": "federated_linear",
    "_AIRFLOW_PARSING_CONTEXT_TASK_ID": "round-003.train-site-b-003",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What Airflow reads, by case."""
    folder = tmp_path_factory.mktemp("airflow")
    own = {"FOLKMOOT_PARAMS": str(ROOT / "params.yaml")}
    wanted = {
        "own": own,
        "by hand": {**own, "FOLKMOOT_UNSCHEDULED": "1"},
        "one task": {**own, **ONE_TASK},
    }
    for name, params in (
        ("cyclic", CYCLIC),
        ("private", PRIVATE),
        ("masked", MASKED),
        ("settled", {**MASKED, **WITH_QUASI, "anonymisation": {"recoding": "agreed", "k": 5}}),
        ("statistics", STATISTICS),
        ("anonymised", {**WITH_QUASI, "anonymisation": {"k": 5}}),
        ("faulty", FAULTY),
    ):
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(params))
        wanted[name] = {"FOLKMOOT_PARAMS": str(file)}
    code = f"FOLDER = {str(ROOT / 'dags')!r}\nCASES = {wanted!r}\n{READ}"
    found: dict[str, dict[str, Any]] = json.loads(fresh_python(code, folder).splitlines()[-1])
    return found


@pytest.fixture
def bag(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return cases["own"]


def test_dag_files_import_without_errors_or_warnings(bag: dict[str, Any]) -> None:
    assert bag["errors"] == {}
    assert set(bag["dags"]) == {"federated_linear", "federated_trees", "refresh_site_data"}


def test_dag_files_load_nothing_heavy(bag: dict[str, Any]) -> None:
    assert bag["heavy"] == []


def test_every_dag_and_task_is_documented_and_owned(bag: dict[str, Any]) -> None:
    for dag in bag["dags"].values():
        assert dag["doc"]
        assert "folkmoot" in dag["tags"]
        assert dag["catchup"] is False
        assert dag["active"] == 1
        for name, task in dag["tasks"].items():
            assert task["doc"], name
            assert task["title"] not in {None, "", name}
            assert task["owner"] not in {"", "airflow"}, name


def test_site_tasks_run_in_their_sites_queue_and_in_time(bag: dict[str, Any]) -> None:
    tasks = bag["dags"]["federated_linear"]["tasks"]
    train = tasks["round-003.train-site-b-003"]
    assert (train["queue"], train["owner"]) == ("site-site-b", "site-b")
    assert train["timeout"] == 600
    assert tasks["round-003.aggregate-003"]["queue"] == "default"


def test_rounds_are_unrolled_and_prepared_in_order(bag: dict[str, Any]) -> None:
    tasks = bag["dags"]["federated_linear"]["tasks"]
    assert sum(".aggregate" in name for name in tasks) == 8
    assert tasks["prepare.site-a.validate-site-a"]["up"] == ["prepare.site-a.version-site-a"]
    assert tasks["initialise"]["up"] == [f"prepare.site-{s}.encode-site-{s}" for s in "abcd"]
    assert tasks["round-002.train-site-a-002"]["up"] == ["round-001.aggregate-001"]
    assert tasks["round-002.aggregate-002"]["rule"] == "all_done"
    assert tasks["track"]["up"] == ["open"]
    assert tasks["register"]["up"] == ["report"]


def test_anonymisation_is_a_group_of_every_site(cases: dict[str, dict[str, Any]]) -> None:
    assert cases["anonymised"]["errors"] == {}
    for dag in ("federated_linear", "federated_trees"):
        tasks = cases["anonymised"]["dags"][dag]["tasks"]
        assert all(task["doc"] and task["title"] for task in tasks.values())
        own = [name for name in tasks if name.startswith("prepare.site-b.")]
        group = "prepare.site-b.anonymise-site-b"
        inner = [f"{group}.{name}-site-b" for name in ("recode", "verify", "report")]
        before = [f"prepare.site-b.{name}-site-b" for name in ("version", "validate")]
        chain = [*before, *inner, "prepare.site-b.encode-site-b"]
        assert own == chain
        for first, second in pairwise(chain):
            assert tasks[second]["up"] == [first]
        assert {tasks[name]["queue"] for name in inner} == {"site-site-b"}


def test_no_more_tasks_where_nothing_is_anonymised(bag: dict[str, Any]) -> None:
    tasks = bag["dags"]["federated_linear"]["tasks"]
    own = [name for name in tasks if name.startswith("prepare.site-a.")]
    assert [name.rsplit(".", 1)[1] for name in own] == [
        f"{name}-site-a" for name in ("version", "validate", "anonymise", "encode")
    ]


def test_masks_add_a_set_up_and_two_steps_a_round(cases: dict[str, dict[str, Any]]) -> None:
    assert cases["masked"]["errors"] == {}
    tasks = cases["masked"]["dags"]["federated_linear"]["tasks"]
    assert "federated_trees" not in cases["masked"]["dags"]
    assert all(task["doc"] and task["title"] for task in tasks.values())
    groups = [name.split(".")[0] for name in tasks]
    assert groups.count("setup") == 2 * 4 + 2
    first, second = groups.count("round-001"), groups.count("round-002")
    assert first == second == 2 * 4 + 2  # train and unmask, survivors and aggregate
    assert tasks["setup.announce-site-a"]["up"] == ["prepare.site-a.encode-site-a"]
    assert tasks["setup.share-site-a"]["up"] == ["setup.keys"]
    assert tasks["round-000.statistics-site-a-000"]["up"] == ["setup.deal"]
    assert tasks["initialise"]["up"] == [f"round-000.unmask-site-{s}-000" for s in "abcd"]
    assert tasks["round-001.unmask-site-b-001"]["up"] == ["round-001.survivors-001"]
    assert tasks["round-001.unmask-site-b-001"]["queue"] == "site-site-b"
    assert tasks["round-001.aggregate-001"]["up"] == [
        f"round-001.unmask-site-{s}-001" for s in "abcd"
    ]
    assert tasks["conclude"]["up"] == [f"evaluate.unmask-site-{s}" for s in "abcd"]


def test_levels_are_settled_by_a_sum_behind_the_set_up(cases: dict[str, dict[str, Any]]) -> None:
    assert cases["settled"]["errors"] == {}
    tasks = cases["settled"]["dags"]["federated_linear"]["tasks"]
    assert all(task["doc"] and task["title"] for task in tasks.values())
    assert tasks["setup.announce-site-a"]["up"] == ["agree.site-a.validate-site-a"]
    assert sorted(tasks["agree.site-a.levels-site-a"]["up"]) == [
        "agree.site-a.validate-site-a",
        "setup.deal",
    ]
    assert tasks["agree.survivors"]["up"] == [f"agree.site-{s}.levels-site-{s}" for s in "abcd"]
    assert tasks["agree.settle"]["up"] == [f"agree.site-{s}.unmask-site-{s}" for s in "abcd"]
    encoded = "prepare.site-a.encode-site-a"
    assert tasks["round-000.statistics-site-a-000"]["up"] == [encoded]
    assert tasks["agree.site-a.unmask-site-a"]["queue"] == "site-site-a"


def test_the_form_has_the_bounds_of_the_params(bag: dict[str, Any]) -> None:
    linear = bag["dags"]["federated_linear"]["params"]
    assert linear["rounds"]["maximum"] == 8
    assert linear["rounds"]["type"] == "integer"
    assert linear["learning_rate"]["exclusiveMinimum"] == 0
    assert linear["epsilon"]["type"] == ["number", "null"]
    assert "gaussian" in linear["mechanism"]["enum"]
    trees = bag["dags"]["federated_trees"]["params"]
    assert trees["max_depth"]["maximum"] == 16
    assert "l2" not in trees


def test_tasks_hold_no_copy_of_the_form(cases: dict[str, dict[str, Any]]) -> None:
    """Copying and serialising it for every task took half a minute per parse of 300 tasks."""
    for case in cases.values():
        assert all(dag["copies"] <= len(dag["tasks"]) for dag in case["dags"].values())
    assert cases["own"]["dags"]["federated_trees"]["params"], "the DAG itself has it"


def test_schedule_is_by_clock_and_by_assets(cases: dict[str, dict[str, Any]]) -> None:
    dags = cases["own"]["dags"]
    assert dags["federated_linear"]["timetable"] == "AssetOrTimeSchedule"
    assert dags["refresh_site_data"]["timetable"] == "CronTriggerTimetable"
    by_hand = cases["by hand"]["dags"]
    assert {dag["timetable"] for dag in by_hand.values()} == {"NullTimetable"}


def test_a_task_process_builds_its_own_task_alone(cases: dict[str, dict[str, Any]]) -> None:
    dags = cases["one task"]["dags"]
    assert {name: list(dag["tasks"]) for name, dag in dags.items()} == {
        "federated_linear": ["round-003.train-site-b-003"]
    }
    whole = cases["own"]["dags"]["federated_linear"]["tasks"]["round-003.train-site-b-003"]
    alone = dags["federated_linear"]["tasks"]["round-003.train-site-b-003"]
    assert {**alone, "up": whole["up"]} == whole


def test_cyclic_trees_train_one_site_a_round(cases: dict[str, dict[str, Any]]) -> None:
    tasks = cases["cyclic"]["dags"]["federated_trees"]["tasks"]
    trained = [name for name in tasks if ".train-" in name]
    assert trained == [f"round-{r:03d}.train-site-{s}-{r:03d}" for r, s in enumerate("abcda", 1)]


def test_params_meant_for_linear_models_leave_the_trees_dag_out(
    cases: dict[str, dict[str, Any]],
) -> None:
    assert cases["private"]["errors"] == {}
    assert set(cases["private"]["dags"]) == {"federated_linear", "refresh_site_data"}


def test_faulty_params_show_as_an_import_error_with_remedy(
    cases: dict[str, dict[str, Any]],
) -> None:
    errors = cases["faulty"]["errors"]
    message = next(text for file, text in errors.items() if "federated_linear" in file)
    assert "model.linear.round is unknown; did you mean rounds?" in message
    assert "Remedy" in message


def test_a_new_airflow_does_not_make_up_for_the_past(cases: dict[str, dict[str, Any]]) -> None:
    now = datetime.now(UTC)
    for dag in cases["own"]["dags"].values():
        assert datetime.fromisoformat(dag["next"]) > now - timedelta(minutes=5)


def test_every_body_of_a_step_has_its_words() -> None:
    """A body without them breaks the DAG file of whoever plans it."""
    from pipelines.hosts import airflow_docs, execute

    assert set(airflow_docs._BODIES) >= set(execute.BODIES)


def test_statistics_have_a_dag_of_their_own_where_they_are_asked_for(
    cases: dict[str, dict[str, Any]],
) -> None:
    """Rounds of turns, three computing sites, and no start but by hand."""
    assert cases["statistics"]["errors"] == {}
    dag = cases["statistics"]["dags"]["federated_statistics"]
    assert dag["timetable"] == "NullTimetable"
    tasks = dag["tasks"]
    computing = [name for name in tasks if name.startswith("round-001.compute-")]
    assert computing == [f"round-001.compute-site-{one}-001" for one in "abc"]
    for name in computing:
        assert "round-001.relay-001" in tasks[name]["up"]
        assert tasks[name]["queue"] == "site-site-" + name.split("-")[3]
    assert set(tasks["round-001.aggregate-001"]["up"]) == set(computing)
    assert "round-002.statistics-site-d-002" in tasks["round-002.survivors-002"]["up"]
    assert {"open", "conclude", "report"} <= tasks.keys()
    assert not {"register", "track"} & tasks.keys()
    assert all(task["doc"] and task["title"] for task in tasks.values())
