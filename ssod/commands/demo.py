"""The main job on a generated data set, small enough for two CPU cores: is the method ahead of its baseline?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import mean

from rich.table import Table

from ssod.config import load
from ssod.data.synthetic import write_shapes
from ssod.experiments import run_files
from ssod.inference.predict import predict_files
from ssod.utils import untrusted
from ssod.utils.errors import Exit, SsodError
from ssod.utils.printing import console, percent
from ssod.utils.yaml_io import read_yaml

CONFIG = Path(str(files("ssod"))) / "demo.yaml"
TRAIN, VAL, SIDE = 660, 200, 96  # images, images, pixels
METHODS = ("supervised", "mean_teacher")
POLL = 0.2  # seconds between two looks at the trainings


@dataclass(frozen=True)
class Shown:
    """What the demo showed.

    Attributes:
        rows: by seed, from 1: the AP of each method after its last step, a fraction in 0..1.
        weights: the teacher's.
        pictures: folder of what it finds.
    """

    rows: tuple[dict[str, float], ...]
    weights: Path
    pictures: Path


def demo(out: Path | str, *, seeds: int = 1, steps: int | None = None) -> Shown:
    """Train Mean Teacher and its supervised baseline on ``shapes`` and print both.

    Both see the same labelled images in the same order for the same number of steps, and both are measured by the
    moving average of their weights; the method sees unlabelled images besides. The two run at the same time, one
    thread each.

    Args:
        out: folder for data, runs, pictures and the teacher; runs in it that are finished are not repeated.
        seeds: fold and seed 1..n, averaged.
        steps: instead of the config's.

    Returns:
        The AP of each method, and where the teacher and its pictures are.

    Raises:
        SsodError: a run of another number of steps is there; or a training failed, its own message comes before.
    """
    out, say = Path(out), console().print
    for run in (_run(out, name, seed) for seed in range(1, seeds + 1) for name in METHODS):
        _refuse_another(run, load(CONFIG).train.steps if steps is None else steps)
    root = write_shapes(out / "data", train=TRAIN, val=VAL, size=SIDE)
    say(f"{TRAIN} training images, a tenth of them labelled; {VAL} to measure on: {root}")
    rows = []
    for seed in range(1, seeds + 1):
        rows.append(_pair(out, root, seed, steps))
        say(_table(rows))
    best = _run(out, "mean_teacher", 1)
    pictures = out / "pictures"
    if not pictures.exists():
        predict_files(best, str(root / "val" / "00000*.jpg"), pictures, score=0.3)
    shown = Shown(tuple(rows), best / "best.safetensors", pictures)
    say(f"the teacher: {shown.weights}\npictures: {shown.pictures}")
    return shown


def _run(out: Path, name: str, seed: int) -> Path:
    return out / "runs" / f"{name}-{seed}"


def _refuse_another(run: Path, steps: int) -> None:
    """Refuse a run of another length: its result is not what is asked for, and going on with it would not be either."""
    config = run / "config.yaml"
    there = steps
    if config.exists():
        source = untrusted.Source(config, "remove it, or name another -o")
        there = untrusted.checked(source, "", read_yaml(config), {"train.steps": int})["train"]["steps"]
    if there != steps:
        raise SsodError(run, "train.steps", f"{there} in this run, {steps} wanted", "remove it, or name another -o")


def _pair(out: Path, root: Path, seed: int, steps: int | None) -> dict[str, float]:
    """Train both methods side by side."""
    runs = {name: _run(out, name, seed) for name in METHODS}
    wanted = [name for name, run in runs.items() if not _finished(run)]
    jobs = {name: _start(name, runs[name], root, seed, steps, name == wanted[-1]) for name in wanted}
    failed = _wait(jobs)
    if failed is not None:
        job = jobs[failed]
        problem, fix = f"training {failed} ended with code {job.returncode}", "see its own message; run it again"
        raise SsodError(runs[failed], "", problem, fix, code=_exit(job))
    return {name: _last_ap(run) for name, run in runs.items()}


def _wait(jobs: dict[str, subprocess.Popen]) -> str | None:
    """Wait for all jobs, or for the first that fails, and return its name; what still runs then is stopped."""
    running = dict(jobs)
    try:
        while running:
            ended = {name: job.returncode for name, job in running.items() if job.poll() is not None}
            for name, code in ended.items():
                running.pop(name)
                if code:
                    return name
            time.sleep(POLL if running else 0)
        return None
    finally:
        for other in running.values():
            other.terminate()
        for other in running.values():
            other.wait()


def _start(name: str, run: Path, root: Path, seed: int, steps: int | None, shown: bool) -> subprocess.Popen:
    changes = [f"data.root={json.dumps(str(root.resolve()))}", f"data.split.fold={seed}", f"train.seed={seed}"]
    changes += [f"train.steps={steps}"] if steps is not None else []
    if name == "supervised":
        changes.append("method={name: supervised, ema: {decay: 0.996}}")
    log = None if shown else subprocess.DEVNULL  # one of the two is enough to watch, that with more to do
    return subprocess.Popen(
        [sys.executable, "-m", "ssod", "train", str(CONFIG), "-o", str(run), *changes],
        stdout=log,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _exit(job: subprocess.Popen) -> Exit:
    return Exit(job.returncode) if job.returncode in set(Exit) else Exit.BUG


def _evaluations(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    return [row for row in run_files.lines(file) if row.get("kind") == "eval"]


def _finished(run: Path) -> bool:
    return run_files.json_object(run / "exit.json", run_files.EXIT).get("code") == 0


def _last_ap(run: Path) -> float:
    return _evaluations(run)[-1]["teacher/AP"]


def _table(rows: list[dict[str, float]]) -> Table:
    table = Table(title="AP on val, last step, teacher", title_justify="left")
    for column in ("seed", *METHODS, "gain"):
        table.add_column(column, justify="right")
    for seed, row in enumerate(rows, 1):
        _add(table, str(seed), row)
    if len(rows) > 1:
        _add(table, "mean", {name: mean(row[name] for row in rows) for name in METHODS})
    return table


def _add(table: Table, head: str, row: dict[str, float]) -> None:
    gain = row["mean_teacher"] - row["supervised"]
    table.add_row(head, *(percent(row[name]) for name in METHODS), f"{100 * gain:+.1f}")
