"""MLflow: section ``tracking``."""

from __future__ import annotations

from folkmoot.sections import Section

__all__ = ["Tracking"]


class Tracking(Section):
    """MLflow."""

    enabled: bool = True
    """Whether runs are tracked."""
    uri: str | None = None
    """MLflow tracking URI; a SQLite file of the workspace when null."""
    model_name: str | None = None
    """Registered model; `<federation>-<kind>` when null."""
    register_model: bool = True
    """Whether the final model is registered."""
    baselines: bool = True
    """Whether a model of simulated sites is compared with each site alone and with pooled rows."""
