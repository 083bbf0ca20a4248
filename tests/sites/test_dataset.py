"""Dataset versions: recorded, verified, fetched again, and known outside by a keyed fingerprint."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from folkmoot.errors import DataError, TransientError
from site_tasks import dataset
from site_tasks.git import git
from site_tasks.home import SiteHome
from site_tasks.settings import Dataset, save_settings
from tests.conftest import copy_workspace

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = pd.DataFrame({"x": np.arange(50.0), "y": ["no", "yes"] * 25})
MARCH = pd.DataFrame({"x": np.arange(60.0) + 0.5, "y": ["no", "yes"] * 30})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of one site with two versions of its dataset, the first one tagged."""
    workspace = tmp_path_factory.mktemp("made") / "ws"
    home = SiteHome.create(workspace / "sites" / "clinic", "clinic")
    dataset.add(home, ROWS, "January")
    git(home.root, "tag", "january")
    dataset.add(home, MARCH, "March")
    return workspace


@pytest.fixture
def home(made: Path, tmp_path: Path) -> SiteHome:
    copy_workspace(made, tmp_path / "ws")
    return SiteHome.find("clinic", tmp_path / "ws")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_a_version_is_committed_pushed_and_pointed_to(home: SiteHome) -> None:
    version = dataset.resolve(home)
    assert version.md5 == md5(home.dataset)
    assert version.revision == git(home.root, "rev-parse", "HEAD")
    assert git(home.root, "status", "--porcelain") == ""
    remote = home.root.parents[1] / "remotes" / "clinic"
    assert (remote / "files" / "md5" / version.md5[:2] / version.md5[2:]).is_file()
    assert "dataset.parquet" not in str(git(home.root, "ls-files")).split()
    pd.testing.assert_frame_equal(pd.read_parquet(version.path), MARCH)


def test_the_fingerprint_is_keyed_with_the_sites_secret(home: SiteHome) -> None:
    version = dataset.resolve(home)
    expected = hmac.new(home.secret(), b"dataset" + version.md5.encode(), hashlib.sha256)
    assert version.fingerprint == expected.hexdigest()
    other = SiteHome.create(home.root.parent / "other", "other")
    same = dataset.add(other, MARCH, "The same rows")
    assert same.md5 == version.md5
    assert same.fingerprint != version.fingerprint


def test_the_same_rows_are_no_new_version(home: SiteHome) -> None:
    before = dataset.resolve(home)
    assert dataset.add(home, MARCH, "Again") == before
    back = dataset.add(home, ROWS, "Back to January")
    assert back.revision != before.revision
    assert back.fingerprint == dataset.resolve(home, "january").fingerprint


def test_resolving_loads_neither_dvc_nor_pandas(home: SiteHome) -> None:
    code = (
        "import sys; from site_tasks.home import SiteHome; from site_tasks import dataset;"
        f"dataset.resolve(SiteHome.find('clinic', {str(home.root.parents[1])!r}));"
        "print([m for m in ('dvc', 'pandas', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    run = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    out = subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout
    assert out.strip() in {"[]", "['numpy']"}


def test_a_revision_is_resolved_from_cache_and_from_remote(home: SiteHome) -> None:
    for _ in range(2):
        version = dataset.resolve(home, "january")
        pd.testing.assert_frame_equal(pd.read_parquet(version.path), ROWS)
        assert version.path != home.dataset
        assert version.revision == git(home.root, "rev-parse", "january")
        shutil.rmtree(home.work)  # may be emptied at any time
        shutil.rmtree(home.root / ".dvc" / "cache")  # then only the remote has it
    assert dataset.resolve(home).md5 == md5(home.dataset)


def test_site_toml_can_pin_a_revision(home: SiteHome) -> None:
    pinned = home.settings.model_copy(update={"dataset": Dataset(revision="january")})
    save_settings(pinned, home.root / "site.toml")
    again = SiteHome(home.root)
    assert dataset.resolve(again) == dataset.resolve(home, "january")
    note = dataset.note_version(again).read_text().strip()
    assert note == dataset.resolve(home, "january").fingerprint


def test_a_lost_working_copy_is_fetched_again(home: SiteHome) -> None:
    version = dataset.resolve(home)
    home.dataset.unlink()
    shutil.rmtree(home.root / ".dvc" / "cache")
    assert dataset.resolve(home) == version
    assert md5(home.dataset) == version.md5


@pytest.mark.parametrize("how", ["longer", "same-size"])
def test_changed_since_dvc_add(home: SiteHome, how: str) -> None:
    dataset.resolve(home)
    data = bytearray(home.dataset.read_bytes())
    data = data + b"x" if how == "longer" else data[:-1] + bytes([data[-1] ^ 1])
    home.dataset.write_bytes(data)
    with pytest.raises(DataError) as caught:
        dataset.resolve(home)
    assert caught.value.code == "data.version"
    assert caught.value.site == "clinic"
    assert "folkmoot site refresh clinic" in caught.value.remedy
    assert "dvc checkout" in caught.value.remedy


def test_a_change_in_place_can_be_recorded(home: SiteHome) -> None:
    before = dataset.resolve(home)
    ROWS.head(20).to_parquet(home.dataset)
    after = dataset.record(home, "Keep twenty")
    assert after.fingerprint != before.fingerprint
    assert git(home.root, "log", "-1", "--format=%s") == "Keep twenty"


def test_a_site_without_data(tmp_path: Path) -> None:
    home = SiteHome.create(tmp_path / "sites" / "new", "new")
    with pytest.raises(DataError) as caught:
        dataset.resolve(home)
    assert caught.value.code == "data.missing"
    assert "folkmoot site refresh new --data" in caught.value.remedy


def test_an_unknown_revision(home: SiteHome) -> None:
    with pytest.raises(DataError, match="no revision february"):
        dataset.resolve(home, "february")


def test_a_version_that_is_nowhere(home: SiteHome) -> None:
    shutil.rmtree(home.root.parents[1] / "remotes")
    shutil.rmtree(home.root / ".dvc" / "cache")
    with pytest.raises(DataError) as caught:
        dataset.resolve(home, "january")
    assert caught.value.code == "data.version"
    assert "neither on its disk nor on its DVC remote" in caught.value.message


def test_a_damaged_pointer(home: SiteHome) -> None:
    home.dataset.with_name("dataset.parquet.dvc").write_text("outs: [{md5: none}]\n")
    with pytest.raises(DataError, match="not a DVC pointer"):
        dataset.resolve(home)


def empty(path: Path) -> Path:
    ROWS.head(0).to_parquet(path / "rows.parquet")
    return path / "rows.parquet"


def garbage(path: Path) -> Path:
    (path / "rows.parquet").write_bytes(b"PAR1 patient 4711")
    return path / "rows.parquet"


def truncated(path: Path) -> Path:
    ROWS.to_parquet(path / "rows.parquet")
    data = (path / "rows.parquet").read_bytes()
    (path / "rows.parquet").write_bytes(data[: len(data) // 2])
    return path / "rows.parquet"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (empty, "data.missing"),
        (garbage, "data.unreadable"),
        (truncated, "data.unreadable"),
        (lambda path: path / "absent.parquet", "data.missing"),
        (lambda path: ROWS.head(0), "data.missing"),
    ],
)
def test_a_bad_source_leaves_the_dataset_alone(
    home: SiteHome, tmp_path: Path, source: Callable[[Path], Path | pd.DataFrame], code: str
) -> None:
    before = dataset.resolve(home)
    with pytest.raises(DataError) as caught:
        dataset.add(home, source(tmp_path), "Bad")
    assert caught.value.code == code
    assert "4711" not in str(caught.value)
    assert dataset.resolve(home) == before
    assert not list(home.dataset.parent.glob(".*part"))


def test_a_remote_that_is_away_loses_nothing(home: SiteHome) -> None:
    remote = home.root.parents[1] / "remotes"
    shutil.rmtree(remote)
    remote.write_text("not a folder")
    with pytest.raises(TransientError) as caught:
        dataset.add(home, ROWS, "Away")
    assert caught.value.code == "transient.remote"
    assert caught.value.retryable
    kept = dataset.resolve(home)
    assert kept.fingerprint == dataset.resolve(home, "january").fingerprint
    remote.unlink()
    dataset.record(home, "Again")
    assert dataset.status(home)


def test_a_full_disk_loses_nothing(home: SiteHome, tmp_path: Path) -> None:
    before = dataset.resolve(home)
    ROWS.to_parquet(tmp_path / "rows.parquet")
    home.dataset.with_name(".dataset.parquet.part").symlink_to("/dev/full")
    with pytest.raises(TransientError) as caught:
        dataset.add(home, tmp_path / "rows.parquet", "Full")
    assert caught.value.code == "transient.disk-full"
    assert dataset.resolve(home) == before


def test_another_process_in_the_repository(home: SiteHome) -> None:
    code = (
        "import sys; from dvc.repo import Repo\n"
        f"repo = Repo({str(home.root)!r})\n"
        "with repo.lock:\n print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(TransientError) as caught:
            dataset.add(home, ROWS, "Blocked")
        assert holder.stdin is not None
        holder.stdin.close()
    assert caught.value.code == "transient.locked"


def test_status_tells_whether_the_remote_holds_the_version(home: SiteHome) -> None:
    assert dataset.status(home)
    shutil.rmtree(home.root.parents[1] / "remotes" / "clinic" / "files")
    assert not dataset.status(home)
    dataset.record(home, "Again")
    assert dataset.status(home)
