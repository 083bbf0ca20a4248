"""Trees as they travel: a strict subset of XGBoost's JSON schema, without statistics of rows.

A tree is a JSON object of parallel lists, one entry per node, node 0 the root and every child
behind its parent::

    left_children, right_children    indices, -1 at a leaf
    split_indices                    feature of the split, 0 at a leaf
    split_conditions                 threshold, or a leaf's value (float32); 0 where categorical
    split_type                       1 where the split is a set of categories
    default_left                     1 where missing values go left
    categories, categories_nodes, categories_segments, categories_sizes
                                     the sets, one segment per categorical split

What XGBoost stores beside these (`sum_hessian`, `loss_changes`, `base_weights`) tells how many rows
of a site reached which node; it stays at the site.  :func:`parse_trees` rebuilds foreign trees from
checked numbers, so that nothing of the sender's bytes reaches the XGBoost library unchecked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import ProtocolError
from folkmoot.features import feature_space
from folkmoot.params import Params

__all__ = ["Tree", "TreeSpace", "dump_trees", "join_trees", "parse_trees", "scale_leaves", "strip"]

Tree = dict[str, list[Any]]
Array = NDArray[Any]

_NODES = (
    "left_children",
    "right_children",
    "split_indices",
    "split_conditions",
    "split_type",
    "default_left",
)
_SETS = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
FIELDS = frozenset((*_NODES, *_SETS))


@dataclass(frozen=True)
class TreeSpace:
    """What the trees of a federation may refer to; public.

    Parameters
    ----------
    types : tuple of str
        ``"q"`` (quantitative) or ``"c"`` (categorical code) per feature.
    levels : tuple of int
        Number of public categories per feature; 0 for a quantitative one.
    max_depth : int
        Deepest leaf.
    """

    types: tuple[str, ...]
    levels: tuple[int, ...]
    max_depth: int

    @staticmethod
    def of(contract: Contract, params: Params) -> TreeSpace:
        """The space that contract, anonymisation and ``model.trees`` span; reads no data."""
        space = feature_space(contract, params.anonymisation, "trees")
        pairs = zip(space.types, space.upper, strict=True)
        levels = tuple(int(upper) + 1 if kind == "c" else 0 for kind, upper in pairs)
        deepest = params.model.trees.max_depth
        if params.model.trees.strategy == "private_additive":  # a leaf per bin or category
            deepest = max(*levels, params.model.trees.bins).bit_length()
        return TreeSpace(space.types, levels, deepest)

    @staticmethod
    def from_meta(meta: Mapping[str, Any]) -> TreeSpace:
        """The space that a global model's header declares."""
        levels = tuple(int(n) for n in meta["levels"])
        return TreeSpace(tuple(map(str, meta["feature_types"])), levels, int(meta["max_depth"]))

    @property
    def most_nodes(self) -> int:
        """Nodes of a full tree."""
        return int(2 ** (self.max_depth + 1)) - 1

    def most_bytes(self, count: int) -> int:
        """More bytes than ``count`` trees of this space can take in JSON."""
        return 4096 + count * self.most_nodes * (128 + 8 * max(self.levels, default=0))


def strip(tree: Mapping[str, Any]) -> Tree:
    """The travelling fields of a tree of XGBoost's own JSON; O(nodes)."""
    kept: Tree = {name: list(tree[name]) for name in sorted(FIELDS)}
    kinds = kept["split_type"]
    kept["split_conditions"] = [
        0.0 if kind else value for kind, value in zip(kinds, kept["split_conditions"], strict=True)
    ]
    for name in ("split_indices", "default_left"):  # leaves carry nothing
        leaf = (child == -1 for child in kept["left_children"])
        kept[name] = [0 if end else int(v) for end, v in zip(leaf, kept[name], strict=True)]
    return kept


def dump_trees(trees: Sequence[Mapping[str, Any]]) -> bytes:
    """JSON list of trees: sorted keys, no spaces, one form for equal trees; O(nodes)."""
    text = json.dumps(trees, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def join_trees(first: bytes, second: bytes) -> bytes:
    """Concatenate two dumped lists; the result starts with the bytes of the first; O(bytes)."""
    if second == b"[]":
        return first
    return second if first == b"[]" else first[:-1] + b"," + second[1:]


def scale_leaves(tree: Tree, share: float) -> Tree:
    """The tree with every leaf times ``share``, rounded to float32; O(nodes)."""
    values = np.asarray(tree["split_conditions"], np.float64)
    leaf = np.asarray(tree["left_children"]) == -1
    values[leaf] *= share
    return {**tree, "split_conditions": _float32(values)}


def parse_trees(data: bytes, space: TreeSpace, *, count: int | None, what: str) -> list[Tree]:
    """Read trees that may come from another party; O(bytes).

    Parameters
    ----------
    data : bytes
        JSON list of trees.
    space : TreeSpace
        Features, categories and depth that the trees may use.
    count : int or None
        Number of trees there must be; None takes any.
    what : str
        Name of the artefact, for messages.

    Returns
    -------
    list of dict
        Rebuilt from checked numbers: the lists fit each other, every node but the root has one
        parent before it, features, categories and depths lie in ``space``, values are finite
        float32.

    Raises
    ------
    ProtocolError
        ``protocol.format``, naming the first tree that does not fit and why.
    """
    if count is not None and len(data) > space.most_bytes(count):
        raise _malformed(what, "is larger than its trees can be")
    try:
        found = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise _malformed(what, "does not hold a JSON list of trees") from None
    if not isinstance(found, list) or (count is not None and len(found) != count):
        raise _malformed(what, f"does not hold a list of {count} trees")
    trees = []
    for index, tree in enumerate(found):
        try:
            trees.append(_checked(tree, space))
        except _Fault as fault:
            raise _malformed(what, f"holds a malformed tree ({index}): {fault}") from None
        except (ValueError, TypeError, OverflowError):
            raise _malformed(what, f"holds a malformed tree ({index})") from None
    return trees


class _Fault(Exception):
    """Why a tree is malformed."""


def _checked(tree: Any, space: TreeSpace) -> Tree:
    if not isinstance(tree, dict) or set(tree) != FIELDS:
        raise _Fault("its fields are not those of the format")
    left, right = _integers(tree, "left_children"), _integers(tree, "right_children")
    n = len(left)
    _demand(1 <= n <= space.most_nodes, "it has no nodes, or more than its depth allows")
    features, kinds = _integers(tree, "split_indices"), _integers(tree, "split_type")
    defaults, values = _integers(tree, "default_left"), _numbers(tree, "split_conditions")
    others = (right, features, kinds, defaults, values)
    _demand(all(len(array) == n for array in others), "its lists differ in length")
    inner = np.flatnonzero(left != -1)
    _nodes(left, right, inner, space.max_depth)
    leaf = np.ones(n, bool)
    leaf[inner] = False
    _demand(not any(array[leaf].any() for array in (features, kinds, defaults)), "a leaf splits")
    split = features[inner]
    _demand(((split >= 0) & (split < len(space.types))).all(), "a split names no feature")
    categorical = np.asarray([kind == "c" for kind in space.types], bool)
    _demand((kinds[inner] == categorical[split]).all(), "a split does not fit its feature's type")
    _demand(((defaults == 0) | (defaults == 1)).all(), "a default direction is neither 0 nor 1")
    values[kinds == 1] = 0.0
    with np.errstate(over="ignore"):
        _demand(np.isfinite(values.astype(np.float32)).all(), "a value is not finite")
    sets = _sets(tree, features, np.flatnonzero(kinds == 1), space)
    return {
        "left_children": left.tolist(),
        "right_children": right.tolist(),
        "split_indices": features.tolist(),
        "split_conditions": _float32(values),
        "split_type": kinds.tolist(),
        "default_left": defaults.tolist(),
        **sets,
    }


def _nodes(left: Array, right: Array, inner: Array, max_depth: int) -> None:
    """Each node but the root has exactly one parent, before it: a tree without cycles."""
    n = len(left)
    _demand(((left == -1) == (right == -1)).all(), "a node has one child")
    children = np.concatenate([left[inner], right[inner]])
    _demand(np.array_equal(np.sort(children), np.arange(1, n)), "its nodes form no tree")
    _demand((children > np.concatenate([inner, inner])).all(), "a child stands before its parent")
    level = np.zeros(1, np.int64)
    for _ in range(max_depth + 1):
        level = level[left[level] != -1]
        if not len(level):
            return
        level = np.concatenate([left[level], right[level]])
    raise _Fault("it is deeper than the federation allows")


def _sets(tree: Mapping[str, Any], features: Array, nodes: Array, space: TreeSpace) -> Tree:
    found = {name: _integers(tree, name) for name in _SETS}
    sizes, codes = found["categories_sizes"], found["categories"]
    _demand(np.array_equal(found["categories_nodes"], nodes), "its sets belong to other nodes")
    _demand(len(sizes) == len(nodes) and bool((sizes >= 1).all()), "a set of categories is empty")
    _demand(int(sizes.sum()) == len(codes), "its category sets do not fit their sizes")
    starts = np.cumsum(sizes) - sizes
    _demand(np.array_equal(found["categories_segments"], starts), "its category sets overlap")
    owner = np.repeat(np.arange(len(nodes)), sizes)
    most = np.asarray(space.levels, np.int64)[features[nodes]][owner]
    _demand(((codes >= 0) & (codes < most)).all(), "a category is not in the contract")
    _demand(((np.diff(codes) > 0) | (np.diff(owner) > 0)).all(), "categories are not in order")
    return {name: array.tolist() for name, array in found.items()}


def _integers(tree: Mapping[str, Any], name: str) -> Array:
    values = tree[name]
    _demand(isinstance(values, list), f"{name} is no list")
    array = np.asarray(values) if values else np.empty(0, np.int64)
    _demand(array.dtype == np.int64 and array.ndim == 1, f"{name} is no list of integers")
    return array


def _numbers(tree: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    values = tree[name]
    _demand(isinstance(values, list), f"{name} is no list")
    array = np.asarray(values)
    _demand(array.dtype.kind in "if" and array.ndim == 1, f"{name} is no list of numbers")
    return array.astype(np.float64)


def _float32(values: Iterable[float] | Array) -> list[float]:
    """Shortest decimals that read back as the same float32."""
    return [float(str(v)) for v in np.asarray(values).astype(np.float32)]


def _demand(holds: bool | np.bool_, fault: str) -> None:
    if not holds:
        raise _Fault(fault)


def _refuse(_: str) -> None:
    raise ValueError


def _malformed(what: str, fault: str) -> ProtocolError:
    return ProtocolError(
        "protocol.format",
        f"{what} {fault}.",
        "Nothing was merged. Check that both sides run the same version of folkmoot, with the same "
        "contract and params.",
    )
