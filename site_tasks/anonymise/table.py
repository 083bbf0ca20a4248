"""One entrance for every way of anonymising a table, and what it is allowed to do at a site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from folkmoot.contract import Contract
from folkmoot.errors import PrivacyError
from folkmoot.params import Anonymisation
from site_tasks.anonymise.job import Job, Report

if TYPE_CHECKING:
    from site_tasks.home import SiteHome

__all__ = ["anonymise_table", "pinned"]


def anonymise_table(job: Job) -> Report:
    """Write the anonymised table as ``job.settings.recoding`` says; raises as the engines do."""
    if job.settings.recoding == "local":
        from site_tasks.anonymise.recode import anonymise_locally

        return anonymise_locally(job)
    from site_tasks.anonymise.generalise import anonymise

    return anonymise(job)


def pinned(home: SiteHome, contract: Contract, settings: Anonymisation) -> None:
    """Refuse a plan that anonymises less than the site's ``site.toml`` asks for.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted``, naming the key of ``site.toml``.
    """
    own = home.settings.anonymisation
    what = ""
    if settings.k < own.minimum_k:
        what = f"minimum_k in site.toml asks for k of at least {own.minimum_k}, not {settings.k}"
    elif own.contract is not None and own.contract != contract.digest():
        what = "contract in site.toml pins another data contract than the plan's"
    if what:
        raise PrivacyError(
            "privacy.not-permitted",
            f"Site {home.name}: anonymisation.{what}.",
            "Change the plan, or let the site's steward change site.toml.",
            site=home.name,
        )
