"""A training run of seconds on generated images, for tests that start the real command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from ssod.data.synthetic import write_shapes


def small_config(folder: Path, **changes: Any) -> Path:
    """Write images and a config below ``folder`` and return the config's path.

    Args:
        folder: an empty folder.
        changes: dotted keys with ``__`` for the dot, e.g. ``train__steps=4``.
    """
    write_shapes(folder / "data", train=12, val=6, size=64)
    view = ["flip"]
    tree: dict[str, Any] = {
        "data": {
            "root": str(folder / "data"),
            "labeled": {"format": "coco", "ann": "annotations/train.json", "images": "train"},
            "val": {"format": "coco", "ann": "annotations/val.json", "images": "val"},
            "split": {"percent": 40, "fold": 1},
        },
        "views": {
            "labeled": {"weak": view},
            "unlabeled": {"weak": view, "strong": {"start": "weak", "ops": ["color_op", "cutout"]}},
            "val": [],
        },
        "detector": {"name": "fcos", "backbone": "tiny", "channels": 16, "levels": [3, 5]},
        "method": {"name": "mean_teacher", "burn_in": 6, "score": 0.05, "ema": {"decay": 0.9}},
        "train": {
            "steps": 24,
            "batch": {"labeled": 2, "unlabeled": 2},
            "lr": 0.001,
            "optimizer": {"name": "adamw"},
            "warm_up": {"steps": 2},
            "eval_every": 12,
            "save_every": 4,
            "log_every": 4,
            "workers": 0,
        },
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        branch = tree
        for part in parents:
            branch = branch.setdefault(part, {})
        branch[last] = value
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def seen_once(method: str) -> list[str]:
    """Return the override that a method needs which labels an image once: a view of the teacher's without chance."""
    return ["views.unlabeled.weak=[]"] if method == "stac" else []


def train_command(config: Path, out: Path, *changes: str) -> list[str]:
    """Return the command line that trains ``config`` into ``out``."""
    return [sys.executable, "-m", "ssod", "train", str(config), "-o", str(out), *changes]
