"""The step ``agree``: which levels this site could live with, through the release door.

The site searches the lattice of levels over its own rows (``anonymise.full_domain``) and releases one
code per node: in which of six public steps its loss beyond its own optimum lies, and whether it would
suppress more rows than the plan's limit.  Neither the optimum's loss, nor numbers of rows, nor classes
leave.  Under masks the codes do not leave either: what the coordinator sees is the sum of all sites'
votes.  Both do depend on the rows, so the plan may claim no differential privacy.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from folkmoot.agreement import BEYOND, OVER, SchemaLattice, votes
from folkmoot.errors import DataError, PrivacyError
from folkmoot.privacy.events import EXACT
from folkmoot.updates import Part, Statistics
from folkmoot.wire import canonical_json
from site_tasks.arrays import read_array
from site_tasks.home import SiteHome
from site_tasks.prepared import read_json, write_folder, write_json

if TYPE_CHECKING:
    from folkmoot.exchange import ArtifactRef
    from folkmoot.params import Anonymisation
    from folkmoot.plan import RunContext, Step
    from site_tasks.anonymise.job import Job

__all__ = ["agree", "content", "own_limit", "remember"]

FORMAT = 1


def agree(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Release one code per node of the lattice (``folkmoot.agreement``), or votes into a secure sum.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` under a plan that claims differential privacy.
    DataError
        ``data.too-few-rows`` for fewer rows than k, ``data.suppression`` where no levels satisfy the
        models.

    Notes
    -----
    Privacy cost: none is charged; the codes leave exactly and the receipt names them as unaccounted.
    """
    from site_tasks.prepare import validated_job
    from site_tasks.release import release

    home = SiteHome.find(step.place, context.workspace)
    if context.params.privacy.mechanism not in EXACT:
        raise PrivacyError(
            "privacy.mechanism",
            "Levels that sites settle on depend on their rows, which no budget is charged for.",
            "Set anonymisation.recoding to public under differential privacy.",
            site=home.name,
        )
    job, stage = validated_job(context, home)
    folder = _folder(home, context, stage)
    if read_json(folder / "report.json") is None:
        _write(folder, job)
    codes = read_array(folder / "codes.npy")
    codes = _held(codes, context, home)

    def make() -> Mapping[str, Part]:
        masked = context.params.aggregation.masked
        return {"agreement": Statistics(votes(codes) if masked else {"codes": codes})}

    return [
        release(
            step,
            context,
            home,
            key=step.outputs[0],
            # Keyed: under masks nobody may test a guess at the codes.
            inputs=[stage, hmac.new(job.secret, codes.tobytes(), hashlib.sha256).hexdigest()],
            make=make,
            fingerprint=job.fingerprint,
        )
    ]


def content(context: RunContext, home: SiteHome) -> str:
    """What the site says about levels depends on, but for the run: its rows and the settings."""
    from site_tasks.prepare import validated_job

    _, stage = validated_job(context, home)
    return _name(context, "levels", stage)


def own_limit(job: Job, context: RunContext, home: SiteHome, stage: str) -> Job:
    """The job with the share of rows that this site may suppress at the levels settled on.

    Parameters
    ----------
    job : Job
        With ``settings.settled``; returned as it is without.
    context, home : RunContext, SiteHome
        The run and the site.
    stage : str
        Name of the validated dataset (``Stages.validated``).

    Raises
    ------
    DataError
        ``data.suppression`` where the site did not say that it could live with them.
    """
    levels = job.settings.settled
    if levels is None:
        return job
    folder = _folder(home, context, stage)
    if read_json(folder / "report.json") is None:
        _write(folder, replace(job, settings=_asked(context)))
    report = read_json(folder / "report.json") or {}
    codes = read_array(folder / "codes.npy")
    index = SchemaLattice.of(context.contract, _asked(context)).index(levels)
    if index is None or codes[index] >= OVER:
        raise DataError(
            "data.suppression",
            f"Site {home.name} would suppress more than its limit at the levels that were settled on.",
            "Raise anonymisation.suppression_limit, or go on without the site (federation.quorum).",
            site=home.name,
        )
    share = min(float(report["allowed"]) / max(int(report["rows"]), 1) + 1e-12, 1.0)
    return replace(job, settings=job.settings.model_copy(update={"suppression_limit": share}))


def remember(context: RunContext, home: SiteHome) -> None:
    """Hold later runs of the series to these levels: two schemas could be compared.

    Raise ``anonymisation.pseudonym_epoch`` to begin another series.
    """
    levels = context.params.anonymisation.settled
    path = _series(context, home)
    if levels is not None and read_json(path) is None:
        write_json(path, {"levels": levels})


def _write(folder: Path, job: Job) -> None:
    """Search the lattice over the site's rows; what it finds stays beside its prepared rows."""
    from site_tasks.anonymise.chosen import chosen_models
    from site_tasks.anonymise.full_domain.read import read_coded
    from site_tasks.anonymise.full_domain.regret import regrets
    from site_tasks.anonymise.job import too_few

    coded, population = read_coded(job)
    if coded.rows < job.settings.k:
        raise too_few(coded.rows, job.settings.k, job.site)
    found = regrets(
        coded,
        chosen_models(job.contract, job.settings),
        limit=job.settings.suppression_limit,
        lowest=job.settings.levels,
        population=population,
        time_limit=job.settings.time_limit_seconds or None,
    )
    with write_folder(folder) as part:
        np.save(part / "codes.npy", found.codes, allow_pickle=False)
        write_json(
            part / "report.json",
            {
                "rows": coded.rows,
                "allowed": found.allowed,
                "optimum": found.optimum.levels,
                "loss": found.optimum.loss,
                "suppressed": found.optimum.suppressed,
                "proven": found.optimum.proven,
            },
        )


def _held(codes: NDArray[np.uint8], context: RunContext, home: SiteHome) -> NDArray[np.uint8]:
    """Only the levels of the site's earlier release, where there was one in this series."""
    earlier = read_json(_series(context, home))
    if earlier is None:
        return codes
    index = SchemaLattice.of(context.contract, _asked(context)).index(earlier["levels"])
    held = np.full_like(codes, BEYOND)
    if index is not None:
        held[index] = codes[index]
    return held


def _asked(context: RunContext) -> Anonymisation:
    """The plan's settings, before anything was settled."""
    return context.params.anonymisation.model_copy(update={"settled": None})


def _name(context: RunContext, *parts: str) -> str:
    settings = _asked(context).stated()
    return hashlib.sha256(canonical_json([FORMAT, *parts, settings])).hexdigest()


def _folder(home: SiteHome, context: RunContext, stage: str) -> Path:
    return home.work / "agreed" / _name(context, stage)


def _series(context: RunContext, home: SiteHome) -> Path:
    lineage = home.settings.dataset.lineage
    name = _name(context, context.federation, lineage, context.contract.digest())
    return home.private / "schemas" / f"{name}.json"
