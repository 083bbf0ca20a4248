"""Checks of a coordinator that serves real sites; used by ``folkmoot doctor`` where it has been set up.

Database, certificate, the sites' API server, members and invitations, workers and their queues, and what
the guard refused lately: one line each, with what to do.
"""

from __future__ import annotations

import datetime
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from folkmoot.errors import FolkmootError
from folkmoot.findings import Finding, found
from folkmoot.params import Params
from pipelines.coordinator import lock
from pipelines.coordinator.mlflow_access import Access
from pipelines.failed_tasks import check_failed_tasks
from pipelines.hosts.airflow_coordinator import Coordinator
from pipelines.hosts.database import check_database, shown
from pipelines.hosts.server_settings import ServerSettings, load_settings, settings_file
from pipelines.worker_health import check_workers

__all__ = ["check_serving"]

#: Seconds that refusals are told for, and days before its end that a certificate is.
_RECENT, _SOON = 24 * 3600, 14
#: What the guard's reasons mean to whoever runs the coordinator.
_REASONS = {
    "expired": ("its clock is behind this machine's", "Set both clocks by NTP."),
    "not-yet": ("its clock is ahead of this machine's", "Set both clocks by NTP."),
    "signature": (
        "somebody uses its name without its key",
        "Where its key was made anew: coordinator revoke, then invite. Else it is an attack.",
    ),
    "unknown-site": (
        "a site that has not joined, or was shut out, asks",
        "folkmoot coordinator sites lists who has joined; coordinator invite lets a site in.",
    ),
    "version": (
        "its folkmoot is more than one minor version from this one",
        "Upgrade the older side, one minor version after another (docs/how-to/operate.md).",
    ),
    "task-token": (
        "a task's token is not this coordinator's, or too old",
        "Where the coordinator's keys were replaced: clear the tasks, and restart the worker.",
    ),
    "task-queue": (
        "a task outside of its queue was touched",
        "Compare the site's name with federation.sites; else treat it as an attack.",
    ),
    "rate": ("it asks too often", "Raise requests_per_second, or look for a worker that restarts."),
    "size": ("it sent more than is allowed", "Raise largest_artefact in coordinator/server.toml."),
    "worker": ("its worker has another name than the site", "Start it with folkmoot site up."),
    "queue": ("its worker asks for another queue", "Start it with folkmoot site up."),
    "join-wrong": (
        "somebody tried to join under its name with a token that is not its last one",
        "Hand the last token to its steward, or coordinator invite anew. Else it is an attack.",
    ),
    "join-used": (
        "somebody tried to join under its name with a token that was used",
        "Ask its steward: folkmoot coordinator revoke first where the site never joined itself, then "
        "coordinator invite. Nothing is to be done where it works.",
    ),
    "join-expired": (
        "it tried to join with a token that has expired",
        "folkmoot coordinator invite, anew; where the token is new, set both clocks by NTP.",
    ),
    "join-key": (
        "it tried to join with another key than it has joined with",
        "Where the new key is right: coordinator revoke, then invite. Else it is an attack.",
    ),
    "join-unknown": (
        "somebody tried to join who is not invited",
        "Compare the site's name with the invitation's; coordinator invite lets a site in.",
    ),
}
#: What is told of strangers: they knock at every door.
_STRANGERS = frozenset({"unknown-site", "task-token", "join-unknown"})


def check_serving(params: Params, workspace: Path) -> Iterator[Finding]:
    """Check the coordinator of a workspace; nothing where it was never set up.

    Yields
    ------
    Finding
    """
    if not settings_file(workspace).exists():
        return
    try:
        settings = load_settings(workspace)
        coordinator = Coordinator(params, workspace, settings, beside=True)
    except FolkmootError as error:
        yield Finding("coordinator", "fault", error.message, error.remedy)
        return
    yield Finding("coordinator", "ok", f"{settings_file(workspace)} is valid")
    note = lock.maintenance(workspace)
    if note is not None:
        yield Finding(
            "maintenance",
            "warning",
            f"No run is opened{f': {note}' if note else ''}.",
            "folkmoot coordinator maintenance off",
        )
    for name in ("database", "mlflow_database"):
        url = settings.database_url(name)
        if url is not None:
            yield found(name, lambda url=url, name=name: _database(url, name))  # type: ignore[misc]
    yield found("certificate", lambda: _certificate(coordinator))
    yield _server(coordinator)
    yield from _members(params, coordinator)
    yield found("workers", lambda: check_workers(params, coordinator))
    yield from _refusals(coordinator.folder / "refusals.json")
    yield from check_failed_tasks(coordinator.home / "logs")
    yield found("MLflow server", lambda: _mlflow(coordinator))
    if params.federation.code is not None:
        yield _code(params.federation.code)


def _database(url: str, name: str) -> str:
    check_database(url, name)
    return f"{shown(url)} answers"


def _certificate(coordinator: Coordinator) -> Finding | str:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    what, files = "certificate", coordinator._tls
    remedy = "Give another with coordinator up --certificate FILE --key FILE, and restart."
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = load_pem_private_key(files.key.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return Finding(what, "fault", f"{files.certificate} or its key cannot be read.", remedy)
    if certificate.public_key() != key.public_key():
        return Finding(what, "fault", f"{files.key} is not the key of {files.certificate}.", remedy)
    host = coordinator.settings.host
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    valid = [str(n) for n in names.get_values_for_type(x509.DNSName)]
    valid += [str(n) for n in names.get_values_for_type(x509.IPAddress)]
    wild = "*." + host.partition(".")[2]
    if host not in valid and wild not in valid:
        return Finding(
            what, "fault", f"It is for {', '.join(valid)}, sites ask for {host}.", remedy
        )
    left = (certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days
    if left < 0:
        return Finding(what, "fault", "It has expired: sites refuse to connect.", remedy)
    if left < _SOON:
        return Finding(what, "warning", f"It expires in {left} days.", remedy)
    return f"for {host}, {left} days left"


def _server(coordinator: Coordinator) -> Finding:
    """Whether the guard answers on the sites' port, with the certificate that sites expect."""
    import httpx

    what, settings = "sites' API server", coordinator.settings
    listens = settings.listen
    address = "127.0.0.1" if listens in {"0.0.0.0", "::"} else listens  # noqa: S104
    shown_address = f"[{address}]" if ":" in address else address
    authority = coordinator._tls.authority
    context = ssl.create_default_context(cafile=None if authority is None else str(authority))
    # Asked on this machine, under the name that sites use.
    named = {"sni_hostname": settings.host}
    try:
        with httpx.Client(verify=context, timeout=10.0) as client:
            url = f"https://{shown_address}:{settings.port}"
            healthy = client.get(f"{url}/exchange/health", extensions=named)
            closed = client.get(f"{url}/api/v2/version", extensions=named)
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Finding(
                what,
                "fault",
                f"Whoever answers at port {settings.port} has another certificate.",
                "End the other program, or restart the coordinator where its certificate is new.",
            )
        return _silent(what, settings)
    except httpx.HTTPError:
        return _silent(what, settings)
    if healthy.status_code != 200 or closed.status_code != 403:
        return Finding(
            what,
            "fault",
            f"The guard does not stand before port {settings.port}: the API is open to sites.",
            "Stop it at once; start it with folkmoot coordinator up.",
        )
    return Finding(
        what, "ok", f"the guard answers at port {settings.port}; sites use {settings.url}"
    )


def _silent(what: str, settings: ServerSettings) -> Finding:
    return Finding(
        what,
        "fault",
        f"Nothing answers at port {settings.port}: sites cannot reach the coordinator.",
        "folkmoot coordinator up; see airflow/logs/services/sites-api-server.log of the workspace.",
    )


def _members(params: Params, coordinator: Coordinator) -> Iterator[Finding]:
    joined, wanted = coordinator.sites.members, params.federation.members
    invited = coordinator.invitations.expiries()
    now = time.time()
    for site in wanted:
        if site in joined:
            continue
        left = invited.get(site)
        if left is None:
            text, remedy = "has not been invited", f"folkmoot coordinator invite {site}"
        elif left < now:
            text, remedy = "did not join: its token has expired", f"coordinator invite {site}, anew"
        else:
            text, remedy = (
                f"is invited for {(left - now) / 3600:.0f} h more",
                "Wait for its steward.",
            )
        yield Finding(f"{site}: joined", "warning", f"{site} {text}.", remedy)
    for site in sorted(set(joined) - set(wanted)):
        yield Finding(
            f"{site}: joined",
            "warning",
            f"{site} has joined, and federation.sites does not name it.",
            f"Add it to params.yaml, or folkmoot coordinator revoke {site}.",
        )
    both = sorted(set(joined) & set(wanted))
    if both:
        yield Finding("joined", "ok", ", ".join(both))


def _refusals(path: Path) -> Iterator[Finding]:
    """What the guard refused within a day, one line a site and reason."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    since = time.time() - _RECENT
    for entry in sorted(entries, key=lambda e: (e["site"], e["reason"])):
        site, reason = entry["site"], entry["reason"]
        if entry["last"] < since or (not site and reason not in _STRANGERS):
            continue
        text, remedy = _REASONS.get(
            reason, (f"a request was refused ({reason})", "See docs/how-to/deploy.md.")
        )
        last = datetime.datetime.fromtimestamp(entry["last"], datetime.UTC)
        yield Finding(
            f"{site or 'strangers'}: refused",
            "warning",
            f"{text}: {entry['count']} requests, the last at {last:%Y-%m-%d %H:%M} UTC.",
            remedy,
        )


def _mlflow(coordinator: Coordinator) -> Finding | str:
    import httpx

    server = coordinator.mlflow
    if server is None:
        return Finding("MLflow server", "skipped", "none is set up: runs are tracked in a file")
    authority = None if server.authority is None else str(server.authority)
    context = ssl.create_default_context(cafile=authority)
    access = Access.load(coordinator.workspace)
    if access is None or access.uri != server.url:
        return Finding(
            "MLflow server", "warning", f"{server.url} has not run yet.", "folkmoot coordinator up"
        )
    login = (access.username or "", access.password or "")
    try:
        with httpx.Client(base_url=server.url, verify=context, timeout=10.0) as client:
            users = "/api/2.0/mlflow/users/get"
            answer = client.get(users, params={"username": login[0]}, auth=login)
    except httpx.HTTPError as error:
        return Finding(
            "MLflow server",
            "warning",
            f"{server.url} does not answer ({type(error).__name__}); tracking catches up later.",
            "See airflow/logs/services/mlflow.log of the workspace.",
        )
    if answer.status_code in {401, 403}:
        return Finding(
            "MLflow server",
            "fault",
            f"{server.url} does not take the login of coordinator/mlflow.toml.",
            "Restore coordinator/mlflow/ from the backup that belongs to its database.",
        )
    return f"{server.url} answers, and takes the coordinator's login"


def _code(wanted: str) -> Finding:
    from pipelines.hosts.airflow_worker_setup import code

    commit, changed = code()
    if commit == wanted and not changed:
        return Finding("code", "ok", f"commit {wanted[:12]}, as federation.code asks of the sites")
    return Finding(
        "code",
        "warning",
        f"federation.code asks sites for {wanted[:12]}; here it is {(commit or 'no commit')[:12]}"
        + (" with changed files." if changed else "."),
        "Check out that commit here too, or change federation.code.",
    )
