"""What ``ssod check`` prints of the counts: plain text, a line each."""

from __future__ import annotations

from typing import Any


def summary(counts: dict[str, dict[str, Any]], split: dict[str, Any]) -> list[str]:
    """Return the lines that say what a ``data`` section holds.

    Args:
        counts: ``Report.counts``: what each part holds.
        split: ``Report.split``; empty if it could not be drawn, which a finding says.
    """
    drawn = bool(split) and split["family"] is not None
    whole = f": {split['percent']:g} % of these images keep their labels, see split" if drawn else ":"
    heads = {part: whole if part == "labeled" else ":" for part in counts}
    lines = [line for part, found in counts.items() for line in (part + heads[part], *_part(found))]
    if not split:
        return lines
    if not drawn:
        return [*lines, "split: none"]
    return [
        *lines,
        f"split: {split['family']}, {split['percent']:g} %, fold {split['fold']}",
        f"  labelled images: {split['labeled']}",
        f"  unlabelled images: {split['unlabeled']}",
        f"  labelled boxes per class: {_listed(split['boxes'])}",
        f"  classes without boxes: {', '.join(split['classes_without_boxes']) or 'none'}",
        f"  hash: {split['hash']}",
    ]


def _part(found: dict[str, Any]) -> list[str]:
    return [f"  {name.replace('_', ' ')}: {_value(name, value)}" for name, value in found.items()]


def _value(name: str, value: Any) -> str:
    if name == "side":  # the root of an image's area
        return f"{value['min']:.0f} to {value['max']:.0f} pixels, median {value['median']:.0f}"
    if name == "aspect":
        return f"{value['wide']} wider than high, {value['other']} not"
    return _listed(value) if isinstance(value, dict) else str(value)


def _listed(table: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in table.items())
