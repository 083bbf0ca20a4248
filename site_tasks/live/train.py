"""The step ``train`` of a live session: XGBoost's worker in a process of its own, watched from here.

The trees are released when the tracker has signed that every site holds the same ones on disk.  A
site that was stopped between that and its release finds them in ``private/work/live`` and releases
them without training again.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from folkmoot.errors import FolkmootError, PrivacyError, ProtocolError, RoundError
from folkmoot.exchange import ArtifactRef
from folkmoot.live.certificates import checked, issue, write
from folkmoot.live.figures import figures_of, wanted
from folkmoot.live.messages import MOST_ATTEMPTS, Place
from folkmoot.live.process import Child
from folkmoot.models.tree_format import TreeSpace, dump_trees, parse_trees, strip
from folkmoot.models.trees import outputs
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import Part, Statistics, TreeUpdate
from folkmoot.wire import Artefact, digest
from site_tasks import permissions
from site_tasks.evaluate import counts_of, due, load_model
from site_tasks.home import SiteHome
from site_tasks.live.job import job_of
from site_tasks.live.kept import Kept
from site_tasks.live.watch import follow, lost, near
from site_tasks.margins import margins, threads
from site_tasks.prepared import Prepared, load_prepared
from site_tasks.release import release

__all__ = ["train"]

_WORKER = "site_tasks.live.worker"


def train(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Train with the other sites of the round's session and release the trees that all of them made.

    Returns
    -------
    list of ArtifactRef
        ``round-RRR/update-<site>`` with the parts ``update`` and ``figures`` (gain and cover of its
        nodes) and, every ``aggregation.evaluate_every`` rounds, ``evaluation`` of the incoming model.

    Raises
    ------
    TransientError
        ``transient.session`` where the session ended before its trees: it can be repeated.
    PrivacyError
        ``privacy.not-permitted`` for fewer sites than ``permissions.minimum_contributors``.
    RoundError
        ``round.diverged``.

    Notes
    -----
    Privacy cost: none is accounted for.  The tracker and, in quantile summaries, the other sites see
    numbers of this site exactly (``docs/threat-model.md``).  O(steps · rows · features).
    """
    home = SiteHome.find(step.place, context.workspace)
    permissions.check(context, home)
    prepared = load_prepared(context, home)
    model, model_digest = load_model(context, keys.model(step.round - 1), prepared)
    session = _Session(step, context, home, prepared, model, model_digest)

    def make() -> dict[str, Part]:
        weights = prepared.weights("train")
        uniform = context.params.aggregation.weighting == "uniform"
        rows = float(prepared.rows["train"]) if weights is None else float(np.sum(weights))
        parts: dict[str, Part] = {}
        if due(context.params, step.round):
            parts["evaluation"] = counts_of(model, prepared, context, home)
        parts["update"] = TreeUpdate(session.trees(), 1.0 if uniform else rows)
        if wanted(model.arrays) and (figures := session.kept.figures()):
            parts["figures"] = Statistics(figures)
        return parts

    ref = release(
        step,
        context,
        home,
        key=keys.update(step.round, home.name),
        inputs=[model_digest, prepared.digest],
        make=make,
        fingerprint=prepared.fingerprint,
    )
    session.kept.forget()
    return [ref]


@dataclass
class _Session:
    """One site's way through the attempts at a round's session."""

    step: Step
    context: RunContext
    home: SiteHome
    prepared: Prepared
    model: Artefact
    model_digest: str
    _seen: int = field(default=0)

    def trees(self) -> bytes:
        """The session's trees, once all sites hold them."""
        limit = time.monotonic() + self.context.params.federation.deadline_seconds
        while True:
            place, asked = self._next(limit)
            have = self.kept.have()
            if asked is None:
                return have[1] if have else b""  # agreed upon before, and found again
            try:
                data = self._attempt(place, asked, have)
            except FolkmootError as error:
                with suppress(FolkmootError):  # the tracker may know already
                    place.tell(f"failed-{self.home.name}", dict(error.crossing()), self.home.key())
                raise
            if data is not None:
                return data
            self._seen = place.attempt + 1

    @cached_property
    def kept(self) -> Kept:
        """What the site holds on disk of this session."""
        run = f"{self.context.federation}--{self.context.run}"
        name = f"{self.step.round:03d}-{self._place(0).binding}"
        return Kept(self.home.work / "live" / run / name, self.prepared.digest)

    # Attempts -------------------------------------------------------------------------------

    def _next(self, limit: float) -> tuple[Place, dict[str, Any] | None]:
        """The first attempt that is open; or one that ended well with the trees that are here."""
        while True:
            place = self._place(self._seen)
            asked = place.hear("open.json", self._tracker)
            over = None if asked is None else place.hear("over.json", self._tracker)
            if over is not None:
                found = self.kept.have()
                if over["trees"] is not None and found and over["trees"] == found[0]:
                    return place, None
                self._seen += 1
            elif asked is not None:
                return place, asked
            else:
                self._wait(limit, "The tracker opened no session")
            if self._seen >= MOST_ATTEMPTS:
                raise lost(f"{MOST_ATTEMPTS} attempts at a session came to nothing", self.home.name)

    def _attempt(
        self, place: Place, asked: dict[str, Any], have: tuple[str, bytes] | None
    ) -> bytes | None:
        """The trees; None where the attempt was given up before it began."""
        params, name = self.context.params, self.home.name
        self._permitted(asked)
        tracker, seconds = params.model.trees.tracker, float(params.federation.deadline_seconds)
        certificate, key = issue(name, tracker.address, seconds)
        hello = {"certificate": certificate, "have": None if have is None else have[0]}
        environment = {"no_grpc_proxy": tracker.address, "OMP_WAIT_POLICY": "passive"}
        with self.kept.attempt() as folder, Child(_WORKER, folder, environment) as child:
            self._save_start(folder)  # long at a large site: before anybody waits for it
            limit = time.monotonic() + seconds
            try:
                place.tell(f"hello-{name}", hello, self.home.key())
            except ProtocolError:  # said before this site was started anew
                return self._anew(place, limit)
            while (started := place.hear("start.json", self._tracker)) is None:
                if (over := place.hear("over.json", self._tracker)) is not None:
                    return self._ended(over, have)
                self._wait(limit, "The tracker did not begin the session")
            own = checked(started["certificate"], "The tracker")
            files = write(folder, {"tracker": own, "own": certificate, "key": key})
            child.give(self._job(asked, started, files, folder))
            over = follow(child, place, self.home, self._tracker, limit)
            if over is not None:
                return self._ended(over, None)
            saved = json.loads((folder / "booster.json").read_bytes())
        made = saved["learner"]["gradient_booster"]["model"]["trees"]
        data = self._checked(dump_trees([strip(tree) for tree in made]))
        self.kept.keep(data, figures_of(made))  # on disk before anybody hears of it
        place.tell(f"done-{name}", {"trees": digest(data)}, self.home.key())
        while (over := place.hear("over.json", self._tracker)) is None:
            self._wait(limit, "The tracker did not end the session")
        return self._ended(over, (digest(data), data))

    def _anew(self, place: Place, limit: float) -> bytes | None:
        """Leave an attempt that went on without this process, and wait until it is over for all."""
        name = self.home.name
        left = lost(f"Site {name} was started anew within a session", name)
        with suppress(ProtocolError):  # said before as well
            place.tell(f"failed-{name}", dict(left.crossing()), self.home.key())
        while (over := place.hear("over.json", self._tracker)) is None:
            self._wait(limit, "The tracker did not end the session")
        return self._ended(over, self.kept.have())

    def _ended(self, over: dict[str, Any], have: tuple[str, bytes] | None) -> bytes | None:
        """What the tracker's last word means for this site."""
        if over["trees"] is not None and have is not None and over["trees"] == have[0]:
            return have[1]
        if over.get("superseded"):
            return None
        what = str(over.get("message") or "The session ended without trees").rstrip(".")
        raise lost(what, self.home.name)

    def _permitted(self, asked: dict[str, Any]) -> None:
        sites, name = list(asked["sites"]), self.home.name
        members = set(self.context.params.federation.members)
        if name not in sites or set(sites) - members or not sites:
            raise ProtocolError(
                "protocol.mismatch",
                "The session that the tracker opened is of other sites.",
                "Find out who opened it; the site took no part.",
                site=name,
            )
        if len(sites) < permissions.fewest_contributors(self.context, self.home):
            raise PrivacyError(
                "privacy.not-permitted",
                f"Site {name}: permissions.minimum_contributors in site.toml asks for more sites "
                f"than the {len(sites)} of this session.",
                "Wait for the missing sites, or let the site's steward change site.toml.",
                site=name,
            )

    def _save_start(self, folder: Path) -> None:
        """The margins that the session's trees improve on."""
        start = margins(self.model, self.prepared, "train", self.context, self.home)
        if not np.isfinite(start).all():
            raise RoundError(
                "round.diverged",
                f"The global model that comes into round {self.step.round} is not finite.",
                "Lower model.trees.eta.",
                site=self.home.name,
            )
        np.save(folder / "start.npy", start, allow_pickle=False)

    def _job(
        self,
        asked: dict[str, Any],
        started: dict[str, Any],
        files: dict[str, str],
        folder: Path,
    ) -> dict[str, Any]:
        params, sites = self.context.params, sorted(asked["sites"])
        n_threads = threads(self.context, self.prepared)
        contract = self.context.contract
        return {
            **job_of(contract, params, self.prepared, self.step.round, n_threads),
            "address": params.model.trees.tracker.address,
            "port": int(started["port"]),
            "world": len(sites),
            "rank": sites.index(self.home.name),
            "certificates": files,
            "start": str(folder / "start.npy"),
            "out": str(folder / "booster.json"),
        }

    # ----------------------------------------------------------------------------------------

    def _place(self, attempt: int) -> Place:
        return Place(self.context, self.step.round, self.model_digest, attempt)

    def _checked(self, data: bytes) -> bytes:
        """The session's trees, as they went through foreign hands."""
        space = TreeSpace.of(self.context.contract, self.context.params)
        count = self.context.params.model.trees.trees_per_round * outputs(self.model.meta)
        parse_trees(data, space, count=count, what="The session's result")
        return data

    # ----------------------------------------------------------------------------------------

    @property
    def _tracker(self) -> Ed25519PublicKey:
        own = self.context.roster.coordinator
        if own is None:
            raise ProtocolError(
                "protocol.roster",
                "The roster names no coordinator, whose key a session's certificates rest on.",
                "Accept the roster of the federation with its coordinator.",
                site=self.home.name,
            )
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(own))

    def _wait(self, limit: float, what: str) -> None:
        if time.monotonic() > limit:
            raise lost(f"{what} within federation.deadline_seconds", self.home.name)
        time.sleep(0.05 if near(self.context.store) else 1.0)
