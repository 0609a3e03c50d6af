"""Calls that meet as the parts of a step do, or as ranks would."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from ssod.engine.micro_batches import Meeting, Waiting
from ssod.utils import collective

T = TypeVar("T")


def together(calls: list[Callable[[], T]]) -> tuple[list[T], list[Tensor]]:
    """Return what each call returns, and the answers to what they exchanged."""
    meeting = Meeting(len(calls), None)
    with collective.among(meeting):
        while not meeting.settled():
            for number, call in enumerate(calls):
                meeting.begin(number)
                try:
                    call()
                except Waiting:
                    continue
                meeting.end()
            meeting.settle()
        results = []
        for number, call in enumerate(calls):
            meeting.begin(number)
            results.append(call())
    return results, meeting.answers
