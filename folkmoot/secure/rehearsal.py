"""All parties of a run's secure sums in one process: what tests and benchmarks rehearse with.

Each method is one party's side of one exchange and hands over nothing but the messages that would
travel, so that a rehearsal can lie, lose and measure at every border.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from folkmoot.identity import Roster, public_text
from folkmoot.secure import lists, recover, setup, unmask
from folkmoot.secure.graph import Neighbours
from folkmoot.secure.masks import add_masks, own_masks
from folkmoot.secure.session import Announced, Dealt, Held, Keys, Session
from folkmoot.secure.together import open_sealed
from folkmoot.wire import digest

__all__ = ["Party", "Rehearsal"]


@dataclass
class Party:
    """A site with its secrets and what it has learnt."""

    name: str
    signing: Ed25519PrivateKey
    keys: Keys
    own: Any = None
    held: Held | None = None
    announced: dict[str, Announced] = field(default_factory=dict)
    statements: dict[int, bytes] = field(default_factory=dict)


class Rehearsal:
    """A federation of ``names`` and its coordinator.

    Parameters
    ----------
    names : sequence of str
    sums : int
        Sums of the run.
    session : dict
        ``threshold`` or ``rates`` of :class:`folkmoot.secure.session.Session`.
    """

    def __init__(self, names: Sequence[str], sums: int = 1, **session: Any) -> None:
        order = tuple((i + 1, "train") for i in range(sums))
        self.session = Session("rehearsal", "run-1", "0" * 64, order, **session)
        self.sites = {n: Party(n, Ed25519PrivateKey.generate(), Keys.draw(sums)) for n in names}
        self.roster = Roster({n: public_text(p.signing) for n, p in self.sites.items()})
        self.graph: Neighbours
        self.listed = self.members_list = b""
        self.members: frozenset[str] = frozenset()
        self.announced: dict[str, Announced] = {}
        self.dealt: dict[str, Dealt] = {}

    def set_up(self, *, no_keys: Collection[str] = (), no_shares: Collection[str] = ()) -> None:
        """Both tasks of every site, with sites that are lost before one or the other."""
        self.announce([n for n in self.sites if n not in no_keys])
        inboxes = self.share([n for n in self.announced if n not in no_shares])
        for name, inbox in inboxes.items():
            self.receive(name, inbox)

    def announce(self, names: Collection[str]) -> None:
        """Key messages, and the coordinator's list of them."""
        session = self.session
        messages = {
            n: setup.key_message(session, n, self.sites[n].keys, self.sites[n].signing)
            for n in names
        }
        self.listed = lists.key_list(session, messages)
        self.graph = lists.neighbours(session, self.listed)
        self.announced = {
            n: setup.open_keys(data, session, n, self.roster) for n, data in messages.items()
        }

    def share(self, names: Collection[str]) -> dict[str, bytes]:
        """Share messages; returns the inboxes that the coordinator makes of them."""
        messages = {}
        for name in names:
            party = self.sites[name]
            party.announced = {n: self.announced[n] for n in self.graph.of(name)}
            data, party.own = setup.share_message(
                self.session, name, party.keys, self.listed, party.announced, party.signing
            )
            dealt = setup.open_shares(
                data, self.session, name, self.listed, self.graph, self.roster
            )
            messages[name] = (data, dealt)
        self.dealt = {n: dealt for n, (_, dealt) in messages.items()}
        self.members_list, inboxes = setup.deal(self.session, self.listed, self.graph, messages)
        self.members = frozenset(inboxes)
        return inboxes

    def receive(self, name: str, inbox: bytes) -> None:
        """A site opens its inbox."""
        party = self.sites[name]
        party.held = setup.open_inbox(
            inbox,
            self.session,
            name,
            party.keys,
            party.own,
            self.listed,
            self.members_list,
            self.graph,
            party.announced,
            party.signing,
        )

    def upload(
        self, name: str, vector: NDArray[Any], index: int = 0, **view: Any
    ) -> tuple[NDArray[Any], bytes]:
        """A site's masked vector, masked in place, and its statement."""
        party, binding = self.sites[name], self.session.binding(index)
        peers = {
            n: party.announced[n].masks[index] for n in self.graph.of(name) if n in self.members
        }
        masks = own_masks(binding, name, party.keys.masks[index], party.keys.seeds[index], peers)
        add_masks(vector, *masks)
        seen = {"plan": "p", "members": digest(self.members_list), "layout": "l", "model": "m"}
        made = unmask.statement(binding, name, "d", unmask.View(**{**seen, **view}), party.signing)
        party.statements[index] = made
        return vector, made

    def answer(self, name: str, listed: bytes, index: int = 0, minimum: int = 2) -> bytes:
        """A site's answer to a list of survivors, after its checks."""
        party, binding = self.sites[name], self.session.binding(index)
        if party.held is None:
            raise ValueError("a site answers after it opened its inbox")
        alive = unmask.check_survivors(
            listed,
            binding,
            name,
            party.statements[index],
            members=self.members,
            graph=self.graph,
            roster=self.roster,
            minimum=minimum,
        )
        return unmask.answer(
            binding,
            index,
            name,
            listed,
            alive,
            members=self.members,
            graph=self.graph,
            held=party.held,
            signing=party.signing,
        )

    def list_of(self, names: Collection[str], index: int = 0) -> bytes:
        """The coordinator's honest list."""
        statements = {n: self.sites[n].statements[index] for n in names}
        return unmask.survivor_list(self.session.binding(index), statements)

    def opened(
        self, listed: bytes, answers: Mapping[str, bytes], index: int = 0
    ) -> dict[str, recover.Answer]:
        """What the coordinator can read of the sites' answers to a list."""
        binding, which = self.session.binding(index), digest(listed)
        present = frozenset(unmask.open_list(listed, binding))
        sealed = {
            n: open_sealed(data, binding, n, which, present, self.graph, self.roster)
            for n, data in answers.items()
        }
        return recover.open_answers(sealed, binding, which, present, self.graph)

    def leftover(
        self, listed: bytes, answers: Mapping[str, bytes], index: int = 0
    ) -> tuple[list[bytes], list[bytes]]:
        """Masks that the coordinator takes off, from the sites' answers."""
        binding = self.session.binding(index)
        alive = sorted(unmask.open_list(listed, binding))
        opened = self.opened(listed, answers, index)
        return recover.leftover_masks(
            binding,
            index,
            alive,
            opened,
            members=self.members,
            graph=self.graph,
            announced=self.announced,
            dealt=self.dealt,
        )

    def open(
        self,
        uploads: Mapping[str, NDArray[Any]],
        answering: Collection[str] | None = None,
        index: int = 0,
        *,
        threads: int = 1,
    ) -> NDArray[Any]:
        """The exact sum of the vectors of ``uploads``, with answers of ``answering``."""
        listed = self.list_of(uploads, index)
        who = list(uploads) if answering is None else answering
        answers = {n: self.answer(n, listed, index) for n in who}
        total: NDArray[Any] = np.zeros_like(next(iter(uploads.values())))
        for name in sorted(uploads):
            np.add(total, uploads[name], out=total)
        add, subtract = self.leftover(listed, answers, index)
        recover.unmask(total, add, subtract, threads=threads)
        return total
