"""Following a session's worker from the task that started it: steps, signs of life, what ends it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from folkmoot.errors import ConfigError, RoundError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.live.messages import Place
from folkmoot.live.process import LACKING, Child
from site_tasks.home import SiteHome

__all__ = ["follow", "lost", "near"]


def near(store: ExchangeStore) -> bool:
    """Whether looking into the exchange store costs next to nothing."""
    return store.path("a") is not None


def lost(what: str, site: str) -> TransientError:
    """``transient.session``: the session ended before its trees and can be repeated."""
    return TransientError(
        "transient.session",
        f"{what}.",
        "Mend what the message names and start the run again: it goes on behind the last round; "
        "private/site.log of the site has more.",
        site=site,
    )


def follow(
    child: Child, place: Place, home: SiteHome, tracker: Ed25519PublicKey, limit: float
) -> dict[str, Any] | None:
    """Follow the worker to its end, beating through the exchange store.

    Parameters
    ----------
    child : Child
        Has been given its job.
    place : Place
        The attempt; its parameters say how long a silence or a step may last.
    tracker : Ed25519PublicKey
        Of the party whose last word ends the session.
    limit : float
        By the monotonic clock, in seconds.

    Returns
    -------
    dict or None
        The tracker's last word where that came before the worker's end.

    Raises
    ------
    TransientError
        ``transient.session``: the worker ended, went quiet, was refused, or did not come on.
    RoundError
        ``round.diverged``.
    ConfigError
        ``config.installation`` for an XGBoost without its communicator.
    """
    watch = _Watch(child, place, home)
    store, settings = place.context.store, place.context.params.model.trees.tracker
    interval, beaten = 0.05 if near(store) else 0.5, 0.0
    while True:
        ended, heard = child.ended, child.said(interval)
        now = time.monotonic()
        if heard is None and ended:
            watch.log()
            raise lost(f"The worker of site {home.name} ended in its session", home.name)
        heard = heard or {}
        if heard.get("done"):
            return None
        watch.take(heard, now)
        watch.hold_time(now, limit)
        due = now - beaten > settings.quiet_seconds / 4
        if due:
            beaten = now
            watch.beat()
        if (due or near(store)) and (over := place.hear("over.json", tracker)) is not None:
            return over


@dataclass
class _Watch:
    """What is known of the worker."""

    child: Child
    place: Place
    home: SiteHome
    step: int = -2
    beats: int = 0
    moved: float = field(default_factory=time.monotonic)

    def take(self, heard: dict[str, Any], now: float) -> None:
        """Note a step; raise what the worker says that ends its part."""
        name = self.home.name
        if "refused" in heard:
            raise lost(
                f"Site {name} and the tracker did not come to a connection: one does not reach "
                f"the other, or does not accept its certificate ({heard['refused']})",
                name,
            )
        if "lacking" in heard:
            raise ConfigError("config.installation", *LACKING, site=name)
        if "diverged" in heard:
            raise RoundError(
                "round.diverged",
                "Gradients of the incoming model leave the bounds that the contract gives.",
                "Lower model.trees.eta, or widen the label's bounds in the contract.",
                site=name,
            )
        if "step" in heard:
            self.step, self.moved = int(heard["step"]), now

    def hold_time(self, now: float, limit: float) -> None:
        """Raise where the worker is silent or stands still for too long."""
        name, settings = self.home.name, self.place.context.params.model.trees.tracker
        if now - self.child.heard > settings.quiet_seconds:
            raise lost(f"The worker of site {name} went quiet", name)
        if now - self.moved > settings.step_seconds + settings.quiet_seconds or now > limit:
            raise lost(f"No boosting step ended in time at site {name}", name)

    def beat(self) -> None:
        """A signed sign of life, with the step that the worker has reached."""
        with suppress(TransientError):  # the next one may get through
            name = f"beat-{self.beats}-{self.home.name}"
            self.place.tell(name, {"step": self.step}, self.home.key())
            self.beats += 1

    def log(self) -> None:
        """The worker's last words, for the site's private log alone."""
        if words := self.child.last_words:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            step = f"round-{self.place.round:03d}/train/{self.home.name}"
            with suppress(OSError), os.fdopen(os.open(self.home.log, flags, 0o600), "w") as file:
                file.write(f"{step}: the worker said\n{words}\n")
