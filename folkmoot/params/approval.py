"""Where a person decides before a run goes on: section ``approval``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from folkmoot.params.kinds import Positive
from folkmoot.sections import Section

__all__ = ["Approval"]


class Approval(Section):
    """Where a person decides before a run goes on."""

    consent: bool = False
    """Whether every site needs its steward's signed consent to this federation, coordinator and contract (`folkmoot site consent`); Airflow asks for it before a site's first round."""
    champion: bool = False
    """Whether a person decides before a model becomes `champion`: in Airflow, or with `folkmoot approve RUN`."""
    approvers: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@+-]{1,128}$")]] = []
    """Users of Airflow who may decide; whoever may start runs when empty."""
    hours: Positive = 72.0
    """How long Airflow waits for an answer. Without one a site has no part in the run, and a model stays `candidate`."""
