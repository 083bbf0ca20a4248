"""The privacy ledger: what one release costs, and what it costs behind a million entries.

The large ledger is a real one, every entry chained and signed, written in few transactions so that
it takes a minute instead of ten.  A decision is a whole durable ``reserve`` under four ceilings.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.report import row
from folkmoot.errors import PrivacyError
from folkmoot.privacy.events import Gaussian
from folkmoot.privacy.ledger import Ceiling, Ledger, Subject, Terms

ENTRIES = 1_000_000
RECEIPT = {"mechanism": "gaussian", "unaccounted": {}, "events": {"update": {"event": "gaussian"}}}
TERMS = Terms(
    (
        Ceiling(1e9, 1e-5),
        Ceiling(1e9, 1e-5, "federation"),
        Ceiling(1e9, 1e-5, "requester"),
        Ceiling(1e9, 1e-5, "period", 365),
    )
)


def subject(number: int) -> Subject:
    """Releases of four federations and three requesters."""
    return Subject(
        f"{number:064x}",
        f"federation-{number % 4}",
        f"run-{number // 40}",
        number % 20,
        f"round-{number % 20:03d}/train/site-a",
        "f" * 64,
        "main",
        f"team-{number % 3}",
    )


def event(number: int) -> Gaussian:
    """A charge; every run has a noise multiplier of its own."""
    return Gaussian(4.0 + number // 40 * 1e-4)


def main(entries: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder, "small.sqlite"), "site-a", Ed25519PrivateKey.generate())
        best, median = timed(ledger, 0, 300, both=True)
        row(
            "ledger: reserve + commit of one release, durable and signed",
            f"best {best:.2f} ms, median {median:.2f} ms",
            "≤ 0.8 ms",
            met=median <= 0.8,
        )
        ledger.close()
        big = Ledger(Path(folder, "big.sqlite"), "site-a", Ed25519PrivateKey.generate())
        fill(big, entries)
        best, median = timed(big, entries, 100)
        row(
            f"ledger of {entries:,} entries: deciding one more release under four ceilings",
            f"median {median:.1f} ms (best {best:.1f})",
            "≤ 50 ms",
            met=median <= 50,
        )
        refused = Terms((Ceiling(0.5, 1e-5),))
        began = time.perf_counter()
        try:
            big.reserve(subject(entries * 2), [event(0)], terms=refused)
        except PrivacyError as error:
            seconds = time.perf_counter() - began
            row(
                "the same: a refusal, with ceiling, spent and asked",
                f"{1000 * seconds:.1f} ms",
                "≤ 50 ms",
                met=error.code == "privacy.ceiling" and seconds <= 0.05,
            )
        began = time.perf_counter()
        count = big.verify()
        seconds = time.perf_counter() - began
        what = f"folkmoot ledger verify, {count:,} entries with their signatures and totals"
        row(what, f"{seconds:.0f} s, {1000 * seconds / count:.2f} ms each", "", met=None)


def fill(ledger: Ledger, entries: int) -> None:
    """Reserve and commit until the ledger holds ``entries``; one fsync per 10,000."""
    store = ledger._store
    real, number = store.transaction, 0
    while number < entries // 2:
        with real() as tail:
            store.transaction = lambda tail=tail: nullcontext(tail)  # type: ignore[method-assign]
            for number in range(number, min(number + 5_000, entries // 2)):  # noqa: B020
                attempt = ledger.reserve(subject(number), [event(number)])
                ledger.commit(subject(number), "d" * 64, attempt=attempt, receipt=RECEIPT)
            store.transaction = real  # type: ignore[method-assign]
        number += 1
        sys.stdout.write(f"{2 * number:,} entries\n" if number % 50_000 == 0 else "")
        sys.stdout.flush()


def timed(ledger: Ledger, start: int, times: int, *, both: bool = False) -> tuple[float, float]:
    """Milliseconds of a reservation (and its commit): best and median."""
    found = []
    for number in range(start, start + times):
        about, charge = subject(number), [event(number)]
        began = time.perf_counter()
        attempt = ledger.reserve(about, charge, terms=Terms() if both else TERMS)
        if both:
            ledger.commit(about, "d" * 64, attempt=attempt, receipt=RECEIPT)
        found.append(1000 * (time.perf_counter() - began))
    return min(found), statistics.median(found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES)
