"""What a global model asks of sites beside its numbers: two sums of equal content may be subtracted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["asked_of"]


def asked_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The histograms that a model asks for; of other models nothing.

    Neither the round nor who took part counts: the same root asked for again, later and of other
    sites, is the same content, and the difference of both sums is the difference of the sites.
    """
    growing = meta.get("growing")
    if not isinstance(growing, dict):
        return {}
    return {"growing": {k: v for k, v in growing.items() if k not in {"began", "sites"}}}
