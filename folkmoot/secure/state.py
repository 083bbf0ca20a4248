"""A site's memory of a run's secure sums: written once, before anything that depends on it leaves.

Decisions (which release a sum's masks hide, which list of survivors was answered) are lines of a
journal, durable before they are acted on; what is large is a file that is linked into place.  Whoever
comes second, in another process or after a crash, finds what was written first and goes on with that:
so keys are never drawn twice, a vector is never masked twice, and an answer is never given twice,
whatever is asked.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from folkmoot.errors import SecureError
from folkmoot.secure.masks import Binding
from folkmoot.wire import digest

__all__ = ["SiteState"]


class SiteState:
    """Write-once entries of one site and run.

    Parameters
    ----------
    folder : Path
        ``private/secure/<federation>`` of the site.
    run : str
        Name of the run.
    site : str
        Name of the site, for errors.
    """

    def __init__(self, folder: Path, run: str, site: str) -> None:
        self.folder = folder / "runs" / run
        self.sums = folder / "sums"
        self.site = site

    def find(self, name: str) -> bytes | None:
        """An entry, or None."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def once(self, name: str, make: Callable[[], bytes], *, durable: bool = True) -> bytes:
        """The entry of a name, made where there is none.

        Durable before it is returned, unless it follows from what is: then it can be made again.
        """
        found = self.find(name)
        return _link(self.folder / name, make(), durable) if found is None else found

    def decide(self, name: str, value: str) -> str:
        """What was decided under a name, ``value`` where nothing was; durable; one fsync."""
        path = self.folder / "journal"
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path, "a+b", opener=_private) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            lines = file.read()
            found = _parse(lines).get(name)
            if found is not None:
                return found
            torn = b"\n" if lines and not lines.endswith(b"\n") else b""
            file.write(torn + json.dumps([name, value]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            _sync(path.parent)
        return value

    def _decided(self) -> dict[str, str]:
        return _parse(self.find("journal") or b"")

    def claim(self, index: int, binding: Binding, identity: str) -> None:
        """Bind a sum's masks to the one release that they may hide.

        Raises
        ------
        SecureError
            ``secure.again`` where they hide another: the difference of both would be in the clear.
        """
        if self.decide(f"upload-{index:04d}", identity) != identity:
            raise SecureError(
                "secure.again",
                f"Site {self.site} was asked for another contribution to {_name(binding)}, to which "
                "it has contributed: the same masks would hide both.",
                "Find out who replays the round. Changed data or models need a new run.",
                site=self.site,
            )

    def answer(
        self,
        index: int,
        binding: Binding,
        listed: bytes,
        make: Callable[[], bytes],
        check: Callable[[], None] = lambda: None,
    ) -> bytes:
        """The one answer to a sum; ``check`` may refuse the list before it is decided on.

        Raises
        ------
        SecureError
            ``secure.again`` where another list of survivors was answered.
        """
        name, which = f"list-{index:04d}", digest(listed)
        known = self._decided().get(name)
        if known is None:
            check()
            known = self.decide(name, which)
        if known != which:
            raise SecureError(
                "secure.again",
                f"Site {self.site} was sent a second list of survivors for {_name(binding)}: "
                "answers to both could open a single site's update.",
                "Find out who made the second list; the first stays answered.",
                site=self.site,
            )
        return self.once(f"answer-{index:04d}", make, durable=False)

    def answered(self, before: int) -> tuple[int, str]:
        """Place and digest of the last list that was answered before a sum; (-1, "") for none."""
        decided = self._decided()
        for index in range(before - 1, -1, -1):
            if (found := decided.get(f"list-{index:04d}")) is not None:
                return index, found
        return -1, ""

    def compare(self, content: str, survivors: Collection[str], minimum: int) -> None:
        """Refuse a sum that differs from an earlier one of the same content by a few sites.

        The difference of both sums is the sum over the sites in one and not in the other: with
        fewer than ``minimum`` of them it would open what minimum sums keep closed.  Sums are
        remembered over all runs of the federation.

        Parameters
        ----------
        content : str
            Digest of what the site contributes besides its survivors: kind, model, dataset.
        survivors : collection of str
            Of the new sum.
        minimum : int
            Fewest sites that a difference may concern.

        Raises
        ------
        SecureError
            ``secure.contributors``.
        """
        path = self.sums / content
        now = set(survivors)
        known = [path.read_text()] if path.exists() else []
        earlier = [set(sites) for text in known for sites in json.loads(text)]
        if now in earlier:
            return
        for then in earlier:
            if len(now ^ then) < minimum:
                raise SecureError(
                    "secure.contributors",
                    f"Site {self.site} was asked for a sum over nearly the same sites as an earlier "
                    f"one of the same content: the two differ by {len(now ^ then)} sites, and so "
                    "would their difference.",
                    "Run with the same sites as before, with new data, or with differential "
                    "privacy; the site's steward sets minimum_contributors.",
                    site=self.site,
                )
        text = json.dumps([sorted(sites) for sites in (*earlier, now)])
        os.replace(_part(path, text.encode(), durable=False), path)


def _parse(lines: bytes) -> dict[str, str]:
    """Entries of a journal; a line that a power cut tore was never acted on."""
    found: dict[str, str] = {}
    for line in lines.split(b"\n"):
        try:
            name, value = json.loads(line)
        except ValueError:
            continue
        found.setdefault(str(name), str(value))
    return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _link(path: Path, data: bytes, durable: bool) -> bytes:
    """Write ``data`` to ``path`` unless it is there; whole, first one wins."""
    part = _part(path, data, durable)
    try:
        os.link(part, path)
    except FileExistsError:
        data = path.read_bytes()
    finally:
        part.unlink()
    if durable:
        _sync(path.parent)
    return data


def _part(path: Path, data: bytes, durable: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    return Path(file.name)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(binding: Binding) -> str:
    return f"the sum of step {binding.step} in round {binding.round}"
