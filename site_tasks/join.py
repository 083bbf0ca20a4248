"""A site joins a coordinator elsewhere: its key goes there once, and what it is told stays here."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import folkmoot
from folkmoot.errors import ConfigError, FolkmootError, ProtocolError, TransientError
from folkmoot.identity.invitation import Invitation
from folkmoot.identity.visit import Visit
from folkmoot.versions import demand
from site_tasks.home import SiteHome

__all__ = ["coordinator_file", "failed_join", "hello", "join"]


def coordinator_file(home: SiteHome) -> Path:
    """Where a site keeps the way to its coordinator."""
    return home.private / "coordinator.json"


def join(home: SiteHome, token: str) -> dict[str, Any]:
    """Accept an invitation; returns what the coordinator tells a member.

    Nothing but the site's name, its public key and the invitation's secret is sent, to the machine
    whose certificate came with the invitation.  Why it failed is kept at the site, until it succeeds.

    Raises
    ------
    ConfigError
        For a token that is damaged, expired or meant for another site.
    ProtocolError
        ``protocol.refused``.
    TransientError
        Where the coordinator cannot be reached, or shows another certificate.
    """
    try:
        facts = _join(home, token)
    except FolkmootError as error:
        with suppress(OSError):  # the error itself counts more than the note of it
            _note(home, error)
        raise
    with suppress(OSError):
        _failure(home).unlink(missing_ok=True)
    return facts


def failed_join(home: SiteHome) -> tuple[float, str, str, str] | None:
    """Why the last attempt to join failed: Unix time, code, sentence, remedy; None where none did."""
    try:
        told = json.loads(_failure(home).read_text(encoding="utf-8"))
        return (
            float(told["time"]),
            str(told["code"]),
            str(told["message"]),
            str(told["remedy"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _join(home: SiteHome, token: str) -> dict[str, Any]:
    invitation = Invitation.from_text(token)
    if invitation.site != home.name:
        raise ConfigError(
            "config.invalid",
            f"The token invites {invitation.site}, not {home.name}.",
            "Ask the coordinator for a token for this site's name.",
            site=home.name,
        )
    if invitation.expires < time.time():
        raise ConfigError(
            "config.invalid",
            "The token has expired.",
            "Ask the coordinator for a new one; where it is new, set this machine's clock.",
            site=home.name,
        )
    if not invitation.url.startswith("https://"):
        raise ConfigError(
            "config.invalid", "The token names no https address.", "Ask for a new one."
        )
    certificate = None
    if invitation.certificate is not None:
        # Under a name of its own: an invitation that fails leaves the present coordinator's alone.
        mark = hashlib.sha256(invitation.certificate.encode()).hexdigest()[:12]
        certificate = f"coordinator-{mark}.pem"
        _write(home.private / certificate, invitation.certificate)
    visit = Visit(home.name, invitation.url.rstrip("/"), home.private, certificate)
    answer = _asked(visit, "POST", "/exchange/join", json=invitation.answer(home.key()))
    if answer.status_code != 200:
        raise ProtocolError(
            "protocol.refused",
            f"The coordinator at {visit.url} did not take the invitation: {_reason(answer)}",
            "Ask for a new one: folkmoot coordinator invite, at the coordinator.",
            site=home.name,
        )
    facts: dict[str, Any] = answer.json()
    visit.save(coordinator_file(home))
    _write(home.private / "federation.json", json.dumps(facts))
    return facts


def hello(visit: Visit) -> dict[str, Any]:
    """What the coordinator tells this member now; with ``skew``, seconds that its clock is ahead.

    Raises
    ------
    ProtocolError, TransientError
        As in :func:`join`; ``protocol.version`` where the two sides' versions are too far apart.
    """
    from folkmoot.exchange_https import refusal

    answer = _asked(visit, "GET", "/exchange/hello", signed=True)
    error = refusal(answer, visit.url)
    if error is not None:
        skew = _skew(answer)
        if abs(skew) > 30:
            error.message += f" Its clock is {skew:+.0f} s from this machine's."
        raise error
    told = answer.json()
    demand(str(told.get("folkmoot", folkmoot.__version__)), "The coordinator runs")
    return {**told, "skew": _skew(answer)}


def _asked(visit: Visit, method: str, path: str, *, signed: bool = False, **arguments: Any) -> Any:
    import httpx

    try:
        with visit.client() as client:
            if signed:
                return visit.request(client, method, path, **arguments)
            return client.request(method, path, **arguments)
    except httpx.ConnectError as error:
        why = _certificate(error)
        if why is not None:
            raise TransientError(
                "transient.service",
                f"Whoever answers at {visit.url} does not have the coordinator's certificate "
                f"({why.rstrip('.')}).",
                "Check the address. Where the coordinator has a new authority, join again.",
            ) from None
        raise _unreachable(visit, error) from None
    except httpx.TransportError as error:
        raise _unreachable(visit, error) from None


def _certificate(error: BaseException | None) -> str | None:
    """Why TLS did not verify the other side, where that was it."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message)
        error = error.__cause__ or error.__context__
    return None


def _unreachable(visit: Visit, error: Exception) -> TransientError:
    return TransientError(
        "transient.service",
        f"The coordinator at {visit.url} cannot be reached ({type(error).__name__}).",
        "Check name and port, that it runs, and that the firewall lets this machine out to it.",
    )


def _skew(answer: Any) -> float:
    try:
        return float(answer.json()["time"]) - time.time()
    except (ValueError, KeyError, TypeError):
        return 0.0


def _reason(answer: Any) -> str:
    try:
        return str(answer.json()["reason"])[:200]
    except (ValueError, KeyError, TypeError):
        return f"it answered {answer.status_code}"


def _failure(home: SiteHome) -> Path:
    return home.private / "join-failed.json"


def _note(home: SiteHome, error: FolkmootError) -> None:
    """Code, sentence and remedy; never the token."""
    # Some of it may be the coordinator's words: nothing for a terminal, and not much.
    plain = "".join(c if c.isprintable() else " " for c in error.message[:500])
    values = {"time": time.time(), "code": error.code, "message": plain, "remedy": error.remedy}
    _write(_failure(home), json.dumps(values))


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    os.replace(part, path)
