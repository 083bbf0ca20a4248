"""A site's worker in a live session, as a process of its own: ``python -m site_tasks.live.worker``.

It knows numbers alone: rows on disk, settings under XGBoost's names (:mod:`site_tasks.live.job`).
Gradients are rounded to a public grid on which every sum over all sites is exact in float64.  The
communicator adds histograms in the order in which they arrive; with exact sums that order changes
nothing, and neither does the number of threads: a session repeated gives the same trees, bit for bit.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.live.process import job, say
from folkmoot.models.library import import_xgboost
from folkmoot.models.scores import gradients
from site_tasks.arrays import read_array

if TYPE_CHECKING:
    import xgboost

__all__ = ["greet", "main"]

Array = NDArray[Any]
#: Connection preface of HTTP/2 and an empty SETTINGS frame (RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_GREET_SECONDS = 20.0
_BLOCK = 65_536


def main() -> int:
    """Greet the tracker, train, write the booster; tells every step on standard output."""
    library = import_xgboost(alone=True)
    asked = job()
    if not library.build_info().get("USE_FEDERATED"):
        say(lacking=True)
        return 1
    certificates = asked["certificates"]
    try:
        greet(asked["address"], asked["port"], certificates)
    except OSError as error:
        say(refused=type(error).__name__)
        return 1
    say(step=-1)
    with library.collective.CommunicatorContext(
        dmlc_communicator="federated",
        federated_server_address=f"{asked['address']}:{asked['port']}",
        federated_world_size=asked["world"],
        federated_rank=asked["rank"],
        # Under the names in the manual (without _path) XGBoost 3.2 connects without TLS.
        federated_server_cert_path=certificates["tracker"],
        federated_client_key_path=certificates["key"],
        federated_client_cert_path=certificates["own"],
    ):
        booster = _train(asked)
    part = Path(asked["out"] + ".part")
    part.write_bytes(bytes(booster.save_raw("json")))
    os.replace(part, asked["out"])
    say(done=True)
    return 0


def greet(address: str, port: int, certificates: dict[str, str]) -> None:
    """Shake hands with the tracker as gRPC will, where refusals can still be told.

    Raises
    ------
    OSError
        Where nobody answers, or one side does not accept the other's certificate (``ssl.SSLError`` is
        one): XGBoost would wait for ever instead.
    """
    context = ssl.create_default_context(cafile=certificates["tracker"])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trusted by itself, not by an authority
    context.load_cert_chain(certificates["own"], certificates["key"])
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((address, port), _GREET_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=address) as secure,
    ):
        secure.sendall(_PREFACE)
        # In TLS 1.3 a refusal of our certificate comes after the handshake.
        if not secure.recv(9):
            raise ConnectionRefusedError


def _train(asked: dict[str, Any]) -> xgboost.Booster:
    import xgboost

    folder = Path(asked["rows"])
    labels, start = read_array(folder / "train-labels.npy"), read_array(Path(asked["start"]))
    weights = read_array(folder / "train-weights.npy") if asked["weighted"] else None
    matrix = _binned(asked, weights)  # all sites together: the bin edges
    matrix.set_base_margin(start)
    say(step=0)
    booster = xgboost.Booster(asked["settings"], [matrix])
    for step in range(asked["steps"]):
        current = start if step == 0 else booster.predict(matrix, output_margin=True)
        factor = np.ones(len(labels)) if weights is None else np.array(weights)
        if asked["subsample"] < 1:
            factor[_draws(asked, step, len(labels)) >= asked["subsample"]] = 0.0
        factor = factor if start.ndim == 1 else factor[:, None]
        rounded = [
            _rounded(values * factor, *limits)
            for values, limits in zip(
                _derivatives(asked, current, labels), asked["grid"], strict=True
            )
        ]
        number = asked["first_step"] + step
        booster.set_param({"learning_rate": asked["rates"][step]})
        booster.boost(matrix, iteration=number, grad=rounded[0], hess=rounded[1])
        say(step=step + 1)
    return booster


def _binned(asked: dict[str, Any], weights: Array | None) -> xgboost.QuantileDMatrix:
    """The site's rows in the federation's bins, read in slices."""
    import xgboost

    rows = read_array(Path(asked["rows"]) / "train.npy", mapped=True)

    class Slices(xgboost.DataIter):  # type: ignore[misc]  # xgboost is untyped
        """XGBoost's view of the rows on disk."""

        first = 0

        def next(self, input_data: Callable[..., Any]) -> bool:
            if self.first >= len(rows):
                return False
            own = slice(self.first, self.first + _BLOCK)
            part = None if weights is None else weights[own]
            input_data(data=np.array(rows[own]), weight=part, feature_types=asked["types"])
            self.first = own.stop
            return True

        def reset(self) -> None:
            self.first = 0

    settings = asked["settings"]
    return xgboost.QuantileDMatrix(
        Slices(),
        max_bin=settings["max_bin"],
        nthread=settings["nthread"],
        enable_categorical=True,
    )


def _derivatives(asked: dict[str, Any], margins: Array, labels: Array) -> tuple[Array, Array]:
    """First and second derivative by the margin, as XGBoost defines them, in float64."""
    if asked["settings"]["objective"] != "count:poisson":
        return gradients(asked["task"], margins, labels)
    wide = margins.astype(np.float64)
    return np.exp(wide) - labels, np.exp(wide + asked["settings"]["max_delta_step"])


def _rounded(values: Array, exponent: int, bound: float) -> NDArray[np.float32]:
    """To the nearest multiple of ``2**-exponent``; refuses what would leave the public bounds."""
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if not largest <= bound * (1 + 1e-6):
        say(diverged=True)
        sys.exit(1)
    return np.ldexp(np.rint(np.ldexp(values, exponent)), -exponent).astype(np.float32)


def _draws(asked: dict[str, Any], step: int, rows: int) -> NDArray[np.float64]:
    """One draw per row, from a public seed: the same in every try."""
    seed = [int(asked["seed"]), int(asked["first_step"]) + step, int(asked["rank"])]
    return np.random.Generator(np.random.PCG64(seed)).random(rows)


if __name__ == "__main__":
    sys.exit(main())
