"""Poisoned updates: every attack against every defence, on heart and adult, 10 and 20 sites.

A fifth of the sites is hostile, rushing and omniscient (``pipelines.audit.attacks``).  FedAvg runs
over the real exchange; the table holds the final model's AUC on the *honest* sites' held-out rows,
and the backdoor's success: the share of negative rows that the trigger turns positive although
the unattacked model of the same defence, shown the trigger, calls them negative, and so does the model
of the honest sites alone, which is what a perfect defence would give.

``python -m benchmarks.poisoning --all`` prints the whole table; without it one setting of each dataset.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import row
from folkmoot import metrics
from folkmoot.errors import RoundError
from folkmoot.models.linear import parameters
from folkmoot.params import Params, parse_params
from folkmoot.wire import decode
from pipelines.audit.attacks import ATTACKS, hostile, with_trigger
from pipelines.hosts.embedded import run as run_embedded
from pipelines.hosts.execute import open_context, store_of
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared
from site_tasks.scaled import scaled_rows

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
DEFENCES: dict[str, dict[str, Any]] = {
    "mean": {},
    "private": {"mode": "private"},
    **{
        rule: {"mode": "robust", "rule": rule}
        for rule in (
            "median",
            "trimmed_mean",
            "krum",
            "multi_krum",
            "geometric_median",
            "centred_clipping",
            "fltrust",
        )
    },
}
ROBUST = "multi_krum"
ROUNDS = {"heart": 20, "adult": 15}
#: About the norm of an honest update when half the rounds are done.
CLIP_NORM = {"heart": 0.05, "adult": 0.1}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="10 and 20 sites, IID and Dirichlet 0.5")
    parser.add_argument("--sites", nargs="*", type=int, default=[10, 20], help="with --all")
    parser.add_argument("--partitions", nargs="*", default=["iid", "dirichlet"], help="with --all")
    parser.add_argument("--datasets", nargs="*", default=["heart", "adult"])
    parser.add_argument("--defences", nargs="*", default=list(DEFENCES))
    chosen = parser.parse_args(arguments)
    if BESIDE.is_dir():
        os.environ.setdefault("FOLKMOOT_DATA", str(BESIDE))
    every = itertools.product(chosen.sites, chosen.partitions)
    settings = list(every) if chosen.all else [(10, "iid")]
    worst: dict[tuple[str, str], list[float]] = {}
    for (sites, partition), dataset in itertools.product(settings, chosen.datasets):
        with tempfile.TemporaryDirectory() as folder:
            setting = _Setting(Path(folder), dataset, sites, partition)
            clean, _ = setting.run(None, {})
            sys.stdout.write(
                f"\n{dataset}, {sites} sites, {partition}: mean, nobody hostile {clean:.3f}\n"
            )
            sys.stdout.write(
                f"{'':18}" + "".join(f"{name:>15}" for name in ["(nobody)", *ATTACKS]) + "\n"
            )
            for name in chosen.defences:
                setting.alone(DEFENCES[name])
                line = f"{name:18}"
                for attack in [None, *ATTACKS]:
                    auc, success = setting.run(attack, DEFENCES[name])
                    line += f"{auc:9.3f} {success:5.2f}"
                    worst.setdefault((name, "loss"), []).append(clean - auc)
                    if attack == "backdoor":
                        worst.setdefault((name, "backdoor"), []).append(success)
                    else:
                        worst.setdefault((name, "without backdoor"), []).append(clean - auc)
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
    names = {"iid": "IID", "dirichlet": "Dirichlet 0.5"}
    dealt = "; ".join(f"{sites} sites, {names[partition]}" for sites, partition in settings)
    where = f"{', '.join(chosen.datasets)}; {dealt}"
    for name, key, must in (
        (ROBUST, "loss", 0.01),
        (ROBUST, "backdoor", 0.10),
        ("private", "without backdoor", 0.01),
    ):
        if (name, key) in worst:
            found = max(worst[name, key])
            what = (
                "backdoor success"
                if key == "backdoor"
                else f"AUC loss ({'every attack' if key == 'loss' else key})"
            )
            row(
                f"20 % hostile, {where}: {name}, worst {what}",
                f"{found:.3f}",
                f"≤ {must}",
                met=found <= must,
            )


class _Setting:
    """One dataset dealt to sites, the last fifth of them hostile."""

    def __init__(self, folder: Path, dataset: str, sites: int, partition: str) -> None:
        self.folder, self.dataset, self.partition = folder, dataset, partition
        self.names = [f"site-{i:02d}" for i in range(1, sites + 1)]
        self.bad = self.names[-(sites // 5) :]
        self._clean: Any = None
        self._alone: Any = None
        #: Sites that take part: one that was dealt a single class does not.
        self._present: list[str] = self.names

    def run(self, attack: str | None, defence: dict[str, Any]) -> tuple[float, float]:
        """AUC on honest held-out rows, and the trigger's success against the last run without attack."""
        params = self._params(defence)
        with hostile(self.bad, attack) if attack else nullcontext():
            result = run_embedded(params, workspace=self.folder)
        return self._judge(params, result, attack)

    def alone(self, defence: dict[str, Any]) -> None:
        """Remember what the model of the honest sites makes of the trigger."""
        ATTACKS["absent"] = _absent
        try:
            self.run("absent", defence)
        finally:
            del ATTACKS["absent"]

    def _params(self, defence: dict[str, Any]) -> Params:
        settings: dict[str, Any] = {"hostile": len(self.bad), **defence} if defence else {}
        if defence.get("rule") == "fltrust":
            settings["trusted_site"] = self._present[0]
        private = defence.get("mode") == "private"
        return parse_params(
            {
                "federation": {
                    "name": "poisoning",
                    "sites": self.names,
                    "quorum": len(self.names) // 2,  # a hospital dealt one class alone stays out
                },
                "data": {"recipe": self.dataset, "partition": {"kind": self.partition}},
                "model": {
                    "linear": {
                        "strategy": "fedavg",
                        "rounds": ROUNDS[self.dataset],
                        "learning_rate": 0.05,
                        "local_epochs": 1,
                        "batch_size": 16 if self.dataset == "heart" else 256,
                        "early_stopping": {"tolerance": 0.0},
                    }
                },
                "privacy": {"mechanism": "clip", "clip_norm": CLIP_NORM[self.dataset]}
                if private
                else {},
                "aggregation": {"defence": settings},
                "tracking": {"enabled": False},
            }
        )

    def _judge(
        self, params: Params, result: dict[str, Any], attack: str | None
    ) -> tuple[float, float]:
        context = open_context(
            result["run"], "poisoning", store_of(params, self.folder), self.folder
        )
        model = decode(context.store.get(context.key(result["model"])), kind="model")
        w = parameters(model)[0]
        xs, ys = [], []
        present = sorted(result["datasets"])
        if attack is None:
            self._present = present
        for site in present:
            if site in self.bad:
                continue
            prepared = load_prepared(context, SiteHome.find(site, self.folder))
            for x, y, _ in scaled_rows(prepared, "test", model, context, site).chunks():
                xs.append(x)
                ys.append(y)
        x, y = np.concatenate(xs), np.concatenate(ys)
        scores = _probability(x, w)
        auc = metrics.metrics("binary", metrics.count("binary", y, scores, 2))["auc"]
        marked = _probability(with_trigger(x[y == 0]), w) > 0.5
        # Features that the trigger uses mean something by themselves: what a model without attack,
        # shown the trigger, calls positive is no success of the attacker's.
        if attack == "absent":
            self._alone = marked
            return float(auc), 0.0
        if attack is None:
            self._clean = marked
        expected = self._clean if self._alone is None else self._clean | self._alone
        return float(auc), float(marked[~expected].mean())


def _absent(view: Any) -> Any:
    """A hostile site that does not take part."""
    raise RoundError("round.site-failed", "The site stays away.", "Nothing is to be done.")


def _probability(x: Any, w: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(x @ w[:-1] + w[-1], -500, 500)))


if __name__ == "__main__":
    main()
