"""Sites from a recipe: made once, remade when the data change, and never over a real site."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from folkmoot.errors import ConfigError
from folkmoot.identity import Roster, public_text
from folkmoot.params import Params, parse_params
from pipelines.recipes import load, partition
from pipelines.simulation import ensure_sites
from site_tasks import dataset
from site_tasks.home import SiteHome

PARAMS = {"federation": {"sites": ["b", "a"]}, "data": {"recipe": "diabetes"}}


def params(**changes: Any) -> Params:
    return parse_params(PARAMS, [f"{key}={value}" for key, value in changes.items()])


@pytest.fixture
def workspace(workspace_of: Callable[..., Path]) -> Path:
    return workspace_of(params())


def fingerprints(workspace: Path) -> dict[str, str]:
    return {
        name: dataset.resolve(SiteHome.find(name, workspace)).fingerprint for name in ("a", "b")
    }


def test_each_site_has_its_rows_and_its_key_on_the_roster(workspace: Path) -> None:
    dealt = partition(*load("diabetes", params().data), params())
    roster = Roster.load(workspace / "roster.toml")
    for name, part in dealt.items():
        home = SiteHome.find(name, workspace)
        pd.testing.assert_frame_equal(pd.read_parquet(home.dataset), part)
        assert home.settings.simulated
        assert home.settings.permissions.federations == ["demo"]
        assert not home.settings.permissions.seeded
        assert roster.keys[name] == public_text(home.key())
    assert len({SiteHome.find(name, workspace).secret() for name in dealt}) == 2


def test_nothing_is_done_twice_and_that_without_pandas(workspace: Path) -> None:
    before = fingerprints(workspace)
    code = (
        "import sys; from folkmoot.params import parse_params;"
        "from pipelines.simulation import ensure_sites;"
        f"print(ensure_sites(parse_params({PARAMS!r}), {str(workspace)!r}),"
        "[m for m in ('pandas', 'dvc', 'sklearn', 'pyarrow') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False []"
    assert fingerprints(workspace) == before


def test_changed_data_are_new_versions_of_the_same_sites(workspace: Path) -> None:
    before = fingerprints(workspace)
    key = public_text(SiteHome.find("a", workspace).key())
    assert ensure_sites(params(**{"data.partition.seed": 1}), workspace)
    changed = fingerprints(workspace)
    assert all(changed[name] != before[name] for name in before)
    assert public_text(SiteHome.find("a", workspace).key()) == key
    assert ensure_sites(params(), workspace)
    assert fingerprints(workspace) == before  # the same rows are the same version


def test_another_federation_is_permitted_beside_the_first(workspace: Path) -> None:
    assert ensure_sites(params(**{"federation.name": "other"}), workspace)
    home = SiteHome.find("a", workspace)
    assert home.settings.permissions.federations == ["demo", "other"]


def test_seeded_noise_is_permitted_only_while_asked_for(workspace: Path) -> None:
    assert ensure_sites(params(**{"privacy.seeded": "true"}), workspace)
    assert SiteHome.find("a", workspace).settings.permissions.seeded
    assert ensure_sites(params(), workspace)
    assert not SiteHome.find("a", workspace).settings.permissions.seeded


def test_a_lost_site_is_made_again(workspace: Path) -> None:
    import shutil

    before = fingerprints(workspace)
    shutil.rmtree(workspace / "sites" / "b")
    assert ensure_sites(params(), workspace)
    after = fingerprints(workspace)
    assert after["a"] == before["a"]
    assert after["b"] != before["b"]  # another secret
    home = SiteHome.find("b", workspace)
    assert Roster.load(workspace / "roster.toml").keys["b"] == public_text(home.key())


def test_an_interrupted_making_is_finished(workspace: Path) -> None:
    (workspace / "sites" / "b" / "data" / "dataset.parquet.dvc").unlink()
    (workspace / "sites" / "simulation.json").unlink()
    assert ensure_sites(params(), workspace)
    assert not ensure_sites(params(), workspace)
    dataset.resolve(SiteHome.find("b", workspace))


def test_real_sites_are_never_touched(tmp_path: Path) -> None:
    homes = []
    for name in ("a", "b"):
        home = SiteHome.create(tmp_path / "sites" / name, name, federations=["demo"])
        homes.append(home)
    dataset.add(homes[0], pd.DataFrame({"x": [1.0, 2.0]}), "Real rows")
    before = dataset.resolve(homes[0])
    assert ensure_sites(params(), tmp_path)  # the roster
    assert not ensure_sites(params(), tmp_path)
    assert dataset.resolve(homes[0]) == before


def test_real_and_simulated_sites_are_not_mixed(tmp_path: Path) -> None:
    SiteHome.create(tmp_path / "sites" / "a", "a", federations=["demo"])
    with pytest.raises(ConfigError, match="not made from a recipe: a") as caught:
        ensure_sites(params(), tmp_path)
    assert "folkmoot site init" in caught.value.remedy
    assert not (tmp_path / "sites" / "b").exists()


def test_enrolled_sites_elsewhere_are_not_simulated(tmp_path: Path) -> None:
    home = SiteHome.create(tmp_path / "clinic", "a", federations=["demo"])
    Roster({"a": public_text(home.key())}).save(tmp_path / "ws" / "roster.toml")
    with pytest.raises(ConfigError, match="not made from a recipe: a") as caught:
        ensure_sites(params(), tmp_path / "ws")
    assert "data.recipe: null" in caught.value.remedy
    assert Roster.load(tmp_path / "ws" / "roster.toml").keys == {"a": public_text(home.key())}
    assert not (tmp_path / "ws" / "sites" / "a").exists()


def test_a_real_sites_key_on_the_roster_is_never_replaced(tmp_path: Path) -> None:
    for name in ("a", "b"):
        SiteHome.create(tmp_path / "sites" / name, name, federations=["demo"])
    enrolled = {"a": "0" * 64}
    Roster(enrolled).save(tmp_path / "roster.toml")
    wanted = params(**{"data.recipe": "null", "data.contract": "contract.yaml"})
    assert ensure_sites(wanted, tmp_path)  # b was not on the roster
    keys = Roster.load(tmp_path / "roster.toml").keys
    assert keys == {**enrolled, "b": public_text(SiteHome.find("b", tmp_path).key())}
    assert not ensure_sites(wanted, tmp_path)


def test_a_faulty_partition_makes_no_site(tmp_path: Path) -> None:
    wanted = {"data.partition": "{kind: natural, column: ward}"}
    with pytest.raises(ConfigError, match="no column ward"):
        ensure_sites(params(**wanted), tmp_path)
    assert not (tmp_path / "roster.toml").exists()
    assert not (tmp_path / "sites" / "a").exists()


def test_progress_names_every_site(tmp_path: Path) -> None:
    said: list[str] = []
    ensure_sites(params(**{"federation.sites": "[a]"}), tmp_path, said.append)
    assert any("diabetes" in text for text in said)
    assert any("Site a" in text for text in said)


def test_a_source_that_changed_on_disk_is_dealt_again(tmp_path: Path) -> None:
    contract = tmp_path / "contract.yaml"
    contract.write_text(
        "name: own\ntask: binary\ncolumns:\n"
        "  - {name: x, bounds: [0, 100]}\n"
        "  - {name: y, role: label, type: category, categories: ['0', '1']}\n"
    )
    source = tmp_path / "rows.csv"
    source.write_text("x,y\n" + "1,0\n2,1\n" * 20)
    wanted = params(**{"data.recipe": "csv", "data.path": source, "data.contract": contract})
    workspace = tmp_path / "ws"
    assert ensure_sites(wanted, workspace)
    before = fingerprints(workspace)
    assert not ensure_sites(wanted, workspace)
    source.write_text("x,y\n" + "1,0\n3,1\n4,1\n" * 20)
    assert ensure_sites(wanted, workspace)
    assert set(fingerprints(workspace).values()).isdisjoint(before.values())
