"""Steps of secure sums: the set-up before the first, two more per stage whose results are summed.

Where sites settle on levels under masks, the set-up comes before they say anything about them.

A stage that is summed is ``task at the sites → survivors → unmask at the sites → close``; a plain one
``task at the sites → close``.
"""

from __future__ import annotations

from collections.abc import Iterable

from folkmoot.params import Params
from folkmoot.plan import COORDINATOR, Step, keys

__all__ = ["opened", "set_up", "statistics"]

#: Answers that open a sum are counted by the step itself: it knows the run's threshold.
ANY = 1


def set_up(params: Params) -> Iterable[Step]:
    """Two tasks per site, once per run: announce keys, deal shares."""
    sites, required = params.federation.members, params.federation.required
    agreed = params.anonymisation.recoding == "agreed"
    before = {s: f"agree/validate/{s}" if agreed else f"prepare/encode/{s}" for s in sites}
    inputs: tuple[str, ...] = ()
    for body, what, closing, output in (
        ("announce", "keys", "keys", keys.SECURE_KEYS),
        ("share", "shares", "deal", keys.SECURE_MEMBERS),
    ):
        names = []
        for site in sites:
            names.append(f"setup/{body}/{site}")
            outputs = (keys.secure(what, site),)
            yield Step(names[-1], f"site.{body}", site, 0, (before[site],), inputs, outputs)
        yield Step(
            f"setup/{closing}",
            f"coordinator.{closing}",
            COORDINATOR,
            0,
            after=tuple(names),
            inputs=tuple(keys.secure(what, site) for site in sites),
            outputs=(output,),
            quorum=required,
        )
        before, inputs = dict.fromkeys(sites, f"setup/{closing}"), (output,)


def statistics(params: Params) -> Iterable[Step]:
    """Each site's summed statistics, under masks."""
    agreed = params.anonymisation.recoding == "agreed"
    for site in params.federation.members:
        before = "setup/deal", f"prepare/encode/{site}"
        yield Step(
            f"round-000/statistics/{site}",
            "site.statistics",
            site,
            0,
            after=before[::-1] if agreed else before,  # what comes last first
            outputs=(keys.masked_statistics(site), keys.statement("round-000", site)),
        )


def opened(
    stage: str, task: str, round: int, sites: Iterable[str], inputs: tuple[str, ...], quorum: int
) -> Iterable[Step]:
    """The list of survivors of a stage, and every site's answer to it.

    Parameters
    ----------
    stage, task : str
        ``round-003``, ``train``: the site steps that contributed.
    inputs : tuple of str
        Of those steps: an answer is about the same model.
    quorum : int
        Contributions that are required.
    """
    sites = tuple(sites)
    yield Step(
        f"{stage}/survivors",
        "coordinator.survivors",
        COORDINATOR,
        round,
        after=tuple(f"{stage}/{task}/{site}" for site in sites),
        inputs=tuple(keys.statement(stage, site) for site in sites),
        outputs=(keys.survivors(stage),),
        quorum=quorum,
    )
    for site in sites:
        yield Step(
            f"{stage}/unmask/{site}",
            "site.unmask",
            site,
            round,
            after=(f"{stage}/survivors", f"{stage}/{task}/{site}"),
            inputs=(*inputs, keys.survivors(stage)),
            outputs=(keys.answer(stage, site),),
        )
