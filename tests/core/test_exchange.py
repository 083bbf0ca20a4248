"""The exchange store: put-if-absent, digests, faults of disk and network, on real backends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from folkmoot.errors import ConfigError, ProtocolError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.wire import digest


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, dict[str, object]]]:
    """A real S3 protocol endpoint on loopback."""
    from moto.server import ThreadedMotoServer

    os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options: dict[str, object] = {"endpoint_url": f"http://{host}:{port}"}
    import s3fs

    # Its buckets outlive the server where a test worker comes back to this module.
    s3fs.S3FileSystem(**options).makedirs("federation", exist_ok=True)
    yield "s3://federation/exchange", options
    server.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ExchangeStore:
    if request.param == "folder":
        return ExchangeStore(tmp_path / "exchange")
    if request.param == "memory":
        return ExchangeStore(f"memory://{tmp_path.name}")
    url, options = request.getfixturevalue("bucket")
    return ExchangeStore(f"{url}/{tmp_path.name}", options)


def test_a_file_of_the_same_bytes_is_linked_where_that_can_be(
    store: ExchangeStore, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    twin.write_bytes(b"abc")
    ref = store.put("demo/runs/r1/round-001/update-site-a", b"abc", twin=str(twin))
    assert store.put(ref.key, b"abc", twin=str(twin)) == ref  # again is welcome
    assert store.get(ref.key, ref.digest) == b"abc"
    path = store.path(ref.key)
    assert path is None or path.samefile(twin)
    twin.unlink()
    assert store.get(ref.key) == b"abc"
    with pytest.raises(ProtocolError, match="already published"):
        store.put(ref.key, b"xyz", twin=str(tmp_path / "gone"))


def test_put_get_list(store: ExchangeStore) -> None:
    ref = store.put("demo/runs/r1/round-001/model", b"abc")
    assert ref.digest == digest(b"abc")
    assert store.get(ref.key, ref.digest) == b"abc"
    assert store.ref(ref.key) == ref
    store.put("demo/runs/r1/round-001/update-site-a", b"x")
    assert store.list("demo/runs/r1/round-001") == [
        "demo/runs/r1/round-001/model",
        "demo/runs/r1/round-001/update-site-a",
    ]
    assert store.list("demo/nothing") == []
    assert store.find("demo/nothing") is None


def test_large_artefacts_come_back_whole_and_folders_are_none(store: ExchangeStore) -> None:
    data = os.urandom(3_000_000)
    store.put("demo/runs/r1/round-001/update-a", data)
    assert store.get("demo/runs/r1/round-001/update-a", digest(data)) == data
    assert store.find("demo/runs/r1/round-001") is None
    store.put("demo/runs/r1/empty", b"")
    assert store.get("demo/runs/r1/empty") == b""


@pytest.mark.parametrize("linked", [False, True])
def test_what_was_put_a_moment_ago_is_read_from_the_disk_once_it_changed(
    tmp_path: Path, linked: bool
) -> None:
    """A large artefact is remembered until it is read once, and only while the file stays as it is."""
    store, key, data = ExchangeStore(tmp_path / "x"), "demo/runs/r1/update-a", os.urandom(200_000)
    twin = tmp_path / "twin"
    twin.write_bytes(data)
    ref = store.put(key, data, twin=str(twin) if linked else None)
    assert store.get(key) is data
    assert store.get(key) is not data
    store = ExchangeStore(tmp_path / "x")
    store.put("demo/runs/r1/update-b", data)
    path = store.path("demo/runs/r1/update-b")
    assert path is not None
    found = path.stat()
    path.write_bytes(data[::-1])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(ProtocolError, match="digest"):
        store.get("demo/runs/r1/update-b", ref.digest)
    store.put("demo/runs/r1/update-c", data)
    (tmp_path / "x" / "demo/runs/r1/update-c").unlink()
    assert store.find("demo/runs/r1/update-c") is None


def test_same_bytes_are_welcome_other_bytes_conflict(store: ExchangeStore) -> None:
    store.put("demo/a", b"one")
    store.put("demo/a", b"one")
    with pytest.raises(ProtocolError) as caught:
        store.put("demo/a", b"two")
    assert caught.value.code == "protocol.conflict"
    assert store.get("demo/a") == b"one"


def test_wrong_digest_and_absence_are_named(store: ExchangeStore) -> None:
    store.put("demo/a", b"one")
    with pytest.raises(ProtocolError) as caught:
        store.get("demo/a", digest(b"two"))
    assert caught.value.code == "protocol.digest"
    with pytest.raises(ProtocolError) as caught:
        store.get("demo/b")
    assert caught.value.code == "protocol.missing"


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../b", "a//b", "A/b", "a/.hidden"])
def test_keys_cannot_leave_the_store(store: ExchangeStore, key: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        store.put(key, b"x")
    assert caught.value.code == "protocol.format"


def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path)
    start = threading.Barrier(8)

    def write(number: int) -> bool:
        start.wait()
        try:
            store.put("demo/a", str(number).encode() * 10_000)
        except ProtocolError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert store.get("demo/a") == str(won.index(True)).encode() * 10_000
    assert [p.name for p in (tmp_path / "demo").iterdir()] == ["a"]


def test_full_disk_publishes_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """A file size limit of the operating system stands for the full disk: a real failed write."""
    script = f"""
import resource, signal
from folkmoot.exchange import ExchangeStore
from folkmoot.errors import TransientError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = ExchangeStore({str(tmp_path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    store.put("demo/a", b"x" * 5000)
except TransientError as error:
    print(error.code)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(store.find("demo/a"))
print(store.put("demo/a", b"x" * 5000).size)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["transient.exchange", "None", "5000"]
    assert [p.name for p in (tmp_path / "demo").iterdir()] == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_no_space_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        made = real(path, flags, mode)
        if ".part-" in os.fspath(path):
            os.dup2(real("/dev/full", os.O_WRONLY), made)
        return made

    monkeypatch.setattr(os, "open", full)
    store = ExchangeStore(tmp_path)
    with pytest.raises(TransientError) as caught:
        store.put("demo/a", b"x" * 100)
    assert caught.value.code == "transient.disk-full"
    assert caught.value.retryable
    assert store.find("demo/a") is None
    assert list((tmp_path / "demo").iterdir()) == [], "nothing half-written stays behind"


def test_a_store_that_does_not_answer_is_transient(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TransientError):
        ExchangeStore(tmp_path / "file").put("demo/a", b"x")


def test_what_nobody_asks_for_again_is_removed(store: ExchangeStore) -> None:
    folder = "demo/runs/r1/round-001"
    assert store.clear([f"{folder}/update-a"]) == 0
    for name in ("update-a", "update-b", "model"):
        store.put(f"{folder}/{name}", name.encode())
    named = [f"demo/runs/r1/round-00{n}/update-{s}" for n in (1, 2) for s in "ac"]
    assert store.clear(named) == 1
    assert store.list(folder) == [f"{folder}/model", f"{folder}/update-b"]
    assert store.find(f"{folder}/update-a") is None
    store.put(f"{folder}/update-a", b"again")
    assert store.clear(named) == 1
    with pytest.raises(ProtocolError):
        store.clear(["../a"])


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    quick = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": quick}
    store = ExchangeStore("s3://federation/exchange", options)
    for ask in (
        lambda: store.list("demo"),
        lambda: store.find("demo/a"),
        lambda: store.put("demo/a", b"one"),
        lambda: store.clear(["demo/a"]),
    ):
        with pytest.raises(TransientError) as caught:
            ask()
        assert caught.value.code == "transient.exchange"


@pytest.mark.parametrize("url", ["nowhere://bucket/x", "abfs://container/x"])
def test_a_store_that_cannot_be_opened_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match=r"federation\.exchange") as caught:
        ExchangeStore(url)
    assert caught.value.code in {"config.invalid", "config.installation"}
