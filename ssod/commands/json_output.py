"""``--json``: what a command found as one JSON object on standard output, and nothing else there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from typing import TypeVar

from ssod.commands.ending import speaks
from ssod.utils.plain_json import to_json

T = TypeVar("T")


def answered(json: bool, call: Callable[[], T]) -> T:
    """Return what ``call`` returns, and print it if it is asked for as JSON.

    What the call prints for people goes to standard error then: a table there is still read by whoever waits, a finding
    is still told, and ``2>/dev/null`` silences both. Of several processes of a job the first prints.

    Args:
        json: whether JSON is asked for.
        call: does the work; returns a dataclass that ``plain`` takes.

    Raises:
        SsodError: what the call raises; nothing is on standard output then.
    """
    with redirect_stdout(sys.stderr) if json else nullcontext():
        found = call()
    if json and speaks():
        print(to_json(found))
    return found
