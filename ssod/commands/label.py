"""``ssod label``: pseudo-labels to files, and which images a person should look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ssod.data.formats.image import MAX_PIXELS, Alpha
from ssod.inference.label import WrittenLabels, label_files
from ssod.inference.labelled import parts
from ssod.inference.model import BATCH
from ssod.inference.shard import read_shard
from ssod.inference.stream import WORKERS
from ssod.utils.distributed import Device


def label(
    weights: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    *,
    format: str = "coco",
    score: float | None = None,
    precision: float | None = None,
    next: int = 0,
    audit: int = 0,
    labeled: Sequence[str] = (),
    levels: tuple[float, float] | None = None,
    alpha: Alpha | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int = WORKERS,
    batch: int = BATCH,
    device: Device = "auto",
    shard: str | None = None,
) -> WrittenLabels:
    """Write detections as labels, and print what was written; see ``ssod.inference.label.label_files``.

    Args:
        weights: model file or run folder.
        images: an image, a folder (searched recursively), a glob or a .txt list.
        out: a new folder; for COCO also a ``.json`` file.
        format: ``coco``, ``yolo``, ``voc``, ``labelstudio`` or ``cvat``.
        score: keep boxes above this score, 0..1; None = 0.5, or as ``precision`` asks.
        precision: keep the boxes of a class from the score on from which this share of them was right on the run's own
            val images; a class without such a score is left out, and told.
        next: so many images to label next, which most is to be learnt from; 0 = none.
        audit: so many images of a random sample, whose labels to check; 0 = none.
        labeled: sets that are labelled already, as the run's own images are: neither of the two takes them.
        levels, alpha, max_pixels: how pixels are read, as in ``ssod.predict``.
        workers: threads that read images; 0 = none.
        batch: images that the detector looks at together.
        device: where it runs; ``auto`` takes a GPU where there is one.
        shard: one part of the images alone, ``3/8``; None = all.

    Returns:
        What was written, and where.

    Raises:
        SsodError: weights or images that cannot be read, an ``out`` that is taken, a disk that refuses; a precision
            that no class reaches, or that nothing tells of; a part that there is not.
    """
    one = None if shard is None else read_shard(shard)
    wanted = parts(Path(weights), next=next, audit=audit, labeled=labeled)
    kept = {"format": format, "score": score, "precision": precision, "parts": wanted, "shard": one}
    read = {"levels": levels, "alpha": alpha, "max_pixels": max_pixels, "workers": workers, "batch": batch}
    read["device"] = device
    return label_files(weights, images, out, **kept, **read)
