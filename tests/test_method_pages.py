"""Every method has a page from paper to file: its places exist, and its figures are those of the README."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from ssod.methods.registry import names

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "methods"
PLACE = re.compile(r"`([\w./]+\.py):([\w.]+)`")
FIGURE = re.compile(r"\d+\.\d(?: ± \d+\.\d)?")
PARTS = ["## The steps", "## What differs", "## How it did here"]


def page(name: str) -> str:
    path = FOLDER / f"{name}.md"
    assert path.exists(), f"write docs/methods/{name}.md; CONTRIBUTING.md says what it has"
    return path.read_text("utf-8")


@cache
def defined(path: str) -> set[str]:
    """Return the functions and classes of a file, those of a class with its name before a dot."""
    found: set[str] = set()

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")

    walk(ast.parse((ROOT / path).read_text("utf-8")).body, "")
    return found


def test_every_method_has_its_page_and_the_readme_says_where() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(names())
    assert "](docs/methods)" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", names())
def test_a_page_is_short_and_has_its_parts(name: str) -> None:
    lines = page(name).splitlines()
    assert lines[0] == f"# {name}: from paper to file"
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120
    assert [line for line in lines if line.startswith("## ")] == PARTS
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page(name)):
        assert (FOLDER / link).exists(), link


@pytest.mark.parametrize("name", names())
def test_every_place_that_a_page_names_exists(name: str) -> None:
    places = PLACE.findall(page(name))
    assert len(places) >= 5
    assert any(path == f"ssod/methods/{name}.py" for path, _ in places)
    for path, what in places:
        assert what in defined(path), f"{path}:{what}"
    assert len(places) == len(re.findall(r"\.py:", page(name)))  # none is written in another way


@pytest.mark.parametrize("name", names())
def test_the_figures_of_a_page_are_those_of_the_readme(name: str) -> None:
    section = page(name).split(PARTS[2])[1].replace("1.2 million", "")
    known = [(ROOT / path).read_text("utf-8") for path in ("README.md", "docs/results.md")]
    figures = FIGURE.findall(section)
    assert bool(figures) != ("Not run yet." in section)
    for figure in figures:
        assert any(figure in text for text in known), figure
    rows = [line for text in known for line in text.splitlines() if line.startswith(f"| `{name}`")]
    for first, second in re.findall(r"AP (\d+\.\d(?: ± \d+\.\d)?), AP50 (\d+\.\d(?: ± \d+\.\d)?)", section):
        assert any(first in row and second in row for row in rows), (first, second)
