"""A site's side of encrypted sums: a key pair for all, its contribution encrypted, the sum opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError, SecureError
from folkmoot.identity import verify
from folkmoot.plan import RunContext, Step, keys
from folkmoot.secure import ckks, encrypted, setup
from folkmoot.secure.boxes import pair_secret
from folkmoot.secure.layout import Layout
from folkmoot.secure.run import session_of, set_up_of, upload_key
from folkmoot.secure.together import seal_together
from folkmoot.secure.unmask import open_list, open_statement
from folkmoot.wire import Artefact, decode, digest, encode
from site_tasks.secure.memory import announced_by, own_keys, state_of

if TYPE_CHECKING:
    from folkmoot.secure.masks import Binding
    from site_tasks.home import SiteHome

__all__ = ["answer", "encrypt", "offer"]


@dataclass(frozen=True)
class Ring:
    """A finished set-up, seen from one site.

    Parameters
    ----------
    maker : str
        Whose key pair is used.
    public, secret : bytes
        Its halves.
    pairs : dict of str to bytes
        Keys with each other member alone.
    """

    maker: str
    public: bytes
    secret: bytes
    pairs: Mapping[str, bytes]


def offer(context: RunContext, home: SiteHome, listed: bytes) -> bytes:
    """The site's second message of the set-up: a key pair where it is one of those that make one."""
    session, state = session_of(context), state_of(context, home)
    others = sorted(setup.open_list(listed, session).keys() - {home.name})

    def make() -> bytes:
        announced = {other: announced_by(context, listed, other) for other in others}
        message, secret = encrypted.offer_message(
            session,
            home.name,
            own_keys(state),
            listed,
            announced,
            context.params.federation.required,
            home.key(),
        )
        arrays = {"message": _bytes(message), "secret": _bytes(secret)}
        return encode(Artefact("secure-dealt", {}, arrays))

    return _made(state.once("shares", make))["message"].tobytes()


def encrypt(context: RunContext, home: SiteHome, vector: NDArray[np.uint64]) -> ckks.Cipher:
    """A contribution under the run's public key."""
    known = _ring(context, home)
    public = ckks.open_key(known.public, secret=False, site=known.maker)
    return ckks.encrypt(public, vector, _packing(context))


def answer(
    step: Step,
    context: RunContext,
    home: SiteHome,
    binding: Binding,
    listed: bytes,
    survivors: Sequence[str],
) -> bytes:
    """The sum of the uploads that the survivors signed, decrypted; O(sites · numbers).

    The uploads are read from the exchange store and held against the survivors' statements: a sum
    that somebody else added up could be a single contribution.

    Raises
    ------
    SecureError
        ``secure.survivors``, naming the site, for an upload that is not the one that was signed.
    SecureError
        ``secure.range`` for one that is no encrypted vector.
    """
    statements, known = open_list(listed, binding), _ring(context, home)
    uploads: dict[str, ckks.Cipher] = {}
    sizes = set()
    for site in survivors:
        signed, _ = open_statement(statements[site], binding, site, context.roster)
        data = context.store.find(context.key(upload_key(step, site)))
        if data is None or digest(data) != signed:
            raise _changed(site)
        try:
            body = verify(data, context.roster.key(site), what=f"The upload of site {site}")
            found = decode(body, kind="update")
            sizes.add(Layout.from_dict(found.meta["secure"]["layout"]).size)
            uploads[site] = ckks.Cipher(found.arrays["cipher"], found.arrays["ends"])
        except (ProtocolError, KeyError, TypeError):
            raise _changed(site) from None
    if len(sizes) != 1:
        raise _changed(min(uploads))
    content = encrypted.decrypted(
        known.public,
        known.secret,
        known.maker,
        uploads,
        sizes.pop(),
        len(context.params.federation.members),
    )
    graph = set_up_of(context).graph
    return seal_together(
        content, binding, home.name, listed, survivors, graph, known.pairs, home.key()
    )


def _packing(context: RunContext) -> ckks.Packing:
    return ckks.Packing.of(len(context.params.federation.members))


def _ring(context: RunContext, home: SiteHome) -> Ring:
    """The key pair of the run's first member; opened once, kept in the site's private folder.

    Raises
    ------
    SecureError
        ``secure.key`` or ``secure.share``.
    """
    name = ("secure.ring", home.name)
    if name not in context.cache:
        state = state_of(context, home)
        entry = decode(state.once("held", lambda: _open(context, home)), kind="secure-held")
        if entry.meta["members"] != digest(set_up_of(context).members_list):
            raise SecureError(
                "secure.key",
                f"Site {home.name} was given another list of members than in an earlier round.",
                "Find out who exchanged it; the site keeps to the first.",
                site=home.name,
            )
        arrays = entry.arrays
        pairs = {k[2:]: bytes(v) for k, v in arrays.items() if k.startswith("c/")}
        context.cache[name] = Ring(
            entry.meta["maker"], arrays["public"].tobytes(), arrays["secret"].tobytes(), pairs
        )
    found: Ring = context.cache[name]
    return found


def _open(context: RunContext, home: SiteHome) -> bytes:
    session, own, state = session_of(context), set_up_of(context), state_of(context, home)
    dealt = state.find("shares")
    if home.name not in own.members or dealt is None or state.find("list") != own.listed:
        raise SecureError(
            "secure.key",
            f"Site {home.name} took no part in the set-up that was published.",
            "It takes no part in this run's sums; start a new run to have it in.",
            site=home.name,
        )
    secrets, maker = own_keys(state), min(own.members)
    signed = setup.open_listing(own.members_list)
    others = sorted(own.members - {home.name})
    announced = {other: announced_by(context, own.listed, other) for other in others}
    data = context.store.get(context.key(keys.secure("shares", maker)), signed[maker])
    required = context.params.federation.required
    made = encrypted.open_offer(data, session, maker, own.listed, required, context.roster)
    if made is None:
        raise SecureError(
            "secure.key",
            f"Site {maker}, whose key pair the members would use, makes none.",
            "Fewer sites are members than the plan's quorum; start a new run.",
            site=maker,
        )
    if maker == home.name:
        secret = _made(dealt)["secret"].tobytes()
    else:
        seal = announced[maker].seal
        secret = encrypted.take_key(session, home.name, secrets, own.listed, maker, made, seal)
    arrays = {"public": _bytes(made.public), "secret": _bytes(secret)}
    sealing = setup.private_key(secrets.seal)
    bound = setup.context_of(session, own.listed)
    for other, found in announced.items():
        key = pair_secret(sealing, found.seal, bound, (home.name, other), other)
        arrays[f"c/{other}"] = _bytes(key)
    meta = {"members": digest(own.members_list), "maker": maker}
    return encode(Artefact("secure-held", meta, arrays))


def _made(dealt: bytes) -> Mapping[str, NDArray[np.uint8]]:
    return decode(dealt, kind="secure-dealt").arrays


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _changed(site: str) -> SecureError:
    return SecureError(
        "secure.survivors",
        f"The upload of site {site} is gone, or is not the one that the site signed; nothing was "
        "decrypted.",
        "Find out who changed the exchange store.",
        site=site,
    )
