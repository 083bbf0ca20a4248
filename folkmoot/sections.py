"""Typed configuration files: strict sections, and errors that name keys but never repeat values."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from folkmoot.errors import ConfigError

__all__ = ["Section", "load_yaml", "parse"]

T = TypeVar("T", bound=BaseModel)
#: The safe loader over libyaml where it is built in: 25 times as fast.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


#: Deepest nesting of a settings file; ours need six.
_DEEPEST = 64


class _Loader(_SAFE):  # type: ignore[misc]
    """The safe loader, with YAML 1.2's numbers: ``1e-6`` is one, as DVC and people read it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+\Z"),
    list("-+.0123456789"),
)


class Section(BaseModel):
    """A frozen, strict section of a configuration file."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    def stated(self, **options: Any) -> dict[str, Any]:
        """What differs from the defaults, as JSON values; ``options`` as of ``model_dump``.

        What identities are made of: a key that a later version adds changes none of them where it
        is not set, so that versions agree on them.  No default changes within a major version.
        """
        return self.model_dump(mode="json", exclude_defaults=True, **options)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises
    ------
    ConfigError
        Where the file does not exist, is not YAML (line and column are named) or is no mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            "config.missing-file", f"{path} does not exist.", "Name an existing file."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "config.syntax", f"{path} cannot be read ({type(error).__name__}).", "Check the file."
        ) from None
    try:
        values = _load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            "config.syntax", f"{path} is not valid YAML{where}.", "Mend the file's syntax."
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            "config.syntax",
            f"{path} is not a mapping of keys.",
            "Start it with `key: value` lines.",
        )
    return values


def _load(text: str) -> Any:
    """YAML of a bounded depth: libyaml recurses in C and would take the process with it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader


def parse(
    kind: type[T], values: Mapping[str, Any], overrides: Iterable[str] = (), *, source: str
) -> T:
    """Validate ``values`` with ``key=value`` overrides (values in YAML) as a ``kind``.

    Raises
    ------
    ConfigError
        ``config.unknown-key`` where only keys are unknown, else ``config.invalid``; every fault is
        listed, each with its dotted key, and no fault repeats a value.
    """
    merged = copy.deepcopy(dict(values))
    for item in overrides:
        _override(merged, item)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise _explain(kind, error, source) from None


def _override(values: dict[str, Any], item: str) -> None:
    key, sep, text = item.partition("=")
    if not sep or not key:
        raise ConfigError(
            "config.invalid",
            "An override is not of the form KEY=VALUE.",
            "Write --set model.kind=trees.",
        )
    try:
        value = _load(text)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(
            "config.syntax", f"The value of override {key} is not YAML.", "Quote the value."
        ) from None
    *parents, last = key.split(".")
    inner = values
    for name in parents:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                "config.invalid",
                f"Override {key}: {name} is not a section.",
                "Check the key's dots.",
            )
    inner[last] = value


def _explain(kind: type[BaseModel], error: ValidationError, source: str) -> ConfigError:
    faults: list[str] = []
    unknown_only = True
    for fault in error.errors(include_input=False, include_url=False, include_context=False):
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(
                str(fault["loc"][-1]), _known(kind, fault["loc"][:-1]), 1
            )
            hint = f"; did you mean {near[0]}?" if near else ""
            faults.append(f"{key} is unknown{hint}")
        else:
            unknown_only = False
            message = fault["msg"].removeprefix("Value error, ")
            faults.append((f"{key}: " if key else "") + message[:1].lower() + message[1:])
    return ConfigError(
        "config.unknown-key" if unknown_only else "config.invalid",
        f"{source}: " + "; ".join(faults) + ".",
        "Mend the named keys; `folkmoot params reference` lists every key.",
    )


def _known(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section that ``path`` leads to."""
    for part in path:
        field = kind.model_fields.get(str(part)) if isinstance(part, str) else None
        if field is None:
            continue
        for candidate in (field.annotation, *get_args(field.annotation)):
            inner = [candidate, *get_args(candidate)]
            found = [c for c in inner if isinstance(c, type) and issubclass(c, BaseModel)]
            if found:
                kind = found[0]
                break
    return list(kind.model_fields)
