"""Poisoned updates: every attack against every defence, on heart and adult, 10 and 20 sites.

A fifth of the sites is hostile, rushing and omniscient (``pipelines.audit.attacks``).  A table holds,
for the final model of FedAvg,

* the loss of AUC on the *honest* sites' held-out rows against the plain mean with nobody hostile (which
  learns from the hostile sites' rows as well: no defence can get all of it back);
* the backdoor's success: the share of negative rows that the trigger turns positive although neither the
  model of the same defence with nobody hostile, nor that with the hostile sites away, calls them so.

Both are means over several deals of the rows to the sites: with heart's 190 held-out rows, one deal's
AUC is uncertain by more than what is to be told.  The largest of a single deal stands beside it.

``python -m benchmarks.poisoning`` prints heart's four settings for the default rule and ``private``;
``--all`` adds adult and the other rules.  ``--check`` compares with runs of the embedded host.
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

from benchmarks.hostile_federation import Federation
from benchmarks.report import row
from folkmoot.models.linear import parameters
from folkmoot.params import Params, parse_params
from folkmoot.params.defence import Defence
from folkmoot.wire import decode
from pipelines.audit.attacks import ATTACKS, hostile
from pipelines.hosts.embedded import run as run_embedded
from pipelines.hosts.execute import open_context, store_of

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
ROBUST = Defence().rule
RULES = (
    ROBUST,
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "geometric_median",
    "centred_clipping",
    "fltrust",
)
DEFENCES = ("mean", "private", *RULES)
ROUNDS = {"heart": 20, "adult": 15}
BATCH = {"heart": 16, "adult": 256}
#: About the norm of an honest update when half the rounds are done.
CLIP_NORM = {"heart": 0.05, "adult": 0.15}
#: Training rows of all sites.
ROWS = {"heart": 486, "adult": 22_621}
DEALS = {"heart": 8, "adult": 4}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="adult as well, and every defence")
    parser.add_argument("--sites", nargs="*", type=int, default=[10, 20])
    parser.add_argument("--partitions", nargs="*", default=["iid", "dirichlet"])
    parser.add_argument("--datasets", nargs="*", choices=sorted(ROUNDS))
    parser.add_argument("--defences", nargs="*", choices=DEFENCES)
    parser.add_argument("--deals", type=int, help="deals of the rows to average over")
    parser.add_argument("--check", action="store_true", help="compare with the embedded host")
    chosen = parser.parse_args(arguments)
    if BESIDE.is_dir():
        os.environ.setdefault("FOLKMOOT_DATA", str(BESIDE))
    if chosen.check:
        check()
        return
    datasets = chosen.datasets or (["heart", "adult"] if chosen.all else ["heart"])
    defences = chosen.defences or (DEFENCES if chosen.all else ("private", ROBUST))
    for dataset, sites, partition in itertools.product(datasets, chosen.sites, chosen.partitions):
        _Setting(dataset, sites, partition, chosen.deals or DEALS[dataset]).table(defences)


class _Setting:
    """One dataset, dealt several times to as many sites in one way."""

    def __init__(self, dataset: str, sites: int, partition: str, deals: int) -> None:
        self.dataset, self.sites, self.partition, self.deals = dataset, sites, partition, deals
        named = {"iid": "IID", "dirichlet": "Dirichlet 0.5"}[partition]
        self.name = f"{dataset}, {sites} sites, {named}"

    def table(self, defences: Sequence[str]) -> None:
        """Print a line per defence, and what must be reached."""
        found: dict[str, dict[str, list[float]]] = {}
        best, away = [], []
        for deal in range(self.deals):
            federation = Federation(self.params("mean", deal))
            plain = self.params("mean", deal)
            reference = federation.auc(federation.run(None, plain))
            best.append(reference)
            away.append(reference - federation.auc(federation.run("absent", plain)))
            for defence in defences:
                figures = self._figures(federation, defence, deal, reference)
                for key, value in figures.items():
                    found.setdefault(defence, {}).setdefault(key, []).append(value)
        sys.stdout.write(
            f"\n{self.name}; {self.deals} deals: AUC of the mean {np.mean(best):.3f}, which loses "
            f"{np.mean(away):.3f} without the hostile sites' rows\n{'':26}"
        )
        heads = ["(nobody)", *ATTACKS, "success"]
        sys.stdout.write("".join(f"{head:>15}" for head in heads) + "\n")
        for defence in defences:
            line = "".join(
                f"{f'{np.mean(v):.4f} ≤ {max(v):.3f}':>15}" for v in found[defence].values()
            )
            sys.stdout.write(f"{defence:26}{line}\n")
        for defence in (ROBUST, "private"):
            if defence in found:
                self._figure(defence, found[defence])

    def params(self, defence: str, deal: int = 0, present: Sequence[str] = ()) -> Params:
        """Params of a run."""
        names = [f"site-{i:02d}" for i in range(1, self.sites + 1)]
        settings: dict[str, Any] = {}
        if defence != "mean":
            mean_rows = ROWS[self.dataset] // self.sites
            settings = {"mode": "private", "weight_limit": mean_rows}
        if defence in RULES:
            settings = {"mode": "robust", "rule": defence, "hostile": self.sites // 5}
        if defence == "fltrust":
            settings["trusted_site"] = present[0]
        bound = {"mechanism": "clip", "clip_norm": CLIP_NORM[self.dataset]}
        return parse_params(
            {
                "federation": {
                    "name": "poisoning",
                    "sites": names,
                    "quorum": len(names) // 2,  # a hospital dealt one class alone stays out
                },
                "data": {
                    "recipe": self.dataset,
                    "partition": {"kind": self.partition, "seed": deal},
                },
                "model": {
                    "linear": {
                        "strategy": "fedavg",
                        "rounds": ROUNDS[self.dataset],
                        "learning_rate": 0.05,
                        "local_epochs": 1,
                        "batch_size": BATCH[self.dataset],
                        "early_stopping": {"tolerance": 0.0},
                    }
                },
                "privacy": bound if defence == "private" else {},
                "aggregation": {"defence": settings},
                "tracking": {"enabled": False},
            }
        )

    def _figures(
        self, federation: Federation, defence: str, deal: int, reference: float
    ) -> dict[str, float]:
        params = self.params(defence, deal, federation.names)
        clean, absent = federation.run(None, params), federation.run("absent", params)
        expected = federation.marked(clean) | federation.marked(absent)
        figures = {"(nobody)": reference - federation.auc(clean)}
        success = 0.0
        for attack in ATTACKS:
            w = federation.run(attack, params)
            figures[attack] = reference - federation.auc(w)
            if attack == "backdoor":
                success = float(federation.marked(w)[~expected].mean())
        return {**figures, "success": success}

    def _figure(self, defence: str, found: dict[str, list[float]]) -> None:
        counted = {k: float(np.mean(v)) for k, v in found.items() if k != "success"}
        what = "every attack"
        if defence == "private":
            del counted["backdoor"]
            what += " but the backdoor"
        worst = max(counted, key=lambda k: counted[k])
        where = f"20 % hostile, {self.name}: {defence}"
        row(
            f"{where}, AUC loss, {what}",
            f"{counted[worst]:.4f} ({worst})",
            "≤ 0.01",
            met=counted[worst] <= 0.01,
        )
        success = float(np.mean(found["success"]))
        met = success <= 0.10 if defence == ROBUST else None
        must = "≤ 0.10" if defence == ROBUST else ""
        row(f"{where}, backdoor success", f"{success:.3f}", must, met=met)


def check() -> None:
    """Hold runs without an exchange against the embedded host's: the same model, but for rounding."""
    setting = _Setting("heart", 10, "dirichlet", 1)
    federation = Federation(setting.params("mean"))
    bad = federation.hostile
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for defence, attack in (
            (ROBUST, "little"),
            ("private", "free_rider"),
            ("mean", "backdoor"),
        ):
            params = setting.params(defence)
            with hostile(bad, attack) if attack else nullcontext():
                result = run_embedded(params, workspace=folder)
            context = open_context(result["run"], "poisoning", store_of(params, folder), folder)
            model = decode(context.store.get(context.key(result["model"])), kind="model")
            apart = np.abs(parameters(model) - federation.run(attack, params)).max()
            worst = max(worst, float(apart))
    row("poisoned runs without an exchange against the embedded host: largest coefficient difference",
        f"{worst:.1e}", "≤ 1e-9", met=worst <= 1e-9)  # fmt: skip


if __name__ == "__main__":
    main()
