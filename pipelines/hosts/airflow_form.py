"""The form that Airflow shows before a run: ``params.yaml`` as typed fields, without its structure.

Fields come from the types of :mod:`folkmoot.params`, with their bounds as JSON schema, so that a bad
value is refused before anything starts.  What would change the DAG's shape (sites, kind of model) is
not asked for; rounds may be fewer than the DAG has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from folkmoot.params import Params
from folkmoot.sections import Section

__all__ = ["fields"]

#: Structural, or for studies only.
_LEFT_OUT = {"privacy.unit", "privacy.seeded", "privacy.seed", "model.trees.strategy"}
#: Masks are steps of their own in the DAG.
_LEFT_OUT |= {
    f"aggregation.{key}"
    for key in ("protection", "threshold", "value_limit", "rows_limit", "colluding", "failing")
}
#: Sections of which the form has these keys alone.
_ALONE = {"data": {"data.scaling"}, "tracking": {"tracking.enabled"}}
_NAMES = {"tracking.enabled": "track"}
_TITLES = {"track": "Track in MLflow", "l2": "L2 penalty", "eta": "Eta (learning rate)"}


def fields(params: Params) -> dict[str, tuple[str, dict[str, Any]]]:
    """The form's fields.

    Parameters
    ----------
    params : Params
        Their defaults.

    Returns
    -------
    dict of str to (str, dict)
        By name in the form: dotted key of ``params.yaml``, and arguments of Airflow's ``Param``.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    if params.statistics.active:
        return found  # what is asked decides on the graph
    sections: list[tuple[str, Section, str]] = [
        (f"model.{params.model.kind}", params.model.chosen, "Model"),
        ("data", params.data, "Data"),
        ("privacy", params.privacy, "Privacy"),
        ("aggregation", params.aggregation, "Aggregation"),
    ]
    if params.tracking.enabled:
        sections.append(("tracking", params.tracking, "Tracking"))
    for prefix, section, title in sections:
        for key, default, schema in _walk(prefix, section):
            if key in _LEFT_OUT or (prefix in _ALONE and key not in _ALONE[prefix]):
                continue
            name = _NAMES.get(key, key.rsplit(".", 1)[1])
            if name == "rounds":
                schema["maximum"] = params.model.chosen.rounds
            schema["title"] = _TITLES.get(name, name.replace("_", " ").capitalize())
            found[name] = key, {"default": default, "section": title, **schema}
    return found


def _walk(prefix: str, section: Section) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Key, default and JSON schema of every value of a section and its subsections."""
    properties = type(section).model_json_schema()["properties"]
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _walk(f"{prefix}.{name}", value)
        else:
            yield f"{prefix}.{name}", value, _schema(properties[name])


def _schema(field: Mapping[str, Any]) -> dict[str, Any]:
    """Pydantic's JSON schema as Airflow's form understands it: a list of types, no references."""
    schema = {
        k: v for k, v in field.items() if k not in {"default", "title", "anyOf", "description"}
    }
    for choice in field.get("anyOf", ()):
        if choice["type"] == "null":
            schema["type"] = [schema["type"], "null"]
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        else:
            schema.update(choice)
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    schema["description_md"] = field.get("description", "")
    return schema
