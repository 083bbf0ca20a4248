"""The validation gate: a round whose model is worse on the sites' held-out rows is taken back.

Sites evaluate the model they are handed, so the model of round r is judged in round r + 1 (the last
one by the final evaluation).  It is worse where the median over the sites of the relative rise of
their loss passes ``aggregation.defence.gate``: a minority of sites that lies about its own loss moves
no median.  Where evaluation counts are summed before anyone sees them, the pooled loss is judged.

The model of a round that is taken back is the last accepted one, array for array.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from folkmoot.plan import RunContext, keys
from folkmoot.wire import Artefact, decode

__all__ = ["Verdict", "judge"]

#: Losses below this are rounding; a rise is measured against it at least.
_LEAST = 1e-3


class Verdict:
    """What the gate makes of a model.

    Parameters
    ----------
    accepted : int
        Round of the last model that was accepted, the judged one included.
    losses : dict of str to float
        Its held-out loss per site, or under ``overall``.
    rise : float or None
        Median relative rise of the judged model's loss; None where there was nothing to judge by.
    restored : Artefact or None
        The accepted model, where the judged one is taken back.
    """

    def __init__(
        self,
        accepted: int,
        losses: Mapping[str, float],
        rise: float | None,
        restored: Artefact | None,
    ) -> None:
        self.accepted, self.losses, self.rise = accepted, dict(losses), rise
        self.restored = restored

    def meta(self) -> dict[str, Any]:
        """As JSON values for the next model's header."""
        return {"accepted": self.accepted, "losses": self.losses, "rise": self.rise}


def judge(model: Artefact, metrics: Mapping[str, Any], context: RunContext) -> Verdict | None:
    """Judge a model by the metrics that the sites' held-out rows gave it; O(sites).

    Parameters
    ----------
    model : Artefact
        The model that was evaluated; its header carries the verdict before it.
    metrics : dict
        ``overall`` and ``sites`` (``pipelines.coordinator.close_round.combined_metrics``).
    context : RunContext
        The run.

    Returns
    -------
    Verdict or None
        None where the plan has no gate or nothing was evaluated.
    """
    defence = context.params.aggregation.defence
    if defence.gate is None or not defence.gated or not metrics:
        return None
    name = "rmse" if context.contract.task == "regression" else "log_loss"
    tables = metrics.get("sites") or {"overall": metrics["overall"]}
    losses = {who: float(table[name]) for who, table in sorted(tables.items())}
    before = model.meta.get("gate")
    round = int(model.meta["round"])
    if before is None:
        return Verdict(round, losses, None, None)
    both = sorted(losses.keys() & before["losses"].keys())
    if not both:
        return Verdict(round, losses, None, None)
    rise = median(losses[who] / max(before["losses"][who], _LEAST) - 1 for who in both)
    if rise <= defence.gate:
        return Verdict(round, losses, rise, None)
    data = context.store.get(context.key(keys.model(before["accepted"])))
    return Verdict(before["accepted"], before["losses"], rise, decode(data, kind="model"))
