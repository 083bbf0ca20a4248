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


def git(root: Path, *arguments: str, check: bool = True, installed: bool = False) -> str | None:
    """Run git in ``root`` and return its standard output.

    The identity of commits is the person's where git knows one, else the site's folder name.

    Parameters
    ----------
    root : Path
        Top folder of the repository.
    *arguments : str
        Words of the command.
    check : bool
        Whether a command that fails is an error.
    installed : bool
        Whether the repository is the one that this program runs from: it is only read, and another
        user of the machine may own it.

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
    if installed:
        env |= _trusted(root, env.get("GIT_CONFIG_COUNT", ""))
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


def _trusted(root: Path, count: str) -> dict[str, str]:
    """Environment in which git reads a repository of another owner, this one and no other.

    Git refuses such a repository since its configuration names programs that git would start.  Here
    this grants nothing: whoever owns the checkout wrote the code that is running already.  File system
    monitor and hooks are off all the same, and the index is not written.
    """
    first = int(count) if count.isascii() and count.isdigit() else 0  # what is set already stays
    top = root.resolve()
    settings = (("safe.directory", str(top)), ("core.fsmonitor", "false"))
    named = {
        f"GIT_CONFIG_{what}_{number}": word
        for number, pair in enumerate(settings, first)
        for what, word in zip(("KEY", "VALUE"), pair, strict=True)
    }
    # Git before 2.38 reads safe.directory from files alone, and asks nothing of a folder named so.
    place = {"GIT_DIR": str(top / ".git"), "GIT_WORK_TREE": str(top)}
    return {
        **named,
        **place,
        "GIT_CONFIG_COUNT": str(first + len(settings)),
        "GIT_OPTIONAL_LOCKS": "0",
    }
