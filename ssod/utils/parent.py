"""What becomes of a process whose parent is killed, without a chance to end its children."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals) -> None:
    """Let this process be sent ``number`` when the thread that started it ends; on Linux alone, elsewhere do nothing.

    Source: the manual page of prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
