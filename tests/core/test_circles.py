"""No two files import each other, directly or through others: each can be read after those that it imports."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "ssod"

Graph = dict[str, set[str]]


def imports(root: Path) -> Graph:
    """Return the files below ``root``, a package, each with those that it imports, as ``engine.trainer``.

    Every import statement counts: one in a function, and one for type checkers alone.
    """
    files = {".".join([root.name, *path.relative_to(root).with_suffix("").parts]): path for path in root.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph = {name: _wanted(path) for name, path in files.items()}
    # ``from a import b`` wants the file a.b if there is one, and a, which says what b is, if there is none.
    found = {name: {_file(want, files) for want in wanted} - {""} for name, wanted in graph.items()}
    return {_short(name): {_short(target) for target in targets} for name, targets in found.items()}


def _wanted(path: Path) -> set[str]:
    wanted = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names}
    return wanted


def _file(want: str, files: dict[str, Path]) -> str:
    return next((name for name in (want, want.rpartition(".")[0]) if name in files), "")


def _short(name: str) -> str:
    return name.partition(".")[2] or name


def circles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components of two files or more, and each file that imports itself."""
    reached = {name: _reached(graph, name) for name in graph}
    found = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return sorted(map(sorted, found))


def _reached(graph: Graph, start: str) -> set[str]:
    """Return all that ``start`` imports, and what that imports, and so on."""
    seen, left = set(), [start]
    while left:
        new = graph[left.pop()] - seen
        seen |= new
        left += new
    return seen


def test_no_file_imports_itself_through_others() -> None:
    assert circles(imports(ROOT)) == []


def test_the_rule_can_fail(tmp_path: Path) -> None:
    root = tmp_path / "ssod"
    (root / "engine").mkdir(parents=True)
    for name, text in {
        "__init__": "from ssod.run import train",
        "engine/__init__": "",
        "run": "import ssod.engine.loop",
        "engine/loop": "from ssod.engine import state\nfrom ssod.utils.errors import Error",
        "engine/state": "if TYPE_CHECKING:\n    from ssod.engine.loop import Loop",
        "errors": "import os",
        "page": "def show():\n    from ssod.table import rows",
        "table": "from ssod.form import form",
        "form": "import ssod.page",
        "alone": "import ssod.alone",
    }.items():
        (root / f"{name}.py").write_text(text)
    graph = imports(root)
    assert graph["run"] == {"engine.loop"}
    assert graph["engine.loop"] == {"engine.state", "errors"}
    assert graph["ssod"] == {"run"}
    assert circles(graph) == [["alone"], ["engine.loop", "engine.state"], ["form", "page", "table"]]
