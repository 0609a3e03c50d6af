"""JSON files of a run folder that a page can do without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from ssod.report.page import text
from ssod.utils import untrusted
from ssod.utils.errors import SsodError


def saved(path: Path, kind: Any) -> tuple[dict[str, Any], list[Markup]]:
    """Return what a file holds, and a note for the page where it cannot be read; two empty ones where there is none.

    Args:
        path: the file.
        kind: the type that its value must have, a ``dict``.
    """
    if not path.exists():
        return {}, []
    source = untrusted.Source(path, "remove it")
    try:
        found = untrusted.read_json(source)
        untrusted.of_kind(source, "", found, kind)
    except SsodError:
        return {}, [text(f"{path.name} is damaged or half written: what it says is left out.")]
    return found, []
