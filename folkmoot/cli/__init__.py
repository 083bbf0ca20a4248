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

        console = Console(stderr=True)
        where = f" at site {error.site}" if error.site else ""
        console.print(f"[bold red]{error.code}[/]{where}: ", end="")
        console.print(error.message, markup=False, highlight=False)
        console.print("[bold]Remedy:[/] ", end="")
        console.print(error.remedy, markup=False, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
