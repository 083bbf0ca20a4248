"""Who a row belongs to, and which rows another row may move: what a unit of privacy rests on.

Both sides ask the same questions of params and contract: the coordinator when it plans, every site
before it releases anything.
"""

from __future__ import annotations

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, PrivacyError
from folkmoot.params import Params

__all__ = ["check_split", "person_column"]


def person_column(params: Params, contract: Contract) -> str | None:
    """The column whose pseudonym tells people apart; None where no row has to be left out.

    Under unit ``person`` with clipping ``record`` at most ``privacy.rows_per_person`` rows of a
    person are used.  Clipping ``site`` bounds everything that a site adds, so any number of rows.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` where the contract has no direct identifier, or several and
        ``privacy.person`` names none of them.
    """
    privacy = params.privacy
    if privacy.unit != "person" or privacy.clipping != "record":
        return None
    names = [column.name for column in contract.with_role("direct_identifier")]
    if privacy.person is None and len(names) == 1:
        return names[0]
    if privacy.person in names:
        return privacy.person
    raise PrivacyError(
        "privacy.mechanism",
        "privacy.unit person needs a column of role direct_identifier that tells people apart"
        + (": the contract has none." if not names else f" (it has {', '.join(names)})."),
        "Name it in privacy.person, give the contract one, or plan privacy.unit record.",
    )


def check_split(params: Params, contract: Contract) -> None:
    """Adding or removing a record or person must not move other rows between the parts.

    Raises
    ------
    ConfigError
        ``config.invalid`` for a split by position where rows can be added or removed.
    """
    privacy = params.privacy
    if privacy.clipping != "record":
        return
    moving = params.data.holdout.by == "position" and not contract.with_role("split")
    # People differ in their number of rows: replacing one adds and removes rows as well.
    if moving and (privacy.relation == "add-or-remove" or privacy.unit == "person"):
        raise ConfigError(
            "config.invalid",
            f"privacy.relation {privacy.relation} of unit {privacy.unit} needs a split that no "
            "other row depends on: without one row, a split by position deals all later rows anew.",
            "Set data.holdout.by to content, give the contract a split column, or plan "
            "privacy.relation replace-one of unit record.",
        )
