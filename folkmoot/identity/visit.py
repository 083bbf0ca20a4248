"""A site's way to its coordinator: where it is, how its certificate is known, and signed requests."""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folkmoot
from folkmoot.errors import ConfigError
from folkmoot.identity.keys import load_key
from folkmoot.identity.tokens import site_token

if TYPE_CHECKING:
    import httpx

__all__ = ["Visit"]

#: Names the file that ``folkmoot site join`` wrote.
VARIABLE = "FOLKMOOT_COORDINATOR"


@dataclass(frozen=True)
class Visit:
    """What ``private/coordinator.json`` of a site holds.

    Parameters
    ----------
    site : str
        The site.
    url : str
        Where the coordinator is, without a path.
    folder : Path
        The site's ``private/``, with its signing key.
    certificate : str or None
        Name of the PEM file in ``folder`` that the coordinator's certificate is held to.
    """

    site: str
    url: str
    folder: Path
    certificate: str | None = None

    @staticmethod
    def load(path: Path | None = None) -> Visit:
        """Read the file; by default the one that ``FOLKMOOT_COORDINATOR`` names.

        Raises
        ------
        ConfigError
            Where the site has not joined.
        """
        file = path or Path(os.environ.get(VARIABLE, ""))
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            certificate = values["certificate"]
            return Visit(
                str(values["site"]),
                str(values["url"]).rstrip("/"),
                file.absolute().parent,
                None if certificate is None else str(certificate),
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                "config.missing-file",
                "This site has not joined a coordinator"
                + (f": {file} is missing or damaged." if str(file) != "." else "."),
                "folkmoot site join SITE TOKEN, with the token that the coordinator made for the site.",
            ) from None

    def save(self, path: Path) -> None:
        """Write the file (mode 0600)."""
        text = json.dumps({"site": self.site, "url": self.url, "certificate": self.certificate})
        part = path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        os.replace(part, path)

    def token(self, method: str, path: str) -> str:
        """A token for one request."""
        return site_token(self.site, load_key(self.folder / "signing.key"), method, path)

    @cached_property
    def authorities(self) -> Path | None:
        """The PEM file of the certificate, or None for the public authorities."""
        return None if self.certificate is None else self.folder / self.certificate

    def client(self) -> httpx.Client:
        """A client that verifies the coordinator, follows no redirect and uses no proxy's secrets."""
        import httpx

        context = ssl.create_default_context(
            cafile=None if self.authorities is None else str(self.authorities)
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return httpx.Client(
            base_url=self.url,
            verify=context,
            timeout=httpx.Timeout(60.0, connect=30.0),
            # Artefacts hardly shrink, and a range of a packed one means something else.
            headers={
                "accept-encoding": "identity",
                "user-agent": f"folkmoot/{folkmoot.__version__}",
            },
        )

    def request(self, client: httpx.Client, method: str, path: str, **arguments: Any) -> Any:
        """Send a signed request; returns the ``httpx.Response``."""
        headers = {"authorization": f"Bearer {self.token(method, path)}"}
        headers |= arguments.pop("headers", {})
        return client.request(method, path, headers=headers, **arguments)
