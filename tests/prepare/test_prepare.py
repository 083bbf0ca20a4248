from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import DataError, FolkmootError, TransientError
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import ReleasedUpdate, open_released
from pipelines.hosts.execute import execute
from site_tasks import dataset
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared, write_folder
from site_tasks.settings import save_settings

from .conftest import SITE, prepare, rows, step_of

ContextOf = Callable[..., RunContext]


def released(context: RunContext) -> ReleasedUpdate:
    data = context.store.get(context.key(keys.statistics(SITE)))
    return open_released(data, context.roster, {"site": SITE, "round": 0, "run": context.run})


def home_of(context: RunContext) -> SiteHome:
    return SiteHome.find(SITE, context.workspace)


def files(home: SiteHome) -> dict[str, int]:
    """Every file of the work folder but the runs' records, with its time of change."""
    found = (p for p in home.work.rglob("*") if p.is_file() and "runs" not in p.parts)
    return {str(p.relative_to(home.work)): p.stat().st_mtime_ns for p in found}


def test_prepared_rows_and_released_sums(context_of: ContextOf) -> None:
    context = context_of("r1")
    prepare(context)
    home = home_of(context)
    prepared = load_prepared(context, home)
    assert prepared.rows == {"train": 150, "test": 50}
    x = prepared.matrix("train")
    assert isinstance(x, np.memmap)
    assert not x.flags.writeable
    assert x.shape == (150, len(prepared.features))
    assert prepared.weights("train") is None
    assert prepared.fingerprint == dataset.resolve(home).fingerprint
    update = released(context)
    arrays = update.parts["statistics"].arrays
    assert arrays["rows"] == 150
    assert arrays["class_counts"].sum() == 150
    expected = np.nansum(np.asarray(x, np.float64) - prepared.features.centre, axis=0)
    np.testing.assert_allclose(arrays["sum"], expected, rtol=1e-12, atol=1e-10)
    assert update.meta["dataset"] == prepared.fingerprint
    stacked = np.concatenate([block[0] for block in prepared.blocks("train", 37)])
    np.testing.assert_array_equal(stacked, x)


def test_no_identifier_and_no_plain_hash_in_what_leaves(context_of: ContextOf) -> None:
    context = context_of("r1", "anonymisation.identifiers=pseudonymise")
    prepare(context)
    md5 = dataset.resolve(home_of(context)).md5
    data = context.store.get(context.key(keys.statistics(SITE)))
    assert b"P-000" not in data
    assert md5.encode() not in data
    assert md5 not in load_prepared(context, home_of(context)).digest


def test_under_differential_privacy_only_the_receipt_leaves(context_of: ContextOf) -> None:
    context = context_of(
        "r1",
        "model.linear.strategy=fedavg",
        "privacy.mechanism=gaussian",
        "privacy.noise_multiplier=1.0",
        "data.scaling=bounds",
        "aggregation.weighting=uniform",
    )
    prepare(context)
    update = released(context)
    assert update.parts == {}
    assert update.meta["dataset"] == load_prepared(context, home_of(context)).fingerprint


def test_unchanged_data_and_params_do_nothing(context_of: ContextOf) -> None:
    first = context_of("r1")
    prepare(first)
    before = files(home_of(first))
    other = context_of("r2", "privacy.delta=1e-6", "model.linear.rounds=3", "data.scaling=bounds")
    prepare(other)
    assert files(home_of(first)) == before
    a, b = (load_prepared(c, home_of(c)) for c in (first, other))
    assert a.digest == b.digest


def test_the_fast_path_loads_nothing_heavy(context_of: ContextOf, tmp_path: Path) -> None:
    context = context_of("r1")
    prepare(context)
    values = {
        "params": context.params.model_dump(mode="json"),
        "contract": context.contract.model_dump(mode="json"),
        "roster": context.roster.keys,
    }
    context.store.put(context.key(keys.RUN), json.dumps(values).encode())
    shutil.copytree(
        context.workspace / "exchange/demo/runs/r1", context.workspace / "exchange/demo/runs/r2"
    )
    (context.workspace / "exchange/demo/runs/r2/round-000" / f"statistics-{SITE}").unlink()
    program = f"""
import sys
from pathlib import Path
from folkmoot.exchange import ExchangeStore
from folkmoot.plan import Step, keys
from pipelines.hosts.execute import execute, open_context
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared
workspace = Path({str(context.workspace)!r})
context = open_context("r2", "demo", ExchangeStore(workspace / "exchange"), workspace)
for body in ("version", "validate", "anonymise", "encode"):
    outputs = (keys.statistics({SITE!r}),) if body == "encode" else ()
    name = f"prepare/{{body}}/{SITE}"
    refs = execute(Step(name, f"site.{{body}}", {SITE!r}, 0, outputs=outputs), context)
assert len(refs) == 1
assert len(load_prepared(context, SiteHome.find({SITE!r}, workspace)).matrix("train")) == 150
heavy = {{"pandas", "pyarrow", "pandera", "sklearn", "scipy", "dvc", "mlflow", "xgboost"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("model.kind=trees", ["validated", "anonymised"]),
        ("data.holdout.seed=5", ["validated", "anonymised"]),
        ("data.precision=float32", ["validated", "anonymised"]),
        ("anonymisation.levels={age: 1}", ["validated"]),
        ("anonymisation.identifiers=pseudonymise", ["validated"]),
    ],
)
def test_a_changed_param_repeats_its_own_steps_only(
    context_of: ContextOf, override: str, same: list[str]
) -> None:
    first, second = context_of("r1"), context_of("r2", override)
    prepare(first)
    home = home_of(first)
    before = {
        stage: os.listdir(home.work / stage) for stage in ("validated", "anonymised", "encoded")
    }
    prepare(second)
    for stage, names in before.items():
        assert (os.listdir(home.work / stage) == names) == (stage in same), stage
    a, b = (load_prepared(c, home) for c in (first, second))
    assert a.digest != b.digest
    assert a.fingerprint == b.fingerprint


def test_a_new_dataset_version_is_prepared_and_the_old_run_keeps_its_own(
    context_of: ContextOf,
) -> None:
    first = context_of("r1")
    prepare(first)
    home = home_of(first)
    dataset.add(home, rows(300, seed=1), "More rows")
    second = context_of("r2")
    prepare(second)
    assert load_prepared(second, home).rows == {"train": 225, "test": 75}
    assert load_prepared(first, home).rows == {"train": 150, "test": 50}
    assert released(first).meta["dataset"] != released(second).meta["dataset"]


def test_data_that_changes_under_a_run_is_refused(context_of: ContextOf) -> None:
    context = context_of("r1")
    execute(step_of("version"), context)
    home = home_of(context)
    rows(100, seed=2).to_parquet(home.dataset, index=False)
    with pytest.raises(DataError, match="changed after this run had resolved") as caught:
        execute(step_of("validate"), context)
    assert caught.value.code == "data.version"
    assert caught.value.site == SITE


def test_an_emptied_work_folder_is_filled_again(context_of: ContextOf) -> None:
    context = context_of("r1", "anonymisation.levels={age: 1}", "model.kind=trees")
    prepare(context)
    home = home_of(context)
    before = load_prepared(context, home)
    x = np.array(before.matrix("train"))
    shutil.rmtree(home.work)
    after = load_prepared(replace(context, cache={}), home)
    assert after.digest == before.digest
    np.testing.assert_array_equal(after.matrix("train"), x)


def test_lost_rows_are_not_replaced_by_another_version(context_of: ContextOf) -> None:
    context = context_of("r1")
    prepare(context)
    home = home_of(context)
    shutil.rmtree(home.work / "encoded")
    dataset.add(home, rows(220, seed=3), "Other rows")
    with pytest.raises(DataError) as caught:
        load_prepared(replace(context, cache={}), home)
    assert caught.value.code == "data.version"


def test_steps_that_are_called_alone_do_what_they_need(context_of: ContextOf) -> None:
    context = context_of("r1")
    execute(step_of("encode"), context)
    assert load_prepared(context, home_of(context)).rows["train"] == 150


def test_too_few_rows_leave_nothing_whichever_steps_are_asked_for(context_of: ContextOf) -> None:
    """A coordinator could leave out the preparation, which the site's own limit must survive."""
    context = context_of("r1")
    prepare(context)
    home = home_of(context)
    permissions = home.settings.permissions.model_copy(update={"minimum_rows": 151})
    settings = home.settings.model_copy(update={"permissions": permissions})
    save_settings(settings, home.root / "site.toml")
    for cache in (context.cache, {}):  # a process that knows the rows, and a fresh one
        for body, round in (("train_linear", 1), ("evaluate", 1)):
            step = Step(f"{body}/{SITE}", f"site.{body}", SITE, round, inputs=(keys.model(0),))
            with pytest.raises(DataError) as caught:
                execute(step, replace(context, cache=cache))
            assert caught.value.code == "data.too-few-rows"
    shutil.rmtree(home.work)
    with pytest.raises(DataError) as caught:
        load_prepared(replace(context, cache={}), home_of(context))
    assert caught.value.code == "data.too-few-rows"


def test_private_files_are_private(context_of: ContextOf) -> None:
    context = context_of("r1", "anonymisation.identifiers=pseudonymise")
    prepare(context)
    home = home_of(context)
    for folder in home.work.rglob("*"):
        if folder.is_dir():
            assert folder.stat().st_mode & 0o077 == 0, folder
    shown = subprocess.run(
        ["git", "status", "--porcelain"], cwd=home.root, capture_output=True, text=True, check=True
    )
    assert shown.stdout == ""


@pytest.mark.parametrize("place", ["validate", "anonymise", "encode"])
def test_a_full_disk_loses_nothing(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    target = {
        "validate": "site_tasks.prepared.os.replace",
        "anonymise": "site_tasks.anonymise.generalise.write_table",
        "encode": "site_tasks.encode._Writer.append",
    }[place]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    context = context_of("r1")
    for body in ("version", "validate", "anonymise", "encode"):
        if body != place:
            execute(step_of(body), context)
            continue
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            with pytest.raises(TransientError) as caught:
                execute(step_of(body), context)
        assert caught.value.code == "transient.disk-full"
        assert not list(home_of(context).work.rglob(".part-*"))
        execute(step_of(body), context)
    assert load_prepared(context, home_of(context)).rows["train"] == 150


def test_bad_rows_stop_before_anything_leaves(context_of: ContextOf) -> None:
    context = context_of("r1")
    frame = rows()
    frame.loc[:6, "dose"] = 4711.25
    dataset.add(home_of(context), frame, "Bad rows")
    with pytest.raises(DataError, match=r"column dose: .* in 7 rows") as caught:
        prepare(context)
    assert caught.value.site == SITE
    assert "4711" not in str(caught.value)
    assert context.store.find(context.key(keys.statistics(SITE))) is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"n": 24}, "data.too-few-rows"),
        ({"n": 60, "outcome": "no"}, "data.one-class"),
    ],
)
def test_data_that_cannot_be_trained_on(
    context_of: ContextOf, change: dict[str, object], code: str
) -> None:
    context = context_of("r1")
    frame = rows(int(str(change.pop("n")))).assign(**change)
    dataset.add(home_of(context), frame, "Other rows")
    with pytest.raises(FolkmootError) as caught:
        prepare(context)
    assert caught.value.code == code


def test_one_class_in_the_training_rows_is_enough(context_of: ContextOf) -> None:
    """Other sites bring the other class: so it is with one of FLamby's four hospitals."""
    from site_tasks.encode import held_out

    context = context_of("r1")
    frame = rows(100)
    frame["outcome"] = np.where(held_out(100, 0.25, 0), "yes", "no")
    dataset.add(home_of(context), frame, "Other rows")
    prepare(context)
    assert load_prepared(context, home_of(context)).rows["train"] == 75


def test_levels_that_do_not_exist_are_refused_before_the_data_is_read(
    context_of: ContextOf,
) -> None:
    context = context_of("r1", "anonymisation.levels={age: 9}")
    with pytest.raises(FolkmootError) as caught:
        prepare(context)
    assert caught.value.code == "config.invalid"
    assert "age" in caught.value.message


def test_of_two_writers_the_first_wins_and_old_folders_go(tmp_path: Path) -> None:
    target = tmp_path / "encoded" / "a"
    with write_folder(target) as outer:
        (outer / "x").write_text("outer")
        with write_folder(target) as inner:
            (inner / "x").write_text("inner")
    assert (target / "x").read_text() == "inner"
    for name in "bcdef":
        with write_folder(tmp_path / "encoded" / name) as part:
            (part / "x").write_text(name)
    kept = sorted(os.listdir(tmp_path / "encoded"))
    assert len(kept) == 4
    assert "f" in kept
    assert "a" not in kept


def test_contract_of_the_fixture_is_used_whole(contract: Contract) -> None:
    roles = {column.role for column in contract.columns}
    assert {"direct_identifier", "quasi_identifier", "sensitive", "feature", "label"} <= roles
