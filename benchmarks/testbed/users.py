"""A system user for the coordinator and one for each site, and a way for them to the code.

Users are numbers that nobody on the machine has: nothing is written into its list of users, and nothing
stays behind where a run is killed.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.testbed.network import SITES

__all__ = ["COORDINATOR", "ROOT", "Users", "open_ways", "unprivileged"]

ROOT = Path(__file__).resolve().parents[2]
COORDINATOR = "coordinator"
#: Numbers that systemd gives to users which exist while a service runs, and nobody else gives.
_FIRST, _LAST = 61184, 65519
#: What every party needs: code, interpreter, a package with compiled parts, git.
_TRIAL = "import folkmoot, numpy, ssl, subprocess; subprocess.run(['git', 'version'], check=True)"


class Users:
    """The numbers, and commands under them.

    Parameters
    ----------
    names : sequence of str
        Who gets one.
    """

    def __init__(self, names: Sequence[str] = (COORDINATOR, *SITES)) -> None:
        taken = {one.pw_uid for one in pwd.getpwall()} | {one.gr_gid for one in grp.getgrall()}
        spread = (os.getpid() * 8) % (_LAST - _FIRST)
        free = [n for n in range(_FIRST, _LAST) if n not in taken]
        turned = free[spread:] + free[:spread]
        self.numbers: Mapping[str, int] = dict(zip(names, turned, strict=False))

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """The command as that user, without any right of root's."""
        number = str(self.numbers[name])
        rights = ["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        return ["setpriv", "--reuid", number, "--regid", number, *rights, *command]

    def give(self, name: str, path: Path) -> None:
        """Make a file that user's, or a folder with all in it, and the folder closed to others."""
        number = self.numbers[name]
        for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
            os.chown(one, number, number, follow_symlinks=False)
        if path.is_dir():
            path.chmod(0o700)

    def environment(self, name: str, home: Path) -> dict[str, str]:
        """What programs ask for instead of the list of users."""
        return {"HOME": str(home), "USER": name, "LOGNAME": name}

    def reads(self, name: str, path: Path) -> bool:
        """Whether that user can really read a file, or list a folder."""
        look = "import os, sys; p = sys.argv[1]; os.listdir(p) if os.path.isdir(p) else open(p).read(1)"
        command = self.command(name, [sys.executable, "-I", "-c", look, str(path)])
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fault(self, folder: Path) -> str | None:
        """Why a user cannot run the code or get to a folder, or None; really tried."""
        command = self.command(next(iter(self.numbers)), [sys.executable, "-c", _TRIAL])
        try:
            done = subprocess.run(
                command,
                cwd="/",
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            return f"no setpriv command ({type(error).__name__})"
        closed = _barrier([Path(sys.base_prefix), Path(sys.prefix), ROOT, folder.absolute().parent])
        if done.returncode == 0 and closed is None:
            return None
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"other users cannot enter {closed}" if closed else last[:200]


def unprivileged() -> str | None:
    """Why this process cannot run commands as other users, or None."""
    if os.geteuid() != 0:
        return "not root"
    return None if shutil.which("setpriv") else "no setpriv command"


def open_ways(folder: Path) -> None:
    """Let other users reach code, interpreter and a folder that lie below a closed one.

    In a mount namespace of its own (``ip netns exec`` makes one), where the closed folder is covered by
    an empty one that shows the paths that are needed and nothing else; the machine's own stays as it is.
    """
    needed = [Path(os.path.realpath(p)) for p in (sys.base_prefix, sys.prefix, ROOT, folder)]
    while (closed := _barrier(needed)) is not None:
        below = [p for p in needed if p.is_relative_to(closed) and p != closed]
        if closed in needed:
            return  # its own mode shuts others out: fault() says so
        _cover(closed, [p for p in below if not any(p != q and p.is_relative_to(q) for q in below)])
    os.chdir(ROOT)


def _barrier(paths: Iterable[Path]) -> Path | None:
    """The highest folder on the way to the paths that others may not enter."""
    for path in paths:
        for one in [*reversed(path.parents), path]:
            if one.is_dir() and not one.stat().st_mode & 0o001:
                return one
    return None


def _cover(closed: Path, kept: Sequence[Path]) -> None:
    with tempfile.TemporaryDirectory() as held:
        places = [(path, Path(held) / str(number)) for number, path in enumerate(kept)]
        for path, place in places:
            place.mkdir()
            _mount("--bind", str(path), str(place))
        _mount("-t", "tmpfs", "-o", "mode=0755,size=1m", "tmpfs", str(closed))
        for path, place in places:
            path.mkdir(parents=True)
            _mount("--bind", str(place), str(path))
            subprocess.run(["umount", str(place)], check=True, capture_output=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
