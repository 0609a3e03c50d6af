"""The one kind of error a user sees, and what each exit code means."""

from enum import IntEnum

from ssod.utils.plain_text import visible

LONGEST = 300  # characters of a line


class Exit(IntEnum):
    """Exit codes of every command. A traceback always means ``BUG``."""

    OK = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    CHECKPOINT = 4
    DIVERGED = 5
    IO = 6
    UNSAFE = 7
    DISTRIBUTED = 8
    PREEMPTED = 75
    INTERRUPTED = 130


class SsodError(Exception):
    """Something a user can mend: names the file, the field, what is wrong and what to do.

    Printed as one line, ``ssod: error: <file>: <field>: <problem>; <fix>``, without a traceback.

    Args:
        file: the file (or ``command line``, ``config``) where the fault lies.
        field: the key, row or image inside it; may be empty.
        problem: what is wrong, with the offending value.
        fix: what to do about it.
        code: the exit code.

    Attributes:
        teller: the rank that prints it, where all processes of a job have it; None = whoever has it.
    """

    teller: int | None = None

    def __init__(self, file: object, field: str, problem: str, fix: str, *, code: Exit = Exit.USAGE) -> None:
        self.file, self.field, self.problem, self.fix, self.code = str(file), field, problem, fix, code
        super().__init__(self.line())

    def line(self) -> str:
        """Return the message on one line of about 300 characters, without a control character of any name in it.

        Where it would be longer, file, field and problem are cut. What is to be done about it stays whole, for it may
        be a command with a long path; nothing of ours is as long as 300 characters.
        """
        head, fix = (_one_line(": ".join(filter(None, (self.file, self.field, self.problem)))), _one_line(self.fix))
        tail = f"; {fix}" if fix else ""
        tail = tail if len(tail) <= LONGEST else f"{tail[: LONGEST - 3]}..."
        room = max(LONGEST - len(tail), LONGEST // 3)
        return (head if len(head) <= room else f"{head[: room - 3]}...") + tail

    def __reduce__(self) -> tuple:
        """Pickle across data workers with every field kept."""
        return _rebuild, (type(self), self.file, self.field, self.problem, self.fix, self.code)


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _rebuild(kind: type, file: str, field: str, problem: str, fix: str, code: Exit) -> SsodError:
    return kind(file, field, problem, fix, code=code)
