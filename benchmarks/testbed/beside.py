"""A coordinator or a site's worker with the bed's own folder of DAG files, which holds an empty DAG too.

``python -m benchmarks.testbed.beside coordinator up …`` is ``folkmoot coordinator up …``, and
``… worker SITE`` what ``folkmoot site up SITE`` becomes.  All else is the product's.
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path

__all__ = ["DAGS", "EMPTY"]

DAGS = Path(__file__).parent / "dags"
EMPTY = "empty_rounds"


def coordinator() -> None:
    """The command line, with other DAG files."""
    from folkmoot.cli import main
    from pipelines.hosts.airflow_coordinator import Coordinator

    made = Coordinator.__init__

    def init(self: Coordinator, *arguments: object, **named: object) -> None:
        made(self, *arguments, **named)  # type: ignore[arg-type]
        self.dags = DAGS

    Coordinator.__init__ = init  # type: ignore[method-assign]
    main()


def worker(site: str) -> int:
    """The site's worker; it takes the empty DAG's tasks besides the project's."""
    from pipelines.hosts import airflow_worker
    from pipelines.hosts.airflow_worker_setup import prepare
    from site_tasks.home import SiteHome

    home = SiteHome(Path(os.environ["FOLKMOOT_SITE_HOME"]))
    environment = prepare(home)
    file = Path(environment["AIRFLOW_HOME"]) / "airflow.cfg"
    config = configparser.ConfigParser(interpolation=None)
    config.read(file)
    config["core"]["dags_folder"] = str(DAGS)
    with file.open("w") as out:
        config.write(out)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["AIRFLOW_HOME"])
    airflow_worker.DAGS = (*airflow_worker.DAGS, EMPTY)
    print(f"Site {site} works, beside an empty DAG.", flush=True)
    return airflow_worker.main()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        raise SystemExit(worker(sys.argv[2]))
    coordinator()
