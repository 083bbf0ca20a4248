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

_NONE = "–"


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
            auto_refresh=console.is_terminal,
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
        console = self._bar.console
        console.print(message, markup=False, highlight=False, soft_wrap=not console.is_terminal)

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
    compared = result.get("baselines") or {}
    kinds = ("federated", "alone", "pooled") if compared else ("federated",)
    for column in (*(f"{kind} {name}" for kind in kinds), "epsilon"):
        table.add_column(column, justify="right")
    alone, pooled = compared.get("alone") or {}, compared.get("pooled") or {}
    missing = False
    for site, fingerprint in result["datasets"].items():
        figures = [
            _figure(result["metrics"].get("sites", {}).get(site), name),
            _figure((alone.get(site) or {}).get("own"), name),
            _figure(pooled.get("sites", {}).get(site), name),
        ][: len(kinds)]
        missing = missing or _NONE in figures
        table.add_row(site, fingerprint[:12], *figures, _epsilon(result["privacy"].get(site)))
    table.add_section()
    own = [a["overall"][name] for a in alone.values() if a and name in a["overall"]]
    overall = [
        _figure(result["metrics"].get("overall"), name),
        _figure({name: sum(own) / len(own)} if own else None, name),
        _figure(pooled.get("overall"), name),
    ][: len(kinds)]
    table.add_row("all sites", _rounds(result), *overall, "")
    console.print(table)
    notes = ["Held-out rows. By site: on its own rows; all sites: on everybody's"]
    notes[0] += " (alone: mean of the sites' own models)." if compared else "."
    if missing:
        notes.append(f"{_NONE}: no figure, as where a site's rows are all of one class.")
    console.print(f"[dim]{' '.join(notes)}[/]", highlight=False)
    if result.get("missing"):
        left = [f"{site} ({code})" for site, code in sorted(result["missing"].items())]
        console.print(f"Left out: {', '.join(left)}", markup=False, highlight=False)
    registered = result.get("registered")
    if registered:
        aliases = f" ({', '.join(registered['aliases'])})" if registered.get("aliases") else ""
        console.print(
            f"Model: {registered['name']} version {registered['version']}{aliases} in MLflow",
            markup=False,
        )
    console.print(
        f"Model file: {result['model_path']}", markup=False, highlight=False, soft_wrap=True
    )
    seconds = result.get("seconds") or {}
    if seconds:
        console.print("Seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()))


def _rounds(result: dict[str, Any]) -> str:
    number = result["rounds"]
    why = f" ({result['stop']})" if result.get("stop") else ""
    return f"{number} round{'' if number == 1 else 's'}{why}"


def _figure(metrics: dict[str, float] | None, name: str) -> str:
    return _NONE if not metrics or name not in metrics else f"{metrics[name]:.4f}"


def _epsilon(privacy: dict[str, Any] | None) -> str:
    if not privacy:
        return _NONE
    if privacy["epsilon"] is None:
        return "no DP"
    return f"{privacy['epsilon']:.3f}" + ("" if privacy["private"] else " (NOT PRIVATE)")
