"""What happens to a batch besides being learned from."""

import torch

from ssod.engine.train_config import TrainConfig
from ssod.structures import Batch
from ssod.utils import collective
from ssod.utils.errors import Exit, SsodError


def check_batch(cfg: TrainConfig) -> None:
    """Test that the batch divides among processes and micro-batches.

    Raises:
        SsodError: code 2.
    """
    parts = collective.world_size() * cfg.accumulate
    for name, size in (("labeled", cfg.batch.labeled), ("unlabeled", cfg.batch.unlabeled)):
        if size % parts:
            problem = f"{size} images do not divide among {collective.world_size()} processes x {cfg.accumulate} parts"
            raise SsodError("config", f"train.batch.{name}", problem, f"use a multiple of {parts}")


def send(batch: Batch, device: torch.device, *, channels_last: bool) -> Batch:
    """Copy a batch to ``device``, its images in the wanted memory order."""
    batch = batch.to(device)
    if channels_last:
        batch = batch.map(lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t)
    return batch


def shown(batch: Batch) -> str:
    """Return the sizes of a batch in words."""
    sizes = {name: list(view.images.shape) for name, view in {"labeled": batch.labeled, **batch.views}.items()}
    boxes = max((len(t) for t in batch.labeled.targets or []), default=0)
    return f"with images {', '.join(f'{name} {size}' for name, size in sizes.items())}, at most {boxes} boxes in one"


def too_large(step: int, what: str) -> SsodError:
    """Return the error that says ``what`` did not fit on the device."""
    fix = "raise train.accumulate, lower train.batch or the sizes in views, or set train.precision=bf16"
    return SsodError("config", f"step {step}", f"out of device memory {what}", fix, code=Exit.IO)
