"""Rounds of a run that computes statistics instead of training a model.

::

    sum       statistics at the sites → survivors → unmask → tally        (as a round of training)
    overlap   blind at the sites → relay → reblind → tally
    compute   share at the sites → relay → compute at three of them → tally

Overlaps and computed figures come first: sums alone may end sooner than planned.
"""

from __future__ import annotations

from collections.abc import Iterable

from folkmoot.params import Params
from folkmoot.plan import COORDINATOR, Step, keys
from pipelines.plans import secure

__all__ = ["final", "prepare", "rounds"]


def prepare(params: Params) -> Iterable[Step]:
    """Version, validate and columns at each site; the intervals that quantiles begin with."""
    sites = params.federation.members
    # Tables that break the contract are what the question is about.
    bodies = ["version", "validate"] if params.statistics.ask != ["schema"] else ["version"]
    for site in sites:
        before: tuple[str, ...] = ()
        for task in (*bodies, "encode"):
            last = task == "encode"
            outputs = (keys.statistics(site),) if last else ()
            body = "site.columns" if last else f"site.{task}"
            yield Step(f"prepare/{task}/{site}", body, site, 0, before, (), outputs)
            before = (f"prepare/{task}/{site}",)
    after = tuple(f"prepare/encode/{site}" for site in sites)
    if params.aggregation.masked:
        yield from secure.set_up(params)
        after = (*after, "setup/deal")
    yield Step(
        "round-000/initialise",
        "coordinator.begin_statistics",
        COORDINATOR,
        0,
        after=after,
        inputs=tuple(keys.statistics(site) for site in sites),
        outputs=(keys.model(0),),
        quorum=params.federation.required,
    )


def rounds(params: Params) -> Iterable[Step]:
    """Steps of all rounds."""
    makers = {"sum": _sum, "overlap": _overlap, "compute": _compute}
    for round, kind in enumerate(params.statistics.stages(noised=params.privacy.private), start=1):
        yield from makers[kind](params, round)


def final(params: Params) -> Iterable[Step]:
    """Gather the answers of all rounds."""
    last = params.rounds
    yield Step(
        "final/conclude",
        "coordinator.conclude_statistics",
        COORDINATOR,
        last,
        after=(f"round-{last:03d}/aggregate",),
        inputs=(keys.model(last),),
        outputs=(keys.RESULT,),
    )


def _sum(params: Params, round: int) -> Iterable[Step]:
    stage, sites = f"round-{round:03d}", params.federation.members
    masked, quorum = params.aggregation.masked, params.federation.required
    for site in sites:
        stated = (keys.statement(stage, site),) if masked else ()
        outputs = (keys.update(round, site), *stated)
        yield _site(stage, "statistics", "site.sums", site, round, outputs)
    task = "statistics"
    if masked:
        yield from secure.opened(stage, task, round, sites, (keys.model(round - 1),), quorum)
        task, quorum = "unmask", secure.ANY
    yield _tally(stage, task, round, sites, quorum)


def _overlap(params: Params, round: int) -> Iterable[Step]:
    stage, sites = f"round-{round:03d}", params.federation.members
    quorum = params.federation.required
    for site in sites:
        yield _site(stage, "blind", "site.blind", site, round, (keys.letters(round, site),))
    yield _relay(stage, "blind", round, sites, quorum)
    for site in sites:
        yield Step(
            f"{stage}/reblind/{site}",
            "site.reblind",
            site,
            round,
            after=(f"{stage}/relay", f"{stage}/blind/{site}"),
            inputs=(keys.survivors(stage),),
            outputs=(keys.answer(stage, site),),
        )
    yield _tally(stage, "reblind", round, sites, quorum)


def _compute(params: Params, round: int) -> Iterable[Step]:
    stage, sites = f"round-{round:03d}", params.federation.members
    parties = tuple(sorted(params.statistics.compute))
    for site in sites:
        yield _site(stage, "share", "site.share_counts", site, round, (keys.letters(round, site),))
    yield _relay(stage, "share", round, sites, params.federation.required)
    for site in parties:
        yield Step(
            f"{stage}/compute/{site}",
            "site.compute",
            site,
            round,
            after=(f"{stage}/relay", f"{stage}/share/{site}"),
            inputs=(keys.survivors(stage),),
            outputs=(keys.answer(stage, site),),
            live=True,
        )
    yield _tally(stage, "compute", round, parties, None)


def _site(
    stage: str, task: str, body: str, site: str, round: int, outputs: tuple[str, ...]
) -> Step:
    before = f"round-{round - 1:03d}/aggregate" if round > 1 else "round-000/initialise"
    after = (before, f"prepare/encode/{site}")
    inputs = (keys.model(round - 1),)
    return Step(f"{stage}/{task}/{site}", body, site, round, after, inputs, outputs)


def _relay(stage: str, task: str, round: int, sites: Iterable[str], quorum: int) -> Step:
    sites = tuple(sites)
    return Step(
        f"{stage}/relay",
        "coordinator.relay",
        COORDINATOR,
        round,
        after=tuple(f"{stage}/{task}/{site}" for site in sites),
        inputs=tuple(keys.letters(round, site) for site in sites),
        outputs=(keys.survivors(stage),),
        quorum=quorum,
    )


def _tally(stage: str, task: str, round: int, sites: Iterable[str], quorum: int | None) -> Step:
    return Step(
        f"{stage}/aggregate",
        "coordinator.tally",
        COORDINATOR,
        round,
        after=tuple(f"{stage}/{task}/{site}" for site in sites),
        inputs=(keys.model(round - 1),),
        outputs=(keys.model(round), keys.record(round)),
        quorum=quorum,
    )
