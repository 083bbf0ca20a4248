"""diffprivlib's accountant with the site's own ledger as its memory.

:class:`LedgerAccountant` reserves in the ledger *before* noise is drawn and commits when the library
says that it spent; a fit that fails in between stays charged.  The library's own composition is not
used: the ledger's accountant is tighter, and holds over the lifetime of the rows.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from diffprivlib.accountant import BudgetAccountant

from folkmoot.errors import PrivacyError
from folkmoot.privacy.events import PureDP
from folkmoot.privacy.ledger import Subject, Terms
from site_tasks.home import SiteHome
from site_tasks.permissions import ceilings
from site_tasks.release import open_ledger

__all__ = ["REQUESTER", "TWICE", "LedgerAccountant"]

#: What a replaced record enters twice: as the one that goes and as the one that comes.
TWICE = frozenset({"GaussianNB", "RandomForestClassifier", "histogram"})
REQUESTER = "steward"


class LedgerAccountant(BudgetAccountant):  # type: ignore[misc]  # diffprivlib has no types
    """A diffprivlib accountant whose memory is the site's ledger.

    Parameters
    ----------
    home : SiteHome
        The site.
    purpose : str
        What the result is for, as the ledger will show it (its ``run``).
    dataset : str
        Keyed fingerprint of the dataset version.
    stability : int
        Most prepared rows that one record moves; multiplies every charge (group privacy).
    """

    def __init__(self, home: SiteHome, purpose: str, dataset: str, stability: int = 1) -> None:
        super().__init__()
        self._home, self._purpose, self._dataset = home, purpose, dataset
        self._stability = stability
        self._times = 1
        self._open: list[tuple[Subject, int, PureDP]] = []

    @contextmanager
    def share(self, name: str, epsilon: float) -> Iterator[float]:
        """What the library may spend on an analysis so that ``epsilon`` is charged for it."""
        self._times = 2 if name in TWICE else 1
        try:
            yield epsilon / self._times
        finally:
            self._times = 1

    def check(self, epsilon: float, delta: float) -> bool:
        """Reserve what is about to be spent.

        Raises
        ------
        PrivacyError
            ``privacy.ceiling`` over the site's ceilings, ``privacy.mechanism`` for an epsilon that
            is not positive and finite, and for mechanisms with a delta; nothing was drawn.
        """
        if delta or not (math.isfinite(epsilon) and epsilon > 0):
            raise PrivacyError(
                "privacy.mechanism",
                "A local analysis needs a positive, finite epsilon, and no delta.",
                "Choose a pure mechanism and its epsilon.",
                site=self._home.name,
            )
        if "diffprivlib" not in self._home.settings.permissions.mechanisms:
            raise PrivacyError(
                "privacy.not-permitted",
                f"Site {self._home.name}: permissions.mechanisms in site.toml does not permit "
                "diffprivlib.",
                "Let the site's steward change site.toml.",
                site=self._home.name,
            )
        event = PureDP(epsilon * self._times * self._stability)
        told = f"folkmoot-local\0{self._home.name}\0{self._purpose}\0".encode() + os.urandom(32)
        subject = Subject(
            hashlib.sha256(told).hexdigest(),  # every analysis draws noise of its own
            "local",
            self._purpose,
            0,
            "local-analysis",
            self._dataset,
            self._home.settings.dataset.lineage,
            REQUESTER,
        )
        limits = ceilings(self._home, self._home.settings.permissions.delta, "local", REQUESTER)
        attempt = open_ledger(self._home).reserve(subject, [event], terms=Terms(limits))
        self._open.append((subject, attempt, event))
        return True

    def spend(self, epsilon: float, delta: float) -> LedgerAccountant:
        """Commit the oldest open reservation of this size; the library spends what it checked."""
        wanted = PureDP(epsilon * self._times * self._stability)
        found = next((item for item in self._open if item[2] == wanted), None)
        if found is None:
            raise PrivacyError(
                "privacy.order",
                "diffprivlib spent what it had not asked for.",
                "Check the installed version of diffprivlib.",
                site=self._home.name,
            )
        self._open.remove(found)
        subject, attempt, event = found
        events = {"result": event.to_dict()}
        receipt = {"mechanism": "diffprivlib", "events": events, "unaccounted": {}}
        digest = hashlib.sha256(subject.release_id.encode()).hexdigest()
        open_ledger(self._home).commit(subject, digest, attempt=attempt, receipt=receipt)
        return self
