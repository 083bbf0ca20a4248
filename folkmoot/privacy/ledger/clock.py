"""The ledger's clock: entries never go back in time, and a clock that was set back stops releases."""

from __future__ import annotations

import calendar
import time

from folkmoot.errors import PrivacyError

__all__ = ["now_after"]

#: Seconds that a clock may be slewed back by time synchronisation; entries then keep their order.
TOLERANCE = 60
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def now_after(last: str | None, site: str) -> str:
    """UTC time of an entry behind one of time ``last``.

    Raises
    ------
    PrivacyError
        ``privacy.clock`` where the clock says less, by more than a minute: ceilings per period
        would count wrong.
    """
    now = time.time()
    when = time.strftime(_FORMAT, time.gmtime(now))
    if last is None or when >= last:
        return when
    if calendar.timegm(time.strptime(last, _FORMAT)) - now > TOLERANCE:
        raise PrivacyError(
            "privacy.clock",
            f"The clock of site {site} was set back: it says {when}, and the last entry of the "
            f"privacy ledger is of {last}. Nothing was released.",
            "Set the clock right (UTC) and start again.",
            site=site,
        )
    return last
