"""Margins of a site's own rows under the growing global booster, tree by tree.

XGBoost adds the trees to a row's margin one after the other in float32, so predicting only the
trees that are new, on top of the margins so far, gives the very bits that predicting all of them
would: a round costs O(n · new trees), and a site that lost its cache (or a process that never had
one) ends at the same update.  What is kept is bound to the bytes of the trees it was computed from.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.models.tree_format import Tree, TreeSpace, parse_trees
from folkmoot.models.trees import (
    empty_model,
    import_xgboost,
    make_booster,
    outputs,
    tree_bytes,
    usable_cores,
)
from folkmoot.plan import RunContext
from folkmoot.wire import Artefact, decode, encode
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared

if TYPE_CHECKING:
    import xgboost

__all__ = ["Leaf", "margins", "threads"]

Array = NDArray[Any]
#: From a class's number and its new tree to the node that every row ends in.
Leaf = Callable[[int, Tree], NDArray[np.int32] | None]
#: Rows of at most this many bytes are read as they are mapped, larger ones in blocks.
MAPPED = 64 * 2**20
#: Rows of a block.
BLOCK = 65_536
#: Fewer rows than this are done sooner than another thread is woken.
ROWS_PER_THREAD = 10_000


@dataclass(frozen=True)
class _Kept:
    """Margins under the trees whose JSON, without the closing bracket, is ``size`` bytes."""

    size: int
    digest: str
    values: Array


def margins(
    model: Artefact,
    prepared: Prepared,
    part: Literal["train", "test"],
    context: RunContext,
    home: SiteHome,
    leaf: Leaf | None = None,
) -> NDArray[np.float32]:
    """Margins of a part of a site's rows under the global model; O(n · new trees · depth).

    Parameters
    ----------
    model : Artefact
        Global tree model; checked against the site's own contract and params.
    prepared : Prepared
        The site's rows.
    part : {"train", "test"}
        Which rows.
    context, home
        Run and site; what is computed is kept in ``context.cache`` and in the site's private
        ``work/margins``.
    leaf : callable, optional
        Called with a class's number and its new tree: the node (n,) that every row ends in, or None
        where that is not known.  Spares XGBoost's own way through the tree; same bits.

    Returns
    -------
    ndarray of float32, shape (n,) or (n, K) for K classes
        Read-only.  Stays at the site.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a model of another shape than contract and params give,
        ``protocol.format`` for malformed trees.
    """
    import_xgboost(alone=bool(context.cache.get("single_step")))
    meta = _checked_meta(model, context)
    data = tree_bytes(model)
    name = (prepared.digest, part)
    memory = context.cache.setdefault(("margins", home.name), {})
    base_score = meta["base_score"]
    file = _file(home, context, part)
    kept = _matching(memory.get(name), data, base_score)
    lasting = kept is not None  # a process that remembers needs no file
    if kept is None:
        kept = _matching(_read(file, prepared.digest), data, base_score)
    if kept is not None and kept.size == len(data) - 1:
        memory[name] = kept
        return kept.values
    new = data if kept is None or kept.size == 1 else b"[" + data[kept.size + 1 :]
    trees = _new_trees(new, meta, model, context)
    values = None if leaf is None or kept is None else _by_leaf(trees, kept, meta, leaf)
    if values is None:
        booster = _booster(trees, meta, context, threads(context, prepared))
        values = _predict(booster, meta, prepared, part, kept)
    values.flags.writeable = False
    kept = _Kept(len(data) - 1, _digest(data, len(data) - 1, base_score), values)
    memory[name] = kept
    if not lasting:
        _write(file, prepared.digest, kept)
    return values


def threads(context: RunContext, prepared: Prepared) -> int:
    """Threads for XGBoost: what the host set aside, else the cores this process may use.

    A host that runs sites side by side puts ``threads`` into ``context.cache``.  The number
    changes nothing in what is computed.
    """
    useful = 1 + prepared.rows["train"] // ROWS_PER_THREAD
    return min(int(context.cache.get("threads") or usable_cores()), useful)


def _new_trees(
    new: bytes, meta: dict[str, Any], model: Artefact, context: RunContext
) -> list[Tree]:
    """The new trees, read once for all rows and sites that this process serves."""
    name = _digest(new, len(new), meta["base_score"])
    last, trees = context.cache.get("new trees", (None, None))
    if last != name or trees is None:
        what = f"The global model of round {model.meta.get('round')}"
        trees = parse_trees(new, _expected(context)[0], count=None, what=what)
        if len(trees) % outputs(meta):
            raise _mismatch("a number of trees that is no multiple of the classes")
        context.cache["new trees"] = (name, trees)
    return list(trees)


def _booster(
    trees: list[Tree], meta: dict[str, Any], context: RunContext, n_threads: int
) -> xgboost.Booster:
    """Their booster, made once as well."""
    name = (context.cache["new trees"][0], n_threads)
    last, booster = context.cache.get("new booster", (None, None))
    if last != name or booster is None:
        booster = make_booster(meta, trees, threads=n_threads)
        context.cache["new booster"] = (name, booster)
    return booster


def _by_leaf(
    trees: list[Tree], kept: _Kept, meta: dict[str, Any], leaf: Leaf
) -> NDArray[np.float32] | None:
    """Margins so far and the values of one new tree per class; O(n)."""
    if len(trees) != outputs(meta):
        return None
    found = np.array(kept.values, np.float32)
    columns = found.reshape(len(found), -1)
    for k, tree in enumerate(trees):
        at = leaf(k, tree)
        if at is None:
            return None
        columns[:, k] += np.asarray(tree["split_conditions"], np.float32)[at]
    return found


def _predict(
    booster: xgboost.Booster,
    meta: dict[str, Any],
    prepared: Prepared,
    part: Literal["train", "test"],
    kept: _Kept | None,
) -> NDArray[np.float32]:
    rows = prepared.rows[part]
    found = np.zeros((rows, outputs(meta)) if meta["task"] == "multiclass" else rows, np.float32)
    for first, features in _blocks(prepared, part):
        some = slice(first, first + len(features))
        values = booster.inplace_predict(
            features,
            predict_type="margin",
            base_margin=None if kept is None else kept.values[some],
            validate_features=False,
        )
        found[some] = values.reshape(found[some].shape)
    return found


def _blocks(prepared: Prepared, part: Literal["train", "test"]) -> Iterator[tuple[int, Array]]:
    """First row and features of blocks; one mapped block where the rows are few."""
    features = prepared.matrix(part)
    if features.nbytes <= MAPPED:
        if len(features):
            yield 0, features
        return
    first = 0
    for block, _, _ in prepared.blocks(part, BLOCK):
        yield first, block
        first += len(block)


def _checked_meta(model: Artefact, context: RunContext) -> dict[str, Any]:
    """The header a model must have here, with the incoming ``base_score``."""
    _, expected = _expected(context)
    try:
        base_score = [float(value) for value in model.meta["base_score"]]
    except (KeyError, TypeError, ValueError):
        raise _mismatch("no base score") from None
    if not np.isfinite(base_score).all() or len(base_score) != outputs(expected):
        raise _mismatch("a base score of another shape")
    if expected["task"] == "binary" and not 0 < base_score[0] < 1:
        raise _mismatch("a base score that is no probability")
    for key in ("kind", "task", "features", "feature_types", "levels", "objective", "num_class"):
        if model.meta.get(key) != expected[key]:
            raise _mismatch(f"another {key}")
    if "trees" not in model.arrays:
        raise _mismatch("no trees")
    return {**expected, "base_score": base_score}


def _expected(context: RunContext) -> tuple[TreeSpace, dict[str, Any]]:
    """What contract and params of the run say about trees and header; worked out once."""
    if "tree space" not in context.cache:
        meta = dict(empty_model(context.contract, context.params, []).meta)
        context.cache["tree space"] = (TreeSpace.of(context.contract, context.params), meta)
    found: tuple[TreeSpace, dict[str, Any]] = context.cache["tree space"]
    return found


def _mismatch(what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"The global model has {what} than the contract and params of this run give.",
        "Check that coordinator and site run the same version of folkmoot and one contract.",
    )


def _digest(data: bytes, size: int, base_score: list[float]) -> str:
    found = hashlib.sha256(json.dumps(base_score).encode())
    found.update(memoryview(data)[:size])
    return found.hexdigest()


def _matching(kept: _Kept | None, data: bytes, base_score: list[float]) -> _Kept | None:
    """``kept`` where the model's trees start with the trees it was computed from."""
    if kept is None or not 1 <= kept.size < len(data):
        return None
    if kept.size > 1 and data[kept.size : kept.size + 1] not in (b",", b"]"):
        return None
    return kept if _digest(data, kept.size, base_score) == kept.digest else None


def _file(home: SiteHome, context: RunContext, part: str) -> Path:
    return home.work / "margins" / f"{context.federation}-{part}.bin"


def _read(path: Path, prepared: str) -> _Kept | None:
    """What an earlier process kept, or None where there is nothing that fits."""
    try:
        artefact = decode(path.read_bytes(), kind="margins")
        if artefact.meta["prepared"] != prepared:
            return None
        meta = artefact.meta
        return _Kept(int(meta["size"]), str(meta["digest"]), artefact.arrays["margins"])
    except (OSError, ProtocolError, KeyError):
        return None


def _write(path: Path, prepared: str, kept: _Kept) -> None:
    meta = {"prepared": prepared, "size": kept.size, "digest": kept.digest}
    data = encode(Artefact("margins", meta, {"margins": kept.values}))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
