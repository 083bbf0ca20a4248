"""Checks of a site's folder, at the site and for the site; used by ``folkmoot doctor``."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import folkmoot
from folkmoot.errors import FolkmootError
from folkmoot.findings import Finding, found
from folkmoot.identity import Roster, public_text
from folkmoot.versions import together
from site_tasks.git import git
from site_tasks.home import SiteHome
from site_tasks.join import coordinator_file, failed_join, hello
from site_tasks.maintenance import maintenance
from site_tasks.membership import accepted

__all__ = ["check_site"]


def check_site(name: str, workspace: Path, roster: Roster | None = None) -> Iterator[Finding]:
    """Check a site: settings, modes, keys, roster, dataset, DVC remote, ledger.

    Parameters
    ----------
    name : str
        The site.
    workspace : Path
        Folder that holds ``sites/``; ``FOLKMOOT_SITE_HOME`` goes before it.
    roster : Roster, optional
        The federation's roster, where this machine has one.

    Yields
    ------
    Finding
        One per check; a check that needs an earlier one is left out where that failed.
    """
    try:
        home = SiteHome.find(name, workspace)
    except FolkmootError as error:
        yield Finding(f"{name}: settings", "fault", error.message, error.remedy)
        return
    yield Finding(f"{name}: settings", "ok", f"{home.root / 'site.toml'} is valid")
    yield _modes(home)
    yield found(f"{name}: keys", lambda: _keys(home))
    if roster is not None:
        yield found(f"{name}: roster", lambda: _roster(home, roster))
    yield _permissions(home)
    yield _outside_git(home)
    yield found(f"{name}: dataset", lambda: _dataset(home))
    yield found(f"{name}: DVC remote", lambda: _remote(home))
    yield found(f"{name}: ledger", lambda: _ledger(home))
    yield from _failures(home)
    note = maintenance(home)
    if note is not None:
        yield Finding(
            f"{name}: maintenance",
            "warning",
            f"The site takes no task{f': {note}' if note else ''}.",
            f"folkmoot site maintenance {name} off",
        )
    yield from _joined(home, workspace)


def _joined(home: SiteHome, workspace: Path) -> Iterator[Finding]:
    """The coordinator that the site joined; without one, what keeps it from joining.

    A simulated site, and one beside its coordinator's own workspace, need not join anybody.
    """
    what, there = f"{home.name}: joined", coordinator_file(home).exists()
    if there:
        yield found(f"{home.name}: coordinator", lambda: _coordinator(home))
    failed = failed_join(home)
    if failed is not None:
        when, code, sentence, remedy = failed
        # At a site that joined it was another coordinator's token, or one that was used twice.
        if there and when < time.time() - 24 * 3600:
            return
        at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))
        yield Finding(
            what,
            "warning",
            f"The last folkmoot site join failed at {at} ({code}): {sentence}",
            remedy or f"Ask for a new token, then folkmoot site join {home.name} TOKEN",
        )
    elif not (there or home.settings.simulated or (workspace / "coordinator").exists()):
        yield Finding(
            what,
            "warning",
            "The site has not joined a coordinator yet: folkmoot site up cannot start its worker.",
            f"Where the coordinator is on another machine: folkmoot site join {home.name} TOKEN, with "
            f"the token that `folkmoot coordinator invite {home.name}` prints there.",
        )


def _coordinator(home: SiteHome) -> Finding | str:
    """Address, certificate, clock, key and versions, as the coordinator sees them."""
    from folkmoot.identity.visit import Visit

    visit = Visit.load(coordinator_file(home))
    facts = hello(visit)
    what, skew = f"{home.name}: coordinator", float(facts["skew"])
    if abs(skew) > SKEW:
        return Finding(
            what,
            "warning",
            f"The coordinator's clock is {skew:+.0f} s from this machine's; at 30 s it refuses.",
            "Set the clock of both machines by NTP.",
        )
    differ = [
        (f"{package} {own} here, {facts[name]} there", together(own, str(facts[name])))
        for name, package in _PACKAGES.items()
        if name in facts and (own := _version(package)) not in (None, facts[name])
    ]
    if not all(fit for _, fit in differ):
        return Finding(
            what,
            "fault",
            f"Versions differ: {'; '.join(text for text, _ in differ)}.",
            "Check out the version that the coordinator runs, and install its lock file.",
        )
    if home.settings.name not in facts["sites"]:
        return Finding(
            what,
            "fault",
            f"Federation {facts['federation']} does not name this site.",
            "Ask the coordinator to add it to federation.sites.",
        )
    beside = "".join(f"; {text}, which work together" for text, _ in differ)
    return f"{visit.url} knows this site; federation {facts['federation']}{beside}"


def _failures(home: SiteHome) -> Iterator[Finding]:
    """Steps that failed within a day, by code, from the site's own log: the newest of each."""
    try:
        text = home.log.read_text(encoding="utf-8", errors="replace")[-_LOOK:]
    except OSError:
        return
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 24 * 3600))
    newest: dict[str, tuple[int, str, str]] = {}
    for entry in _ENTRY.split(text)[1:]:
        head, _, trace = entry.partition("\n")
        when, _, run, step = head.split(" ", 3)
        told = _TOLD.findall(trace)
        if when >= since and told:
            code, sentence = told[-1]
            newest[code] = (newest.get(code, (0,))[0] + 1, f"{when[:16]} {run} {step}", sentence)
    for code, (count, where, sentence) in sorted(newest.items()):
        yield Finding(
            f"{home.name}: {code}",
            "warning",
            f"{count} steps failed within a day, the last {where}: {sentence}",
            f"What the code means: docs/reference/errors.md. All of it: {home.log}",
        )


#: Bytes at the end of the site's log that are looked at, an entry's first line, and its own error.
_LOOK = 1_000_000
_ENTRY = re.compile(r"^(?=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S+ \S+ \S+$)", re.MULTILINE)
_TOLD = re.compile(
    r"^folkmoot\.errors\.\w+: ([a-z]+\.[a-z-]+)(?: \[[^\]]*\])?: (.*?)(?: Remedy: .*)?$",
    re.MULTILINE,
)
#: Seconds between two clocks that are worth a warning.
SKEW = 10.0
_PACKAGES = {
    "folkmoot": "folkmoot",
    "airflow": "apache-airflow-core",
    "edge": "apache-airflow-providers-edge3",
}


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    if package == "folkmoot":
        return folkmoot.__version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _modes(home: SiteHome) -> Finding:
    """Nobody but the owner may read settings and private files."""
    private = [home.private / n for n in ("secret.key", "signing.key", "ledger.sqlite", "site.log")]
    paths = [home.root / "site.toml", home.private, *private]
    open_ = [
        str(path.relative_to(home.root))
        for path in paths
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_:
        return Finding(
            f"{home.name}: modes",
            "fault",
            f"Other users of this machine may read {', '.join(open_)}.",
            f"chmod go= {' '.join(str(home.root / path) for path in open_)}",
        )
    return Finding(f"{home.name}: modes", "ok", "site.toml and private/ are the owner's alone")


def _keys(home: SiteHome) -> Finding | str:
    import tomllib

    home.secret()
    key = public_text(home.key())
    try:
        public = tomllib.loads((home.root / "public.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        public = {}
    if public != {"name": home.name, "key": key}:
        return Finding(
            f"{home.name}: keys",
            "fault",
            "public.toml is missing, or does not name this site and its key.",
            "Restore it with `git checkout public.toml` in the site's folder.",
        )
    return "secret and signing key are whole, public.toml matches"


def _roster(home: SiteHome, roster: Roster) -> Finding | str:
    entry = roster.keys.get(home.name)
    if entry == public_text(home.key()):
        return _agreed(home, roster)
    what = "does not list this site" if entry is None else "has another key for this site"
    return Finding(
        f"{home.name}: roster",
        "fault",
        f"The roster {what}.",
        f"folkmoot site enrol {home.root / 'public.toml'}"
        + ("" if entry is None else " --replace, after asking the site whether its key is new"),
    )


def _agreed(home: SiteHome, roster: Roster) -> Finding | str:
    known = accepted(home)
    if known is not None and known.digest() == roster.digest():
        return f"version {roster.version} is signed by all members and accepted"
    missing = roster.unsigned()
    if missing:
        what = f"Version {roster.version} of the roster is not signed by {', '.join(missing)}."
        remedy = "Each of them: folkmoot roster sign SITE"
    else:
        what = f"The site has not accepted version {roster.version} of the roster."
        remedy = f"folkmoot roster accept {home.name}"
    return Finding(f"{home.name}: roster", "fault", what, remedy)


def _permissions(home: SiteHome) -> Finding:
    permissions = home.settings.permissions
    if not permissions.federations:
        return Finding(
            f"{home.name}: permissions",
            "warning",
            "No federation is permitted: the site refuses every plan.",
            "Name federations in permissions.federations of site.toml.",
        )
    if permissions.seeded and not home.settings.simulated:
        return Finding(
            f"{home.name}: permissions",
            "warning",
            "permissions.seeded lets noise come from a seed, which protects nobody.",
            "Set it to false at a site with real data.",
        )
    return Finding(
        f"{home.name}: permissions", "ok", f"federations: {', '.join(permissions.federations)}"
    )


def _outside_git(home: SiteHome) -> Finding:
    what = f"{home.name}: git"
    tracked = git(home.root, "ls-files", "--", "private", "site.toml", check=False)
    if tracked is None:
        return Finding(
            what,
            "fault",
            "The site's folder is no git repository.",
            "Restore its .git from the site's backup.",
        )
    if tracked:
        return Finding(
            what,
            "fault",
            "git tracks private files: a checkout could rewind the ledger or old permissions.",
            "git rm -r --cached private site.toml, commit, and restore .gitignore.",
        )
    return Finding(what, "ok", "private files are outside git")


def _dataset(home: SiteHome) -> str:
    from site_tasks.dataset import resolve

    version = resolve(home)
    return f"version {version.fingerprint[:12]} is whole"


def _remote(home: SiteHome) -> Finding | str:
    from site_tasks.dataset import status

    if status(home):
        return "answers and holds the dataset"
    return Finding(
        f"{home.name}: DVC remote",
        "warning",
        "The DVC remote answers, but does not hold the recorded dataset.",
        f"folkmoot site refresh {home.name}",
    )


def _ledger(home: SiteHome) -> Finding | str:
    if not home.ledger_path.exists():
        return Finding(f"{home.name}: ledger", "ok", "no entry yet")
    from site_tasks.release import open_ledger

    return f"{open_ledger(home).verify()} entries hold"
