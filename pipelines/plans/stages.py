"""Stages that every plan has: preparation at the sites before, evaluation and conclusion after."""

from __future__ import annotations

from collections.abc import Iterable

from folkmoot.params import Params
from folkmoot.plan import COORDINATOR, Step, keys
from folkmoot.privacy.events import EXACT
from pipelines.plans import secure

__all__ = ["final", "one_round", "prepare"]

#: Body by name of a step of one site's preparation, in order; where no model is asked for, identifiers
#: and public levels are one step.
_BEFORE = {"version": "version", "validate": "validate"}
_PLAIN = {"anonymise": "anonymise"}
_ANONYMISED = {"recode": "anonymise", "verify": "verify", "report": "report"}


def prepare(params: Params) -> Iterable[Step]:
    """Version, validate, anonymise, encode at each site; then the initial global model.

    With a privacy model, to anonymise is three steps: recode, verify what was written, report.  Where
    the sites have to settle on a schema (``anonymisation.recoding: agreed``), all of them are
    validated first, say which levels they could live with, and the coordinator settles.
    """
    sites = params.federation.members
    agreed = params.anonymisation.recoding == "agreed"
    if agreed:
        yield from _agree(params)
    bodies = {
        **({} if agreed else _BEFORE),
        **(_ANONYMISED if params.anonymisation.active else _PLAIN),
        "encode": "encode",
    }
    for site in sites:
        before: tuple[str, ...] = ("agree/settle",) if agreed else ()
        for task, body in bodies.items():
            name = f"prepare/{task}/{site}"
            schema = (keys.SCHEMA,) if agreed else ()
            outputs = (keys.statistics(site),) if body == "encode" else ()
            yield Step(name, f"site.{body}", site, 0, before, schema, outputs)
            before = (name,)
    after = tuple(f"prepare/encode/{site}" for site in sites)
    inputs = tuple(keys.statistics(site) for site in sites)
    quorum = params.federation.required
    if params.aggregation.masked:
        if not agreed:
            yield from secure.set_up(params)
        after = (*after, "setup/deal")
        if params.privacy.mechanism in EXACT:
            yield from secure.statistics(params)
            yield from secure.opened("round-000", "statistics", 0, sites, (), quorum)
            after = tuple(f"round-000/unmask/{site}" for site in sites)
            inputs = tuple(keys.masked_statistics(site) for site in sites)
            quorum = secure.ANY
    yield Step(
        "round-000/initialise",
        "coordinator.initialise",
        COORDINATOR,
        0,
        after=after,
        inputs=inputs,
        outputs=(keys.model(0),),
        quorum=quorum,
    )


def _agree(params: Params) -> Iterable[Step]:
    """Each site's say about levels, under masks where others are, and the coordinator's choice."""
    sites, masked = params.federation.members, params.aggregation.masked
    says: list[Step] = []
    for site in sites:
        before: tuple[str, ...] = ()
        for body in _BEFORE:
            name = f"agree/{body}/{site}"
            yield Step(name, f"site.{body}", site, 0, before)
            before = (name,)
        after = ("setup/deal", *before) if masked else before
        outputs = (keys.agreement(site), *stated(params, "agree", site))
        say = Step(f"agree/levels/{site}", "site.agree", site, 0, after, (), outputs)
        if masked:
            says.append(say)
        else:
            yield say
    task, quorum = "levels", params.federation.required
    if masked:
        yield from secure.set_up(params)
        yield from says
        yield from secure.opened("agree", task, 0, sites, (), quorum)
        task, quorum = "unmask", secure.ANY
    yield Step(
        "agree/settle",
        "coordinator.settle",
        COORDINATOR,
        0,
        after=tuple(f"agree/{task}/{site}" for site in sites),
        inputs=tuple(keys.agreement(site) for site in sites),
        outputs=(keys.SCHEMA,),
        quorum=quorum,
    )


def one_round(
    params: Params, round: int, body: str, sites: Iterable[str], quorum: int
) -> Iterable[Step]:
    """Train at ``sites``, then aggregate at the coordinator."""
    sites = tuple(sites)
    before = f"round-{round - 1:03d}/aggregate" if round > 1 else "round-000/initialise"
    for site in sites:
        yield Step(
            f"round-{round:03d}/train/{site}",
            body,
            site,
            round,
            after=(before, f"prepare/encode/{site}"),
            inputs=(keys.model(round - 1),),
            outputs=(keys.update(round, site), *stated(params, f"round-{round:03d}", site)),
        )
    task = "train"
    if params.aggregation.masked:
        inputs = (keys.model(round - 1),)
        yield from secure.opened(f"round-{round:03d}", task, round, sites, inputs, quorum)
        task, quorum = "unmask", secure.ANY
    yield Step(
        f"round-{round:03d}/aggregate",
        "coordinator.aggregate",
        COORDINATOR,
        round,
        after=tuple(f"round-{round:03d}/{task}/{site}" for site in sites),
        inputs=(keys.model(round - 1), *(keys.update(round, site) for site in sites)),
        outputs=(keys.model(round), keys.record(round)),
        quorum=quorum,
    )


def final(params: Params) -> Iterable[Step]:
    """Evaluate the last global model at each site and conclude the run.

    The round and the model's key are those of the last possible round; when rounds stop early the
    host hands over the step with the round that was last (``pipelines.hosts.walk.ending``).
    """
    sites, last = params.federation.members, params.model.rounds
    for site in sites:
        yield Step(
            f"final/evaluate/{site}",
            "site.evaluate",
            site,
            last,
            after=(f"round-{last:03d}/aggregate", f"prepare/encode/{site}"),
            inputs=(keys.model(last),),
            outputs=(keys.evaluation(site), *stated(params, "final", site)),
        )
    task, quorum = "evaluate", params.federation.required
    if params.aggregation.masked:
        yield from secure.opened("final", task, last, sites, (keys.model(last),), quorum)
        task, quorum = "unmask", secure.ANY
    yield Step(
        "final/conclude",
        "coordinator.conclude",
        COORDINATOR,
        last,
        after=tuple(f"final/{task}/{site}" for site in sites),
        inputs=(keys.model(last), *(keys.evaluation(site) for site in sites)),
        outputs=(keys.RESULT,),
        quorum=quorum,
    )


def stated(params: Params, stage: str, site: str) -> tuple[str, ...]:
    """Under masks a site also publishes a statement about what it uploaded."""
    return (keys.statement(stage, site),) if params.aggregation.masked else ()
