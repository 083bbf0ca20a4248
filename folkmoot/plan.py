"""Round plans: which step runs where, after what, reading and writing what.  Pure data, no code.

A plan is made from params and contract by ``pipelines.plans``; a host (Airflow, DVC, embedded)
walks it and calls ``execute`` for every step.  A run is a plan under a name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from folkmoot.contract import Contract
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import Roster
from folkmoot.params import Params
from folkmoot.wire import canonical_json

__all__ = ["COORDINATOR", "RoundPlan", "RunContext", "Step", "keys"]

T = TypeVar("T")

COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Step:
    """One unit of work.

    Parameters
    ----------
    name : str
        Unique in the plan, such as ``round-003/train/site-a``.
    body : str
        Name of the function in ``pipelines.hosts.execute.BODIES``, such as ``site.train``.
    place : str
        ``coordinator`` or the name of a site.
    round : int
        0 before the first round; the last round for what follows it.
    after : tuple of str
        Steps that must be over (not necessarily well: see ``quorum``).
    inputs, outputs : tuple of str
        Keys of the exchange store, relative to the run.
    quorum : int, optional
        How many of the site steps in ``after`` must have succeeded; None means all of ``after``.
    live : bool
        Whether it talks to its neighbours in the plan while it runs: consecutive live steps are one
        turn, and must run at the same time.
    """

    name: str
    body: str
    place: str
    round: int
    after: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    quorum: int | None = None
    live: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Step:
        """Inverse of :meth:`to_dict`."""
        tuples = {k: tuple(values[k]) for k in ("after", "inputs", "outputs")}
        return Step(**{**values, **tuples})


@dataclass(frozen=True)
class RoundPlan:
    """All steps of a training, in an order that respects ``after``."""

    federation: str
    kind: str
    rounds: int
    sites: tuple[str, ...]
    steps: tuple[Step, ...]

    def stage(self, prefix: str) -> tuple[Step, ...]:
        """Steps whose name starts with ``prefix``, such as ``prepare/`` or ``round-003/``.

        O(steps of the stage): rounds x sites is large, and a host asks for every round.
        """
        found = self._stages.get(prefix.partition("/")[0], ())
        return tuple(step for step in found if step.name.startswith(prefix))

    def opening(self) -> tuple[Step, ...]:
        """All steps before the first round, in order."""
        return tuple(s for s in self.steps if s.round == 0)

    def step(self, name: str) -> Step:
        """The step of a name, in O(1); KeyError where there is none."""
        return self._by_name[name]

    def site_steps(self, names: Iterable[str]) -> tuple[Step, ...]:
        """Of the named steps those that run at a site, such as of ``step.after``."""
        return tuple(s for s in map(self.step, names) if s.place != COORDINATOR)

    @cached_property
    def _by_name(self) -> dict[str, Step]:
        return {step.name: step for step in self.steps}

    @cached_property
    def _stages(self) -> dict[str, list[Step]]:
        stages: dict[str, list[Step]] = {}
        for step in self.steps:
            stages.setdefault(step.name.partition("/")[0], []).append(step)
        return stages

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all steps."""
        return hashlib.sha256(canonical_json([step.to_dict() for step in self.steps])).hexdigest()


class keys:
    """Keys of the exchange store, relative to a run (``folkmoot.exchange`` shows the layout)."""

    RUN = "run.json"
    RESULT = "final/result.json"
    SCHEMA = "round-000/schema.json"

    @staticmethod
    def agreement(site: str) -> str:
        """Which levels a site could live with (``folkmoot.agreement``)."""
        return f"round-000/agreement-{site}"

    @staticmethod
    def statistics(site: str) -> str:
        """Summed statistics of a site's prepared rows."""
        return f"round-000/statistics-{site}"

    @staticmethod
    def update(round: int, site: str) -> str:
        """A site's released update of a round."""
        return f"round-{round:03d}/update-{site}"

    @staticmethod
    def letters(round: int, site: str) -> str:
        """A site's boxes for other sites, which read them all; nothing in them is in the clear."""
        return f"round-{round:03d}/letters-{site}"

    @staticmethod
    def model(round: int) -> str:
        """Global model after a round; 0 is the initial one."""
        return f"round-{round:03d}/model"

    @staticmethod
    def record(round: int) -> str:
        """Who took part in a round, metrics, stop or go on."""
        return f"round-{round:03d}/record.json"

    #: Set-up of secure sums: digests of all key messages, and who takes part.
    SECURE_KEYS = "secure/keys.json"
    SECURE_MEMBERS = "secure/members.json"

    @staticmethod
    def secure(what: str, site: str) -> str:
        """A site's ``keys`` or ``shares`` of the set-up, or the ``inbox`` made for it."""
        return f"secure/{what}-{site}"

    @staticmethod
    def masked_statistics(site: str) -> str:
        """Summed statistics of a site's prepared rows, under masks."""
        return f"round-000/masked-{site}"

    @staticmethod
    def survivors(stage: str) -> str:
        """List of the sites whose contributions are in the secure sum of a stage."""
        return f"{stage}/survivors.json"

    @staticmethod
    def total(stage: str) -> str:
        """Encrypted sum of a stage's contributions, which the sites decrypt."""
        return f"{stage}/total"

    @staticmethod
    def statement(stage: str, site: str) -> str:
        """What a site signed about its contribution to the secure sum of a stage."""
        return f"{stage}/statement-{site}"

    @staticmethod
    def answer(stage: str, site: str) -> str:
        """A site's shares that open the secure sum of a stage."""
        return f"{stage}/answer-{site}"

    @staticmethod
    def evaluation(site: str) -> str:
        """A site's evaluation counts of the final model."""
        return f"final/evaluation-{site}"


@dataclass(frozen=True)
class RunContext:
    """What a step body is given besides its step.

    Parameters
    ----------
    run : str
        Name of the run.
    params, contract, roster
        As published in ``run.json`` when the run was opened.
    store : ExchangeStore
        The exchange store.
    workspace : Path
        Folder of the installation that executes the step.
    """

    run: str
    params: Params
    contract: Contract
    roster: Roster
    store: ExchangeStore
    workspace: Path
    #: Whatever a long-lived process wants to keep between steps (decoded models, memory maps).
    cache: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, name: Any, of: object, make: Callable[[], T]) -> T:
        """What ``make`` makes of an object, for all sites that ask while it is the last one.

        Parameters
        ----------
        name : hashable
            Its place in ``cache``, one per kind of thing that is made.
        of : object
            What it is made of; compared by identity, and kept.
        make : callable
            Called where another object was asked about last; two threads may both call it.
        """
        kept = self.cache.get(name)
        if kept is None or kept[0] is not of:
            kept = self.cache[name] = of, make()
        found: T = kept[1]
        return found

    @property
    def federation(self) -> str:
        """Name of the federation."""
        return self.params.federation.name

    def key(self, relative: str) -> str:
        """Full key in the exchange store of a key relative to the run."""
        return f"{self.federation}/runs/{self.run}/{relative}"
