"""Boxes from site to site, under the sealing keys of the run's set-up; the coordinator carries them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError, SecureError
from folkmoot.plan import RunContext, Step, keys
from folkmoot.secure import boxes
from folkmoot.secure.run import session_of, set_up_of, stage_of
from folkmoot.secure.session import Keys
from folkmoot.updates import open_released
from folkmoot.wire import digest
from site_tasks import orders
from site_tasks.home import SiteHome
from site_tasks.secure.memory import announced_by, own_keys, state_of

__all__ = ["Letters", "listed_senders"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Letters:
    """A site's correspondence in one round.

    Parameters
    ----------
    site : str
        Its own name.
    others : tuple of str
        The other members of the set-up, sorted.
    listed : str
        Digest of the set-up's key list.
    round : int
    federation, run, plan : str
        What every box is bound to besides.
    keys : Keys
        The site's secrets of the run.
    public : dict of str to bytes
        Sealing keys of all of them.
    """

    site: str
    others: tuple[str, ...]
    listed: str
    round: int
    federation: str
    run: str
    plan: str
    keys: Keys
    public: Mapping[str, bytes]

    @staticmethod
    def of(step: Step, context: RunContext, home: SiteHome) -> Letters:
        """Keys as the set-up listed them, signed by their sites; raises as ``set_up_of``."""
        session, own = session_of(context), set_up_of(context)
        others = tuple(sorted(own.members - {home.name}))
        state = state_of(context, home)
        if state.find("list") != own.listed or home.name not in own.members:
            raise SecureError(
                "secure.key",
                f"Site {home.name} dealt no shares in the set-up that was published.",
                "It takes no part in this run; start a new run to have it in.",
                site=home.name,
            )
        # One's own too: a computing site keeps its share where the others' are.
        every = (*others, home.name)
        public = {name: announced_by(context, own.listed, name).seal for name in every}
        return Letters(
            home.name,
            others,
            digest(own.listed),
            step.round,
            session.federation,
            session.run,
            session.plan,
            own_keys(state),
            public,
        )

    def bound(self, purpose: str) -> dict[str, Any]:
        """What a message of the round states about itself."""
        return {
            "federation": self.federation,
            "run": self.run,
            "plan": self.plan,
            "round": self.round,
            "list": self.listed,
            "purpose": purpose,
        }

    def seal(self, other: str, purpose: str, content: bytes) -> bytes:
        """A box for another site; once per purpose, as its nonce belongs to its key."""
        own = X25519PrivateKey.from_private_bytes(self.keys.seal)
        bound = self.bound(purpose)
        return boxes.seal_box(content, own, self.public[other], bound, self.site, other)

    def open(self, other: str, purpose: str, box: bytes) -> bytes:
        """A box of another site; raises ``secure.share``."""
        own = X25519PrivateKey.from_private_bytes(self.keys.seal)
        return boxes.open_box(box, own, self.public[other], self.bound(purpose), other, self.site)


def listed_senders(
    step: Step, context: RunContext, home: SiteHome, task: str, least: int
) -> dict[str, Mapping[str, Mapping[str, Bytes]]]:
    """What the sites on the coordinator's list released, by site and part, as they signed it.

    One list per round is answered, whatever comes later.

    Raises
    ------
    SecureError
        ``secure.contributors`` for a list of fewer than ``least`` sites, or without this one;
        ``secure.again`` for a second list.
    ProtocolError
        ``protocol.format`` for a damaged list; ``protocol.digest`` for a message that is not the
        listed one, ``protocol.signature`` for one that its site did not sign.
    """
    data = orders.read(context, keys.survivors(stage_of(step)))
    listed = _names(data, context, step)
    if home.name not in listed or len(listed) < least:
        raise SecureError(
            "secure.contributors",
            f"The list has {len(listed)} sites, of which site {home.name} needs at least {least}, "
            "itself among them.",
            "Wait for more sites, or ask the site's steward.",
            site=home.name,
        )
    if not listed.keys() <= set_up_of(context).members:
        raise SecureError(
            "secure.survivors",
            "The list names a site that is no member of the run's set-up.",
            "Find out who made it; nothing was opened.",
            site=home.name,
        )
    found: dict[str, Mapping[str, Mapping[str, Bytes]]] = {}
    for site, wanted in listed.items():
        sent = context.store.get(context.key(keys.letters(step.round, site)), wanted)
        expect = {
            "federation": context.federation,
            "run": context.run,
            "round": step.round,
            "site": site,
            "step": f"{stage_of(step)}/{task}/{site}",
        }
        parts = open_released(sent, context.roster, expect).parts
        found[site] = {name: part.arrays for name, part in parts.items()}
    state = state_of(context, home)
    which = digest(data)
    if state.decide(f"senders-{step.round:04d}", which) != which:
        raise SecureError(
            "secure.again",
            f"Site {home.name} was sent a second list of senders for round {step.round}.",
            "Find out who made it; the first stays answered.",
            site=home.name,
        )
    return found


def _names(data: bytes, context: RunContext, step: Step) -> dict[str, str]:
    try:
        values = json.loads(data)
        bound = (values["federation"], values["run"], values["round"])
        sites = {str(site): str(one) for site, one in values["sites"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        bound, sites = ("", "", 0), {}
    if not sites or bound != (context.federation, context.run, step.round):
        raise ProtocolError(
            "protocol.format",
            "The coordinator's list of senders is damaged, or that of another round or run.",
            "Find out who made it.",
        )
    return sites
