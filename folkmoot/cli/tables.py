"""What a run looks like on a terminal: a progress bar over rounds, and the table at the end."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["PRIMARY", "RoundProgress", "show"]

#: The metric that stands for a task, with whether higher is better.
PRIMARY = {"binary": ("auc", True), "multiclass": ("accuracy", True), "regression": ("rmse", False)}


class RoundProgress:
    """A progress bar over the rounds of a run."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[metric]}"),
            console=console,
            transient=not console.is_terminal,
        )
        self._task = self._bar.add_task("rounds", total=rounds, metric="")

    def __enter__(self) -> RoundProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """A line above the bar."""
        self._bar.console.print(message, markup=False, highlight=False)

    def round(self, number: int, rounds: int, record: dict[str, Any]) -> None:
        """A round is over."""
        overall = (record.get("metrics") or {}).get("overall", {})
        shown = [f"{n} {overall[n]:.4f}" for n in ("auc", "accuracy", "rmse") if n in overall][:1]
        self._bar.update(self._task, completed=number, total=rounds, metric=" ".join(shown))
        if not self._bar.console.is_terminal:
            self.say(" ".join([f"Round {number} of {rounds}", *shown]))

    def hooks(self) -> Any:
        """As the embedded host wants them."""
        from pipelines.hosts.embedded import Progress as Hooks

        return Hooks(say=self.say, round=self.round)


def show(console: Console, result: dict[str, Any]) -> None:
    """The table that ends a run."""
    name, _ = PRIMARY[result["task"]]
    table = Table(title=f"Federation {result['federation']}, run {result['run']}")
    table.add_column("site")
    table.add_column("dataset version")
    for column in (f"federated {name}", f"alone {name}", f"pooled {name}", "epsilon"):
        table.add_column(column, justify="right")
    compared = result.get("baselines") or {}
    pooled = compared.get("pooled") or {}
    for site, fingerprint in result["datasets"].items():
        alone = (compared.get("alone") or {}).get(site) or {}
        table.add_row(
            site,
            fingerprint[:12],
            _figure(result["metrics"].get("sites", {}).get(site), name),
            _figure(alone.get("own"), name),
            _figure(pooled.get("sites", {}).get(site), name),
            _epsilon(result["privacy"].get(site)),
        )
    table.add_section()
    alone_overall = [a["overall"] for a in (compared.get("alone") or {}).values() if a]
    mean = (
        {name: sum(a[name] for a in alone_overall) / len(alone_overall)} if alone_overall else None
    )
    table.add_row(
        "all sites",
        f"{result['rounds']} rounds" + (f" ({result['stop']})" if result.get("stop") else ""),
        _figure(result["metrics"].get("overall"), name),
        _figure(mean, name),
        _figure(pooled.get("overall"), name),
        "",
    )
    console.print(table)
    console.print(
        "[dim]Held-out rows. By site: on its own rows; all sites: on everybody's "
        "(alone: mean of the sites' own models).[/]"
    )
    if result.get("missing"):
        console.print(f"Left out: {', '.join(sorted(result['missing']))}", markup=False)
    registered = result.get("registered")
    if registered:
        console.print(f"Model: {registered['name']} version {registered['version']} in MLflow")
    console.print(
        f"Model file: {result['model_path']}", markup=False, highlight=False, soft_wrap=True
    )
    seconds = result.get("seconds") or {}
    if seconds:
        console.print("Seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()))


def _figure(metrics: dict[str, float] | None, name: str) -> str:
    return "–" if not metrics or name not in metrics else f"{metrics[name]:.4f}"


def _epsilon(privacy: dict[str, Any] | None) -> str:
    if not privacy:
        return "–"
    if privacy["epsilon"] is None:
        return "no DP"
    return f"{privacy['epsilon']:.3f}" + ("" if privacy["private"] else " (NOT PRIVATE)")
