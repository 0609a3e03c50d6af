"""Imports point one way: architecture as a test."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "ssod"

FREE = {"structures", "boxes", "ragged", "given", "errors", "schema", "seeding", "collective", "version", "atomic"}
FREE |= {"yamlfile"}
ALLOWED = {
    "boxes": set(),
    "ragged": set(),
    "given": set(),
    "structures": {"boxes", "given", "ragged"},
    "schema": {"given"},
    "errors": set(),
    "seeding": set(),
    "collective": set(),
    "atomic": {"errors"},
    "losses": FREE,
    "assign": FREE,
    "pseudo": FREE,
    "data": FREE,
    "engine": FREE | {"modelfile", "npzfile"},
    "detectors": FREE | {"assign", "losses", "modelfile"},
    "methods": FREE | {"pseudo", "losses", "assign", "engine.ema"},
    "yamlfile": {"errors"},
    "mistakes": {"errors"},
    "merging": {"errors", "mistakes", "yamlfile"},
    "recipes": {"errors", "merging", "mistakes", "schema", "yamlfile"},
    "npzfile": {"errors"},
    "modelfile": FREE,
    "config": FREE | {"data", "detectors", "engine", "methods", "yamlfile", "mistakes", "merging", "recipes"},
}


def _imports(path: Path) -> set[str]:
    """Every ``ssod`` module that a file imports, wherever in the file, as ``engine.ema``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return {name.removeprefix("ssod.") for name in found if name.startswith("ssod.")}


def _layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    layer = _layer(path)
    for name in _imports(path):
        target = name.split(".")[0]
        if target == layer or target.startswith("_"):
            continue
        if layer in ALLOWED:
            assert any(name == a or name.startswith(a + ".") for a in ALLOWED[layer]), f"{layer} imports ssod.{name}"
        else:
            assert target != "cli" or layer == "__main__", f"{layer} imports the command line"


def test_the_rule_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from ssod.run import train\n    import ssod.cli\n")
    assert _imports(file) == {"run.train", "cli"}


def test_no_file_outgrows_one_idea() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := len(p.read_text("utf-8").splitlines())) > 350
    }
    assert not long
