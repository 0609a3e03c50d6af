"""What README says is checked by a test or a tool: each is there, is collected, and takes the options that it names."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from ssod.methods.registry import names
from tests.paths import GOLDEN
from tests.test_crash import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [path for path in ROOT.glob("**/*.md") if not {".git", ".venv"} & set(path.relative_to(ROOT).parts)]


def rows() -> list[list[str]]:
    """Return (what, by, figure) of each row of the table."""
    table = README[README.index("| what | by | figure |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def commands() -> list[list[str]]:
    """Return the words of each command of the table, without environment variables."""
    found = [shlex.split(text) for _, by, _ in rows() for text in re.findall(r"`([^`]+)`", by)]
    return [[word for word in words if not re.match(r"[A-Z_]+=", word)] for words in found]


class Seen:
    """Takes note of what is collected."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = [item.nodeid for item in session.items]


def test_the_tests_of_the_table_are_collected(capfd: pytest.CaptureFixture[str]) -> None:
    """All in one go, and in this process, which has imported most of it; ``-k`` asks for a part of a name."""
    wanted = [words for words in commands() if words[0] == "pytest"]
    files = [next(word for word in words if word.startswith("tests/")) for words in wanted]
    seen, quiet = Seen(), ["--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    code = pytest.main([*quiet, *(str(ROOT / file) for file in files)], plugins=[seen])
    assert code == pytest.ExitCode.OK, capfd.readouterr().out
    for words, file in zip(wanted, files):
        part = words[words.index("-k") + 1] if "-k" in words else ""
        found = [name for name in seen.names if name.startswith(file) and part in name.removeprefix(file)]
        without_d2 = file.startswith("tests/detectors/test_d2") and find_spec("detectron2") is None
        assert found or without_d2, words  # that file is skipped as a whole


def test_every_row_names_what_checks_it_and_a_figure() -> None:
    assert len(rows()) > 5
    assert {words[0] for words in commands()} == {"pytest", "python"}
    for what, by, figure in rows():
        assert re.search(r"`(\w+=\S+ )?(pytest|python) ", by), what
        assert re.search(r"\d", figure), what


def tool_of(words: list[str]) -> Path:
    """Return the file that ``python tools/x.py`` or ``python -m tools.x`` runs."""
    name = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
    return ROOT / name


def test_a_tool_of_the_table_takes_its_options() -> None:
    shared = (ROOT / "tools/options.py").read_text("utf-8")
    for words in commands():
        if words[0] == "python":
            text = tool_of(words).read_text("utf-8")
            for option in [word for word in words if word.startswith("--")]:
                assert f'"{option}"' in text + shared, words


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_tool_of_a_page_starts_as_it_is_written(page: Path) -> None:
    """``python tools/x.py`` has the folder of tools on its path, and not the one that holds it."""
    for words in re.findall(r"python (-m tools\.\w+|tools/\w+\.py)", page.read_text("utf-8")):
        file = tool_of(["python", *words.split()])
        assert file.is_file(), words
        if not words.startswith("-m"):
            assert not re.search(r"^from (tools|tests)\b|^import (tools|tests)\b", file.read_text("utf-8"), re.M), words


def test_every_method_that_learns_from_unlabelled_images_is_killed() -> None:
    figure = next(figure for _, by, figure in rows() if "-k survives" in by)
    assert figure == f"{len(METHODS)} of {len(METHODS)}"
    assert set(METHODS) == set(names()) - {"supervised"}


def test_readme_says_which_golden_vectors_are_formulas() -> None:
    page = (GOLDEN / "README.md").read_text("utf-8")
    made_by = page[page.index("## What made them") :]
    formulas = {
        name for row in re.findall(r"^\|(.+)\| \*formula\*", made_by, re.M) for name in re.findall(r"`(\w+)`", row)
    }
    said = README[README.index("but for five files") : README.index("pin our reading")]
    assert set(re.findall(r"`(\w+)`", said)) == formulas
    assert len(formulas) == 5
