"""Collect the released artefacts of a stage: signatures checked, late sites left out, quorum kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from folkmoot.errors import FolkmootError, ProtocolError, RoundError, SecureError
from folkmoot.plan import RunContext, Step
from folkmoot.updates import ReleasedUpdate, open_released

__all__ = ["Collected", "collect", "fold", "open_early"]

T = TypeVar("T")
#: Artefacts that are read at a time.
_READERS = 4


@dataclass(frozen=True)
class Collected:
    """Updates sorted by site, and why the other sites are missing.

    Under masks ``updates`` say who contributed, ``summed`` what, and ``report`` how it was opened.
    """

    updates: list[ReleasedUpdate]
    missing: dict[str, str] = field(default_factory=dict)
    required: int = 1
    summed: ReleasedUpdate | None = None
    report: dict[str, Any] = field(default_factory=dict)
    #: The sum of each group of sites, where a robust rule compares them.
    groups: list[ReleasedUpdate] = field(default_factory=list)

    @property
    def contributions(self) -> list[ReleasedUpdate]:
        """What an aggregate works on: single updates, their sum, or the sums of groups."""
        if self.groups:
            return self.groups
        return self.updates if self.summed is None else [self.summed]


def collect(
    step: Step,
    context: RunContext,
    task: str,
    key: Callable[[str], str],
    check: Callable[[ReleasedUpdate, RunContext], None] = lambda update, context: None,
) -> Collected:
    """Open what the sites of ``step.after`` published in one of their tasks.

    Parameters
    ----------
    step : Step
        A coordinator's step; the site steps it follows name the sites and the binding.
    context : RunContext
        The run.
    task : str
        Which of the site steps it follows: the middle of ``round-003/train/site-a``.
    key : callable
        Key relative to the run, by site name.
    check : callable
        Raises `ProtocolError` where an update is not what the plan asked for
        (``pipelines.coordinator.fits``).

    Returns
    -------
    Collected

    Raises
    ------
    ProtocolError
        Where a site's artefact is damaged, forged or foreign and the quorum cannot do without it.
    RoundError
        ``round.quorum`` where too few sites published anything.
    """
    updates: list[ReleasedUpdate] = []
    missing: dict[str, str] = {}
    faults: list[FolkmootError] = []
    names = [name for name in step.after if name.split("/")[1:-1] == [task]]

    early = context.cache.pop("opened early", {})

    def opened(name: str) -> ReleasedUpdate | FolkmootError | None:
        place = key(_site(name))
        found = early.get(place) or _opened(name, place, step.round, context)
        if isinstance(found, ReleasedUpdate):
            try:
                check(found, context)
            except (ProtocolError, SecureError) as error:
                return error
        return found

    ready = all(key(_site(name)) in early for name in names)
    for name, found in _each(opened, sorted(names, key=_site), context, ready):
        if found is None:
            missing[_site(name)] = "protocol.missing"
        elif isinstance(found, FolkmootError):
            faults.append(found)
            missing[_site(name)] = found.code
        else:
            updates.append(found)
    required = len(names) if step.quorum is None else step.quorum
    if len(updates) < required:
        if faults:
            raise faults[0]
        raise RoundError(
            "round.quorum",
            f"{step.name}: {len(updates)} of {len(names)} sites contributed, "
            f"{required} are required; missing: {', '.join(sorted(missing))}.",
            "See each missing site's task for its error, then run again: finished steps are kept. "
            "A smaller federation.quorum lets rounds go on without them.",
        )
    return Collected(updates, missing, required)


def open_early(step: Step, context: RunContext) -> None:
    """Open what a site's step released as soon as it is there, for the :func:`collect` that follows.

    For a host whose sites are threads of its own: the last one to end is not followed by the opening
    of all.  An artefact never changes once it is published.
    """
    (place,) = step.outputs
    found = _opened(step.name, place, step.round, context)
    if found is not None:
        context.cache.setdefault("opened early", {})[place] = found


def _opened(
    name: str, place: str, round: int, context: RunContext
) -> ReleasedUpdate | FolkmootError | None:
    data = context.store.find(context.key(place))
    if data is None:
        return None
    expect = {
        "federation": context.federation,
        "run": context.run,
        "round": round,
        "site": _site(name),
        "step": name,
    }
    try:
        return open_released(data, context.roster, expect)
    except (ProtocolError, SecureError) as error:
        return error


def _each(
    make: Callable[[str], T], names: Sequence[str], context: RunContext, ready: bool
) -> Iterable[tuple[str, T]]:
    """Side by side where reading takes long: from a store elsewhere, or of megabytes of histograms."""
    near = context.store.path("a") is not None and context.params.kind != "trees"
    if ready or near or len(names) < 2:
        return [(name, make(name)) for name in names]
    pool = context.cache.get("readers")
    if pool is None:
        pool = context.cache["readers"] = ThreadPoolExecutor(_READERS)
    return list(zip(names, pool.map(make, names), strict=True))


def fold(collected: Collected, make: Callable[[list[ReleasedUpdate]], T]) -> tuple[Collected, T]:
    """What ``make`` makes of the updates, without the sites it refuses where the quorum allows.

    Shapes and trees are checked by who adds them up: a site that sent others must not be able to
    end a round that can do without it.
    """
    while True:
        try:
            return collected, make(collected.contributions)
        except ProtocolError as error:
            rest = [update for update in collected.updates if update.site != error.site]
            alone = collected.summed is not None or len(rest) in {0, len(collected.updates)}
            if alone or len(rest) < collected.required:
                raise
            missing = {**collected.missing, str(error.site): error.code}
            collected = replace(collected, updates=rest, missing=missing)


def _site(name: str) -> str:
    return name.rsplit("/", 1)[1]
