"""One of three computing sites, as a process of its own: MPyC has one runtime per process.

``python -m site_tasks.measure.party``: a job as JSON on standard input, opened figures as JSON on
standard output.  Shares come in and never go out but into MPyC's own messages to the other two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

__all__ = ["main"]


def main() -> int:
    """Read a job, compute, write what was opened."""
    job = json.load(sys.stdin)
    arguments = [f"-P{address}" for address in job["addresses"]]
    arguments += [f"-I{job['index']}", "--no-log"]
    sys.argv = ["party", *arguments]  # MPyC reads its settings from here when it is imported
    from mpyc import runtime

    # MPyC ends with a barrier in pickled messages: nothing of another party is unpickled here.
    runtime.pickle = SimpleNamespace(
        dumps=lambda value: json.dumps(value).encode(), loads=json.loads
    )
    mpc = runtime.mpc
    # It would listen on every interface, and sends in the clear.
    listen = mpc._loop.create_server
    mpc._loop.create_server = partial(listen, host="127.0.0.1")
    opened = mpc.run(_work(mpc, job))
    json.dump(opened, sys.stdout)
    return 0


async def _work(mpc: Any, job: Mapping[str, Any]) -> list[Any]:
    from folkmoot.statistics.shared import FIELD

    await mpc.start()
    number = mpc.SecInt(job["bits"], p=FIELD)
    shares = [int(text) for text in job["shares"]]
    opened: list[Any] = []
    for figure in job["figures"]:
        own = [number(number.field(s)) for s in shares[figure["start"] : figure["end"]]]
        if figure["kind"] == "median":
            opened.append(await _median(mpc, number, own, job["least"]))
        else:
            bins = figure["bins"]
            opened.append(await _area(mpc, number, own[:bins], own[bins:], job))
    await mpc.shutdown()
    return opened


async def _median(mpc: Any, number: Any, counts: Sequence[Any], least: int) -> int | None:
    """Bin of the lower median: the first with at least half of the rows up to it.

    A binary search: each opened bit is one of the answer's, so that nothing but the answer is opened.
    """
    total = mpc.sum(list(counts))
    if not await mpc.output(total >= least):
        return None
    below = [number(0)]
    for count in counts:
        below.append(below[-1] + count)
    low, high = 0, len(counts) - 1
    while low < high:
        middle = (low + high) // 2
        if await mpc.output(2 * below[middle + 1] >= total):
            high = middle
        else:
            low = middle + 1
    return low


async def _area(
    mpc: Any, number: Any, negative: Sequence[Any], positive: Sequence[Any], job: Mapping[str, Any]
) -> int | None:
    """The area under the curve in steps of ``2^-area_bits``, rounded down; ties count half.

    Twice the number of pairs that are in order, against twice the number of pairs: neither is opened,
    their ratio is found by a binary search over secret products.
    """
    zeros, ones = mpc.sum(list(negative)), mpc.sum(list(positive))
    enough = (zeros >= job["least"]) * (ones >= job["least"])
    if not await mpc.output(enough):
        return None
    before, weights = number(0), []
    for count in negative:
        weights.append(2 * before + count)
        before += count
    ordered = mpc.in_prod(list(positive), weights)
    pairs = 2 * (zeros * ones)
    places = int(job["area_bits"])
    scaled, low, high = ordered * 2**places, 0, 2**places
    while low < high:  # the largest q with q · pairs <= scaled
        middle = (low + high + 1) // 2
        if await mpc.output(scaled >= pairs * middle):
            low = middle
        else:
            high = middle - 1
    return low


if __name__ == "__main__":
    sys.exit(main())
