"""Git for a site's own repository: no user configuration needed, no hook or signing inherited."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from folkmoot.errors import ConfigError

__all__ = ["git"]

#: A git hook (pre-commit) exports these: they would redirect every command to another repository.
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")
_SETTINGS = ("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null")


def git(root: Path, *arguments: str, check: bool = True) -> str | None:
    """Run git in ``root`` and return its standard output.

    The identity of commits is the person's where git knows one, else the site's folder name.

    Returns
    -------
    str or None
        None where git failed and ``check`` is false.

    Raises
    ------
    ConfigError
        Where git is not installed, or the command failed; git's own words are not repeated.
    """
    env = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
    env["GIT_CEILING_DIRECTORIES"] = str(root.parent)
    if "commit" in arguments and git(root, "config", "user.email", check=False) is None:
        for role in ("AUTHOR", "COMMITTER"):
            env.setdefault(f"GIT_{role}_NAME", root.name)
            env.setdefault(f"GIT_{role}_EMAIL", f"{root.name}@folkmoot.invalid")
    try:
        done = subprocess.run(
            ["git", *_SETTINGS, *arguments], cwd=root, env=env, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise ConfigError(
            "config.installation", "The command git is not installed.", "Install git."
        ) from None
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "replace").strip()
    if check:
        verb = next((word for word in arguments if not word.startswith("-")), "")
        raise ConfigError(
            "config.installation",
            f"git {verb} failed in the repository of site {root.name}.",
            "Run `git status` in the site's folder and mend what it reports.",
        )
    return None
