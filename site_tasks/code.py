"""Which code a plan asks for, held against what runs here and what the steward approved."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import folkmoot
from folkmoot.errors import ProtocolError
from site_tasks.git import git

if TYPE_CHECKING:
    from folkmoot.plan import RunContext
    from site_tasks.home import SiteHome

__all__ = ["check", "checkout", "commit_of"]

_ROOT = Path(__file__).resolve().parents[1]


@cache
def checkout() -> tuple[str | None, bool]:
    """Commit that this process was started from, and whether a file of it was changed."""
    return commit_of(_ROOT)


def commit_of(root: Path) -> tuple[str | None, bool]:
    """Commit of the code in a folder, and whether a file of it was changed.

    None without a checkout of this project: where the folder is not the top of a git repository, a
    commit found there would be somebody else's.  Another user may own it: under systemd a site's
    worker runs as the site's user, from a checkout that is root's.
    """
    top = git(root, "rev-parse", "--show-toplevel", check=False, installed=True)
    if not top or Path(top.strip()).resolve() != root.resolve():
        return None, False
    commit = git(root, "rev-parse", "HEAD", check=False, installed=True)
    changed = git(
        root, "status", "--porcelain", "--untracked-files=no", check=False, installed=True
    )
    # Without an answer nobody knows that nothing was changed.
    return (commit or "").strip() or None, changed is None or bool(changed.strip())


def check(context: RunContext, home: SiteHome) -> None:
    """Refuse a plan that asks for another commit or version of folkmoot, or one not approved.

    Raises
    ------
    ProtocolError
        ``protocol.code``, naming both.
    """
    wanted, versions = context.params.federation.code, context.params.federation.version
    approved = home.settings.permissions.code
    if wanted is not None:
        if approved and wanted not in approved:
            raise _refused(
                home,
                f"asks for commit {wanted[:12]}, which permissions.code of site.toml does not approve",
            )
        commit, changed = checkout()
        if commit != wanted or changed:
            runs = "no commit of the project" if commit is None else f"commit {commit[:12]}"
            raise _refused(
                home,
                f"asks for commit {wanted[:12]}, and this site runs {runs}"
                + (" with changed files" if changed else ""),
            )
    if versions is not None and not _fits(versions):
        raise _refused(
            home, f"asks for folkmoot {versions}, and this site runs {folkmoot.__version__}"
        )


def _fits(versions: str) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(versions).contains(folkmoot.__version__, prereleases=True)
    except InvalidSpecifier:
        return False


def _refused(home: SiteHome, what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.code",
        f"Site {home.name}: the plan {what}.",
        "Let the steward review that commit, check it out and name it in permissions.code; or change "
        "federation.code (federation.version) of the plan.",
        site=home.name,
    )
