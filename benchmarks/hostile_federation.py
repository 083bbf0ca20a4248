"""A federation with hostile sites in one process, without an exchange: for tables of many runs.

Rows are a recipe's, dealt, encoded and held out as in a run; local training, attacks, robust rules
and the gate are the run's own functions.  What is left out is what moves no number: signatures, files,
ledgers.
:func:`benchmarks.poisoning.check` holds it against the embedded host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot import metrics
from folkmoot.features import encode_frame, encode_label
from folkmoot.generalisation import generalised
from folkmoot.params import Params
from folkmoot.wire import Artefact, encode
from pipelines.audit.attacks import ATTACKS, with_trigger
from pipelines.coordinator.aggregate.robust import combine, evened
from pipelines.coordinator.gate import judge
from pipelines.recipes import open_rows
from pipelines.recipes.partitions import assign
from site_tasks.encode import held_out
from site_tasks.linear_loss import predict
from site_tasks.local_training import descend, generator
from site_tasks.scaled import ScaledRows

__all__ = ["Federation"]

Floats = NDArray[np.float64]


@dataclass
class _View:
    """What a hostile site knows (:class:`pipelines.audit.attacks.View`)."""

    rows: Any
    sites: frozenset[str]
    train: Callable[[Any], Floats]
    honest: list[Floats]
    moved: Floats

    def own(self, rows: Any = None) -> Floats:
        return self.train(self.rows if rows is None else rows)

    def others(self) -> Floats:
        return np.stack(self.honest or [self.own()])

    def last_step(self) -> Floats:
        return self.moved


class Federation:
    """A dataset dealt to the sites of ``params``; the last fifth of those that take part is hostile.

    Parameters
    ----------
    params : Params
        FedAvg on a binary label.  ``federation``, ``data`` and ``model`` are those of every run.
    """

    def __init__(self, params: Params) -> None:
        self.params = params
        members = params.federation.members
        rows, contract, x, y, test = _pooled(params)
        site = assign(rows, contract, params)
        held = params.data.holdout
        parts: dict[str, tuple[Any, ...]] = {}
        for i, name in enumerate(members):
            at = np.flatnonzero(site == i)
            if len(np.unique(y[at])) < 2:
                continue  # data.one-class: such a site stays out
            mask = held_out(len(at), held.fraction, held.seed) if test is None else test[at]
            parts[name] = x[at[~mask]], y[at[~mask]], x[at[mask]], y[at[mask]]
        pool = np.concatenate([part[0] for part in parts.values()])
        mean, scale = np.nanmean(pool, axis=0), np.nanstd(pool, axis=0)
        scale = np.where(scale <= 1e-6 * np.abs(mean), 1.0, scale)
        self.names = list(parts)
        self.hostile = self.names[-round(len(self.names) / 5) :]
        self.rows = {n: ScaledRows(p[0], p[1], None, mean, scale) for n, p in parts.items()}
        self._test = {n: next(ScaledRows(p[2], p[3], None, mean, scale).chunks(), None)
                      for n, p in parts.items() if len(p[3])}  # fmt: skip
        honest = [t for n, t in self._test.items() if n not in self.hostile and t is not None]
        self._x = np.concatenate([t[0] for t in honest])
        self._y = np.concatenate([t[1] for t in honest])

    def run(self, attack: str | None, params: Params) -> Floats:
        """The final model (1, d + 1) under an attack and the defence and privacy of ``params``.

        ``absent`` keeps the hostile sites away.
        """
        rounds, defence = params.model.linear.rounds, params.aggregation.defence
        w = np.zeros((1, self._x.shape[1] + 1))
        moved, header = np.zeros_like(w), dict[str, Any]()
        store: dict[str, bytes] = {}
        context: Any = SimpleNamespace(
            params=params, contract=SimpleNamespace(task="binary"), key=str, store=store
        )
        for round in range(1, rounds + 2):
            model = Artefact("model", {**header, "round": round - 1}, {"w": w})
            if defence.gated:
                store[f"round-{round - 1:03d}/model"] = encode(model)
                verdict = judge(model, {"sites": self._losses(w)}, context)
                header = {"gate": verdict.meta()} if verdict is not None else {}
                if verdict is not None and verdict.restored is not None:
                    moved, w = verdict.restored.arrays["w"] - w, verdict.restored.arrays["w"]
                    continue
            if round > rounds:
                break
            moved = self._step(attack, params, w, moved, round)
            w = w + moved
        return w

    def auc(self, w: Floats) -> float:
        """On the honest sites' held-out rows together."""
        scores = predict("binary", w, self._x)
        return metrics.metrics("binary", metrics.count("binary", self._y, scores, 2))["auc"]

    def marked(self, w: Floats) -> NDArray[np.bool_]:
        """Which of the honest sites' negative held-out rows the trigger makes positive."""
        found: NDArray[np.bool_] = predict("binary", w, with_trigger(self._x[self._y == 0])) > 0.5
        return found.ravel()

    def _step(
        self, attack: str | None, params: Params, w: Floats, moved: Floats, round: int
    ) -> Floats:
        settings, privacy = params.model.linear, params.privacy
        total = sum(rows.weight for rows in self.rows.values())
        sent: dict[str, Floats] = {}
        for name in self.names:  # the hostile ones come last, and have seen the others
            if name in self.hostile and attack == "absent":
                continue

            def train(rows: Any, name: str = name) -> Floats:
                after, _ = descend(
                    "binary",
                    w,
                    rows,
                    generator(settings.seed, round, name),
                    epochs=settings.local_epochs,
                    batch_size=settings.batch_size,
                    learning_rate=settings.learning_rate,
                    l2=settings.l2 / max(total, rows.weight),
                )
                return after - w

            delta = train(self.rows[name]) if name not in self.hostile or not attack else None
            if delta is None and attack is not None:
                honest = [sent[n] for n in self.names if n not in self.hostile]
                view = _View(self.rows[name], frozenset(self.hostile), train, honest, moved)
                delta = ATTACKS[attack](view)
            assert delta is not None
            if privacy.mechanism == "clip":
                delta = delta * min(
                    1.0, privacy.clip_norm / max(float(np.linalg.norm(delta)), 1e-300)
                )
            sent[name] = delta
        defence, names = params.aggregation.defence, list(sent)
        weights = [self.rows[name].weight for name in names]
        if defence.mode == "robust":
            changes = np.stack([sent[name].ravel() for name in names])
            changes, counts = evened(changes, np.array(weights), params)
            trusted = names.index(str(defence.trusted_site)) if defence.trusted_site else None
            fewer = min(defence.hostile, defence.bears(len(names)))  # where hostile ones stay away
            bearable = defence.model_copy(update={"hostile": fewer})
            return combine(changes, bearable, trusted, counts).reshape(w.shape)
        if defence.weight_limit is not None:
            weights = [min(weight, defence.weight_limit) for weight in weights]
        mean: Floats = np.average([sent[name] for name in names], axis=0, weights=weights)
        return mean

    def _losses(self, w: Floats) -> dict[str, dict[str, float]]:
        found = {}
        for name, part in self._test.items():
            if part is not None:
                counts = metrics.count("binary", part[1], predict("binary", w, part[0]), 2)
                found[name] = metrics.metrics("binary", counts)
        return found


@lru_cache(maxsize=1)
def _read(recipe: str, path: str | None) -> tuple[Any, ...]:
    from folkmoot.params import parse_params

    data = {"recipe": recipe, "path": path}
    params = parse_params({"federation": {"sites": ["site-a", "site-b"]}, "data": data})
    rows, contract = open_rows(params.data)
    frame = rows.frame()
    table = generalised(contract, params.anonymisation)
    plain = params.anonymisation.model_copy(update={"levels": {}, "settled": None})
    x = encode_frame(frame, table, plain, "linear", "float64")
    y = encode_label(frame[contract.label.name], table)
    split = contract.with_role("split")
    return rows, contract, x, y, frame[split[0].name].to_numpy() == "test" if split else None


def _pooled(params: Params) -> tuple[Any, ...]:
    """Rows, contract, features, labels and the source's own split, if it has one."""
    return _read(str(params.data.recipe), params.data.path)
