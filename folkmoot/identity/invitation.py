"""An invitation to a federation's coordinator, as text that is handed from person to person."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import ConfigError
from folkmoot.identity.keys import public_text

__all__ = ["PROOF", "Invitation"]

PROOF = b"FOLKMOOT-JOIN-1"
_MARK = "folkmoot-join-1."
_MOST = 32 * 1024


@dataclass(frozen=True)
class Invitation:
    """What a token says.

    Parameters
    ----------
    site : str
        Who is invited.
    url : str
        Where the coordinator is.
    secret : str
        Counts once (hex).
    expires : int
        Unix time.
    certificate : str, optional
        PEM that the coordinator's TLS certificate is held to; the public authorities when absent.
    """

    site: str
    url: str
    secret: str
    expires: int
    certificate: str | None = None

    def __repr__(self) -> str:
        return f"Invitation({self.site!r}, {self.url!r})"

    def to_text(self) -> str:
        """The token."""
        values = [self.site, self.url, self.secret, self.expires, self.certificate]
        packed = zlib.compress(json.dumps(values).encode(), 9)
        return _MARK + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @staticmethod
    def from_text(text: str) -> Invitation:
        """Inverse of :meth:`to_text`.

        Raises
        ------
        ConfigError
            ``config.invalid`` for a text that is no token or was cut off.
        """
        body = text.strip().removeprefix(_MARK)
        try:
            packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            reader = zlib.decompressobj()
            data = reader.decompress(packed, _MOST)
            if not reader.eof:
                raise ValueError("cut off, or too long")
            site, url, secret, expires, certificate = json.loads(data)
            if certificate is not None:
                certificate = str(certificate)
            return Invitation(str(site), str(url), str(secret), int(expires), certificate)
        except (ValueError, TypeError, zlib.error):
            raise ConfigError(
                "config.invalid",
                "The token is not an invitation, or was cut off.",
                "Copy the whole line that `folkmoot coordinator invite` printed.",
            ) from None

    def answer(self, key: Ed25519PrivateKey) -> dict[str, str]:
        """What the site sends back: its public key, and that it holds the private one."""
        proof = key.sign(PROOF + f"{self.site}\n{self.secret}".encode()).hex()
        public = public_text(key)
        return {"site": self.site, "secret": self.secret, "key": public, "proof": proof}
