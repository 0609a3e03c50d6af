"""What every combination of recipes resolves to, as digests that a test holds against the files.

    python -m tests.recipes_resolved             writes tests/recipes_resolved.json anew, after a change that is wanted
    python -m tests.recipes_resolved METHOD ...  the same for these methods alone

A digest is one for each section (data, views, detector, method, train, eval), so that a difference says where it is.
A combination that a recipe refuses has none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ssod.config import SECTIONS, Config, load_recipe
from ssod.utils import recipes

FILE = Path(__file__).with_suffix(".json")
METHODS = recipes.names("method")
# The other backbones change one key of these.
DETECTORS = [name for name in recipes.names("detector") if "_r50_" in name or "_tiny_" in name]
FAMILIES = {name: recipes.compose(recipes.Recipe(detector=name))[0]["detector"]["name"] for name in DETECTORS}
DATA = [(name, None) for name in recipes.names("data") if name not in (*recipes.OWNS, "coco")]
DATA += [("coco", percent) for percent in (1, 2, 5, 10)]


def offered(method: str) -> list[str]:
    """Return the detectors of ``DETECTORS`` that a method's recipe does not refuse."""
    (page,) = recipes.pages("method", method)
    no = [entry.when for entry in page.entries if entry.refuse is not None]
    assert all(set(when) == {"family"} for when in no), "a refusal by anything else is not thought of here"
    refused = {family for when in no for family in when["family"]}
    return [name for name in DETECTORS if FAMILIES[name] not in refused]


def combinations() -> Iterator[tuple[str, str, str, int | None]]:
    """Give every (method, detector, data, percent) that is offered."""
    for method in METHODS:
        for detector in offered(method):
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
    os.environ.pop("SSOD_DATASETS", None)  # as in the tests: digests are of paths without it
    kept = json.loads(FILE.read_text("utf-8")) if sys.argv[1:] else {}
    kept |= {method: resolved(method) for method in sys.argv[1:] or METHODS}
    FILE.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
