"""A trained teacher on files: pictures with boxes, and COCO results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ssod.data.checks.pixels import census, check_pixels
from ssod.data.formats.findings import Context, Rules
from ssod.data.formats.folder import read_folder
from ssod.data.formats.image import MAX_PIXELS, Alpha, Pixels
from ssod.data.formats.records import Images
from ssod.inference import output_dir, result_ids
from ssod.inference.graph import GraphDetector
from ssod.inference.model import BATCH, Detected, Model, check_score, load
from ssod.inference.picture_files import drawing, picture_name
from ssod.inference.results import Results, rows_of
from ssod.inference.stream import WORKERS, look_through
from ssod.utils import json_pieces
from ssod.utils.address import is_url, plain_url
from ssod.utils.distributed import Device, pick_device
from ssod.utils.errors import SsodError
from ssod.utils.progress import screen

__all__ = ["Detected", "Model", "load", "look_through", "predict_files"]


@dataclass(frozen=True, eq=False)
class Predicted(Results):
    """The rows of ``results.json``, as a sequence that is read when it is asked for, and what was written beside them.

    Attributes:
        path: of ``results.json``.
        out: its folder, with a picture for each image.
        images: how many were looked at.
        boxes: how many are drawn: those above ``score``; ``results.json`` may hold more.
        score: from which boxes are drawn, 0..1.
        unreadable: images that were left out because they cannot be read.
    """

    path: Path
    out: Path
    images: int
    boxes: int
    score: float
    unreadable: int


def predict_files(
    weights: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    score: float = 0.3,
    *,
    levels: tuple[float, float] | None = None,
    alpha: Alpha | None = None,
    max_pixels: int = MAX_PIXELS,
    ids: str | os.PathLike | None = None,
    workers: int = WORKERS,
    batch: int = BATCH,
    device: Device = "auto",
) -> Predicted:
    """Write pictures with boxes, and ``results.json``, to the new folder ``out``; print one line.

    ``results.json`` is a COCO results list of everything the detector found, above its own score threshold or
    ``score``, whichever is lower; pictures show boxes above ``score``. Where ``images`` or ``ids`` is a COCO JSON,
    image and category ids are that file's, found by file name and by class name. Otherwise category ids are those of
    the training data's file, and ``image_id`` is the file's name, which nobody takes for the number of an image; of
    files with COCO's own names of twelve digits it is their number. ``file_name`` says which file it is. Nothing is
    written over, and ``out`` is whole or not there. However many images there are, memory holds some batches of them.

    Args:
        weights: model file, run folder, or exported graph.
        images: an image, a folder (searched recursively), a glob, a .txt list, or a COCO JSON beside its images.
        out: a new or empty folder, outside of the one that is searched.
        score: draw boxes above this score, 0..1.
        levels, alpha: how pixels of more than 8-bit RGB are read, as in ``data.levels`` and ``data.alpha``; None = as
            in training.
        max_pixels: an image with more is refused before it is decoded.
        ids: a COCO JSON that lists these images, whose ids the results are to carry.
        workers: threads that read images, and as many that draw pictures, while the detector looks at others; 0 = none.
        batch: images that the detector looks at together.
        device: where the detector runs; ``auto`` takes a GPU where there is one.

    Returns:
        What ``results.json`` holds, read from there when it is asked for, and how much it is; a ``list`` of it goes to
        pycocotools.

    Raises:
        SsodError: weights or images that cannot be read, an ``out`` that is taken or among the images, images whose
            pictures would share a file, a disk that refuses.
    """
    out = Path(out)
    check_score(score)
    found = find_images(images)
    named = result_ids.of_file(images if result_ids.is_coco(images) else ids, found)
    output_dir.refuse_inside(out, images)
    output_dir.refuse_taken(out)
    output_dir.refuse_shared(found, picture_name, "picture", "rename one")
    model = model_for(weights, found, levels, alpha, device)
    numbers, classes, said = named.with_classes(model.classes)
    shown = 0
    lowest = min(score, model.detector.decode.score)
    bad: list[SsodError] = []
    with (
        screen(),
        output_dir.staged(out) as stage,
        json_pieces.growing_list(stage / "results.json") as add,
        drawing(stage, model.classes.names, workers) as draw,
    ):
        for i, picture, detected in look_through(model, found, lowest, bad, max_pixels, workers, batch):
            visible = detected[detected.scores > score]
            shown += len(visible)
            draw(found.paths[i], picture, visible)
            for row in rows_of(detected, numbers[i], found.paths[i], classes):
                add(row)
    predicted = Predicted(out / "results.json", out, len(found) - len(bad), shown, score, len(bad))
    counts = f"{predicted.images} images, {predicted.boxes} boxes above {predicted.score:g}"
    print(f"{counts} -> {out}{unreadable(bad)}; {said}")
    return predicted


def model_for(
    weights: str | os.PathLike,
    found: Images,
    levels: tuple[float, float] | None,
    alpha: str | None,
    device: Device = "auto",
) -> Model:
    """Load a model that reads the images that were found as it was taught to, or as somebody says; say how that is.

    Raises:
        SsodError: code 3, pixels of more than 8 bits, or an alpha channel, whose meaning nobody told; code 2, a device
            that is not here.
    """
    if levels is not None and not levels[0] < levels[1]:
        problem = f"{levels[0]:g} is not below {levels[1]:g}"
        raise SsodError("command line", "--levels", problem, "give the value that is black, then that of white")
    if alpha not in (None, "blend", "ignore"):
        raise SsodError("command line", "--alpha", f"'{alpha}' is unknown", "use blend or ignore")
    model = load(weights, "auto" if device == "auto" else _picked(device))
    if isinstance(model.detector, GraphDetector):
        print(model.detector.line())
    model.pixels = Pixels(levels or model.pixels.levels, alpha or model.pixels.alpha)
    ctx = Context(section="data" if levels else "images", rules=Rules(pixels=model.pixels, allow_symlinks=True))
    check_pixels({"images": census(found, ctx)}, {"images": found.root}, model.pixels, ctx)
    ctx.findings.raise_first()
    for line in ctx.findings.lines():
        print(line)
    return model


def _picked(device: Device) -> torch.device:
    try:
        return pick_device(device)
    except SsodError as error:  # it speaks of the key of a config, and here is none
        if error.field != "train.device":
            raise
        raise SsodError("command line", "--device", error.problem, "leave it out", code=error.code) from None


def find_images(images: str | os.PathLike) -> Images:
    """Return the images that a command's argument names: one file, a folder, a glob, a .txt list or a COCO JSON.

    All but the last may be an address, as ``s3://bucket/photos``.

    Prints which files are left out because their names are never opened, and which lines are repeated.
    """
    ctx = Context(section="images")
    if is_url(images):
        return _shown(read_folder(plain_url(images), None, ctx), ctx)
    path = Path(images)
    if result_ids.is_coco(path):
        return result_ids.images_of(path)
    if path.is_file() and path.suffix.lower() != ".txt":
        return Images(str(path.parent), [path.name], [path.name])
    return _shown(read_folder(os.path.abspath(images), None, ctx), ctx)


def _shown(found: Images, ctx: Context) -> Images:
    """Print what was recorded of images as they were found, and return them."""
    for line in ctx.findings.lines():
        print(line)
    return found


def unreadable(bad: Sequence[SsodError]) -> str:
    """Say how many images could not be read; nothing where all could."""
    return f"; {len(bad)} unreadable left out, first {bad[0].line()}" if bad else ""
