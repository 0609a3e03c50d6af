"""Imports point down: architecture as a test.

A unit is a folder of the package, a sub-folder that is named below, or a file of the root. A unit may import what lies
in a lower layer, and itself; that holds for imports inside a function and for those of the type checker, too.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "ssod"

# From the bottom to the top. A unit that ends in ``build`` is the one file of its folder that puts the others together.
LAYERS: list[set[str]] = [
    {"version", "utils"},
    {"structures"},
    {"assign", "losses", "transforms", "pseudo_labels", "evaluation", "data/formats", "engine/checkpointing"},
    {"losses/weighting", "data/checks", "data/loading", "engine/logging", "detectors/heads", "experiments"},
    {"data", "detectors", "engine", "methods"},
    {"detectors/d2"},
    {"detectors/build"},
    {"config", "inference"},
    {"diagnostics", "experiments/sweep", "labelers"},
    {"build"},
    {"report"},
    {"commands"},
    {"commands/init"},
    {"run"},
    {"cli", "__init__"},
    {"__main__"},
]
FILES = {"__init__", "__main__", "version", "cli", "config", "build", "run"}  # all that may lie in the root
LONGEST = 300  # lines of a file

# What is still to be mended; a line that is no longer true fails, too, so that both lists can only shrink.
UPWARD: set[tuple[str, str]] = set()
CIRCLES: set[frozenset[str]] = set()
TOO_LONG: set[str] = set()


# ---- what is there -----------------------------------------------------------------------------------------------


def files(root: Path) -> list[Path]:
    """Return the Python files below ``root``."""
    return sorted(root.rglob("*.py"))


def name(path: Path, root: Path) -> str:
    """Return ``engine/optim.py``."""
    return path.relative_to(root).as_posix()


def file_of(module: str, root: Path) -> str | None:
    """Return the file of a dotted module ``ssod.engine.optim``, or None if it is no module."""
    path = root.joinpath(*module.split(".")[1:])
    if (path / "__init__.py").is_file():
        return name(path / "__init__.py", root)
    return name(path.with_suffix(".py"), root) if path != root and path.with_suffix(".py").is_file() else None


def imported(path: Path, root: Path) -> set[str]:
    """Return the files of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {file_of(a.name, root) for a in node.names if a.name.split(".")[0] == "ssod"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by dots; say whole names"
            if node.module and node.module.split(".")[0] == "ssod":
                # ``from ssod.engine import optim`` means the file optim.py, and nothing of engine's own.
                found |= {file_of(f"{node.module}.{a.name}", root) or file_of(node.module, root) for a in node.names}
    return {f for f in found if f is not None} - {name(path, root)}


def graph(root: Path) -> dict[str, set[str]]:
    """Return what each file imports."""
    return {name(path, root): imported(path, root) for path in files(root)}


def unit(file: str) -> str | None:
    """Return the unit that a file belongs to: the longest name that fits; None if there is none."""
    known = set().union(*LAYERS)
    parts = file.removesuffix(".py").removesuffix("/__init__").split("/")
    for length in range(len(parts), 0, -1):
        if "/".join(parts[:length]) in known:
            return "/".join(parts[:length])
    return None


# ---- what may be wrong -------------------------------------------------------------------------------------------


def unknown(root: Path) -> set[str]:
    """Return folders that no layer names, and files of the root that do not belong there."""
    known = set().union(*LAYERS)
    folders = {path.parent for path in files(root)} - {root}
    wrong = {name(folder, root) for folder in folders if name(folder, root) not in known}
    return wrong | {path.name for path in root.glob("*.py") if path.stem not in FILES}


def upward(root: Path) -> set[tuple[str, str]]:
    """Return the imports that do not point down."""
    height = {u: i for i, layer in enumerate(LAYERS) for u in layer}
    found = set()
    for file, targets in graph(root).items():
        for target in targets:
            mine, other = unit(file), unit(target)
            if mine != other and mine in height and other in height and height[other] >= height[mine]:
                found.add((file, target))
    return found


def circles(root: Path) -> set[frozenset[str]]:
    """Return the sets of files each of which imports, over whatever others, all the rest of its set."""
    edges = graph(root)
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        stack = list(edges[start])
        while stack:
            file = stack.pop()
            if file not in seen:
                seen.add(file)
                stack += edges.get(file, ())
        reach[start] = seen
    return {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in edges if a in reach[a]}


def too_long(root: Path) -> set[str]:
    """Return files that are more than one idea."""
    return {name(path, root) for path in files(root) if len(path.read_text("utf-8").splitlines()) > LONGEST}


def unexplained(root: Path) -> set[str]:
    """Return folders whose ``__init__.py`` does not say in one sentence what lives there."""
    wrong = set()
    for folder in {path.parent for path in files(root)} - {root}:
        file = folder / "__init__.py"
        text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) if file.is_file() else None
        if not text or "\n" in text or not text.endswith(".") or ". " in text:
            wrong.add(name(folder, root))
    return wrong


# ---- the package -------------------------------------------------------------------------------------------------


def test_every_folder_is_known() -> None:
    assert unknown(ROOT) == set()
    assert set().union(*LAYERS) == {unit(file) for file in graph(ROOT)}  # and none is known that is gone


def test_imports_point_down() -> None:
    assert upward(ROOT) == UPWARD


def test_no_circle_between_files() -> None:
    assert circles(ROOT) == CIRCLES


def test_no_file_outgrows_one_idea() -> None:
    assert too_long(ROOT) == TOO_LONG


def test_every_folder_says_what_lives_there() -> None:
    assert unexplained(ROOT) == set()
    docs = [path.read_text("utf-8").split('"""')[1] for path in ROOT.glob("*/**/__init__.py")]
    assert len(docs) == len(set(docs))


# ---- each rule can fail ------------------------------------------------------------------------------------------


def package(folder: Path, contents: dict[str, str]) -> Path:
    """Write a package of files: ``{"a/b.py": its text}``."""
    for file, text in contents.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "from ssod.methods.base import Method",
        "import ssod.methods.base",
        "from ssod.methods import base",
        "def f():\n    from ssod.methods import base",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ssod.methods.base import Method",
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Path, text: str) -> None:
    root = package(tmp_path, {"losses/box.py": text, "methods/base.py": ""})
    assert upward(root) == {("losses/box.py", "methods/base.py")}


def test_an_import_of_a_neighbour_in_the_same_layer_is_found(tmp_path: Path) -> None:
    root = package(tmp_path, {"losses/box.py": "import ssod.assign.iou", "assign/iou.py": ""})
    assert upward(root) == {("losses/box.py", "assign/iou.py")}


def test_a_sub_folder_is_a_unit(tmp_path: Path) -> None:
    up = "from ssod.data.loading.loader import x"
    down = "from ssod.data.formats.coco import x"
    root = package(tmp_path, {"data/formats/coco.py": up, "data/loading/loader.py": down, "data/splits.py": up})
    assert upward(root) == {("data/formats/coco.py", "data/loading/loader.py")}


def test_imports_that_point_down_or_stay_are_none(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        {
            "methods/base.py": "from ssod.losses.box import giou\nfrom ssod.methods.config import Common\nimport numpy",
            "methods/config.py": "from ssod.utils import errors",
            "losses/box.py": "",
            "utils/errors.py": "",
        },
    )
    assert upward(root) == set()
    assert circles(root) == set()


def test_an_unknown_folder_and_a_file_in_the_root_are_found(tmp_path: Path) -> None:
    root = package(
        tmp_path, dict.fromkeys(["misc/a.py", "data/misc/a.py", "helpers.py", "cli.py", "losses/box.py"], "")
    )
    assert unknown(root) == {"misc", "data/misc", "helpers.py"}


def test_a_circle_is_found(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        {
            "engine/a.py": "from ssod.engine import b",
            "engine/b.py": "def f():\n    from ssod.engine.c import x",
            "engine/c.py": "import ssod.engine.a",
            "engine/d.py": "from ssod.engine import a",
        },
    )
    assert circles(root) == {frozenset({"engine/a.py", "engine/b.py", "engine/c.py"})}


def test_a_long_file_is_found(tmp_path: Path) -> None:
    root = package(tmp_path, {"losses/box.py": "x = 1\n" * LONGEST, "losses/long.py": "x = 1\n" * (LONGEST + 1)})
    assert too_long(root) == {"losses/long.py"}


@pytest.mark.parametrize("text", ["", '"""No full stop"""', '"""Two. Sentences."""', '"""One.\n\nAnd more."""'])
def test_a_folder_that_says_nothing_is_found(tmp_path: Path, text: str) -> None:
    assert unexplained(package(tmp_path, {"losses/__init__.py": text})) == {"losses"}


def test_one_sentence_is_enough(tmp_path: Path) -> None:
    assert unexplained(package(tmp_path, {"losses/__init__.py": '"""Losses of rows."""\n'})) == set()
