"""What tracker and sites tell each other about a session: signed, write-once, beside the run.

::

    <federation>/sessions/<run>/round-RRR-<binding>/AAA/…
        open.json       tracker: who is expected, on which model
        hello-<site>    site: its certificate, trees that it holds already
        start.json      tracker: its port and certificate
        beat-N-<site>   site: alive, so many boosting steps done
        done-<site>     site: digest of the trees that it holds on disk
        failed-<site>   site: code and sentence
        over.json       tracker: digest of the trees, or what failed

``AAA`` counts attempts; the binding is a digest of the incoming model and the settings, so that a run
that is made again with others (DVC) never takes up an old session.  Trees are published by nobody
before every site holds the same ones on disk (``over.json``): a session is finished at all sites or
at none.  Messages hold times and random keys, so they lie outside the run, whose artefacts are the
same on every host.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from folkmoot.errors import ProtocolError
from folkmoot.identity import sign, verify
from folkmoot.plan import RunContext
from folkmoot.wire import canonical_json, digest

__all__ = ["MOST_ATTEMPTS", "Place"]

MOST_ATTEMPTS = 1000


@dataclass(frozen=True)
class Place:
    """Where the messages of one attempt at a round's session lie.

    Parameters
    ----------
    context : RunContext
        The run.
    round : int
        The round.
    model : str
        Digest of the incoming model.
    attempt : int
        From 0.
    """

    context: RunContext
    round: int
    model: str
    attempt: int = 0

    @cached_property
    def binding(self) -> str:
        """Digest (16 hex characters) of the incoming model and the settings that training depends on."""
        params = self.context.params.stated(
            include={"federation": {"sites"}, "model": True, "privacy": True, "aggregation": True},
        )
        params.get("model", {}).get("trees", {}).pop("rounds", None)  # a run may be prolonged
        return digest(canonical_json([self.model, params]))[:16]

    def key(self, name: str) -> str:
        """Full key of a message in the exchange store."""
        run = self.context.run
        return (
            f"{self.context.federation}/sessions/{run}/round-{self.round:03d}-{self.binding}"
            f"/{self.attempt:03d}/{name}"
        )

    def tell(self, name: str, values: dict[str, Any], key: Ed25519PrivateKey) -> None:
        """Publish a message under ``name``, signed.

        Raises
        ------
        ProtocolError
            ``protocol.conflict`` where another one was published before.
        TransientError
            Where the exchange store does not take it.
        """
        data = canonical_json({**values, **self._bound(name)})
        self.context.store.put(self.key(name), sign(data, key))

    def hear(self, name: str, key: Ed25519PublicKey) -> dict[str, Any] | None:
        """The message of a name, or None while there is none.

        Raises
        ------
        ProtocolError
            ``protocol.signature``, ``protocol.truncated`` or ``protocol.mismatch`` for a message that
            is not its sender's, or of another run, round or attempt.
        """
        data = self.context.store.find(self.key(name))
        if data is None:
            return None
        body = verify(data, key, what=f"Message {name} of a session")
        try:
            values = json.loads(body)
            fit = {k: values[k] for k in self._bound(name)} == self._bound(name)
        except (ValueError, KeyError, TypeError, RecursionError):
            fit = False
        if not fit:
            raise ProtocolError(
                "protocol.mismatch",
                f"Message {name} of a session is of another run, round or attempt.",
                "Find out who published it; nothing was done with it.",
            )
        found: dict[str, Any] = values
        return found

    def _bound(self, name: str) -> dict[str, Any]:
        return {
            "kind": "session",
            "federation": self.context.federation,
            "run": self.context.run,
            "round": self.round,
            "model": self.model,
            "attempt": self.attempt,
            "name": name,
        }
