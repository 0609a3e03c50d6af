"""The pages of docs/api, written from signatures and docstrings.

    python -m tools.api_docs

Signatures are taken from the source and not from imported objects: they read the same under every Python. A test
compares the pages with what this writes.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import ssod
from ssod.losses import build
from ssod.losses.weighting import criterion

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "api"

# What a page shows: modules, or packages with all of their modules.
PAGES = {
    "structures": ("ssod.structures",),
    "methods": (
        "ssod.methods.supervised",
        "ssod.methods.base",
        "ssod.methods.config",
        "ssod.methods.teacher_config",
        "ssod.methods.teachers",
    ),
    "detectors": (
        "ssod.detectors.build",
        "ssod.detectors.backbones",
        "ssod.detectors.anchors",
        "ssod.detectors.retinanet",
        "ssod.detectors.fcos",
        "ssod.detectors.dense_detector",
        "ssod.detectors.rcnn",
        "ssod.detectors.faster_rcnn",
        "ssod.detectors.heads.fam3d",
        "ssod.detectors.decode",
        "ssod.assign.iou",
        "ssod.assign.center",
        "ssod.assign.adaptive",
        "ssod.assign.ratio",
    ),
    "pseudo_labels": ("ssod.pseudo_labels.threshold", "ssod.transforms.mix"),
}
SECTIONS_ONLY = {"detectors"}  # pages that show config sections alone
TITLES = {
    "ssod": "Calls",
    "structures": "Types",
    "methods": "Methods",
    "losses": "Losses and weightings",
    "detectors": "Detectors: what a config can say",
    "pseudo_labels": "Thresholds and mixing",
}
SHOWN_ELSEWHERE = {"Config", "Model"}  # what is trained, and what is loaded: no results
_PARTS = ("Args:", "Attributes:", "Returns:", "Raises:")

Function = ast.FunctionDef
Named = ast.ClassDef | ast.FunctionDef


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    texts = {"ssod": calls(), "losses": tables()}
    for page, names in PAGES.items():
        shown = [text for name in names for path in files(name) for text in module(path, page in SECTIONS_ONLY)]
        texts[page] = "\n\n".join(shown)
    found = {f"{page}.md": f"# {TITLES[page]}\n\n{text}\n" for page, text in texts.items()}
    links = "\n".join(f"- [{title}]({page}.md)" for page, title in TITLES.items())
    return found | {"README.md": f"# API\n\nWritten by `python -m tools.api_docs` from docstrings.\n\n{links}\n"}


def files(name: str) -> list[Path]:
    """Return the files of a module, or of all modules of a package."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir():
        return sorted(p for p in path.glob("*.py") if p.name != "__init__.py")
    return [path.with_suffix(".py")]


def module(path: Path, sections: bool) -> Iterator[str]:
    """Yield a module's heading and first line, then each of its public names."""
    tree = ast.parse(path.read_text("utf-8"))
    shown = [node for node in public(tree.body) if not sections or is_section(node)]
    if shown:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield f"## `{name}`\n\n{(ast.get_docstring(tree) or '').splitlines()[0]}"
    for node in shown:
        yield from describe(node, node.name)


def calls() -> str:
    """Return what ``import ssod`` offers, and then what these calls return."""
    shown, results = [], {}
    for name in ssod.__all__:
        call = getattr(ssod, name)
        if inspect.isfunction(call):
            tree = ast.parse(Path(inspect.getsourcefile(call) or "").read_text("utf-8"))
            node = next(n for n in public(tree.body) if n.name == call.__name__)
            shown += describe(node, f"ssod.{name}")
            kind = getattr(sys.modules[call.__module__], ast.unparse(node.returns) if node.returns else "", None)
            if is_dataclass(kind) and kind.__name__ not in SHOWN_ELSEWHERE:
                tree = ast.parse(Path(inspect.getsourcefile(kind) or "").read_text("utf-8"))
                results[kind.__name__] = next(n for n in public(tree.body) if n.name == kind.__name__)
    shown.append("## Results")
    for name, node in sorted(results.items()):
        shown += describe(node, name)
    return "\n\n".join(shown)


def tables() -> str:
    """Return the losses and weightings that a config can name."""
    shown = []
    for title, rows in (("Losses", build.describe()), ("Weightings", criterion.describe())):
        lines = [f"| `{name}` | {cell(about)} |" for name, about in rows]
        shown.append(f"## {title}\n\n| name | for which rows, what, [parameters] |\n|---|---|\n" + "\n".join(lines))
    return "\n\n".join(shown)


def public(body: list[ast.stmt]) -> list[Named]:
    """Return the classes and functions that have a docstring and no underscore."""
    named = [node for node in body if isinstance(node, Named)]
    return [node for node in named if not node.name.startswith("_") and ast.get_docstring(node)]


def describe(node: Named, name: str) -> Iterator[str]:
    """Yield the text of a function, or of a class and of its public methods."""
    if isinstance(node, Function):
        yield f"### `{signature(node, name)}`\n\n{prose(node)}"
        return
    init = next((n for n in node.body if isinstance(n, Function) and n.name == "__init__"), None)
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    title = f"class {signature(init, name, returns=False) if init else f'{name}({bases})' if bases else name}"
    yield f"### `{title}`\n\n{prose(node)}"
    keys = list(settings(node))
    if keys:
        yield "| key | type | default | |\n|---|---|---|---|\n" + "\n".join(keys)
    for method in public(node.body):
        if isinstance(method, Function) and not any("validator" in ast.unparse(d) for d in method.decorator_list):
            is_property = any(ast.unparse(d) in ("property", "cached_property") for d in method.decorator_list)
            title = f"{name}.{method.name}" if is_property else signature(method, f"{name}.{method.name}")
            yield f"#### `{title}`\n\n{prose(method)}"


def is_section(node: Named) -> bool:
    """Whether a class is a section of a config."""
    return isinstance(node, ast.ClassDef) and any(settings(node))


def settings(node: ast.ClassDef) -> Iterator[str]:
    """Yield a row for each key of a section: an annotated name with a string under it."""
    for field, under in zip(node.body, node.body[1:]):
        text = under.value.value if isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant) else None
        if isinstance(field, ast.AnnAssign) and isinstance(text, str):
            parts = (ast.unparse(field.target), ast.unparse(field.annotation), default(field.value))
            code = " | ".join(f"`{cell(part)}`" if part else "" for part in parts)
            yield f"| {code} | {cell(' '.join(text.split()))} |"


def default(value: ast.expr | None) -> str:
    """Return the default of a key as it is written, without its limits."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        return ast.unparse(value.args[0]) if value.args else ""
    return "" if value is None else ast.unparse(value)


def signature(node: Function, name: str, *, returns: bool = True) -> str:
    """Return ``name(arguments) -> result``, without ``self``."""
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    result = f" -> {ast.unparse(node.returns)}" if returns and node.returns else ""
    return f"{name}({arguments}){result}"


def prose(node: Named) -> str:
    """Return a docstring as Markdown: its parts ``Args``, ``Returns``, ... become lists."""
    out: list[str] = []
    inside = False
    for line in (ast.get_docstring(node) or "").splitlines():
        if line in _PARTS:
            inside = True
            out += [f"**{line[:-1]}**", ""]
        elif inside and re.match(r" {4}\S", line):
            entry = re.sub(r"^(\*{0,2}\w[\w, ]*): ", r"`\1`: ", line.strip())
            out.append(f"- {entry}")
        elif inside and line.startswith("     "):
            out[-1] += f" {line.strip()}"
        else:
            inside = inside and not line
            out.append(line)
    return "\n".join(out)


def cell(text: str) -> str:
    """Return ``text`` for a cell of a table."""
    return text.replace("|", r"\|")


def main() -> None:
    """Write all pages."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (OUT / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
