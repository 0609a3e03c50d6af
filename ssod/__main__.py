"""``python -m ssod``."""

from ssod.cli import main

main()
