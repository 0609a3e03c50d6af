"""One line per mistake; errors survive a trip between processes."""

import pickle

from ssod.utils.errors import Exit, SsodError


def test_the_line_names_file_field_problem_and_fix() -> None:
    error = SsodError("a.json", "images[3]", "id 4 used\ntwice", "make it unique", code=Exit.DATA)
    assert error.line() == "a.json: images[3]: id 4 used twice; make it unique"


def test_a_long_message_is_cut() -> None:
    assert len(SsodError("f", "x", "y" * 1000).line()) == 300


def test_errors_pickle_with_their_fields() -> None:
    error = pickle.loads(pickle.dumps(SsodError("f", "x", "y", "z", code=Exit.UNSAFE)))
    assert (error.file, error.field, error.problem, error.fix, error.code) == ("f", "x", "y", "z", Exit.UNSAFE)
