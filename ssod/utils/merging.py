"""Merging plain trees of config values, key by key, with a note of who set each.

One rule replaces deletion: **when a section's ``name`` (or ``format``) changes, the section starts afresh.**
``origins`` holds, for each dotted key, the file that set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssod.utils.config_errors import KINDS
from ssod.utils.errors import SsodError
from ssod.utils.yaml_io import parse_yaml


def merge(
    into: dict[str, Any], tree: Mapping[str, Any], origins: dict[str, str], source: str, prefix: str = ""
) -> None:
    """Merge ``tree`` into ``into``, key by key, and note ``source`` as the origin of what it sets."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not _renamed(old, value):
            merge(old, value, origins, source, f"{path}.")
            continue
        _forget(origins, path)
        into[key] = _copied(value)
        _note(value, origins, source, path)


def _renamed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(kind in new and kind in old and new[kind] != old[kind] for kind in KINDS)


def _copied(value: Any) -> Any:
    """Return the same value with nothing shared: what a YAML alias repeats must not be merged into twice."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _note(value: Any, origins: dict[str, str], source: str, path: str) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _note(inner, origins, source, f"{path}.{key}")
    else:
        origins[path] = source


def _forget(origins: dict[str, str], path: str) -> dict[str, str]:
    """Take out, and return, what is known about a key and the keys below it."""
    return {key: origins.pop(key) for key in list(origins) if key == path or key.startswith(f"{path}.")}


def replace(tree: dict[str, Any], origins: dict[str, str], path: str, value: Any) -> None:
    """Put ``value`` in the place of all that ``tree`` says at the dotted key ``path``."""
    *parents, last = path.split(".")
    for part in parents:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    _forget(origins, path)
    tree[last] = _copied(value)


def override(tree: dict[str, Any], origins: dict[str, str], text: str) -> None:
    """Merge ``key.path=value`` into ``tree``.

    The bare ``method.name=supervised`` leaves the ``method.ema`` that was written.

    Raises:
        SsodError: code 2, the text is not of that form.
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise SsodError("command line", text, "not of the form key=value", "write e.g. train.lr=0.01")
    branch: dict[str, Any] = {}
    leaf = branch
    *parents, last = key.strip().split(".")
    if not all((*parents, last)):
        raise SsodError("command line", text, "has an empty key", "write e.g. train.lr=0.01")
    for part in parents:
        leaf = leaf.setdefault(part, {})
    leaf[last] = parse_yaml(value, f"command line {key.strip()}")
    average = _forget(origins, "method.ema") if key.strip() == "method.name" else {}
    if average:
        branch["method"]["ema"] = tree["method"]["ema"]
    merge(tree, branch, origins, "command line")
    origins.update(average)
