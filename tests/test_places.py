"""Every file and every name that a docstring, a comment or a page speaks of is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ssod", "configs", "docs", "datasets", "tools")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
TEXTS = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".md")]
TEXTS = sorted(path for path in TEXTS + PAGES if "__pycache__" not in path.parts)
# A path that begins with one of our folders; `ssod/configs` is where the wheel has them.
PATH = re.compile(r"(?<![\w./-])((?:ssod|configs|docs|tests|tools)/[\w./*-]*\w)(?![\w/*-]*[{<(])")
NAME = re.compile(r"(?<![\w./-])ssod(?:\.[A-Za-z_]\w*)+")
EXAMPLES = {"configs/methods/x.yaml", "ssod/configs"}
HEADERS = [path for path in TEXTS if re.search(r"(ssod|configs)/methods/\w+\.\w+$", path.as_posix())]


@cache
def source(path: Path) -> str:
    return path.read_text("utf-8")


def there(name: str) -> bool:
    """A file or folder, a pattern that finds some, or a reader's own file in a folder that is there."""
    path = ROOT / name
    if "*" in name:
        return any(ROOT.glob(name))
    return path.exists() or name in EXAMPLES or (path.name.startswith("my_") and path.parent.is_dir())


def known(name: str) -> bool:
    """A module, or a word that the module before it has."""
    place = ROOT / "ssod"
    for word in name.split(".")[1:]:
        if (place / word).is_dir():
            place = place / word
        elif (place / f"{word}.py").exists():
            place = place / f"{word}.py"
        else:
            file = place if place.is_file() else place / "__init__.py"
            return re.search(rf"\b{word}\b", source(file)) is not None or word.startswith("__")
    return True


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_places_are_there(path: Path) -> None:
    text = source(path)
    assert [name for name in PATH.findall(text) if not there(name)] == []
    if path.suffix == ".py":
        assert [name for name in NAME.findall(text) if not known(name)] == []


def test_headers_name_places() -> None:
    """The test before is not passed by finding none."""
    found = {path: PATH.findall(source(path)) for path in HEADERS}
    assert len(HEADERS) >= 20
    assert sum(map(len, found.values())) >= 8
    assert not there("configs/mean_teacher")
    assert not known("ssod.methods.base.heptagon")


# Seven of a kind on a line of their own, or before a name: what a merge leaves where it could not decide.
LEFTOVER = re.compile(r"^(?:<{7} .*|={7}|>{7} .*)$", re.M)


def test_no_file_has_what_a_merge_leaves() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if "__pycache__" not in path.parts]
    files = [*TEXTS, *tests, ROOT / "CHANGELOG.md", ROOT / "setup.cfg"]
    assert [path.relative_to(ROOT).as_posix() for path in files if LEFTOVER.search(source(path))] == []
    assert LEFTOVER.search("a\n" + "=" * 7 + "\nb")
    assert not LEFTOVER.search("=" * 20)
