"""The release door: everything that leaves a site passes here, exactly once, and is written down.

::

    permissions ─▶ anchor ─▶ known? ── stored bytes ──────────────┐
                              │ no                                 ▼
               admit ─▶ reserve ─▶ make ─▶ privatise ─▶ seal ─▶ persist ─▶ commit ─▶ publish

Killed at any point and started again, the site publishes the same bytes and is charged once.  The
exception: a reservation whose noise was not persisted counts as spent, and the retry reserves
again under the next attempt, for nobody can tell whether that noise was seen.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.errors import PrivacyError, ProtocolError
from folkmoot.identity import verify
from folkmoot.privacy.ledger import Ledger, State, Subject
from folkmoot.privacy.release import receipt, release_id
from folkmoot.wire import decode, digest
from site_tasks import anchor, permissions
from site_tasks.finished_sums import free_file, note
from site_tasks.persist import persist, read_stored
from site_tasks.privatise import Raw, privatise, seed_of
from site_tasks.seal import seal
from site_tasks.secure import summed

if TYPE_CHECKING:
    from folkmoot.exchange import ArtifactRef
    from folkmoot.plan import RunContext, Step
    from folkmoot.privacy.events import Event
    from folkmoot.updates import MaskedUpdate, PrivatisedUpdate
    from site_tasks.home import SiteHome

__all__ = ["check_releases", "has_released", "open_ledger", "release"]

Make = Callable[[], Mapping[str, Raw]]


def release(
    step: Step,
    context: RunContext,
    home: SiteHome,
    *,
    key: str,
    inputs: Sequence[str],
    make: Make,
    fingerprint: str,
    costs: Mapping[str, Event] | None = None,
    meta: Mapping[str, Any] | None = None,
    finished: int | None = None,
) -> ArtifactRef:
    """Release what ``make`` computes, or what it computed before.

    Parameters
    ----------
    step : Step
        The step that releases.
    context : RunContext
        Its run.
    home : SiteHome
        The site.
    key : str
        Key of the exchange store, relative to the run.
    inputs : sequence of str
        Digests of everything the release is computed from: incoming model, prepared rows.
    make : callable
        Computes the raw parts.  Called only where no stored bytes are found.
    fingerprint : str
        Keyed fingerprint of the dataset version.
    costs : mapping of str to Event, optional
        Per part that costs budget its event, each under a mechanism of its own; every other part
        leaves exactly.  Charged before ``make`` is called, and held against what it made.
    meta : mapping, optional
        More JSON values for the header, free of data; they are published.
    finished : int, optional
        Last round whose releases nobody asks for again, where this step's can all be made again: one
        of their files takes this one (``site_tasks.finished_sums``).  None keeps the file as it is.

    Returns
    -------
    ArtifactRef
        What is published under ``key``.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted``, ``privacy.seeded``, ``privacy.ceiling``, ``privacy.clock``,
        ``privacy.differencing`` or ``privacy.mechanism`` before anything is drawn;
        ``privacy.ledger`` where the ledger does not hold.
    ProtocolError
        ``protocol.conflict`` where other bytes were published under ``key`` before.

    Notes
    -----
    Privacy cost: that of ``costs``, all of them together; parts that they do not name leave
    exactly and are named as unaccounted in the receipt.  Time: one fsync for a release without a cost,
    four for one with noise.
    """
    permissions.check(context, home)
    privacy = context.params.privacy
    identity = release_id(
        federation=context.federation,
        run=context.run,
        round=step.round,
        site=home.name,
        step=step.name,
        inputs=inputs,
        params=context.params,
    )
    subject = Subject(
        identity,
        context.federation,
        context.run,
        step.round,
        step.name,
        fingerprint,
        home.settings.dataset.lineage,
        context.params.federation.requester,
    )
    costs = dict(costs or {})
    ledger = open_ledger(home, context.cache)
    path = os.path.join(home.releases, identity)
    terms = permissions.terms(context, home)
    masked, seen = summed(step, context), dict[str, Any]()
    if masked:
        from site_tasks.secure.conceal import conceal, publish_statement
    with _alone(home, identity):
        anchor.check(step, context, home, ledger)
        state = ledger.admit(subject, terms)
        data = _stored(path, home, identity, state) or _published(path, context, key, state)
        if data is None:
            attempt = 0
            if costs:
                asked = [costs[name] for name in sorted(costs)]
                attempt = ledger.reserve(subject, asked, terms=terms)
            update = privatise(make(), privacy, seed=seed_of(privacy, identity))
            made = {n: e for n, e in update.events.items() if e["event"] != "exact"}
            if made != {name: event.to_dict() for name, event in costs.items()}:
                raise PrivacyError(
                    "privacy.order",
                    f"Step {step.name} made parts of another cost than was charged.",
                    "State what every part costs when it is released (costs).",
                    site=home.name,
                )
            _only_permitted(update.events, home)
            paper = receipt(identity, privacy, update.events, permissions.delta(context, home))
            sealed: PrivatisedUpdate | MaskedUpdate = update
            if masked:
                sealed, seen = conceal(step, context, home, update, identity, inputs)
            bound = {
                "federation": context.federation,
                "run": context.run,
                "round": step.round,
                "site": home.name,
                "step": step.name,
                "release_id": identity,
                "dataset": fingerprint,
                "receipt": paper,
            }
            data = seal({**(meta or {}), **seen, **bound}, sealed, home.key())
            old = None
            if finished is not None and not costs and not masked:
                old = free_file(context, home, min(finished, step.round - 1), len(data))
                note(context, home, step.round, identity)
            persist(path, data, durable=bool(costs), old=old)
            ledger.commit(subject, digest(data), attempt=attempt, receipt=paper, terms=terms)
        elif costs and state.attempts == 0:
            raise PrivacyError(
                "privacy.ledger",
                f"Site {home.name} has stored step {step.name}'s release, which its privacy ledger "
                "does not hold: the ledger was rewound.",
                "Restore private/ from the newest backup.",
                site=home.name,
            )
        elif state.artefact is None:
            paper = _header(data, home)["receipt"]
            attempt = state.attempts if costs else 0
            ledger.commit(subject, digest(data), attempt=attempt, receipt=paper, terms=terms)
        anchor.show(step, context, home, ledger)
    # What can be made again may share its file with the store; noise and masks keep their own.
    twin = None if costs or masked else path
    ref = context.store.put(context.key(key), data, twin=twin)
    if masked:
        publish_statement(step, context, home, data, ref.digest, seen.get("secure"))
    return ref


def open_ledger(home: SiteHome, cache: dict[Any, Any] | None = None) -> Ledger:
    """The site's ledger, made where the site has never released anything.

    Raises
    ------
    PrivacyError
        ``privacy.ledger`` where releases are stored and their ledger is gone.
    """
    cache = {} if cache is None else cache
    name = ("ledger", str(home.ledger_path))
    if name not in cache:
        if not home.ledger_path.exists() and has_released(home):
            raise PrivacyError(
                "privacy.ledger",
                f"Site {home.name} has released before, and its privacy ledger is gone.",
                "Restore private/ledger.sqlite from the site's backup.",
                site=home.name,
            )
        cache[name] = Ledger(home.ledger_path, home.name, home.key())
    ledger: Ledger = cache[name]
    return ledger


def has_released(home: SiteHome) -> bool:
    """Whether bytes of any release are stored."""
    return any(_stored_releases(home.releases))


def check_releases(home: SiteHome, ledger: Ledger) -> int:
    """Hold every stored release against the ledger; O(bytes stored).

    Returns
    -------
    int
        Number of stored releases.

    Raises
    ------
    PrivacyError
        ``privacy.ledger`` for a release with a cost that the ledger has no reservation of (an
        older copy was put in its place), and for one whose bytes are not those committed.
    """
    paths = sorted(_stored_releases(home.releases))
    for path in paths:
        data = read_stored(path)
        if data is None:
            continue  # its file was given to another release since the folder was read
        state = ledger.find(path.name)
        if state.artefact not in (None, digest(data)):
            what = "was changed after its commit"
        elif state.attempts == 0 and state.artefact is None and _charged(data, home):
            what = "has a cost that the ledger does not hold: the ledger was rewound"
        else:
            continue
        raise PrivacyError(
            "privacy.ledger",
            f"Stored release {path.name[:12]} of site {home.name} {what}.",
            "Restore private/ from the newest backup.",
            site=home.name,
        )
    return len(paths)


def _charged(data: bytes, home: SiteHome) -> bool:
    try:
        events = _header(data, home)["receipt"]["events"].values()
    except ProtocolError:
        return True
    return any(event["event"] != "exact" for event in events)


def _stored_releases(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*") if not path.name.startswith("."))


def _stored(path: str, home: SiteHome, identity: str, state: State) -> bytes | None:
    """Bytes of an earlier attempt, where they are whole and the site's own; else None."""
    data = read_stored(path)
    if data is None:
        return None
    if state.artefact is not None:
        return data if digest(data) == state.artefact else None
    try:
        return data if _header(data, home)["release_id"] == identity else None
    except ProtocolError:
        return None  # torn by a crash of the machine before its commit


def _published(path: str, context: RunContext, key: str, state: State) -> bytes | None:
    """Bytes that were committed and published, where the site's own copy of them is gone.

    The exchange store holds them to the digest that the ledger names: no second noise is drawn.
    """
    if state.artefact is None:
        return None
    data = context.store.find(context.key(key))
    if data is None or digest(data) != state.artefact:
        return None
    persist(path, data, durable=True)
    return data


def _only_permitted(events: Mapping[str, Mapping[str, Any]], home: SiteHome) -> None:
    """Exact counts of evaluations leave only where ``site.toml`` says so."""
    exact = events.get("evaluation", {}).get("event") == "exact"
    if exact and not home.settings.permissions.evaluation:
        raise PrivacyError(
            "privacy.not-permitted",
            f"Site {home.name}: permissions.evaluation in site.toml keeps exact counts of "
            "evaluations at the site.",
            "Change the plan, or let the site's steward change site.toml.",
            site=home.name,
        )


def _header(data: bytes, home: SiteHome) -> Mapping[str, Any]:
    """Header of stored bytes that bear the site's own signature."""
    body = verify(data, home.key().public_key(), what="A stored release")
    return decode(body, kind="update").meta


@contextmanager
def _alone(home: SiteHome, identity: str) -> Iterator[None]:
    """One process at a time per release: a second one waits, then finds the stored bytes."""
    path = os.path.join(home.releases, f".lock-{identity[:1]}")
    flags = os.O_RDWR | os.O_CREAT
    try:
        file = os.open(path, flags, 0o600)
    except FileNotFoundError:
        home.releases.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
