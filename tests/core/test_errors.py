"""One line per mistake; errors survive a trip between processes."""

import ast
import pickle
from pathlib import Path

import pytest

import ssod
from ssod.utils.errors import Exit, SsodError


def test_the_line_names_file_field_problem_and_fix() -> None:
    error = SsodError("a.json", "images[3]", "id 4 used\ntwice", "make it unique", code=Exit.DATA)
    assert error.line() == "a.json: images[3]: id 4 used twice; make it unique"


def test_a_long_message_is_cut() -> None:
    assert len(SsodError("f", "x", "y" * 1000, "z").line()) == 300


def test_errors_pickle_with_their_fields() -> None:
    error = pickle.loads(pickle.dumps(SsodError("f", "x", "y", "z", code=Exit.UNSAFE)))
    assert (error.file, error.field, error.problem, error.fix, error.code) == ("f", "x", "y", "z", Exit.UNSAFE)


WITHOUT = {"repaired", "warning", "skipped"}  # findings that stop nothing


def without_a_fix(source: str) -> list[int]:
    """Return the lines of a module where a fix is empty: an argument, a default, or what is called so."""
    tree, found = ast.parse(source), []
    places = {"SsodError": 3, "error": 4, "fatal": 4}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name not in WITHOUT:
            own = [a.arg for a in node.args.posonlyargs + node.args.args]
            pairs = [*zip(own[::-1], node.args.defaults[::-1])]
            pairs += zip([a.arg for a in node.args.kwonlyargs], node.args.kw_defaults)
            found += [node.lineno for name, value in pairs if name == "fix" and is_empty(value)]
            if "fix" in own:
                places.setdefault(node.name, own.index("fix") - (own[0] == "self"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            place = places.get(ast.unparse(node.func).rpartition(".")[2], 99)
            values = [*node.args[place : place + 1], *(word.value for word in node.keywords if word.arg == "fix")]
            found += [node.lineno for value in values if is_empty(value)]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "fix":
            either = (node.value.body, node.value.orelse) if isinstance(node.value, ast.IfExp) else (node.value,)
            found += [node.lineno for value in either if is_empty(value)]
    return sorted(found)


def is_empty(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and not str(value.value or "").strip()


def test_no_error_is_written_without_what_to_do() -> None:
    """A walk over all of them; ``tests/conftest.py`` sees what a variable held, in every error that a test meets."""
    root = Path(ssod.__file__).parent
    found = {str(path.relative_to(root)): without_a_fix(path.read_text()) for path in root.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}
    wrong = """def f(a, fix=""): pass
def _refused(a, fix): pass
raise SsodError("f", "x", "y", "")
ctx.findings.fatal(1, 2, 3, 4, fix=" ")
_refused(1, "")
fix = "x" if f else ""
"""
    assert without_a_fix(wrong) == [1, 3, 4, 5, 6]
    with pytest.raises(TypeError):
        SsodError("f", "x", "y")
