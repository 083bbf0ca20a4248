"""The step ``track``: open a session, run XGBoost's tracker, watch over all sites, end it for all.

XGBoost's communicator waits for ever where a worker is lost or never connects, and its tracker does
not end by itself.  Every site's supervisor beats through the exchange store, so that the one that
went quiet can be named; whatever happens, ``over.json`` tells all others, and the tracker's process
is ended.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from folkmoot.errors import (
    ConfigError,
    FolkmootError,
    ProtocolError,
    RoundError,
    TransientError,
)
from folkmoot.exchange import ArtifactRef
from folkmoot.live.certificates import checked, issue, write
from folkmoot.live.messages import MOST_ATTEMPTS, Place
from folkmoot.live.process import LACKING, Child
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import TreeUpdate, open_released
from folkmoot.wire import digest
from pipelines.coordinator import lock
from pipelines.coordinator.collect import collect
from pipelines.coordinator.fits import check_joined
from pipelines.coordinator.identity import coordinator_key

__all__ = ["track"]

_SERVER = "pipelines.coordinator.live.server"


def track(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Hold the round's session; nothing is published where it ends well but that it did.

    Raises
    ------
    TransientError
        ``transient.session``, naming the site that went quiet, failed or did not come: the session can
        be repeated, and goes on behind the last round.
    RoundError
        ``round.quorum`` where too few sites joined; ``round.site-failed`` where a site refused.
    ConfigError
        ``config.installation`` for an XGBoost without its communicator.
    """
    lock.touch(context.workspace, context.federation)
    model = digest(context.store.get(context.key(keys.model(step.round - 1))))
    place = _free(context, step.round, model)
    if place is None:
        return []  # every site holds the trees already
    try:
        joined = collect(
            step,
            context,
            "join",
            lambda site: keys.statement(f"round-{step.round:03d}", site),
            check_joined,
        )
        sites = sorted(update.site for update in joined.updates)
        _Watch(place, context, sites).hold()
    except FolkmootError as error:
        _over(place, trees=None, code=error.code, message=error.message)
        raise
    except BaseException:
        message = "The tracker of the session ended"
        _over(place, trees=None, code="transient.session", message=message)
        raise
    return []


def _free(context: RunContext, round: int, model: str) -> Place | None:
    """The next attempt, all earlier ones ended; None where one of them ended well."""
    key = coordinator_key(context.workspace)
    for attempt in range(MOST_ATTEMPTS):
        place = Place(context, round, model, attempt)
        if context.store.find(place.key("open.json")) is None:
            return place
        over = place.hear("over.json", key.public_key())
        if over is None:
            _over(place, trees=None, superseded=True, message="The tracker was started anew")
        elif over["trees"] is not None:
            return None
    raise _ended(f"{MOST_ATTEMPTS} attempts at the session of round {round} came to nothing")


def _over(place: Place, **values: Any) -> None:
    """The last word of an attempt, which opens it where that had not come about."""
    key = coordinator_key(place.context.workspace)
    with suppress(ProtocolError):  # the first last word stands
        if place.context.store.find(place.key("open.json")) is None:
            place.tell("open.json", {"sites": []}, key)
        place.tell("over.json", values, key)


@dataclass
class _Sign:
    """What is known of a site's worker."""

    beats: int = 0
    step: int = -2
    heard: float = field(default_factory=time.monotonic)


@dataclass
class _Watch:
    """One attempt at a session."""

    place: Place
    context: RunContext
    sites: list[str]

    def hold(self) -> None:
        """From the call for certificates to the sites' word that they hold the same trees."""
        key = coordinator_key(self.context.workspace)
        self.place.tell("open.json", {"sites": self.sites}, key)
        with _private(self.context.workspace) as folder, Child(_SERVER, folder) as server:
            _over(self.place, trees=self._session(server, folder))

    def _session(self, server: Child, folder: Path) -> str:
        """Digest of the trees that all sites hold."""
        hellos = self._hellos()
        have = {_text(hello.get("have")) for hello in hellos.values()}
        if len(have) == 1 and "" not in have:
            # All were stopped between their last step and the last word: nothing is to be repeated.
            return have.pop()
        released = [site for site, hello in hellos.items() if hello.get("certificate") is None]
        if released:
            others = [site for site in self.sites if site not in released]
            raise ProtocolError(
                "protocol.missing",
                f"{_named(released)} released the trees of round {self.place.round}, and "
                f"{_named(others or self.sites)} lost them (private/work/live).",
                "Restore the folder, or start a new run.",
                site=(others or self.sites)[0],
            )
        tracker, seconds = self._settings, self.context.params.federation.deadline_seconds
        own, private = issue("coordinator", tracker.address, seconds)
        allowed = [checked(hellos[s].get("certificate"), f"Site {s}") for s in self.sites]
        files = write(folder, {"own": own, "key": private, "sites": "".join(allowed)})
        values = {
            "world": len(self.sites),
            "port": self._port(),
            "seconds": seconds,
            "certificates": files,
        }
        server.give(values)
        begun = {"certificate": own, "port": self._started(server)}
        self.place.tell("start.json", begun, coordinator_key(self.context.workspace))
        return self._follow(server)

    def _hellos(self) -> dict[str, dict[str, Any]]:
        """Every site's certificate, signed by its roster key; what it has, where it needs no session.

        A site that released the round's trees before releases them again without training.
        """
        limit = time.monotonic() + self._settings.join_seconds
        found: dict[str, dict[str, Any]] = {}
        while True:
            for site in self.sites:
                if site in found:
                    continue
                hello = self._hear("hello", site) or self._released(site)
                if hello is not None:
                    found[site] = hello
            missing = [site for site in self.sites if site not in found]
            if not missing:
                return found
            self._failures()
            if time.monotonic() > limit:
                raise _ended(
                    f"{_named(missing)} did not come to the session of round {self.place.round} "
                    f"within {self._settings.join_seconds:g} s (model.trees.tracker.join_seconds)",
                    missing[0],
                )
            self._pause()

    def _released(self, site: str) -> dict[str, Any] | None:
        round = self.place.round
        data = self.context.store.find(self.context.key(keys.update(round, site)))
        if data is None:
            return None
        expect = {
            "federation": self.context.federation,
            "run": self.context.run,
            "round": round,
            "site": site,
            "step": f"round-{round:03d}/train/{site}",
        }
        part = open_released(data, self.context.roster, expect).parts.get("update")
        if not isinstance(part, TreeUpdate):
            return None
        return {"certificate": None, "have": digest(part.trees)}

    def _follow(self, server: Child) -> str:
        """Wait until all sites hold the same trees; returns their digest."""
        signs = {site: _Sign() for site in self.sites}
        done: dict[str, str] = {}
        moved, front = time.monotonic(), -2
        limit = moved + self.context.params.federation.deadline_seconds
        while True:
            self._failures()
            for site, sign in signs.items():
                if site in done:
                    continue
                beat = self._hear(f"beat-{sign.beats}", site)
                if beat is not None:
                    sign.beats, sign.heard = sign.beats + 1, time.monotonic()
                    step = beat.get("step")
                    sign.step = step if isinstance(step, int) else sign.step
                if (word := self._hear("done", site)) is not None:
                    done[site] = _text(word.get("trees"))
            if len(done) == len(self.sites):
                break
            now = time.monotonic()
            if server.ended:
                raise _ended("The process of XGBoost's tracker ended")
            self._quiet(signs, done, now)
            if (reached := min(s.step for s in signs.values())) > front:
                front, moved = reached, now
            patience = self._settings.step_seconds + self._settings.quiet_seconds
            if (now - moved > patience and not done) or now > limit:
                behind = [s for s in self.sites if signs[s].step == front and s not in done]
                raise _ended(
                    f"No boosting step behind step {max(front, 0)} ended in time; behind: "
                    f"{_named(behind or self.sites)}"
                )
            self._pause()
        if len(set(done.values())) != 1:
            common = max(done.values(), key=list(done.values()).count)
            odd = [site for site in self.sites if done[site] != common]
            raise _ended(f"{_named(odd)} ended the session with other trees than the rest", odd[0])
        return next(iter(done.values()))

    def _quiet(self, signs: dict[str, _Sign], done: dict[str, str], now: float) -> None:
        patience = self._settings.quiet_seconds
        quiet = [s for s, sign in signs.items() if s not in done and now - sign.heard > patience]
        if quiet:
            raise _ended(
                f"{_named(quiet)} went quiet: no sign of life for {patience:g} s "
                "(model.trees.tracker.quiet_seconds)",
                quiet[0],
            )

    def _failures(self) -> None:
        """Raise what a site says that ended its part."""
        for site in self.sites:
            word = self._hear("failed", site)
            if word is not None:
                message = f"Site {site} left the session: {_text(word.get('message'))}"
                if _text(word.get("code")).startswith("transient."):
                    raise _ended(message.rstrip("."), site)
                raise RoundError("round.site-failed", message, _text(word.get("remedy")), site=site)

    def _hear(self, name: str, site: str) -> dict[str, Any] | None:
        return self.place.hear(f"{name}-{site}", self.context.roster.key(site))

    def _port(self) -> int:
        """The port, which must be free: XGBoost would listen nowhere and say nothing."""
        port = int(self._settings.port)
        if port:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("", port))
                except OSError:
                    raise ConfigError(
                        "config.invalid",
                        f"Port {port} (model.trees.tracker.port) is taken on this machine.",
                        "Set another port, or 0 for any free one where all sites are on this machine.",
                    ) from None
        return port

    def _started(self, server: Child) -> int:
        limit = time.monotonic() + self._settings.join_seconds
        while time.monotonic() < limit:
            said = server.said(0.1)
            if said is not None and "port" in said:
                return int(said["port"])
            if said is not None and said.get("lacking"):
                raise ConfigError("config.installation", *LACKING)
            if said is None and server.ended:
                break
        raise _ended("The process of XGBoost's tracker did not start")

    def _pause(self) -> None:
        lock.touch(self.context.workspace, self.context.federation)
        if self.context.cache.get("stopped"):
            raise _ended("The run was stopped")
        time.sleep(0.05 if self.context.store.path("a") is not None else 1.0)

    @property
    def _settings(self) -> Any:
        return self.context.params.model.trees.tracker


@contextmanager
def _private(workspace: Path) -> Iterator[Path]:
    """A folder for the session's keys that is gone with it."""
    root = workspace / "coordinator"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".live-") as folder:
        os.chmod(folder, 0o700)
        yield Path(folder).absolute()


def _text(value: object) -> str:
    """A short printable line of what a site sent."""
    text = value if isinstance(value, str) else ""
    return "".join(c for c in text[:500] if c.isprintable())


def _named(sites: list[str]) -> str:
    return ("Site " if len(sites) == 1 else "Sites ") + ", ".join(sites)


def _ended(what: str, site: str | None = None) -> TransientError:
    return TransientError(
        "transient.session",
        f"{what}.",
        "The session was ended for all sites. Mend what the message names and start the run again: it "
        "goes on behind the last round.",
        site=site,
    )
