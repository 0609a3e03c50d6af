"""A run folder, read: what ran, on which labels, measured how, and how it went."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ssod.engine.checkpointing.resume_check import UNLABELED, flat
from ssod.engine.checkpointing.resume_check import kind as kind_of
from ssod.evaluation import matching
from ssod.evaluation.matching import Matches
from ssod.experiments import run_files
from ssod.experiments.run_files import METRICS
from ssod.experiments.run_folder import run_folder
from ssod.utils.errors import SsodError

REPEATED = ("data.split.fold", "train.seed")  # may differ between the repetitions of one row
WEIGHTS = ("detector.weights", "method.teacher.weights")  # each fold may have a model of its own
MOVES_AP = ("views.val",)  # cosmetic for resuming a run, not for comparing it
_FOLD = re.compile(r"\.(\d+)@")  # instances_train2017.{fold}@{percent}.json


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        path: its folder.
        config: resolved, as plain values.
        split: ``split.json``.
        env: ``env.json``.
        exit: ``exit.json``; empty while the run goes on or after it was killed.
        train, evals, alarms: the lines of ``metrics.jsonl`` of each kind, in order of their steps.
    """

    path: Path
    config: dict[str, Any] = field(repr=False)
    split: dict[str, Any] = field(repr=False)
    env: dict[str, Any] = field(repr=False)
    exit: dict[str, Any] = field(repr=False)
    train: list[dict[str, Any]] = field(repr=False)
    evals: list[dict[str, Any]] = field(repr=False)
    alarms: list[dict[str, Any]] = field(repr=False)

    # ---- what it is ------------------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.config["method"]["name"]

    @property
    def detector(self) -> str:
        """Detector and backbone, ``fcos-resnet50``."""
        section = self.config["detector"]
        return f"{section['name']}-{section.get('backbone', '')}".strip("-")

    @property
    def percent(self) -> float | None:
        """Share of the images that kept their labels; None where the labelled images were named by a file."""
        named = re.search(r"@(\d+(?:\.\d+)?)\.json$", str(self.config["data"]["labeled"].get("ann", "")))
        return self.split.get("percent") or (float(named[1]) if named else None)

    @property
    def fold(self) -> str:
        """Number of the draw as far as it is known, else the first digits of the split's hash."""
        named = _FOLD.search(str(self.config["data"]["labeled"].get("ann", "")))
        known = self.split.get("fold")
        return str(known) if known is not None else named[1] if named else self.hash[:8]

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.config["train"]["seed"]

    @property
    def hash(self) -> str:
        """Names the set of labelled images."""
        return self.split["hash"]

    @property
    def score(self) -> float | None:
        """Lowest score of a detection; None where neither evaluation nor config tells (a config of detectron2's)."""
        saved = None if self.table is None else self.table.about.get("score")
        return saved if saved is not None else (self.config["detector"].get("decode") or {}).get("score")

    @property
    def val_name(self) -> str:
        """The val set as the config names it, without ``data.root``."""
        source = self.config["data"].get("val") or {}
        return " ".join(str(source[key]) for key in ("ann", "root", "split", "images") if key in source)

    @property
    def val_hash(self) -> str | None:
        """Names images and boxes of the val set; None for a run that saved no matches."""
        return None if self.table is None else self.table.about.get("val")

    @cached_property
    def setting(self) -> dict[str, Any]:
        """Return the leaves of the config that repetitions of one row share, by dotted key.

        Weights of a run stand for the setting of that run: each fold may start from the model of its own.
        """
        unread = UNLABELED if self.method == "supervised" else ()
        own = {
            key: _FOLD.sub(".{fold}@", value) if isinstance(value, str) else value
            for key, value in flat(self.config).items()
            if key not in REPEATED and (kind_of(key) != "cosmetic" or key in MOVES_AP) and not key.startswith(unread)
        }
        starts = {key: run_of(own[key]) for key in WEIGHTS if key in own}
        return own | {key: self._named_start(own[key], run) for key, run in starts.items() if run is not None}

    @cached_property
    def start(self) -> Run | None:
        """The run whose weights this one began with; None where they are no run's, or the run is no longer there."""
        return run_of(self.config["detector"].get("weights"))

    @cached_property
    def burn_in(self) -> int:
        """The first step with pseudo-labels; 0 where there was no burn-in. It may come sooner than the config says."""
        ahead = max((int(row.get("burn_in/ahead") or 0) for row in self.evals), default=0)
        return max((self.config["method"].get("burn_in") or 0) - ahead, 0)

    @cached_property
    def begun(self) -> dict[str, Any]:
        """Return ``burn_in.json``: ``from``, whose burn-in the run began with, and ``step``; {} if it made its own."""
        path = self.path / "burn_in.json"
        return run_files.json_object(path, run_files.BEGUN) if path.exists() else {}

    def _named_start(self, weights: str, start: Run) -> str:
        file = Path(weights).name
        text = json.dumps([file, start.setting, start.percent, start.hash == self.hash or start.hash], sort_keys=True)
        return f"{file} of {start.method} {hashlib.sha256(text.encode()).hexdigest()[:8]}"

    # ---- how it went -----------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps that were to be made."""
        return self.config["train"]["steps"]

    @property
    def last(self) -> dict[str, Any] | None:
        """The last evaluation."""
        return self.evals[-1] if self.evals else None

    @property
    def finished(self) -> bool:
        """Whether it made its last step and was measured there."""
        measured = bool(self.evals) and self.evals[-1]["step"] == self.steps
        return self.exit.get("code") == 0 and measured and all(self.ap(name) is not None for name in METRICS)

    @property
    def ended(self) -> float:
        """When its process ended, seconds since 1970; 0 where that is not known."""
        try:
            return datetime.fromisoformat(self.exit.get("time") or "").timestamp()
        except (ValueError, OverflowError):  # no time, or one that no clock shows
            return 0.0

    @property
    def state(self) -> str:
        """Return ``finished``, or in a few words why not."""
        if self.finished:
            return "finished"
        step = max([row["step"] for row in (*self.train, *self.evals)], default=0)
        code = self.exit.get("code")
        ended = "no exit.json: running or killed" if code is None else f"ended with code {code}"
        measured = "an AP at its last evaluation" if self.evals and self.evals[-1]["step"] == step else "an evaluation"
        return f"step {step} of {self.steps}, {ended}" if code != 0 else f"finished without {measured}"

    def ap(self, name: str = "AP") -> float | None:
        """Return a metric of the teacher at the last evaluation, a fraction; a finished run has it."""
        return self.evals[-1].get(f"teacher/{name}")

    @cached_property
    def table(self) -> Matches | None:
        """The matched detections of the last evaluation; None for a run that saved none."""
        if not self.evals:
            return None
        path = self.path / "eval" / f"step_{self.evals[-1]['step']}.npz"
        return matching.read(path) if path.exists() else None

    @property
    def classes(self) -> list[str]:
        """Class names in order."""
        return list(self.table.classes) if self.table is not None else list(self.split["boxes"])


def run_of(weights: object) -> Run | None:
    """Return the run that left some weights; None where they are no run's, or the run is no longer there."""
    file = Path(str(weights))
    try:
        return read_run(file.parent) if file.is_file() else None
    except SsodError:
        return None


def read_run(path: Path) -> Run:
    """Read a run folder; one that is still being written is read as far as it goes.

    Raises:
        SsodError: code 3, not a run folder, or a damaged file in it.
    """
    path = run_folder(Path(path))
    rows = run_files.lines(path / "metrics.jsonl")
    return Run(
        path=path,
        config=run_files.config(path / "config.yaml"),
        split=run_files.json_object(path / "split.json", run_files.SPLIT),
        env=run_files.json_object(path / "env.json", run_files.ENV),
        exit=run_files.json_object(path / "exit.json", run_files.EXIT),
        train=[row for row in rows if row.get("kind") == "train"],
        evals=[run_files.defined(row) for row in rows if row.get("kind") == "eval"],
        alarms=[row for row in rows if row.get("kind") == "alarm"],
    )
