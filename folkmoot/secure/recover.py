"""Open a sum, at the coordinator: add the masked vectors, take off what did not cancel.

Off come the self-masks of the survivors, and the pair masks that survivors share with members that
are missing.  A recovered seed is held against its commitment and a recovered key against its public
half, so that false shares are noticed; the result is exact or there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError, SecureError
from folkmoot.secure import shamir
from folkmoot.secure.graph import Neighbours
from folkmoot.secure.masks import SEED_BYTES, Binding, add_masks, commitment, pair_key, self_key
from folkmoot.secure.session import SEED_WORDS, WORDS, Announced, Dealt
from folkmoot.secure.setup import holders_of
from folkmoot.secure.together import Sealed, open_together
from folkmoot.wire import decode

__all__ = ["Answer", "leftover_masks", "open_answers", "unmask"]

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Answer:
    """Shares that one site revealed: of seeds of survivors, of keys of missing members."""

    seeds: Mapping[str, Words]
    keys: Mapping[str, Words]


def open_answers(
    sealed: Mapping[str, Sealed],
    binding: Binding,
    listed: str,
    survivors: frozenset[str],
    graph: Neighbours,
) -> dict[str, Answer]:
    """Shares of all answers that open together; ``listed`` is the digest of the survivor list.

    What stays closed, or holds something else than shares, is as good as no answer.
    """
    found = {}
    for site, content in open_together(sealed, binding, listed, graph).items():
        answer = _shares(content, survivors)
        if answer is not None:
            found[site] = answer
    return found


def _shares(content: bytes, alive: frozenset[str]) -> Answer | None:
    try:
        artefact = decode(content, kind="secure-opened")
        seeds, keys = artefact.meta["seeds"], artefact.meta["keys"]
        fit = alive.issuperset(seeds) and alive.isdisjoint(keys)
        out = []
        for names, array, width in (
            (seeds, artefact.arrays["seeds"], SEED_WORDS),
            (keys, artefact.arrays["keys"], WORDS - SEED_WORDS),
        ):
            fit &= array.dtype == np.uint32 and len(set(names)) == len(names)
            fit &= array.shape == ((len(names), width) if names else (0,))
            out.append(dict(zip(names, array, strict=True)))
    except (KeyError, TypeError, ValueError, ProtocolError):
        return None
    return Answer(*out) if fit else None


def leftover_masks(
    binding: Binding,
    index: int,
    survivors: Sequence[str],
    answers: Mapping[str, Answer],
    *,
    members: frozenset[str],
    graph: Neighbours,
    announced: Mapping[str, Announced],
    dealt: Mapping[str, Dealt],
) -> tuple[list[bytes], list[bytes]]:
    """Keys of the masks to add to the sum and to subtract; O(survivors + missing · degree).

    Raises
    ------
    SecureError
        ``secure.threshold`` where too few sites answered; the sum stays closed.
    SecureError
        ``secure.share`` where shares are false and too few true ones are left.
    """
    add: list[bytes] = []
    subtract: list[bytes] = []
    for site in sorted(survivors):
        shares = {
            w: answers[w].seeds[site]
            for w in holders_of(graph, site)
            if w in answers and site in answers[w].seeds
        }

        def is_seed(secret: bytes, site: str = site) -> bool:
            return commitment(secret, binding, site) == dealt[site].commitments[index]

        seed = _reconstruct(site, shares, graph, SEED_BYTES, is_seed)
        subtract.append(self_key(seed, binding, site))
    alive = set(survivors)
    for site in sorted(members - alive):
        near = [other for other in graph.of(site) if other in alive]
        if not near:
            continue
        shares = {
            w: answers[w].keys[site]
            for w in holders_of(graph, site)
            if w in answers and site in answers[w].keys
        }

        def is_key(secret: bytes, site: str = site) -> bool:
            public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
            return public == announced[site].masks[index]

        own = X25519PrivateKey.from_private_bytes(_reconstruct(site, shares, graph, 32, is_key))
        for other in near:
            key = pair_key(own, announced[other].masks[index], binding, (site, other), other)
            # The survivor added it where its name is the smaller, and subtracted it elsewhere.
            (subtract if other < site else add).append(key)
    return add, subtract


def unmask(
    total: NDArray[Any] | Mapping[str, NDArray[Any]],
    add: Sequence[bytes],
    subtract: Sequence[bytes],
    *,
    threads: int = 1,
) -> None:
    """Add and subtract masks in place, in parts of the vector side by side; O(masks · bytes).

    Masks are streams, so that a thread takes some of the masks over all of the vector rather than
    all masks over some of it.
    """
    signed = [*((key, True) for key in add), *((key, False) for key in subtract)]
    if threads < 2 or len(signed) < 2 * threads:
        add_masks(total, add, subtract)
        return

    vectors = total if isinstance(total, Mapping) else {"": total}

    def some(part: Sequence[tuple[bytes, bool]]) -> dict[str, NDArray[Any]]:
        own = {name: np.zeros_like(vector) for name, vector in vectors.items()}
        add_masks(own, [k for k, up in part if up], [k for k, up in part if not up])
        return own

    with ThreadPoolExecutor(threads) as pool:
        for own in pool.map(some, [signed[i::threads] for i in range(threads)]):
            for name, vector in vectors.items():
                np.add(vector, own[name], out=vector)


def _reconstruct(
    site: str, shares: Mapping[str, Words], graph: Neighbours, size: int, fits: Any
) -> bytes:
    """A secret of a site from shares by holder; tries other subsets where some are false."""
    points = {holder: i for i, holder in enumerate(holders_of(graph, site), 1)}
    have = sorted(holder for holder in shares if holder in points)
    if len(have) < graph.threshold:
        raise SecureError(
            "secure.threshold",
            f"{len(have)} sites gave their share for site {site}, {graph.threshold} are needed; "
            "the sum stays closed and nothing of it was revealed.",
            "Wait for the missing sites' answers, or go on with the next round.",
        )
    for first in range(len(have) if len(have) > graph.threshold else 1):
        chosen = sorted((have[first:] + have[:first])[: graph.threshold])
        stack = np.stack([shares[holder] for holder in chosen])[:, None, :]
        found = shamir.combine(stack, [points[holder] for holder in chosen], size)
        if found is not None and fits(found[0]):
            return found[0]
    raise SecureError(
        "secure.share",
        f"The shares of site {site}'s secret do not give the one that it announced.",
        "At least one site dealt or returned false shares; leave the site out of the next run.",
        site=site,
    )
