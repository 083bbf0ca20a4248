"""What happens to identifiers and quasi-identifiers: section ``anonymisation``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from folkmoot.sections import Section

__all__ = ["Anonymisation"]


class Anonymisation(Section):
    """What happens to identifiers and quasi-identifiers before training."""

    identifiers: Literal["drop", "pseudonymise"] = "drop"
    """Direct identifiers are dropped, or replaced by HMAC-SHA-256 pseudonyms that stay at the site."""
    k: Annotated[int, Field(ge=1)] = 1
    """Smallest equivalence class; rows of smaller classes are suppressed. 1 turns it off."""
    levels: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Generalisation level per quasi-identifier, into the contract's hierarchy; 0 keeps the value."""
    suppression_limit: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of a site's rows that may be suppressed."""
