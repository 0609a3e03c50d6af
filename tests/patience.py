"""How long a test may wait or compute on a machine that is slow, or that others use too."""

import math
import time

LONG = 300.0  # seconds; what has not happened by then hangs. It costs nothing where the wait is over sooner.
YARDSTICK = 0.1  # processor seconds of the work below, on a free core of the machine that limits were measured on


def in_time(seconds: float, limit: float) -> bool:
    """Tell whether processor seconds are within a limit, which a slower machine may exceed by as much as it is slower.

    Neighbours on the same core slow a process down without being seen in its processor seconds, so the machine is
    measured when it seems slow, not once.

    Args:
        seconds: differences of ``time.process_time``, not of the clock on the wall.
        limit: what it takes at most on the machine that it was measured on, or on a faster one.
    """
    return seconds < limit or seconds < limit * slowness()


def slowness() -> float:
    """Return how many times slower than where limits were measured this machine is right now; 1 = not slower."""
    begin, total = time.process_time(), 0.0
    for i in range(400_000):  # dicts, floats and calls, as in reading annotations
        total += math.sqrt({"x": i % 97, "y": i % 89}["x"])
    assert total > 0
    return max(1.0, (time.process_time() - begin) / YARDSTICK)
