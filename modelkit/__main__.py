"""``python -m modelkit``."""

from modelkit.cli import main

main()
