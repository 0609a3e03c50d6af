"""A run folder, read: what ran, on which labels, measured how, and how it went."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ssod.engine import matches
from ssod.engine.identity import flat
from ssod.engine.identity import kind as kind_of
from ssod.engine.matches import Matches
from ssod.errors import Exit, SsodError
from ssod.yamlfile import read_yaml

REPEATED = ("data.split.fold", "train.seed")  # may differ between the repetitions of one row
MOVES_AP = ("views.val", "detector.weights")  # cosmetic for resuming a run, not for comparing it
UNLABELED = ("views.unlabeled", "data.unlabeled", "train.batch.unlabeled")  # what a supervised run never reads
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
        named = re.search(r"@([\d.]+)\.json$", str(self.config["data"]["labeled"].get("ann", "")))
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

    @cached_property
    def setting(self) -> dict[str, Any]:
        """Return the leaves of the config that repetitions of one row share, by dotted key."""
        unread = UNLABELED if self.method == "supervised" else ()
        return {
            key: _FOLD.sub(".{fold}@", value) if isinstance(value, str) else value
            for key, value in flat(self.config).items()
            if key not in REPEATED and (kind_of(key) != "cosmetic" or key in MOVES_AP) and not key.startswith(unread)
        }

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
        return self.exit.get("code") == 0 and bool(self.evals) and self.evals[-1]["step"] == self.steps

    @property
    def state(self) -> str:
        """Return ``finished``, or in a few words why not."""
        if self.finished:
            return "finished"
        step = max([row["step"] for row in (*self.train, *self.evals)], default=0)
        code = self.exit.get("code")
        ended = "no exit.json: running or killed" if code is None else f"ended with code {code}"
        return f"step {step} of {self.steps}, {ended}" if code != 0 else "finished without an evaluation"

    def ap(self, name: str = "AP") -> float:
        """Return a metric of the teacher at the last evaluation, a fraction."""
        return self.evals[-1][f"teacher/{name}"]

    @cached_property
    def table(self) -> Matches | None:
        """The matched detections of the last evaluation; None for a run that saved none."""
        if not self.evals:
            return None
        path = self.path / "eval" / f"step_{self.evals[-1]['step']}.npz"
        return matches.read(path) if path.exists() else None

    @property
    def classes(self) -> list[str]:
        """Class names in order."""
        return list(self.table.classes) if self.table is not None else list(self.split["boxes"])


def read_run(path: Path) -> Run:
    """Read a run folder; one that is still being written is read as far as it goes.

    Raises:
        SsodError: code 3, not a run folder, or a damaged file in it.
    """
    path = Path(path)
    for name in ("config.yaml", "split.json"):
        if not (path / name).is_file():
            problem = f"no {name} in it" if path.is_dir() else "not found"
            raise SsodError(
                path, "", f"is no run folder: {problem}", "name a folder that `ssod train` wrote", code=Exit.DATA
            )
    config = read_yaml(path / "config.yaml")
    split = _json(path / "split.json")
    _refuse_without(path / "config.yaml", config, data=dict, detector=dict, method=dict, train=dict)
    _refuse_without(path / "split.json", split, hash=str, boxes=dict)
    rows = _lines(path / "metrics.jsonl")
    return Run(
        path=path,
        config=config,
        split=split,
        env=_json(path / "env.json"),
        exit=_json(path / "exit.json"),
        train=[row for row in rows if row.get("kind") == "train"],
        evals=[row for row in rows if row.get("kind") == "eval"],
        alarms=[row for row in rows if row.get("kind") == "alarm"],
    )


def _refuse_without(path: Path, value: Any, **kinds: type) -> None:
    """Another program's file may have one of our names."""
    for key, kind in kinds.items():
        if not isinstance(value, dict) or not isinstance(value.get(key), kind):
            raise SsodError(path, key, "missing", "name a folder that `ssod train` wrote", code=Exit.DATA)


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise SsodError(path, "", f"damaged: {error}", "", code=Exit.DATA) from None


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl``; a last line that is cut off is being written, and left out."""
    if not path.exists():
        return []
    rows = []
    lines = path.read_text("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise SsodError(path, f"line {number}", "damaged", "remove the line", code=Exit.DATA) from None
    return rows
