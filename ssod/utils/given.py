"""A value that may be absent, at a place where it must be there."""

from typing import TypeVar

T = TypeVar("T")


def given(value: T | None, problem: str) -> T:
    """Return ``value``, which its type says may be None.

    Args:
        value: what is needed.
        problem: one sentence for whoever wrote the code that asks: why there is none.

    Raises:
        TypeError: it is None. No config leads here; a method or a loss asks for what its rows do not have.
    """
    if value is None:
        raise TypeError(problem)
    return value
