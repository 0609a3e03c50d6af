"""Where else a run's numbers go: TensorBoard, Weights & Biases, MLflow.

All get the numbers of ``metrics.jsonl``, and after each evaluation the figures of the report as pictures.

A tracker that is wanted and not installed is an error before the first step. One that fails later (a server that is
gone, a full disk, a bug of its own) is reported once and left out; it never stops a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ssod.utils.errors import SsodError

Name = Literal["tensorboard", "wandb", "mlflow"]


class Tracker(Protocol):
    """What every tracker can do."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Take in numbers of a step."""

    def pictures(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Take in pictures of a step, [H, W, 3] uint8 by name."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files in ``tb/``."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What came after the checkpoint comes again.
        self.writer = SummaryWriter(str(folder / "tb"), purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write the numbers of a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def pictures(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Write the pictures of a step."""
        for name, image in images.items():
            self.writer.add_image(name, image, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class Wandb:
    """A run of project ``ssod`` that a resumed training goes on with; ``WANDB_*`` variables apply."""

    def __init__(self, folder: Path, step: int) -> None:
        import wandb

        self.wandb = wandb
        name = str(folder.resolve())
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        self.run = wandb.init(project="ssod", name="/".join(folder.parts[-2:]), id=key, resume="allow", dir=str(folder))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Send the numbers of a step."""
        self.run.log(values, step=step)

    def pictures(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Send the pictures of a step."""
        self.run.log({name: self.wandb.Image(image) for name, image in images.items()}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()


class Mlflow:
    """A run of the current experiment that a resumed training goes on with; ``MLFLOW_*`` variables apply."""

    def __init__(self, folder: Path, step: int) -> None:
        import mlflow

        self.mlflow = mlflow
        known = folder / "mlflow.txt"
        run_id = known.read_text().strip() if known.exists() else None
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else "/".join(folder.parts[-2:]))
        known.write_text(f"{run.info.run_id}\n")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Send the numbers of a step.

        Other characters than MLflow allows become ``_``. Its file store keeps ``teacher/AP`` as a file, beside which
        no folder of that name can be: ``teacher/AP/cat`` becomes ``teacher/AP.cat``.
        """
        named = {}
        for name, value in values.items():
            group, slash, rest = re.sub(r"[^\w\-. /]", "_", name).partition("/")
            named[group + slash + rest.replace("/", ".")] = value
        self.mlflow.log_metrics(named, step=step)

    def pictures(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Send the pictures of a step."""
        for name, image in images.items():
            self.mlflow.log_image(image, key=name, step=step)

    def close(self) -> None:
        """End the run."""
        self.mlflow.end_run()


KINDS: dict[Name, tuple[Callable[[Path, int], Tracker], str]] = {
    "tensorboard": (TensorBoard, "pip install tensorboard"),
    "wandb": (Wandb, "pip install wandb"),
    "mlflow": (Mlflow, "pip install mlflow"),
}


class Trackers:
    """All trackers of a run, none of which can stop it.

    Args:
        names: keys of ``KINDS``.
        folder: the run's.
        step: the step the run starts from.
        classes: names of the classes, for numbers that there is one of for each.

    Raises:
        SsodError: code 2, one that is wanted is not installed.
    """

    def __init__(self, names: Sequence[Name], folder: Path, step: int, classes: Sequence[str] = ()) -> None:
        self.open: dict[str, Tracker] = {}
        self.classes = classes
        self._blind: set[str] = set()  # trackers that failed to take pictures
        for name in names:
            kind, install = KINDS[name]
            try:
                self.open[name] = kind(folder, step)
            except ImportError:
                fix = f"{install}, or set train.{name}=false"
                raise SsodError("config", f"train.{name}", f"{name} is not installed", fix) from None
            except Exception as error:
                self._failed(name, error)

    def scalars(self, step: int, row: Mapping[str, Any]) -> None:
        """Hand on every finite number of a row; see ``numbers``."""
        values = numbers(row, self.classes)
        for name, tracker in list(self.open.items()):
            try:
                tracker.scalars(step, values)
            except Exception as error:
                self._failed(name, error)

    def pictures(self, step: int, draw: Callable[[], dict[str, np.ndarray]]) -> None:
        """Hand on pictures; ``draw`` is called only if a tracker takes them.

        A tracker that fails here gets no further pictures, but the numbers as before: servers often store the two in
        different places.
        """
        seeing = {name: tracker for name, tracker in self.open.items() if name not in self._blind}
        if not seeing:
            return
        try:
            images = draw()
        except Exception as error:
            self._blind.update(seeing)
            _warn("drawing for trackers", error)
            return
        for name, tracker in seeing.items() if images else ():
            try:
                tracker.pictures(step, images)
            except Exception as error:
                self._blind.add(name)
                _warn(f"sending pictures to {name}", error)

    def close(self) -> None:
        """Close all."""
        for name, tracker in list(self.open.items()):
            try:
                tracker.close()
            except Exception as error:
                self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        failed = self.open.pop(name, None)
        if failed is not None:
            with contextlib.suppress(Exception):  # one warning is enough
                failed.close()
        _warn(name, error)


def _warn(what: str, error: Exception) -> None:
    message = " ".join(str(error).split())[:200]
    logging.getLogger("ssod").warning("%s failed (%s); training goes on without it", what, message)


def numbers(row: Mapping[str, Any], classes: Sequence[str] = ()) -> dict[str, float]:
    """Return the finite numbers of a row by name.

    Of a list each item is ``name/0``, ``name/1``, ...; of one threshold for each class ``name/<class>``.
    """
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            by_class = "threshold" in name and len(value) == len(classes)
            flat |= {f"{name}/{key}": item for key, item in zip(classes if by_class else range(len(value)), value)}
        else:
            flat[name] = value
    return {
        name: float(value)
        for name, value in flat.items()
        if name != "step" and isinstance(value, (int, float)) and math.isfinite(value)
    }
