"""Runs that were really trained, for seconds, once for all tests of the pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssod import build as root
from ssod.config import load
from ssod.data import datasets
from ssod.engine.checkpointing.run_dir import RunFolder
from tests.small import small_config

BOTH = "{sup: {weighting: uncertainty}, unsup: {weighting: uncertainty}}"
METHODS = {
    "supervised": "method={name: supervised, ema: {decay: 0.9}}",
    "mean_teacher": "method={burn_in: 2, score: 0.02}",
    "weighted": f"method={{burn_in: 2, score: 0.02, loss: {BOTH}}}",
    "humble_teacher": "method={name: humble_teacher, burn_in: 2, ema: {decay: 0.9}}",
}
CHANGES = ("train.steps=8", "train.eval_every=4", "train.log_every=2", "train.eval_student=true")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a method's run, its baseline's, a weighted one's, one's that chooses no box."""
    folder = tmp_path_factory.mktemp("report")
    config = small_config(folder)
    for name, change in METHODS.items():
        cfg = load(config, [change, *CHANGES])
        with RunFolder(folder / "runs" / name) as run:
            root.build(cfg, datasets.load(cfg.data), run).fit()
    return folder / "runs"
