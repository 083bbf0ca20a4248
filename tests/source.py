"""What the project's own code says and imports, read once for all tests that ask."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("folkmoot", "site_tasks", "pipelines", "dags")


def modules(*packages: str) -> list[Path]:
    """Files of all modules of these packages; of all packages by default."""
    return [path for name in packages or PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Source:
    """Every name, attribute and string of a module; (module, name) of every import.

    The trees themselves are not kept: a million nodes would slow down each later collection.
    """

    words: frozenset[str]
    imports: frozenset[tuple[str, str]]


@cache
def source(path: Path) -> Source:
    words, imports = set[str](), set[tuple[str, str]]()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
        elif isinstance(node, ast.Import):
            words |= {alias.name for alias in node.names}
            imports |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            words |= {alias.name for alias in node.names}
            imports |= {(node.module or "", alias.name) for alias in node.names}
    return Source(frozenset(words), frozenset(imports))
