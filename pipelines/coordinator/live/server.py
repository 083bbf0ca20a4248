"""XGBoost's tracker as a process of its own: ``python -m pipelines.coordinator.live.server``.

It tells its port and serves until it is ended: the tracker itself does not end when workers are gone.
"""

from __future__ import annotations

import sys
import time

from folkmoot.live.process import job, say
from folkmoot.models.library import import_xgboost

__all__ = ["main"]


def main() -> int:
    """Serve; every interface of the machine, connections with one of the named certificates alone."""
    if not import_xgboost(alone=True).build_info().get("USE_FEDERATED"):
        say(lacking=True)
        return 1
    from xgboost.federated import FederatedTracker

    asked = job()
    certificates = asked["certificates"]
    tracker = FederatedTracker(
        asked["world"],
        asked["port"],
        secure=True,
        server_key_path=certificates["key"],
        server_cert_path=certificates["own"],
        client_cert_path=certificates["sites"],
        timeout=asked["seconds"],
    )
    tracker.start()
    say(port=int(tracker.worker_args()["dmlc_tracker_port"]))
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())
