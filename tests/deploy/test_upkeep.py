"""Backups come back whole, old ledgers are found out, and cleaning keeps what answers need."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import FolkmootError, RoundError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import parse_params
from pipelines import backup as backups
from pipelines.coordinator import lock
from pipelines.coordinator.retention import clean
from pipelines.hosts.embedded import run as train
from pipelines.hosts.server_settings import load_settings
from site_tasks import anchor
from site_tasks import backup as site_backups
from site_tasks.home import SiteHome
from site_tasks.release import open_ledger
from tests.conftest import copy_workspace

from .conftest import Postgres

PARAMS = parse_params(
    {},
    [
        *("federation.sites=[site-a,site-b]", "data.recipe=synthetic", "data.rows=200"),
        *("data.columns=4", "model.linear.rounds=2", "tracking.enabled=false"),
    ],
)


@pytest.fixture
def workspace(prototype: Any, tmp_path: Path) -> Path:
    return copy_workspace(prototype(PARAMS), tmp_path / "w")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(".lock")
    }


def test_a_coordinator_comes_back_with_the_same_bytes(workspace: Path, tmp_path: Path) -> None:
    train(PARAMS, run="r", workspace=workspace)
    load_settings(workspace, {"url": "https://c.example:8443"})
    invitations = workspace / "coordinator" / "invitations.json"
    invitations.write_text("{}")
    (workspace / "airflow").mkdir()
    with closing(sqlite3.connect(workspace / "airflow" / "airflow.db")) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table t (x)")
        database.execute("insert into t values (7)")
        database.commit()
        target = tmp_path / "backup.tar.gz"
        backups.backup(PARAMS, workspace, target)  # while it is open, with its log unmerged
    assert target.stat().st_mode & 0o077 == 0
    other = tmp_path / "other"
    backups.restore(target, other)
    assert not (other / "coordinator" / "invitations.json").exists(), "they count once"
    invitations.unlink()
    for name in ("coordinator", "exchange"):
        assert files(other / name) == files(workspace / name), name
    with closing(sqlite3.connect(other / "airflow" / "airflow.db")) as database:
        assert database.execute("select x from t").fetchall() == [(7,)]
    with pytest.raises(FolkmootError, match="holds a coordinator"):
        backups.restore(target, other)
    # Damaged: nothing is put in place.
    damaged = tmp_path / "damaged.tar.gz"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 255
    damaged.write_bytes(data)
    with pytest.raises(FolkmootError) as error:
        backups.restore(damaged, tmp_path / "third")
    assert error.value.code == "protocol.digest"
    assert list((tmp_path / "third").iterdir()) == []


def test_what_is_removed_during_a_backup_does_not_end_it(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of a tree that stands go while the backup reads the folder they lay in."""
    train(PARAMS, run="r", workspace=workspace)
    victim = workspace / "exchange/demo/runs/r/round-001/update-site-b"
    copy = shutil.copy2

    def meanwhile(source: Any, target: Any, **options: Any) -> Any:
        if str(source) == str(victim):
            victim.unlink()
        return copy(source, target, **options)

    monkeypatch.setattr(shutil, "copy2", meanwhile)
    backups.backup(PARAMS, workspace, tmp_path / "backup.tar.gz")
    assert not victim.exists()
    monkeypatch.undo()
    backups.restore(tmp_path / "backup.tar.gz", tmp_path / "other")
    assert files(tmp_path / "other" / "exchange") == files(workspace / "exchange")


def test_databases_on_postgresql_come_back(postgres: Postgres, tmp_path: Path) -> None:
    if shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not installed: apt-get install postgresql-client")
    import psycopg2

    postgres.make("kept")
    login = {"host": "127.0.0.1", "port": postgres.port, "user": postgres.user}
    login |= {"password": postgres.password, "dbname": "kept"}

    def ask(*statements: str) -> list[Any]:
        connection = psycopg2.connect(**login)
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            found = cursor.fetchall() if cursor.description else []
        connection.close()
        return found

    ask("create table t (x int)", "insert into t values (7)")
    load_settings(tmp_path / "w", {"database": postgres.url("kept")})
    target = tmp_path / "backup.tar.gz"
    backups.backup(PARAMS, tmp_path / "w", target)
    ask("update t set x = 8", "create table later (y int)")
    told = backups.restore(target, tmp_path / "again")
    assert told[-1].endswith("/kept") or any(line.endswith("/kept") for line in told)
    assert ask("select x from t") == [(7,)]
    assert not [line for line in told if postgres.password in line]


def test_an_older_ledger_that_was_brought_back_is_found_out(
    workspace: Path, tmp_path: Path
) -> None:
    train(PARAMS, run="first", workspace=workspace)
    home = SiteHome.find("site-a", workspace)
    target = tmp_path / "site-a.tar.gz"
    site_backups.backup(home, target)
    number, chain = open_ledger(home).head()
    back = site_backups.restore(target, tmp_path / "back")
    assert open_ledger(back).head() == (number, chain)
    assert back.key().private_bytes_raw() == home.key().private_bytes_raw()
    private = [back.root / "site.toml", back.private, *back.private.rglob("*")]
    assert not [path for path in private if path.stat().st_mode & 0o077]
    assert not (back.root / "data" / "dataset.parquet").exists(), "rows are in the DVC remote"
    train(parse_params({}, _other()), run="second", workspace=workspace)
    later = open_ledger(SiteHome.find("site-a", workspace)).head()
    assert later[0] > number
    anchor.hold("site-a", open_ledger(home), {"site-a": later})
    with pytest.raises(FolkmootError, match="rewound or copied"):
        anchor.hold("site-a", open_ledger(back), {"site-a": later})
    with pytest.raises(FolkmootError, match="exists"):
        site_backups.restore(target, tmp_path / "back")
    target.write_bytes(target.read_bytes()[:-100])
    with pytest.raises(FolkmootError, match="no whole backup"):
        site_backups.restore(target, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def _other() -> list[str]:
    values = PARAMS.model_dump(mode="json")
    sites = ",".join(values["federation"]["sites"])
    return [
        *(f"federation.sites=[{sites}]", "data.recipe=synthetic", "data.rows=200"),
        *("data.columns=4", "model.linear.rounds=3", "tracking.enabled=false"),
    ]


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, object]]:
    """A real S3 protocol endpoint on loopback."""
    from moto.server import ThreadedMotoServer

    os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {"endpoint_url": f"http://{host}:{port}"}
    server.stop()


@pytest.fixture(scope="module")
def trained(prototype: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exchange store with a finished run."""
    workspace = copy_workspace(prototype(PARAMS), tmp_path_factory.mktemp("trained") / "w")
    train(PARAMS, run="old", workspace=workspace)
    return workspace / "exchange"


@pytest.mark.parametrize("kind", ["folder", "memory", "s3"])
def test_cleaning_keeps_what_says_where_a_model_came_from(
    kind: str, trained: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Runs that ended, can be resumed, go on, and wait for an anchor; on every kind of store."""
    if kind == "s3":
        import s3fs

        options = dict(request.getfixturevalue("bucket"))
        s3fs.S3FileSystem(**options).makedirs("kept", exist_ok=True)
        store = ExchangeStore(f"s3://kept/{tmp_path.name}", options)
    else:
        store = ExchangeStore(tmp_path / "x" if kind == "folder" else f"memory://{tmp_path.name}")

    def left() -> set[str]:
        fs, root = store.files()
        return {str(p).removeprefix(f"{root}/") for p in fs.find(root)}

    def of(run: str) -> set[str]:
        return {k.split("/", 3)[3] for k in left() if k.startswith(f"demo/runs/{run}/")}

    whole = {
        p.relative_to(trained).as_posix(): p.read_bytes() for p in trained.rglob("*") if p.is_file()
    }
    for run in ("old", "stopped", "goes-on", "waits"):
        for name, data in whole.items():
            if run != "stopped" or not name.endswith("final/result.json"):
                store.put(name.replace("/old/", f"/{run}/"), data)
    store.put("demo/sessions/old/round-001-0123456789abcdef/000/open.json", b"{}")
    store.put("demo/anchors/waits/heads/round-002/train/site-a", b"shown, and never countersigned")
    workspace = tmp_path / "coordinator"
    lock.acquire(workspace, "demo", "goes-on", "embedded", 60.0)
    before, later = left(), time.time() + 40 * 86400

    assert clean(store, workspace, "demo", 30).files == 0, "none is old enough"
    counted = clean(store, workspace, "demo", 30, dry=True, now=later)
    assert left() == before
    assert clean(store, workspace, "demo", 30, now=later) == counted
    assert (counted.runs, counted.waiting) == (("old",), ("waits",))
    unsigned = {name for name in of("old") if not name.endswith(".signature")}
    assert unsigned == {
        *("run.json", "final/result.json", "round-001/record.json", "round-002/record.json"),
        "round-002/model",
    }
    assert {k.split("/")[2] for k in before - left()} == {"old"}
    assert {k.split("/")[1] for k in before - left()} == {"runs", "sessions"}, "anchors stay"
    assert counted.files == len(before - left())
    assert clean(store, workspace, "demo", 30, now=later).files == 0

    lock.release(workspace, "demo", "goes-on")
    store.put("demo/anchors/waits/round-002", b"countersigned")
    done = clean(store, workspace, "demo", 30, unfinished=True, now=later)
    assert (done.runs, done.waiting) == (("goes-on", "stopped", "waits"), ())
    assert of("stopped") == set()
    assert of("goes-on") == of("waits") == of("old")
    if kind == "folder":
        assert sorted(p.name for p in (tmp_path / "x/demo/runs").iterdir()) == [
            "goes-on",
            "old",
            "waits",
        ]


def test_what_a_bucket_refuses_to_remove_is_told(
    bucket: dict[str, object], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers a list of keys with what it refused; s3fs raises nothing."""
    import s3fs

    s3fs.S3FileSystem(**bucket).makedirs("refused", exist_ok=True)
    store = ExchangeStore(f"s3://refused/{tmp_path.name}", dict(bucket))
    for path in trained.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(trained).as_posix(), path.read_bytes())

    async def refuse(self: Any, pathlist: list[str], **_: Any) -> list[str]:
        return pathlist

    monkeypatch.setattr(s3fs.S3FileSystem, "_bulk_delete", refuse)
    with pytest.raises(FolkmootError, match="did not remove") as error:
        clean(store, tmp_path, "demo", 30, now=time.time() + 40 * 86400)
    assert error.value.code == "transient.exchange"


def test_a_site_cannot_clean(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path)
    store._backend = object()  # type: ignore[assignment]  # neither folder nor bucket
    with pytest.raises(FolkmootError, match="coordinator"):
        clean(store, tmp_path, "demo", 1)


def test_no_run_is_opened_in_maintenance_and_a_run_goes_on(tmp_path: Path) -> None:
    lock.acquire(tmp_path, "demo", "going", "airflow", 60.0)
    lock.maintain(tmp_path, True, "upgrade until noon")
    lock.acquire(tmp_path, "demo", "going", "airflow", 60.0)
    lock.release(tmp_path, "demo", "going")
    with pytest.raises(RoundError, match="upgrade until noon") as error:
        lock.acquire(tmp_path, "demo", "next", "embedded", 60.0)
    assert error.value.code == "round.maintenance"
    lock.maintain(tmp_path, False)
    lock.acquire(tmp_path, "demo", "next", "embedded", 60.0)
