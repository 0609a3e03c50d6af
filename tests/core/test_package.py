"""What an installation has: every file that is not Python must be named in setup.cfg."""

import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(p for p in (ROOT / "ssod").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".md"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_data_files_are_installed(path: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    package = ".".join(path.parent.relative_to(ROOT).parts)
    patterns = setup["options.package_data"].get(package, "").split()
    assert any(path.match(pattern) for pattern in patterns)


def test_there_are_such_files() -> None:
    assert any(path.name == "demo.yaml" for path in FILES)
