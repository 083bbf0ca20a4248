"""Where the tracker of a live session is reached, and how long anybody waits: ``model.trees.tracker``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from folkmoot.sections import Section

__all__ = ["Tracker"]

#: A host name or an IPv4 address: XGBoost splits at the colon.
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Tracker(Section):
    """`xgboost_federated`: the tracker at the coordinator, which sites connect to directly (gRPC, TLS on both sides)."""

    address: Host = "127.0.0.1"
    """Host name or IPv4 address at which sites reach the tracker; each site must permit it (`permissions.trackers`)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Its port, on every interface of the coordinator's machine; 0 takes a free one, for sites on that machine."""
    join_seconds: Seconds = 120.0
    """Seconds within which all sites of a session must have come."""
    quiet_seconds: Annotated[float, Field(ge=2, le=86_400)] = 30.0
    """Seconds without a sign of life after which a site counts as lost and the session ends."""
    step_seconds: Seconds = 300.0
    """Seconds for one boosting step (bin edges count as one) after which the session ends."""
