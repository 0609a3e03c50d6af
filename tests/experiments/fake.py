"""Run folders as training leaves them, written without training."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ssod.config import load
from ssod.evaluation import matching
from tests.experiments.test_bootstrap import table
from tests.small import small_config

STEPS = 24


@functools.cache
def config(method: str) -> dict[str, Any]:
    """Return the resolved small config of a method."""
    section = {"supervised": "{name: supervised, ema: {decay: 0.9}}"}.get(method, f"{{name: {method}, burn_in: 6}}")
    with tempfile.TemporaryDirectory() as folder:
        cfg = load(small_config(Path(folder)), [f"method={section}", "method.ema.decay=0.9"])
    return {**cfg.dump(), "data": {**cfg.dump()["data"], "root": "data"}}


def fake_run(
    folder: Path,
    method: str = "mean_teacher",
    fold: int = 1,
    seed: int = 0,
    *,
    ap: float = 0.5,
    images: int = 60,
    code: int | None = 0,
    changes: dict[str, Any] | None = None,
    split: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
    saved: bool = True,
) -> Path:
    """Write a run folder.

    Args:
        folder: the run's.
        method: its name.
        fold, seed: of the run.
        ap: the chance that the teacher finds a box; AP is near it.
        images: in the val set.
        code: in ``exit.json``; None = there is none.
        changes: config values by dotted key.
        split: entries of ``split.json``.
        about: entries of the table's ``about``.
        saved: whether ``eval/*.npz`` are there.
    """
    tree = copy.deepcopy(config(method))
    tree["data"]["split"]["fold"], tree["train"]["seed"] = fold, seed
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        branch = tree
        for part in parents:
            branch = branch[part]
        branch[last] = value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    parts = {"percent": 40.0, "fold": fold, "hash": f"{fold:064x}", "labeled": 4, "unlabeled": 8, "boxes": {"box": 9}}
    (folder / "split.json").write_text(json.dumps({**parts, **(split or {})}))
    (folder / "env.json").write_text(json.dumps({"torch": "2", "gpus": [], "command": ["ssod", "train"]}))
    if code is not None:
        (folder / "exit.json").write_text(json.dumps({"code": code, "name": "OK", "error": None}))
    rng = np.random.default_rng([fold, seed, int(1000 * ap)])
    luck, noise = np.random.default_rng(fold).random(images), np.random.default_rng(0).poisson(0.5, images)
    rows = []
    for step in range(4, STEPS + 1, 4):
        rows.append({"kind": "train", "step": step, "loss/sup": 1.0, "time/step": 0.5, "lr": 0.001, "phase": "ssod"})
        if step % 12 == 0:
            found = table(luck < ap * step / STEPS, noise, rng)
            found.about.update({"metric": "coco", "score": 0.05, "val": "v" * 64, **(about or {})})
            if saved:
                matching.save(folder / "eval" / f"step_{step}.npz", found)
            value = float(matching.mean_ap(found)[0])
            rows.append({"kind": "eval", "step": step, **{f"teacher/{n}": value for n in ("AP", "AP50", "AP75")}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
