"""``folkmoot …``: the front desk.

The only part of ``folkmoot`` that may reach for the two sides, and only inside a command, so that
``--help`` and completion answer at once.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point: one clear line for an expected error, its family's exit code."""
    from folkmoot.cli.app import app
    from folkmoot.errors import FolkmootError

    try:
        app()
    except FolkmootError as error:
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True)
        where = f" at site {error.site}" if error.site else ""
        for line in (
            Text.assemble((error.code, "bold red"), f"{where}: {error.message}"),
            Text.assemble(("Remedy:", "bold"), f" {error.remedy}"),
        ):
            console.print(line, soft_wrap=not console.is_terminal)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
