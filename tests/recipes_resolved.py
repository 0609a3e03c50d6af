"""What every combination of recipes resolves to, as digests that a test holds against the files.

    python -m tests.recipes_resolved     writes tests/recipes_resolved.json anew, after a change that is wanted

A digest is one for each section (data, views, detector, method, train, eval), so that a difference says where it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ssod.config import SECTIONS, Config, load_recipe
from ssod.utils import recipes

FILE = Path(__file__).with_suffix(".json")
METHODS = recipes.names("method")
# The other backbones change one key of these.
DETECTORS = [name for name in recipes.names("detector") if "_r50_" in name or "_tiny_" in name]
DATA = [(name, None) for name in recipes.names("data") if name not in ("own", "coco")]
DATA += [("coco", percent) for percent in (1, 2, 5, 10)]


def combinations() -> Iterator[tuple[str, str, str, int | None]]:
    """Give every (method, detector, data, percent)."""
    for method in METHODS:
        for detector in DETECTORS:
            for data, percent in DATA:
                yield method, detector, data, percent


def digest(cfg: Config) -> str:
    """Return one short hash for each section of what a config resolves to."""
    parts = cfg.dump()
    texts = [json.dumps(parts[name], sort_keys=True) for name in SECTIONS]
    return " ".join(hashlib.sha256(text.encode()).hexdigest()[:6] for text in texts)


def resolved(method: str) -> dict[str, dict[str, str]]:
    """Return detector -> data -> digest of all combinations of a method."""
    found: dict[str, dict[str, str]] = {}
    for name, detector, data, percent in combinations():
        if name == method:
            key = data if percent is None else f"{data} {percent} %"
            cfg = load_recipe(method=method, detector=detector, data=data, percent=percent)
            found.setdefault(detector, {})[key] = digest(cfg)
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps({method: resolved(method) for method in METHODS}, indent=1) + "\n")
