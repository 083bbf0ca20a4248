"""``python -m folkmoot.cli``: the same as ``folkmoot``."""

from folkmoot.cli import main

main()
