"""Changing keys in the text of a config that ``ssod init`` wrote: the lines and their remarks stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ssod.utils.merging import merge
from ssod.utils.yaml_io import dump_yaml, parse_yaml

Edit = tuple[int, int, str]  # from where to where in the text, and what stands there from now on
_KEPT = 60  # letters of a former value that a remark repeats


def with_changes(text: str, changes: Mapping[str, Any], why: str = "given to ssod init") -> str:
    """Return a config's text with keys changed.

    Lines stay where they are, and keep their remarks. A line whose value is changed says ``why``, and which value it
    was, for its remark speaks of that one. New keys follow the last one of their section, and new sections the last
    section.
    """
    old = parse_yaml(text, "config")
    new: dict[str, Any] = {}
    for tree in (old, changes):
        merge(new, tree, {}, "command line")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    edits = sorted(_edits(text, root, old, new, why), key=lambda edit: edit[:2])  # keys before new sections
    for start, end, words in reversed(edits):
        text = text[:start] + words + text[end:]
    return text


def flow(value: Any) -> str:
    """Return ``value`` as YAML in one line."""
    return dump_yaml(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...")


def _edits(text: str, node: yaml.Node | None, old: Any, new: Any, why: str, indent: str = "") -> Iterator[Edit]:
    """Yield what makes ``new`` of the value ``old`` that ``node`` is, deep in sections that have lines of their own."""
    lines = isinstance(node, yaml.MappingNode) and not node.flow_style
    if not lines or not isinstance(new, dict) or old.keys() - new.keys():
        if node is not None and old != new:
            yield from _replaced(text, node, new, why)
        return
    for key, value in node.value:
        yield from _edits(text, value, old[key.value], new[key.value], why, indent + "  ")
    added = {key: value for key, value in new.items() if key not in old}
    if added:
        end = _end_of_line(text, _last(node).end_mark.index)
        block = [f"{indent if line else ''}{line}\n" for line in _block(added, top=not indent).splitlines()]
        yield end, end, "".join(["" if text[:end].endswith("\n") else "\n", *block])


def _block(added: dict[str, Any], *, top: bool) -> str:
    """Return new keys, one a line; of a new section its keys, one a line."""
    if not top:
        return "\n".join(f"{key}: {flow(value)}" for key, value in added.items())
    return "\n" + "\n\n".join(dump_yaml({key: value}).strip() for key, value in added.items())


def score_counts(tree: Mapping[str, Any], changes: dict[str, Any]) -> None:
    """Let a score that a user names take the place of the recipe's threshold, which would not read it."""
    own = changes.get("method", {})
    if "score" in own and "threshold" not in own and tree["method"].get("threshold"):
        changes["method"] = own | {"threshold": None}


def _replaced(text: str, node: yaml.Node, new: Any, why: str) -> Iterator[Edit]:
    """Yield the edits of one value: itself, and what its line says of it."""
    start, end = node.start_mark.index, _last(node).end_mark.index
    former = " ".join(text[start:end].split())
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:  # a section that starts afresh, on lines below
        start = text.rindex(":", 0, start) + 1
        yield start, _end_of_line(text, end) - 1, f" {flow(new)}"
        return
    yield start, end, " " * text[:start].endswith(":") + flow(new)
    stop = _end_of_line(text, end)
    remark = text[end:stop].strip().removeprefix("#").strip()
    if len(former) <= _KEPT:
        said = f" # {why}; else {former}" + (f" # {remark}" if remark else "")
        yield end, stop - text[:stop].endswith("\n"), said


def _last(node: yaml.Node) -> yaml.Node:
    """Return the node that ends a node: what follows a section, remarks and empty lines, is none of it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return node


def _end_of_line(text: str, at: int) -> int:
    """Return where the line of a place ends, its break included."""
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1
