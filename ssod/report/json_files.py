"""JSON files of a run folder that a page can do without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ssod.report.page import text


def saved(path: Path) -> tuple[dict[str, Any], list[Markup]]:
    """Return what a file holds, and a note for the page where it cannot be read; two empty ones where there is none."""
    if not path.exists():
        return {}, []
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        return {}, [text(f"{path.name} is damaged or half written: what it says is left out.")]
    return found, []
