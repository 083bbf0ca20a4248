"""A site's folder: made whole, found again, private, and clear about what is missing."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from folkmoot.errors import ConfigError
from site_tasks.home import SiteHome
from site_tasks.settings import Permissions, load_settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SiteHome:
    root = tmp_path_factory.mktemp("ws") / "sites" / "clinic"
    return SiteHome.create(root, "clinic", federations=["trial"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tracked(home: SiteHome) -> list[str]:
    run = ["git", "ls-files"]
    return subprocess.run(run, cwd=home.root, capture_output=True, text=True).stdout.split()


def test_private_files_are_the_owners_alone(home: SiteHome) -> None:
    assert mode(home.root) == 0o700
    for folder in (home.private, home.releases, home.work):
        assert mode(folder) == 0o700
    for name in ("site.toml", "private/secret.key", "private/signing.key"):
        assert mode(home.root / name) == 0o600


def test_git_sees_neither_settings_nor_keys(home: SiteHome) -> None:
    files = tracked(home)
    assert "public.toml" in files
    assert ".dvc/config" in files
    assert not [name for name in files if name.startswith("private") or name == "site.toml"]
    status = ["git", "status", "--porcelain"]
    assert subprocess.run(status, cwd=home.root, capture_output=True).stdout == b""


def test_dvc_tells_nobody_and_keeps_its_caches_inside(home: SiteHome) -> None:
    config = (home.root / ".dvc" / "config").read_text()
    assert "analytics = False" in config
    assert "check_update = False" in config
    assert str(home.root) not in config  # relative: the workspace can be moved
    assert str(home.private) in (home.root / ".dvc" / "config.local").read_text()


def test_works_without_any_git_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{name}_NAME", raising=False)
        monkeypatch.delenv(f"GIT_{name}_EMAIL", raising=False)
    home = SiteHome.create(tmp_path / "sites" / "lonely", "lonely")
    log = ["git", "log", "--format=%an"]
    assert subprocess.run(log, cwd=home.root, capture_output=True, text=True).stdout == "lonely\n"


def test_a_hooks_environment_does_not_redirect_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=other, check=True)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    home = SiteHome.create(tmp_path / "sites" / "own", "own")
    assert (home.root / ".git" / "HEAD").exists()
    assert list((other / ".git" / "objects").rglob("*")) == [
        other / ".git" / "objects" / "info",
        other / ".git" / "objects" / "pack",
    ]


def test_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    permissions = Permissions(
        federations=["a"], mechanisms=["gaussian"], columns=["age"], epsilon_ceiling=2.5
    )
    root = tmp_path / "sites" / "s"
    home = SiteHome.create(root, "s", permissions=permissions, federations=["b"])
    read = load_settings(root / "site.toml").permissions
    assert read == permissions.model_copy(update={"federations": ["a", "b"]})
    assert home.settings.permissions == read
    assert "# Fewest training rows behind anything that leaves." in (root / "site.toml").read_text()


def test_made_once(home: SiteHome) -> None:
    key = home.key().private_bytes_raw()
    with pytest.raises(ConfigError, match="already is the folder of a site"):
        SiteHome.create(home.root, "clinic")
    assert home.key().private_bytes_raw() == key


def test_an_interrupted_creation_is_finished_with_the_same_keys(tmp_path: Path) -> None:
    root = tmp_path / "sites" / "s"
    first = SiteHome.create(root, "s")
    secret, key = first.secret(), first.key().private_bytes_raw()
    (root / "site.toml").unlink()  # the last thing that is written
    again = SiteHome.create(root, "s")
    assert (again.secret(), again.key().private_bytes_raw()) == (secret, key)


def test_found_by_workspace_and_by_environment(
    home: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = home.root.parents[1]
    assert SiteHome.find("clinic", workspace).root == home.root
    monkeypatch.setenv("FOLKMOOT_SITE_HOME", str(home.root))
    assert SiteHome.find("clinic", tmp_path / "elsewhere").root == home.root
    second = SiteHome.create(tmp_path / "beside" / "second", "second")
    monkeypatch.setenv("FOLKMOOT_SITE_HOME", f"{second.root}{os.pathsep}{home.root}")
    assert SiteHome.find("clinic", tmp_path / "elsewhere").root == home.root
    assert SiteHome.find("second", tmp_path / "elsewhere").root == second.root
    with pytest.raises(ConfigError, match="no folder of site other") as caught:
        SiteHome.find("other", tmp_path / "elsewhere")
    assert "folkmoot site init other" in caught.value.remedy
    assert caught.value.site == "other"


def test_a_home_is_found_again_until_its_settings_change(
    home: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = home.root.parents[1]
    first = SiteHome.find("clinic", workspace)
    assert SiteHome.find("clinic", workspace) is first
    file, text = home.root / "site.toml", (home.root / "site.toml").read_text()
    try:
        file.write_text(text.replace("minimum_rows = 20\n", "minimum_rows = 7\n"))
        changed = SiteHome.find("clinic", workspace)
        assert (changed.root, changed.settings.permissions.minimum_rows) == (first.root, 7)
        file.write_text("name = 3")
        with pytest.raises(ConfigError):
            SiteHome.find("clinic", workspace)
        file.unlink()
        with pytest.raises(ConfigError, match="no folder of site clinic"):
            SiteHome.find("clinic", workspace)
    finally:
        file.write_text(text)
    # The same words name another folder elsewhere.
    monkeypatch.chdir(workspace)
    assert SiteHome.find("clinic", ".").root == home.root
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no folder of site clinic"):
        SiteHome.find("clinic", "elsewhere")


def test_a_folder_of_another_site_is_refused(home: SiteHome, tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    os.symlink(home.root, tmp_path / "sites" / "renamed")
    with pytest.raises(ConfigError, match="names another site"):
        SiteHome.find("renamed", tmp_path)


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        ("[permissions]\nepsilon_celing = 3.0\n", "config.unknown-key", "epsilon_ceiling"),
        ("[permissions]\nminimum_rows = 0\n", "config.invalid", "permissions.minimum_rows"),
        ("[permissions]\nmechanisms = ['magic']\n", "config.invalid", "permissions.mechanisms"),
        ("[dataset]\npath = '../rows.parquet'\n", "config.invalid", "inside the site's folder"),
        ("[dataset]\npath = 'private/rows.parquet'\n", "config.invalid", "must not lie"),
        ("[dataset]\nrevision = '--all'\n", "config.invalid", "not a git revision"),
        ("permissions = [\n", "config.syntax", "not readable TOML"),
    ],
)
def test_faulty_settings_name_the_key(tmp_path: Path, line: str, code: str, word: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f"name = 'clinic'\n{line}")
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert caught.value.code == code
    assert word in str(caught.value)
    assert "magic" not in str(caught.value)


@pytest.mark.parametrize("name", ["secret.key", "signing.key"])
def test_lost_keys_are_named(tmp_path: Path, name: str) -> None:
    home = SiteHome.create(tmp_path / "sites" / "s", "s")
    (home.private / name).write_bytes(b"short")
    with pytest.raises(ConfigError) as caught:
        {"secret.key": home.secret, "signing.key": home.key}[name]()
    assert name in str(caught.value)
    assert "backup" in caught.value.remedy
    assert caught.value.site == "s"


def test_a_bad_name_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        SiteHome.create(tmp_path / "sites" / "x", "Not A Name")
    assert not (tmp_path / "sites").exists()
