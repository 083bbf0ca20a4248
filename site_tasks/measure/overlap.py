"""The steps ``blind`` and ``reblind``: how many people two sites share (``folkmoot.secure.psi``).

What leaves are boxes for the partners, then digests of points under both sites' scalars.  Every set is
filled up to one public size, so that no site's number of people is told.  With a budget each site adds
dummies that its partner has too, as many as discrete Laplace noise says: the coordinator's count is then
noised, and neither partner knows the other's noise.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from folkmoot.errors import DataError, PrivacyError, ProtocolError
from folkmoot.exchange import ArtifactRef
from folkmoot.identity import sign
from folkmoot.plan import RunContext, Step
from folkmoot.privacy.events import Event, Exact
from folkmoot.privacy.noise import Entropy, discrete_laplace
from folkmoot.secure import psi
from folkmoot.statistics.noise import overlap_event
from folkmoot.statistics.overlap import dummies, padded, shift
from folkmoot.statistics.questions import person_of
from folkmoot.wire import Artefact, digest, encode
from site_tasks.home import SiteHome
from site_tasks.measure.letters import Letters, listed_senders
from site_tasks.privatise import Sealed
from site_tasks.secure.memory import state_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["blind", "normalised", "reblind"]


def blind(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Release a box with this site's blinded set for every partner.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted`` for a partner or a repetition that the steward does not permit.
    DataError
        ``data.too-few-rows`` for fewer people than the steward's least, or more than the public size.

    Notes
    -----
    Privacy cost: ``statistics.overlap_epsilon`` per partner, charged before noise is drawn; without it
    the sizes are exact, which the ledger notes.
    """
    from site_tasks.prepare import dataset_of
    from site_tasks.release import release

    home = SiteHome.find(step.place, context.workspace)
    fingerprint, _ = dataset_of(context, home)
    letters = Letters.of(step, context, home)
    _permitted(context, home, letters.others)
    event = overlap_event(context.params)
    names = {partner: f"overlap.{partner}" for partner in letters.others}

    def make() -> Mapping[str, Sealed]:
        points = psi.hash_to_curve(_people(context, home), _domain(step, context))
        sets = {
            partner: _set_for(partner, points, step, context, home) for partner in letters.others
        }
        boxes = {p: letters.seal(p, "blind", data) for p, data in sets.items()}
        return {
            names[p]: Sealed({"box": np.frombuffer(box, np.uint8)}, event or Exact())
            for p, box in boxes.items()
        }

    costs: dict[str, Event] = {} if event is None else dict.fromkeys(names.values(), event)
    ref = release(
        step,
        context,
        home,
        key=step.outputs[0],
        inputs=[letters.listed, fingerprint],
        make=make,
        fingerprint=fingerprint,
        costs=costs,
    )
    return [ref]


def reblind(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Publish the partners' sets under this site's scalars too, as sorted digests; once.

    Raises
    ------
    SecureError
        ``secure.again`` for a second list of senders, ``secure.contributors`` for too short a one;
        ``secure.share`` for a box that does not open, or points of small order.
    """
    from site_tasks import permissions

    home = SiteHome.find(step.place, context.workspace)
    permissions.check(context, home)
    letters = Letters.of(step, context, home)
    senders = listed_senders(step, context, home, "blind", 2)
    state, size = state_of(context, home), padded(context.params)

    def make() -> bytes:
        arrays: dict[str, Any] = {}
        for partner, parts in senders.items():
            if partner == home.name:
                continue
            box = parts[f"overlap.{home.name}"]["box"].tobytes()
            data = letters.open(partner, "blind", box)
            if len(data) != size * psi.POINT:
                raise _odd(partner)
            points = [data[i : i + psi.POINT] for i in range(0, len(data), psi.POINT)]
            if len(set(points)) != len(points):
                raise _odd(partner)
            twice = psi.blind(points, _scalar(partner, step, context, home), site=partner)
            pair = "/".join(sorted((home.name, partner)))
            arrays[partner] = psi.digests(twice, _domain(step, context) + pair.encode())
        meta = {**letters.bound("reblind"), "site": home.name}
        return sign(encode(Artefact("overlap", meta, arrays)), home.key())

    made = state.once(f"reblind-{step.round:04d}", make, durable=False)
    return [context.store.put(context.key(step.outputs[0]), made)]


def normalised(values: Iterable[object], how: str) -> list[bytes]:
    """Distinct identifiers, spelt alike; empty ones are left out; O(values)."""
    out = set()
    for value in values:
        text = str(value)
        if how != "exact":
            text = unicodedata.normalize("NFKD", text).casefold()
            keep = str.isdecimal if how == "digits" else str.isalnum
            text = "".join(letter for letter in text if keep(letter))
        if text:
            out.add(text.encode())
    return sorted(out)


def _people(context: RunContext, home: SiteHome) -> list[bytes]:
    """The site's people; never written anywhere."""
    from site_tasks.prepare import validated_table
    from site_tasks.table import chunks

    column = person_of(context.params, context.contract)
    found: set[bytes] = set()
    for frame in chunks(validated_table(context, home), [column]):
        series = frame[column].dropna()
        if series.dtype.kind == "f":  # whole numbers with gaps are read as floats
            series = series.astype("int64")
        found.update(normalised(series.unique().tolist(), context.params.statistics.normalise))
    least, most = home.settings.statistics.overlap_minimum, context.params.statistics.overlap_size
    if len(found) < least:
        raise DataError(
            "data.too-few-rows",
            f"Fewer than {least} people, the least that site.toml permits in an overlap "
            "(statistics.overlap_minimum).",
            "Leave this site out, or let its steward lower the minimum.",
            site=home.name,
        )
    if len(found) > most:
        raise DataError(
            "data.too-few-rows",
            f"There are more people than the public size of {most} that every set is filled up to.",
            "Raise statistics.overlap_size in a new run.",
            site=home.name,
        )
    return sorted(found)


def _set_for(
    partner: str, points: list[bytes], step: Step, context: RunContext, home: SiteHome
) -> bytes:
    """Own people, the partner's dummies, some of one's own, random points; blinded, shuffled."""
    params = context.params
    own, theirs = (
        psi.hash_to_curve(dummies(params, of, other), _domain(step, context))
        for of, other in ((home.name, partner), (partner, home.name))
    )
    event = overlap_event(params)
    taken = 0
    if event is not None:
        half = shift(params)
        scale = 1.0 / float(params.statistics.overlap_epsilon or 1.0)
        drawn = int(discrete_laplace(scale, 1, Entropy(None))[0])
        taken = min(max(drawn + half, 0), 2 * half)  # beyond: once in 2^64
    known = [*points, *theirs, *own[:taken]]
    blinded = psi.blind(known, _scalar(partner, step, context, home))
    return psi.shuffled([*blinded, *psi.filler(padded(params) - len(blinded))])


def _permitted(context: RunContext, home: SiteHome, partners: Iterable[str]) -> None:
    """Partners and repetitions within what the steward permits; remembers this run.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted``.
    """
    limits = home.settings.statistics
    if context.params.statistics.overlap_size < limits.overlap_minimum:
        raise _refused(home, "overlap_minimum", "is above the plan's statistics.overlap_size")
    state = state_of(context, home)
    lineage = home.settings.dataset.lineage
    for partner in partners:
        if limits.overlap_partners is not None and partner not in limits.overlap_partners:
            raise _refused(home, "overlap_partners", f"does not name {partner}")
        # Beside the secure sums' own memory of the federation, over all runs and lineages.
        folder = home.private / "secure" / context.federation / "overlaps" / lineage / partner
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = digest(f"{context.federation}/{context.run}/{state.folder.name}".encode())
        earlier = {path.name for path in folder.iterdir()} - {own}
        if (
            len(earlier) >= limits.overlap_times
            and context.params.statistics.overlap_epsilon is None
        ):
            raise _refused(
                home,
                "overlap_times",
                f"permits {limits.overlap_times} exact overlap(s) of lineage {lineage} with "
                f"{partner}, and as many were measured: the difference of two tells who came",
            )
        os.close(os.open(folder / own, os.O_CREAT | os.O_WRONLY, 0o600))


def _scalar(partner: str, step: Step, context: RunContext, home: SiteHome) -> bytes:
    """This site's scalar for one partner and run."""
    name = f"scalar-{step.round:04d}-{partner}"
    return state_of(context, home).once(name, lambda: os.urandom(32))


def _domain(step: Step, context: RunContext) -> bytes:
    return f"folkmoot overlap\0{context.federation}\0{context.run}\0{step.round}".encode()


def _odd(partner: str) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"The blinded set of site {partner} has not the public size, or an element twice.",
        "Check that the site runs the same version of folkmoot and params.",
        site=partner,
    )


def _refused(home: SiteHome, key: str, what: str) -> PrivacyError:
    return PrivacyError(
        "privacy.not-permitted",
        f"Site {home.name}: statistics.{key} in site.toml {what}.",
        "Change the plan, or let the site's steward change site.toml.",
        site=home.name,
    )
