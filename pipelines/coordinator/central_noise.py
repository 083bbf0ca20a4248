"""Noise that the coordinator adds (``privacy.noise: coordinator``): the central model.

Sites hand over exact sums of clipped records and trust the coordinator to add the noise before
anybody else sees a number.  The noise of a round is drawn once and kept in the coordinator's own
folder before anything is published: a crash and a second try add the same noise to the same sum, so
that nobody can average it away.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from folkmoot.plan import RunContext
from folkmoot.privacy.noise import Entropy, discrete_gaussian
from folkmoot.privacy.planned import Release

__all__ = ["central_noise"]


def central_noise(
    context: RunContext,
    round: int,
    release: Release,
    total: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Discrete Gaussian noise of a round, the same on every try; O(size).

    Parameters
    ----------
    context : RunContext
        The run; with ``privacy.seeded`` the noise follows from the seed and is NOT PRIVATE.
    round : int
        Its round.
    release : Release
        What is summed, and its planned noise.
    total : ndarray of int64, shape (size,)
        The exact sum that it is added to: another sum gets other noise.

    Returns
    -------
    ndarray of int64, shape (size,)
        In steps of the release.
    """
    told = "\0".join([context.run, str(round), repr(release), ""]).encode()
    name, size = hashlib.sha256(told + total.astype("<i8").tobytes()).hexdigest(), total.size
    if context.params.privacy.seeded:
        seed = f"folkmoot-central\0{context.params.privacy.seed}\0{name}".encode()
        return discrete_gaussian(release.deviation, size, Entropy(seed))
    path = _folder(context) / f"round-{round:03d}-{name[:32]}.noise"
    if not path.exists():
        _keep(path, discrete_gaussian(release.deviation, size).astype("<i8").tobytes())
    return np.frombuffer(path.read_bytes(), "<i8").astype(np.int64)


def _folder(context: RunContext) -> Path:
    return context.workspace / "coordinator" / context.federation / "noise" / context.run


def _keep(path: Path, data: bytes) -> None:
    """Whole or not at all, durable, and the first of two tries wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink(missing_ok=True)
