"""A site's memory of a run's secure sums: written once, before anything that depends on it leaves.

Each entry is a file in the site's private folder (0600) that is linked into place after an fsync.
Whoever comes second, in another process or after a crash, finds what was written first and goes on
with that: so keys are never drawn twice, a vector is never masked twice, and an answer is never
given twice, whatever is asked.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from folkmoot.errors import PrivacyError
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

    def once(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The entry of a name, made where there is none; durable before it is returned."""
        found = self.find(name)
        return _link(self.folder / name, make()) if found is None else found

    def claim(self, index: int, binding: Binding, identity: str) -> None:
        """Bind a sum's masks to the one release that they may hide.

        Raises
        ------
        PrivacyError
            ``secure.again`` where they hide another: the difference of both would be in the clear.
        """
        if self.once(f"upload-{index:04d}", identity.encode) != identity.encode():
            raise PrivacyError(
                "secure.again",
                f"Site {self.site} was asked for another contribution to {_name(binding)}, to which "
                "it has contributed: the same masks would hide both.",
                "Find out who replays the round. Changed data or models need a new run.",
                site=self.site,
            )

    def answer(
        self, index: int, binding: Binding, listed: bytes, make: Callable[[], bytes]
    ) -> bytes:
        """The one answer to a sum.

        Raises
        ------
        PrivacyError
            ``secure.again`` where another list of survivors was answered.
        """
        which = digest(listed).encode()
        if self.once(f"list-{index:04d}", lambda: which) != which:
            raise PrivacyError(
                "secure.again",
                f"Site {self.site} was sent a second list of survivors for {_name(binding)}: answers "
                "to both could open a single site's update.",
                "Find out who made the second list; the first stays answered.",
                site=self.site,
            )
        return self.once(f"answer-{index:04d}", make)

    def answered(self, before: int) -> tuple[int, str]:
        """Place and digest of the last list that was answered before a sum; (-1, "") for none."""
        for index in range(before - 1, -1, -1):
            found = self.find(f"list-{index:04d}")
            if found is not None:
                return index, found.decode()
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
        PrivacyError
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
                raise PrivacyError(
                    "secure.contributors",
                    f"Site {self.site} was asked for a sum over nearly the same sites as an earlier "
                    f"one of the same content: the two differ by {len(now ^ then)} sites, and so "
                    "would their difference.",
                    "Run with the same sites as before, with new data, or with differential "
                    "privacy; the site's steward sets minimum_contributors.",
                    site=self.site,
                )
        text = json.dumps([sorted(sites) for sites in (*earlier, now)])
        _replace(path, text.encode())


def _link(path: Path, data: bytes) -> bytes:
    """Write ``data`` to ``path`` unless it is there; whole, durable, first one wins."""
    part = _part(path, data)
    try:
        os.link(part, path)
    except FileExistsError:
        data = path.read_bytes()
    finally:
        part.unlink()
    _sync(path.parent)
    return data


def _replace(path: Path, data: bytes) -> None:
    os.replace(_part(path, data), path)
    _sync(path.parent)


def _part(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
        file.write(data)
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
