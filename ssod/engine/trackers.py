"""Where else a run's numbers go: TensorBoard, Weights & Biases, MLflow. All get the same figures as ``metrics.jsonl``.

A tracker that is wanted and not installed is an error before the first step. One that fails later (a server that is
gone, a full disk, a bug of its own) is told once and left out; it never stops a run.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from ssod.errors import SsodError

Name = Literal["tensorboard", "wandb", "mlflow"]


class Tracker(Protocol):
    """What every tracker can do."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Take in numbers of a step."""

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

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class Wandb:
    """A run of project ``ssod`` that a resumed training goes on with; ``WANDB_*`` variables apply."""

    def __init__(self, folder: Path, step: int) -> None:
        import wandb

        name = str(folder.resolve())
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        self.run = wandb.init(project="ssod", name="/".join(folder.parts[-2:]), id=key, resume="allow", dir=str(folder))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Send the numbers of a step."""
        self.run.log(values, step=step)

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
        """Send the numbers of a step; other characters than MLflow allows become ``_``."""
        self.mlflow.log_metrics({re.sub(r"[^\w\-. /]", "_", name): v for name, v in values.items()}, step=step)

    def close(self) -> None:
        """End the run."""
        self.mlflow.end_run()


KINDS: dict[Name, tuple[Callable[[Path, int], Tracker], str]] = {
    "tensorboard": (TensorBoard, "pip install 'ssod[track]'"),
    "wandb": (Wandb, "pip install wandb"),
    "mlflow": (Mlflow, "pip install mlflow"),
}


class Trackers:
    """All trackers of a run, none of which can stop it.

    Args:
        names: keys of ``KINDS``.
        folder: the run's.
        step: the step the run starts from.

    Raises:
        SsodError: code 2, one that is wanted is not installed.
    """

    def __init__(self, names: Sequence[Name], folder: Path, step: int) -> None:
        self.open: dict[str, Tracker] = {}
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
        """Hand on every finite number of a row; of a list each item as ``name/0``, ``name/1``, ..."""
        values = numbers(row)
        for name, tracker in list(self.open.items()):
            try:
                tracker.scalars(step, values)
            except Exception as error:
                self._failed(name, error)

    def close(self) -> None:
        """Close all."""
        for name, tracker in list(self.open.items()):
            try:
                tracker.close()
            except Exception as error:
                self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        self.open.pop(name, None)
        said = " ".join(str(error).split())[:200]
        logging.getLogger("ssod").warning("%s failed (%s); training goes on without it", name, said)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a row by name."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= {f"{name}/{i}": item for i, item in enumerate(value)} if isinstance(value, list) else {name: value}
    return {
        name: float(value)
        for name, value in flat.items()
        if name != "step" and isinstance(value, (int, float)) and math.isfinite(value)
    }
