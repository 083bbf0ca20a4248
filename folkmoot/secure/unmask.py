"""One round at a site: statement of what was uploaded, list of survivors, one answer.

::

    site  ── masked vector, statement ──▶ coordinator     the statement binds the vector's digest
    sites ◀── list of survivors ───────── coordinator     the statements of all survivors
    site  ── answer ────────────────────▶ coordinator     a share per neighbour: of the self-mask's
                                                          seed for a survivor, of the key for others

A site answers once per sum, and only a list that its survivors' signatures bear out: each signed
what it uploaded, and which plan, members, layout and incoming model it saw, and which list it
answered in the round before.  Sites that were told different things find out here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import ProtocolError, SecureError
from folkmoot.identity import Roster, sign, verify
from folkmoot.secure.graph import Neighbours
from folkmoot.secure.masks import Binding
from folkmoot.secure.session import SEED_WORDS, Held
from folkmoot.secure.together import seal_together
from folkmoot.wire import Artefact, canonical_json, encode

__all__ = [
    "View",
    "answer",
    "check_survivors",
    "open_statement",
    "statement",
    "survivor_list",
]


@dataclass(frozen=True)
class View:
    """What a site saw when it uploaded: must be the same at all survivors of a sum.

    Parameters
    ----------
    plan : str
        Digest of ``run.json``.
    members : str
        Digest of the member list.
    layout : str
        Digest of how the vector is laid out: names, shapes, grids.
    model : str
        Digest of the incoming model; empty where there is none.
    answered : tuple of (int, str)
        Place and digest of the survivor list that the site answered last; (-1, "") before.
    """

    plan: str
    members: str
    layout: str
    model: str
    answered: tuple[int, str] = (-1, "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "plan": self.plan,
            "members": self.members,
            "layout": self.layout,
            "model": self.model,
            "answered": list(self.answered),
        }


def statement(
    binding: Binding, site: str, upload: str, view: View, signing: Ed25519PrivateKey
) -> bytes:
    """Signed canonical JSON about an upload, of which ``upload`` is the digest."""
    values = {**binding.to_dict(), "site": site, "upload": upload, "view": view.to_dict()}
    return sign(canonical_json({"kind": "secure-statement", **values}), signing)


def open_statement(data: bytes, binding: Binding, site: str, roster: Roster) -> tuple[str, View]:
    """Digest of the upload and the site's view.

    Raises
    ------
    SecureError
        ``secure.survivors``, naming the site: not signed by it, or about another sum.
    """
    try:
        body = verify(data, roster.key(site), what="A statement")
    except ProtocolError as error:
        if error.code == "protocol.unknown-site":
            raise
        raise _lie(f"names site {site}, which did not sign an upload", site) from None
    try:
        values = json.loads(body)
        seen = values.pop("view")
        upload = str(values.pop("upload"))
        index, listed = seen.pop("answered")
        view = View(**seen, answered=(int(index), str(listed)))
        fit = values == {"kind": "secure-statement", **binding.to_dict(), "site": site}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fit = False
    if not fit:
        raise _lie(f"has a statement of site {site} about another run, round or step", site)
    return upload, view


def survivor_list(binding: Binding, statements: Mapping[str, bytes]) -> bytes:
    """Canonical JSON of all survivors' statements; made by the coordinator."""
    texts = {site: data.hex() for site, data in sorted(statements.items())}
    return canonical_json({"kind": "secure-survivors", **binding.to_dict(), "statements": texts})


def open_list(data: bytes, binding: Binding) -> dict[str, bytes]:
    """Statements by site.

    Raises
    ------
    SecureError
        ``secure.survivors`` for a list of another sum.
    """
    try:
        values = json.loads(data)
        statements = {str(s): bytes.fromhex(t) for s, t in values.pop("statements").items()}
        fit = values == {"kind": "secure-survivors", **binding.to_dict()} and bool(statements)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fit = False
    if not fit:
        raise _lie("is damaged, or that of another run, round or step")
    return statements


def check_survivors(
    listed: bytes,
    binding: Binding,
    site: str,
    own: bytes,
    *,
    members: frozenset[str],
    graph: Neighbours,
    roster: Roster,
    minimum: int,
    groups: Iterable[Iterable[str]] | None = None,
) -> tuple[str, ...]:
    """What a site demands of a list before it answers; O(survivors).

    Parameters
    ----------
    listed : bytes
        The coordinator's list.
    own : bytes
        The statement that this site signed for this sum.
    members : frozenset of str
        Of the run's set-up.
    minimum : int
        Fewest contributors of a sum that this site helps to open.
    groups : collection of collections of str, optional
        Members whose contributions are summed apart, each of which is a sum.

    Returns
    -------
    tuple of str
        The survivors, sorted.

    Raises
    ------
    SecureError
        ``secure.survivors``: a survivor that did not upload, an unknown one, one that saw another
        plan, member list, layout or model, or was given another list in the round before; a list
        without this site, or with another statement of it.
    SecureError
        ``secure.contributors``.
    SecureError
        ``secure.threshold``.
    """
    statements = open_list(listed, binding)
    if statements.get(site) != own:
        raise _lie(f"leaves out site {site}, or has another statement than it signed", site)
    _, mine = open_statement(own, binding, site, roster)
    if unknown := sorted(statements.keys() - members):
        raise _lie(f"names site {unknown[0]}, which took no part in the set-up", unknown[0])
    answered: dict[int, str] = {}
    for other in sorted(statements):
        _, view = open_statement(statements[other], binding, other, roster)
        for what in ("plan", "members", "layout", "model"):
            if getattr(view, what) != getattr(mine, what):
                raise _lie(f"joins site {other}, which was sent another {what}", other)
        index, previous = view.answered
        if answered.setdefault(index, previous) != previous:
            raise _lie(
                f"joins site {other}, which was sent another list of survivors in sum {index}",
                other,
            )
    sums = [len(statements)]
    if groups is not None:  # a group that nobody is left of has no sum
        sums = [n for group in groups if (n := sum(s in statements for s in group))]
    if min(sums) < minimum:
        raise SecureError(
            "secure.contributors",
            f"A sum of {min(sums)} sites was asked for; site {site} opens sums of at least "
            f"{minimum}.",
            "Wait for more sites, or ask the site's steward to lower minimum_contributors.",
            site=site,
        )
    graph.check(statements)
    return tuple(sorted(statements))


def answer(
    binding: Binding,
    index: int,
    site: str,
    listed: bytes,
    survivors: Iterable[str],
    *,
    members: frozenset[str],
    graph: Neighbours,
    held: Held,
    signing: Ed25519PrivateKey,
) -> bytes:
    """A site's one answer to a list that :func:`check_survivors` let pass; O(neighbours).

    Per neighbour a share of the self-mask's seed if it survived, else of its key: the choice is
    made per site of the list, so never both of one.  The answer opens only beside those of
    ``graph.threshold`` sites to the same list (:mod:`folkmoot.secure.together`).

    Returns
    -------
    bytes
        Signed; inside ``seeds`` (survivors held, 5) and ``keys`` (others held, 9).
    """
    alive = set(survivors)
    near = [other for other in sorted((*graph.of(site), site)) if other in members]
    seeds = [other for other in near if other in alive and other in held.shares]
    gone = [other for other in near if other not in alive and other in held.shares]
    words = {other: held.shares[other][index] for other in (*seeds, *gone)}
    arrays = {
        "seeds": np.array([words[other][:SEED_WORDS] for other in seeds], np.uint32),
        "keys": np.array([words[other][SEED_WORDS:] for other in gone], np.uint32),
    }
    content = encode(Artefact("secure-opened", {"seeds": seeds, "keys": gone}, arrays))
    return seal_together(content, binding, site, listed, alive, graph, held.pairs, signing)


def _lie(what: str, site: str | None = None) -> SecureError:
    return SecureError(
        "secure.survivors",
        f"The list of survivors {what}; nothing was revealed.",
        "Ask the coordinator why; the sites' answers of this round stay closed.",
        site=site,
    )
