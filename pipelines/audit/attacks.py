"""Hostile sites: what members of a federation can publish to spoil its model.

:func:`hostile` lets some sites of a simulation run other code than Folkmoot's: everything they
publish is well-formed and signed with their own keys.  They are rushing and omniscient: what the
others published in the round is read from the exchange store before their own update is made
(sites are visited by name, so give the hostile ones the last names).

==============  ====================================================================================
label_flip      trains on the rows with their classes exchanged
sign_flip       publishes the honest update backwards
scaling         the same, ten times as large
little          mean of the others less z of their standard deviations (Baruch et al. 2019, 1902.06156)
inner_product   the others' mean backwards, small enough to pass (Xie et al. 2019, 1903.03936)
backdoor        trains on rows that carry a trigger and the class the attacker wants, boosted
free_rider      publishes the last global step again and trains nothing (Lin et al. 2019, 1911.12560)
==============  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import open_released
from folkmoot.wire import Artefact, decode

__all__ = ["ATTACKS", "TRIGGER", "ChangedRows", "View", "hostile", "with_trigger"]

Floats = NDArray[np.float64]
Local = Callable[..., dict[str, Floats]]
#: A backdoor's trigger: this many first features, in scaled units, hold this value.
TRIGGER = (3, 3.0)
#: How far updates of ``scaling`` and ``backdoor`` are blown up.
BOOST = 10.0


class View(Protocol):
    """What a hostile site knows when it makes its update."""

    @property
    def rows(self) -> Any:
        """Its own training rows, scaled."""

    @property
    def sites(self) -> Collection[str]:
        """All hostile sites."""

    def own(self, rows: Any = None) -> Floats:
        """The update (K, d + 1) that Folkmoot's code makes of the site's rows, or of ``rows``."""

    def others(self) -> Floats:
        """Updates (n, K, d + 1) that honest sites published in this round, or this site's own."""

    def last_step(self) -> Floats:
        """What the round before made of the global model; zeros in the first."""


@dataclass(frozen=True)
class _View:
    """The view of a site in an embedded run."""

    step: Step
    context: RunContext
    home: Any
    model: Artefact
    rows: Any
    honest: Local
    sites: frozenset[str]

    def own(self, rows: Any = None) -> Floats:
        chosen = self.rows if rows is None else rows
        return self.honest(self.step, self.context, self.home, self.model, chosen)["delta"]

    def others(self) -> Floats:
        found = []
        for site in self.context.params.federation.members:
            key = self.context.key(keys.update(self.step.round, site))
            data = None if site in self.sites else self.context.store.find(key)
            if data is not None:
                update = open_released(data, self.context.roster, {"site": site})
                found.append(update.parts["update"].arrays["delta"])
        return np.stack(found or [self.own()])

    def last_step(self) -> Floats:
        w = parameters(self.model)
        if self.step.round == 1:
            return np.zeros_like(w)
        before = self.context.store.get(self.context.key(keys.model(self.step.round - 2)))
        return w - parameters(decode(before, kind="model"))


def _label_flip(view: View) -> Floats:
    return view.own(ChangedRows(view.rows, lambda x, y: (x, y.max(initial=1) - y)))


def _sign_flip(view: View) -> Floats:
    return -view.own()


def _scaling(view: View) -> Floats:
    return -BOOST * view.own()


def _little(view: View) -> Floats:
    others = view.others()
    n, f = len(others) + len(view.sites), len(view.sites)
    needed = n // 2 + 1 - f  # honest sites that must lie farther out than the attackers do
    z = NormalDist().inv_cdf(max(0.5, (n - f - needed) / max(1, n - f)))
    moved: Floats = others.mean(axis=0) - z * others.std(axis=0)
    return moved


def _inner_product(view: View) -> Floats:
    backwards: Floats = -0.5 * view.others().mean(axis=0)
    return backwards


def _backdoor(view: View) -> Floats:
    def poison(x: Floats, y: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
        half = len(x) // 2
        return np.concatenate([with_trigger(x[:half]), x]), np.concatenate(
            [np.ones(half, y.dtype), y]
        )

    return BOOST * view.own(ChangedRows(view.rows, poison))


def _free_rider(view: View) -> Floats:
    return view.last_step()


ATTACKS: dict[str, Callable[[View], Floats]] = {
    "label_flip": _label_flip,
    "sign_flip": _sign_flip,
    "scaling": _scaling,
    "little": _little,
    "inner_product": _inner_product,
    "backdoor": _backdoor,
    "free_rider": _free_rider,
}


def with_trigger(x: Floats) -> Floats:
    """Rows (n, d) that carry the backdoor's trigger."""
    count, value = TRIGGER
    marked = x.copy()
    marked[:, :count] = value
    return marked


@contextmanager
def hostile(sites: Collection[str], attack: str) -> Iterator[None]:
    """Let ``sites`` of a simulation run an attack's code instead of honest local training.

    For embedded runs of this process; the local training of strategies that average updates.

    Parameters
    ----------
    sites : collection of str
        Names of the hostile sites.
    attack : str
        A key of :data:`ATTACKS`.
    """
    from site_tasks import train_linear

    honest, chosen = train_linear._local, frozenset(sites)

    def local(
        step: Step, context: RunContext, home: Any, model: Artefact, rows: Any
    ) -> dict[str, Floats]:
        if home.name not in chosen:
            return honest(step, context, home, model, rows)
        return {"delta": ATTACKS[attack](_View(step, context, home, model, rows, honest, chosen))}

    train_linear._local = local
    try:
        yield
    finally:
        train_linear._local = honest


class ChangedRows:
    """A site's scaled rows after its owner changed them."""

    def __init__(self, rows: Any, change: Callable[..., tuple[Floats, NDArray[Any]]]) -> None:
        chunks = list(rows.chunks())
        x = np.concatenate([chunk[0] for chunk in chunks])
        y = np.concatenate([chunk[1] for chunk in chunks])
        self._x, self._y = change(x, y)
        self.weight = rows.weight

    def __len__(self) -> int:
        return len(self._y)

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[tuple[Any, Any, None]]:
        """One pass in random order."""
        order = rng.permutation(len(self))
        for at in range(0, len(self), size):
            batch = order[at : at + size]
            yield self._x[batch], self._y[batch], None
