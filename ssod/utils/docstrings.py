"""What a docstring says of a module or a class, read from the file, so that nothing is imported for it."""

import ast
from importlib.util import find_spec
from pathlib import Path


def first_line(module: str, name: str | None = None) -> str:
    """Return the first line of the docstring of ``module``, or of the class ``name`` in it; empty if there is none.

    Raises:
        ModuleNotFoundError: no such module, or it is not written in Python.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no file of a module '{module}'", name=module)
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    lines = (ast.get_docstring(tree if name is None else classes[name]) or "").splitlines()
    return lines[0] if lines else ""
