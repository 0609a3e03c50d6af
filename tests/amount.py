"""How many random cases a property is tried on."""

import os

TIMES = int(os.environ.get("SSOD_TEST_EXAMPLES", "1"))


def examples(count: int) -> int:
    """Return what every run tries, or ``SSOD_TEST_EXAMPLES`` times as many."""
    return TIMES * count
