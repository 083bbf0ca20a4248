"""One tree of errors, each with a stable code, a remedy and an exit code.

::

    FolkmootError
    ├── ConfigError      exit 2   params, contract, site.toml, installation
    ├── DataError        exit 3   a dataset breaks its contract or cannot be read
    ├── PrivacyError     exit 4   refused by the site's own rules; never retried
    ├── ProtocolError    exit 5   bytes, digests, signatures or names that do not match
    ├── RoundError       exit 6   a round cannot close (quorum, deadline, divergence)
    ├── SecureError      exit 7   a secure sum that a site or the protocol refuses; never retried
    └── TransientError   exit 75  a service or disk that may come back; retried

A message is written for the person who must act.  It may name files, keys, columns, rules, sites
and counts; it never holds a value that came from a dataset or a secret.  What crosses a site's
border is :meth:`FolkmootError.crossing` alone: the traceback stays at the site.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CODES",
    "ConfigError",
    "DataError",
    "FolkmootError",
    "PrivacyError",
    "ProtocolError",
    "RoundError",
    "SecureError",
    "TransientError",
]

#: Every code that may be raised, with what it means.  ``docs/reference/errors.md`` is made of it.
CODES: dict[str, str] = {
    "config.passphrase": "A signing key whose passphrase is missing or wrong.",
    "config.unknown-key": "A key that no setting has.",
    "config.hierarchy": "A generalisation hierarchy with gaps, cycles, uneven depth or a missing level.",
    "config.invalid": "A setting of the wrong type, out of range or in conflict with another.",
    "config.missing-file": "A file that the configuration names does not exist.",
    "config.syntax": "A configuration file that cannot be parsed.",
    "config.stale": "A rendered file (dvc.yaml) no longer matches params.yaml.",
    "config.installation": "A package, command or service that this step needs is not installed.",
    "config.network": "A download failed or is not allowed; a local folder can be named instead.",
    "data.missing": "A site has no dataset, or an empty one.",
    "data.unreadable": "A dataset file cannot be read in its declared format.",
    "data.contract": "Rows break the data contract (column, rule and count are named).",
    "data.column": "A column is missing, unknown or of another type.",
    "data.one-class": "A site's training rows hold one class only.",
    "data.too-few-rows": "Fewer rows than the method or the site's permissions need.",
    "data.version": "A dataset version cannot be resolved, or differs from what DVC recorded.",
    "data.digest": "A downloaded file does not have the published checksum.",
    "data.identifier": "A direct identifier would reach training.",
    "data.suppression": "More rows would be suppressed than the limit allows.",
    "data.privacy-model": "A privacy model that this table cannot satisfy, or that the output breaks.",
    "privacy.not-permitted": "The site's site.toml does not permit what the plan asks for.",
    "privacy.consent": "The site's steward has not consented to this federation and contract.",
    "privacy.ceiling": "The release, or the plan it begins, would pass one of the site's ceilings.",
    "privacy.differencing": "Exact results of two versions of one dataset would give changed rows back.",
    "privacy.clock": "A site's clock was set back behind its privacy ledger.",
    "privacy.order": "A step was called before privatise and release.",
    "privacy.mechanism": "The mechanism cannot give the claimed guarantee in this setting.",
    "privacy.ledger": "The ledger's chain is broken, rewound or belongs to another site.",
    "privacy.unproven": "The checker did not find what was asked for on the output; nothing was kept.",
    "privacy.small-data": "Noise would drown the answer; nothing was spent.",
    "privacy.seeded": "Seeded noise was asked for outside a mode marked not private.",
    "protocol.digest": "Bytes that do not have the digest they were referred to by.",
    "protocol.truncated": "An empty or truncated artefact.",
    "protocol.format": "An artefact of another format or version.",
    "protocol.conflict": "Another artefact was already published under this name.",
    "protocol.roster": "A roster that not all signed, or another than a site's steward accepted.",
    "protocol.unknown-site": "A site that the federation's roster does not list.",
    "protocol.signature": "A signature that does not verify.",
    "protocol.mismatch": "An artefact of another run, round, site or shape than expected.",
    "protocol.refused": "The coordinator does not let this site do what it asked for.",
    "protocol.code": "The plan asks for other code than this site runs, or its steward approved.",
    "protocol.version": "Two sides run versions of folkmoot that do not work together.",
    "protocol.missing": "An artefact that an earlier step should have published is not there.",
    "round.quorum": "Fewer sites than the quorum contributed to a round.",
    "round.diverged": "The global model is no longer finite.",
    "round.busy": "Another run of this federation is in progress.",
    "round.maintenance": "The coordinator is in maintenance and opens no run.",
    "round.schema": "The sites cannot settle on levels of generalisation within their limits.",
    "round.site-failed": "A site's task failed; the traceback stays at the site.",
    "round.tree": "A site that had no part in the root of a tree waits for the next one.",
    "secure.again": "A site was asked for a second answer in a round that it has answered.",
    "secure.contributors": "A sum of fewer sites than a site's minimum was asked for.",
    "secure.key": "A key message that is missing, stale, swapped or not signed by its site.",
    "secure.range": "A contribution is not finite, or beyond the limit that its sum is proven for.",
    "secure.share": "A sealed share that cannot be opened, or belongs to another run or site.",
    "secure.survivors": "A list of survivors that the survivors' signatures do not bear out.",
    "secure.threshold": "Fewer sites are left than can open a sum; nothing was revealed.",
    "transient.disk-full": "No space is left on the device; nothing was published.",
    "transient.exchange": "The exchange store did not answer.",
    "transient.remote": "A site's DVC remote did not answer.",
    "transient.tracking": "MLflow did not answer; rounds go on and tracking catches up.",
    "transient.locked": "A file or database is locked by another process.",
    "transient.session": "A live session ended before its trees; it is repeated from the last round on.",
    "transient.service": "A local service (Airflow) did not start or stopped answering.",
}


class FolkmootError(Exception):
    """Base of every error that Folkmoot raises on purpose.

    Parameters
    ----------
    code : str
        A key of :data:`CODES`.
    message : str
        What is wrong and where, in a sentence without data values.
    remedy : str
        What the reader can do about it.
    site : str, optional
        Name of the site that raised it, where one did.
    outside : str, optional
        What leaves the site instead of ``message``, where that names things of the site's own.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str,
        *,
        site: str | None = None,
        outside: str | None = None,
    ) -> None:
        if code not in CODES:
            raise ValueError(f"unknown error code {code!r}: add it to folkmoot.errors.CODES")
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.site = site
        self.outside = outside

    def __str__(self) -> str:
        where = f" [{self.site}]" if self.site else ""
        return f"{self.code}{where}: {self.message} Remedy: {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive a process pool without this.
        fields = (self.code, self.message, self.remedy, self.site, self.outside)
        return (_rebuild, (type(self), *fields))

    def crossing(self) -> dict[str, str]:
        """What may leave a site: code, safe sentence, remedy."""
        message = self.outside or self.message
        return {"code": self.code, "message": message, "remedy": self.remedy}


def _rebuild(
    kind: type[FolkmootError],
    code: str,
    message: str,
    remedy: str,
    site: str | None,
    outside: str | None = None,
) -> FolkmootError:
    return kind(code, message, remedy, site=site, outside=outside)


class ConfigError(FolkmootError):
    """Params, contract, site.toml or the installation."""

    exit_code = 2


class DataError(FolkmootError):
    """A dataset breaks its contract or cannot be read."""

    exit_code = 3


class PrivacyError(FolkmootError):
    """The site's own rules refuse; never retried."""

    exit_code = 4


class ProtocolError(FolkmootError):
    """Bytes, digests, signatures or names that do not match."""

    exit_code = 5


class RoundError(FolkmootError):
    """A round cannot close."""

    exit_code = 6


class SecureError(FolkmootError):
    """A secure sum that a site, or the protocol itself, refuses; nothing was revealed."""

    exit_code = 7


class TransientError(FolkmootError):
    """A service or disk that may come back."""

    exit_code = 75
    retryable = True
