"""Summed histograms, embedded host: the pooled model, at what price.

200,000 x 28 rows over 4 sites, depth 6, against ``xgboost.train`` on the pooled rows in the same
process, in turn: the structure of all trees and the largest difference of margins with the same bin
edges; time (both begin with encoded rows and make their own bins), exchanges and bytes; time again
with the workspace in memory (``/dev/shm``), which is without what the disk costs.  Then time
per tree over sites and rows, in seconds of a processor, which other work on the machine disturbs
least.  ``python -m benchmarks.exact_trees plot`` draws the last two into
``docs/images/exact-trees.png``, and only those.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

import benchmarks.trees as setting
from benchmarks.report import row
from folkmoot.models.trees import to_xgboost, tree_bytes, usable_cores
from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext, keys
from folkmoot.trees.cuts import Cuts
from folkmoot.trees.histograms import bin_rows
from folkmoot.wire import Artefact, decode
from pipelines.hosts.embedded import Progress, run
from pipelines.hosts.execute import open_context, store_of

STEPS = (50, 80)
DEPTH = 6
MEMORY = Path("/dev/shm")  # as Linux names it
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "exact-trees.png"


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["one"]:
        one(arguments[1], int(arguments[2]), int(arguments[3]))
        return
    if arguments[:1] == ["core"]:
        on_one_core()
        return
    if "scaling" not in arguments and "plot" not in arguments:
        with tempfile.TemporaryDirectory() as folder:
            against_pooled(Path(folder))
        if MEMORY.is_dir():
            with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
                warm_and_timed(Path(folder), "the same cores, workspace in memory")
        subprocess.run([sys.executable, "-m", "benchmarks.exact_trees", "core"], check=True)
    scaling(plot="plot" in arguments)


def against_pooled(folder: Path) -> None:
    """Equality for every number of steps, then time, exchanges and bytes of the first."""
    base, workspace = setting.federation(folder)
    x, y = setting.pooled_rows(base, workspace, "train")
    for steps in STEPS:
        params = exact(base, steps)
        counted = Counted(params, workspace, f"exact-{steps}")
        result = run(
            params, run=counted.run, workspace=workspace, progress=Progress(round=counted.add)
        )
        model, sent, nodes = counted.model(result["model"]), counted.sent, counted.nodes
        same, worst = equality(model, x, y, steps)
        row(
            f"summed histograms, 200,000 × 28 rows, 4 sites, depth {DEPTH}, {steps} trees: trees of "
            "the structure of pooled xgb.train with the same cuts; largest margin difference",
            f"{same} of {steps}; {worst:.1e}",
            "all; ≤ 1e-5",
            met=same == steps and worst <= 1e-5,
        )
        if steps == STEPS[0]:
            bins = Cuts.from_arrays(model.arrays, setting.FEATURES).bins
            ratio = sent / (nodes * bins * 2 * 8)
            row(
                "the same: bytes per site and tree, against nodes × bins × features × 2 values",
                f"{sent / steps / 1e6:.2f} MB, {ratio:.2f} ×",
                "≤ 1.2 ×",
                met=ratio <= 1.2,
            )
            exchanges = (result["rounds"] - params.model.trees.sketch_exchanges) / steps
            row(
                "the same: exchanges per tree (and 2 for the bin edges)",
                f"{exchanges:.2f}",
                f"≤ {DEPTH}",
                met=exchanges <= DEPTH,
            )
    timed(base, workspace, x, y, "the same cores")


def timed(base: Params, workspace: Path, x: NDArray[Any], y: NDArray[Any], where: str) -> None:
    """Time against pooled training, in turn."""
    times: list[tuple[float, float]] = []
    for number in range(3):
        params = exact(base, STEPS[0])
        result = run(params, run=f"timed-{number}", workspace=workspace)
        federated = result["seconds"]["first_round"] + result["seconds"]["rounds"]
        began = time.perf_counter()
        settings = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": DEPTH}
        xgboost.train(
            settings | {"nthread": usable_cores()}, xgboost.QuantileDMatrix(x, y), STEPS[0]
        )
        times.append((federated, time.perf_counter() - began))
        sys.stdout.write(f"federated {times[-1][0]:.2f} s, pooled {times[-1][1]:.2f} s\n")
    ratios = [federated / alone for federated, alone in times]
    row(
        f"the same, 50 trees: embedded host against pooled xgb.train on {where} (median; best)",
        f"{statistics.median(ratios):.2f} ×; {min(ratios):.2f} ×",
        "≤ 5 ×",
        met=statistics.median(ratios) <= 5,
    )


def on_one_core() -> None:
    """The same where neither side can share its work out; in a process that begins there."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        warm_and_timed(Path(folder), "one core")


def warm_and_timed(folder: Path, where: str) -> None:
    """Time in a workspace of its own, after a run of two trees."""
    base, workspace = setting.federation(folder)
    run(exact(base, 2), run="warm", workspace=workspace)
    x, y = setting.pooled_rows(base, workspace, "train")
    timed(base, workspace, x, y, where)


def exact(base: Params, steps: int, **trees: Any) -> Params:
    """The federation with summed histograms, without evaluations on the way."""
    values = base.model_dump(mode="json")
    values["model"]["trees"].update(
        strategy="summed_histograms", rounds=steps, max_depth=DEPTH, **trees
    )
    values["aggregation"].update(evaluate_every=0, rows_limit=4_194_304)
    return parse_params(values)


class Counted:
    """Bytes that one site sent for trees, and the nodes that were split or tried, round by round."""

    def __init__(self, params: Params, workspace: Path, run: str) -> None:
        self.params, self.workspace, self.run = params, workspace, run
        self.sent = self.nodes = 0

    def add(self, round: int, rounds: int, record: dict[str, Any]) -> None:
        """A round that is closed; sums of finished trees go when it is told."""
        if round <= self.params.model.trees.sketch_exchanges:
            return
        update = self._context.key(keys.update(round, self.params.federation.members[0]))
        self.sent += len(self._context.store.get(update))
        for tree in self.model(keys.model(round - 1)).meta["growing"]["trees"]:
            self.nodes += sum(1 + (sibling >= 0) for _, sibling, _ in tree["built"])

    def model(self, key: str) -> Artefact:
        """A model of the run."""
        context = self._context
        return decode(context.store.get(context.key(key)), kind="model")

    @cached_property
    def _context(self) -> RunContext:
        store = store_of(self.params, self.workspace)
        return open_context(self.run, self.params.federation.name, store, self.workspace)


def equality(model: Artefact, x: NDArray[Any], y: NDArray[Any], steps: int) -> tuple[int, float]:
    """Trees that part the pooled rows as XGBoost's do, and the largest difference of margins."""
    cuts = Cuts.from_arrays(model.arrays, x.shape[1])
    codes = bin_rows(x, cuts)
    matrix = xgboost.DMatrix(codes.astype(np.float32), y)
    settings = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": DEPTH,
        "max_bin": 512,  # its own sketch then leaves the bins as they are
        "base_score": model.meta["base_score"][0],
        "nthread": usable_cores(),
    }
    booster = xgboost.train(settings, matrix, steps)
    theirs = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    present = [np.unique(codes[:, j]) for j in range(codes.shape[1])]
    same = sum(
        alike(a, b, cuts, present)
        for a, b in zip(json.loads(tree_bytes(model)), theirs["trees"], strict=True)
    )
    margins = to_xgboost(model).inplace_predict(x, predict_type="margin")
    return same, float(np.abs(margins - booster.predict(matrix, output_margin=True)).max())


def alike(a: dict[str, Any], b: dict[str, Any], cuts: Cuts, present: list[NDArray[Any]]) -> bool:
    """Same nodes, features and rows on either side of every split."""
    if any(a[k] != b[k] for k in ("left_children", "right_children", "split_indices")):
        return False
    for node, left in enumerate(a["left_children"]):
        if left == -1:
            continue
        f = a["split_indices"][node]
        own = cuts.values[cuts.first[f] : cuts.first[f + 1]]
        place = int(np.searchsorted(own, np.float32(a["split_conditions"][node])))
        ours, others = present[f] <= place, present[f] < b["split_conditions"][node]
        if not np.array_equal(ours, others):
            return False
    return True


def scaling(*, plot: bool) -> None:
    """Seconds per tree over sites (at 100,000 rows) and over rows (at 4 sites)."""
    found: dict[str, list[tuple[int, float]]] = {"sites": [], "rows": []}
    for over, sizes in (("sites", (4, 16, 64)), ("rows", (100_000, 1_000_000, 10_000_000))):
        for size in sizes:
            sites, rows = (size, 100_000) if over == "sites" else (4, size)
            seconds = per_tree(sites, rows)
            found[over].append((size, seconds))
            sys.stdout.write(f"{over} {size}: {seconds:.3f} s of a processor a tree\n")
            sys.stdout.flush()
        x, y = np.log(np.asarray(found[over], np.float64)).T
        slope = float(np.polyfit(x, y, 1)[0])
        row(
            f"summed histograms, processor seconds per tree over {over} {sizes[0]:,} to "
            f"{sizes[-1]:,}: slope in log-log",
            f"{slope:.2f} ({found[over][0][1]:.2f} to {found[over][-1][1]:.2f} s)",
            "near 1 or below",
            met=slope < 1.2,
        )
    if plot:
        draw(found)


def per_tree(sites: int, rows: int) -> float:
    """Seconds of a processor for one more tree, in a process and a workspace of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.exact_trees", "one", folder]
        done = subprocess.run(
            [*command, str(sites), str(rows)], capture_output=True, text=True, check=True
        )
        return float(done.stdout.splitlines()[-1])


def one(folder: str, sites: int, rows: int) -> None:
    """Runs of one and of three trees, which differ by two trees: rows and bins are made before."""
    spent = []
    for number, steps in enumerate((1, 1, 3)):
        began = time.process_time()
        run(growing(sites, rows, steps), run=f"scale-{number}", workspace=Path(folder))
        spent.append(time.process_time() - began)
    sys.stdout.write(f"\n{(spent[2] - spent[1]) / 2}\n")


def growing(sites: int, rows: int, steps: int) -> Params:
    """A federation of synthetic rows, which are made and dealt piece by piece."""
    trees = {
        "strategy": "summed_histograms",
        "rounds": steps,
        "max_depth": DEPTH,
        "bin_edges": "bounds",
    }
    return parse_params(
        {
            "federation": {"sites": [f"site-{n:02d}" for n in range(sites)]},
            "data": {
                "recipe": "synthetic",
                "rows": rows,
                "columns": setting.FEATURES,
                "precision": "float32",
            },
            "model": {"kind": "trees", "trees": trees},
            "aggregation": {"evaluate_every": 0, "rows_limit": 4_194_304},
            "tracking": {"enabled": False},
        }
    )


def draw(found: dict[str, list[tuple[int, float]]]) -> None:
    """Two panels, log-log, with a line of slope 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, (over, points) in zip(axes, found.items(), strict=True):
        sizes, seconds = zip(*points, strict=True)
        axis.loglog(sizes, seconds, "o-", color="#1f6f8b")
        line = [seconds[-1] * size / sizes[-1] for size in sizes]
        axis.loglog(sizes, line, ":", color="0.6", label="linear")
        axis.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
        axis.xaxis.minorticks_off()
        axis.set_xlabel(over + (", 100,000 rows" if over == "sites" else ", 4 sites"))
        axis.legend(frameon=False)
    axes[0].set_ylabel("processor seconds per tree, depth 6")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
