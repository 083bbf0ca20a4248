"""One body per step: ``execute`` finds it by name, runs it, and lets nothing else cross the border.

Every host calls this function and has no training, privacy or aggregation code of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from folkmoot.agreement import settled
from folkmoot.errors import ProtocolError
from folkmoot.exchange import ArtifactRef, ExchangeStore
from folkmoot.opening import read_opening
from folkmoot.params import Params
from folkmoot.plan import COORDINATOR, RunContext, Step, keys

__all__ = ["BODIES", "execute", "open_context", "store_of"]

Body = Callable[[Step, RunContext], list[ArtifactRef]]

#: Where each body lives.  Loaded when called, so that a site never loads the coordinator's side.
BODIES = {
    "site.version": "site_tasks.prepare:version",
    "site.validate": "site_tasks.prepare:validate",
    "site.agree": "site_tasks.agree:agree",
    "site.anonymise": "site_tasks.prepare:anonymise",
    "site.verify": "site_tasks.prepare:verify",
    "site.report": "site_tasks.prepare:report",
    "site.encode": "site_tasks.prepare:encode",
    "site.train_linear": "site_tasks.train_linear:train",
    "site.train_trees": "site_tasks.train_trees:train",
    "site.train_histograms": "site_tasks.train_histograms:train",
    "site.join": "site_tasks.live.join:join",
    "site.train_live": "site_tasks.live.train:train",
    "site.train_local_dp": "site_tasks.train_local_dp:train",
    "site.train_forest": "site_tasks.train_forest:train",
    "site.train_private": "site_tasks.private.train:train",
    "site.evaluate": "site_tasks.evaluate:evaluate",
    "site.columns": "site_tasks.measure.columns:columns",
    "site.sums": "site_tasks.measure.sums:sums",
    "site.blind": "site_tasks.measure.overlap:blind",
    "site.reblind": "site_tasks.measure.overlap:reblind",
    "site.share_counts": "site_tasks.measure.compute:share_counts",
    "site.compute": "site_tasks.measure.compute:compute",
    "coordinator.begin_statistics": "pipelines.coordinator.statistics:begin",
    "coordinator.relay": "pipelines.coordinator.statistics:relay",
    "coordinator.tally": "pipelines.coordinator.statistics:tally",
    "coordinator.conclude_statistics": "pipelines.coordinator.statistics:conclude",
    "coordinator.settle": "pipelines.coordinator.settle:settle",
    "site.announce": "site_tasks.secure.tasks:announce",
    "site.share": "site_tasks.secure.tasks:share",
    "site.statistics": "site_tasks.secure.tasks:statistics",
    "site.unmask": "site_tasks.secure.tasks:unmask",
    "coordinator.keys": "pipelines.coordinator.secure:keys_of",
    "coordinator.deal": "pipelines.coordinator.secure:deal",
    "coordinator.survivors": "pipelines.coordinator.secure:survivors",
    "coordinator.initialise": "pipelines.coordinator.open_round:initialise",
    "coordinator.track": "pipelines.coordinator.live.track:track",
    "coordinator.aggregate": "pipelines.coordinator.close_round:aggregate",
    "coordinator.conclude": "pipelines.coordinator.close_run:conclude",
}


def store_of(params: Params, workspace: Path) -> ExchangeStore:
    """The exchange store that ``federation.exchange`` names."""
    url = params.federation.exchange or str(workspace / "exchange")
    return ExchangeStore(url, dict(params.federation.exchange_options))


def open_context(run: str, federation: str, store: ExchangeStore, workspace: Path) -> RunContext:
    """Context of a run that was opened, from its ``run.json``.

    Raises
    ------
    ProtocolError
        ``protocol.missing`` for a run that was not opened, else as
        :func:`folkmoot.opening.read_opening`.
    """
    data = store.find(f"{federation}/runs/{run}/{keys.RUN}")
    if data is None:
        raise ProtocolError(
            "protocol.missing",
            f"Run {run} of federation {federation} was not opened.",
            "See the error of its first step; folkmoot doctor at the coordinator says more.",
        )
    params, contract, roster = read_opening(data, run, federation)
    return RunContext(run, params, contract, roster, store, workspace)


def _made(step: Step, context: RunContext) -> list[ArtifactRef]:
    """References to all outputs of a step that ran before; none where one is missing."""
    found = []
    for key in step.outputs:
        ref = context.store.ref(context.key(key))
        if ref is None:  # the others need not be asked for
            return []
        found.append(ref)
    return found


def execute(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Run one step, or find that it already ran.

    Returns
    -------
    list of ArtifactRef
        References to the step's outputs in the exchange store.

    Raises
    ------
    FolkmootError
        Its own errors as they are; any other exception of a site's step becomes
        ``round.site-failed`` after its traceback was written to the site's private log.
    """
    found = _made(step, context)
    if found:
        return found
    context = settled(context)  # one schema for all that follows the agreement
    module, _, function = BODIES[step.body].partition(":")
    body: Body = getattr(importlib.import_module(module), function)
    if step.place == COORDINATOR:
        return body(step, context)
    from site_tasks import orders, permissions
    from site_tasks.border import border  # the site's own guard
    from site_tasks.home import SiteHome

    with border(step, context):
        permissions.admit(context, SiteHome.find(step.place, context.workspace))
        orders.check_schema(context)
        return body(step, context)
