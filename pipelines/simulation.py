"""Sites on one machine, made from a recipe: for trying out, tests and studies on public data.

Each site is a real one (own folder, own git and DVC repository and remote, own keys and ledger);
only its rows come from a recipe, and its ``site.toml`` says so (``simulated = true``).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from folkmoot.errors import ConfigError
from folkmoot.identity import Roster, public_text
from folkmoot.params import Params
from folkmoot.params.statistics import Question
from pipelines.coordinator.identity import with_coordinator
from pipelines.recipes import contract_of
from site_tasks.home import SiteHome
from site_tasks.membership import accept, accepted
from site_tasks.settings import (
    Permissions,
    StatisticsSettings,
    load_settings,
    save_settings,
)

__all__ = ["ensure_sites"]

Progress = Callable[[str], None]
#: A recipe's rows are public: whatever is asked about them may be told.
_STATISTICS = StatisticsSettings(
    kinds=list(get_args(Question)),
    exact=True,
    alone=True,
    minimum_contributors=2,
    minimum_cell=1,
    overlap_minimum=1,
    overlap_times=1000,
    compute=True,
)


def ensure_sites(params: Params, workspace: Path | str, progress: Progress | None = None) -> bool:
    """Make the sites of ``params`` in ``workspace``, with a recipe's rows, unless they are there.

    Sites that were not made from a recipe are never touched, and neither is the key that the roster
    has for them: without a recipe, or where every site of the federation is such a one, only those
    of this workspace that the roster does not have yet are enrolled.  A change of recipe or
    partition gives each simulated site a new dataset version.

    Parameters
    ----------
    params : Params
        ``federation`` and ``data`` are used.
    workspace : Path
        The workspace.
    progress : callable, optional
        Called with a sentence per site.

    Returns
    -------
    bool
        Whether anything was made or changed.

    Raises
    ------
    ConfigError, DataError
        For a source or partition that does not fit, or where real and simulated sites are mixed.
    """
    workspace = Path(workspace).absolute()
    tell = progress or (lambda _: None)
    if params.data.recipe is None:
        return _enrol(list(_existing(params, workspace).values()), workspace)
    wanted = _wanted(params)
    if _recorded(workspace) == wanted and _whole(params, workspace):
        return False
    with _lock(workspace):
        if _recorded(workspace) == wanted and _whole(params, workspace):
            return False
        homes = _existing(params, workspace)
        real = [name for name, home in homes.items() if not home.settings.simulated]
        if real and len(real) == len(params.federation.sites):
            return _enrol(list(homes.values()), workspace)
        real = sorted({*real, *_elsewhere(params, workspace, homes)})
        if real:
            raise ConfigError(
                "config.invalid",
                f"data.recipe is {params.data.recipe}, but these sites were not made from a "
                f"recipe: {', '.join(real)}.",
                "Set data.recipe: null to train over real sites (`folkmoot site init` makes one), or "
                "choose another federation.workspace for the simulation.",
            )
        _make(params, workspace, homes, tell)
        _record(workspace, wanted)
        return True


def _make(
    params: Params, workspace: Path, homes: dict[str, SiteHome], tell: Callable[[str], None]
) -> None:
    from pipelines.recipes import open_rows
    from pipelines.recipes.partitions import assign
    from pipelines.recipes.rows import deal
    from site_tasks import dataset

    names = params.federation.members
    tell(f"Reading recipe {params.data.recipe}")
    rows, contract = open_rows(params.data)
    columns = [column.name for column in contract.columns]
    folder = workspace / "coordinator" / "simulation"
    try:
        paths = deal(rows, columns, assign(rows, contract, params), names, folder)
        for name in names:
            home = homes.get(name) or SiteHome.create(
                workspace / "sites" / name, name, permissions=_permissions(params), simulated=True
            )
            home = _permit(home, params)
            homes[name] = home
            version = dataset.add(home, paths[name], f"Deal {params.data.recipe}", move=True)
            tell(f"Site {name}: dataset version {version.fingerprint[:12]}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _enrol([homes[name] for name in names], workspace)


def _permissions(params: Params) -> Permissions:
    """A recipe's rows are public: two versions of them may be compared by anybody."""
    return Permissions(
        federations=[params.federation.name],
        minimum_rows=1,
        minimum_sites=1,
        differencing=True,
        trackers=["127.0.0.1"],
    )


def _permit(home: SiteHome, params: Params) -> SiteHome:
    """Let a simulated site take part in this federation as well, with this recipe's people.

    Seeded noise is allowed while the params ask for it: the rows are a public recipe's.
    """
    permissions = home.settings.permissions
    federations = sorted({*permissions.federations, params.federation.name})
    seeded = params.privacy.seeded
    changed = permissions.model_copy(update={"federations": federations, "seeded": seeded})
    people = home.settings.dataset.model_copy(update={"lineage": _people(params)})
    known = (permissions, home.settings.dataset, home.settings.statistics)
    if (changed, people, _STATISTICS) == known:
        return home
    settings = home.settings.model_copy(
        update={"permissions": changed, "dataset": people, "statistics": _STATISTICS}
    )
    save_settings(settings, home.root / "site.toml")
    return SiteHome(home.root)


def _people(params: Params) -> str:
    """Lineage of a recipe's rows: another recipe is other people, another partition is not."""
    return str(params.data.recipe).replace("_", "-")


def _existing(params: Params, workspace: Path) -> dict[str, SiteHome]:
    folders = {name: workspace / "sites" / name for name in params.federation.members}
    return {
        name: SiteHome.find(name, workspace)
        for name, folder in folders.items()
        if (folder / "site.toml").exists()
    }


def _elsewhere(params: Params, workspace: Path, homes: dict[str, SiteHome]) -> set[str]:
    """Sites that were enrolled with a key, but whose folder neither is nor was in the workspace."""
    made = (_recorded(workspace) or {}).get("sites", ())
    enrolled = Roster.load(workspace / "roster.toml").keys
    return {n for n in params.federation.members if n in enrolled} - set(homes) - set(made)


def _enrol(homes: list[SiteHome], workspace: Path) -> bool:
    """Put the sites' public keys on the roster; whether it changed.

    Only a simulated site's key is ever replaced: it was lost with the folder and made again.  A
    simulated site's steward signs and accepts whatever is simulated; a real one's does so himself.
    """
    path = workspace / "roster.toml"
    roster = Roster.load(path)
    own = {h.name: h for h in homes if h.settings.simulated or h.name not in roster.keys}
    gone = {name for name in (_recorded(workspace) or {}).get("sites", ()) if name not in own}
    keys = {
        name: key
        for name, key in roster.keys.items()
        if name not in gone or (workspace / "sites" / name / "site.toml").exists()
    }
    keys |= {name: public_text(home.key()) for name, home in own.items()}
    coordinator = with_coordinator(roster, workspace).coordinator if own else roster.coordinator
    after = roster.amended(keys, coordinator)
    simulated = _simulated(after, workspace)
    unsigned = after.unsigned()
    for home in simulated:
        if home.name in unsigned:
            after = after.signed(home.name, home.key())
    if after != roster:
        after.save(path)
    if not after.unsigned():
        for home in simulated:
            accept(home, after)
    return after != roster


def _simulated(roster: Roster, workspace: Path) -> list[SiteHome]:
    folders = {name: workspace / "sites" / name for name in roster.keys}
    homes = [SiteHome(root) for root in folders.values() if (root / "site.toml").exists()]
    return [
        h for h in homes if h.settings.simulated and public_text(h.key()) in roster.keys.values()
    ]


# What was made ----------------------------------------------------------------------------------


def _wanted(params: Params) -> dict[str, Any]:
    """All that decides the sites' rows; for a source on disk also its size and time of change."""
    data = params.data
    values: dict[str, Any] = {
        "federation": params.federation.name,
        "sites": list(params.federation.members),
        "recipe": data.recipe,
        "partition": data.partition.model_dump(mode="json"),
        "contract": contract_of(data).digest(),
        "seeded": params.privacy.seeded,
    }
    if data.recipe == "synthetic":
        values["synthetic"] = [data.rows, data.columns, data.seed]
    if data.path is not None:
        path = Path(data.path).absolute()
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(file.name, file.stat()) for file in files if file.is_file()]
        values["source"] = [str(path), *([n, s.st_size, s.st_mtime_ns] for n, s in stats)]
    return values


def _record_path(workspace: Path) -> Path:
    return workspace / "sites" / "simulation.json"


def _recorded(workspace: Path) -> Any:
    try:
        return json.loads(_record_path(workspace).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _record(workspace: Path, wanted: dict[str, Any]) -> None:
    path = _record_path(workspace)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    os.replace(part, path)


def _whole(params: Params, workspace: Path) -> bool:
    """Whether every site is there, simulated, with a dataset and on the roster."""
    roster = Roster.load(workspace / "roster.toml")
    for name in params.federation.members:
        root = workspace / "sites" / name
        if name not in roster.keys or not (root / "site.toml").exists():
            return False
        settings = load_settings(root / "site.toml")
        pointer = root / f"{settings.dataset.path}.dvc"
        if not settings.simulated or not pointer.exists():
            return False
        known = accepted(SiteHome(root))
        if known is None or any(
            known.keys.get(n) != roster.keys.get(n) for n in params.federation.members
        ):
            return False
    return True


@contextmanager
def _lock(workspace: Path) -> Iterator[None]:
    """One process at a time makes sites; the lock ends with its process."""
    folder = workspace / "sites"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
