"""A trained teacher on files: pictures with boxes, and COCO results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ssod.data.checks.pixels import census, check_pixels
from ssod.data.formats.findings import Context, Rules
from ssod.data.formats.folder import read_folder
from ssod.data.formats.image import MAX_PIXELS, Alpha, Pixels
from ssod.data.formats.records import Images
from ssod.inference import output_dir, result_ids
from ssod.inference.draw_boxes import draw
from ssod.inference.graph import GraphDetector
from ssod.inference.model import BATCH, Detected, Model, check_score, load
from ssod.inference.results import Results, rows_of
from ssod.inference.stream import WORKERS, look_through
from ssod.utils import json_pieces
from ssod.utils.errors import SsodError

__all__ = ["Detected", "Model", "load", "look_through", "predict_files"]


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
) -> Results:
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
        workers, batch: as in ``stream.look_through``.

    Returns:
        What ``results.json`` holds, read from there when it is asked for; a ``list`` of it goes to pycocotools.

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
    model = model_for(weights, found, levels, alpha)
    numbers, classes, said = named.with_classes(model.classes)
    shown = 0
    lowest = min(score, model.detector.decode.score)
    bad: list[SsodError] = []
    with output_dir.staged(out) as stage, json_pieces.growing_list(stage / "results.json") as add:
        for i, picture, detected in look_through(model, found, lowest, bad, max_pixels, workers, batch):
            visible = detected[detected.scores > score]
            shown += len(visible)
            save(draw(picture, visible, model.classes.names), stage / picture_name(found.paths[i]))
            for row in rows_of(detected, numbers[i], found.paths[i], classes):
                add(row)
    print(f"{len(found) - len(bad)} images, {shown} boxes above {score:g} -> {out}{unreadable(bad)}; {said}")
    return Results(out / "results.json")


def model_for(
    weights: str | os.PathLike, found: Images, levels: tuple[float, float] | None, alpha: str | None
) -> Model:
    """Load a model that reads the images that were found as it was taught to, or as somebody says; say how that is.

    Raises:
        SsodError: code 3, pixels of more than 8 bits, or an alpha channel, whose meaning nobody told.
    """
    if levels is not None and not levels[0] < levels[1]:
        problem = f"{levels[0]:g} is not below {levels[1]:g}"
        raise SsodError("command line", "--levels", problem, "give the value that is black, then that of white")
    if alpha not in (None, "blend", "ignore"):
        raise SsodError("command line", "--alpha", f"'{alpha}' is unknown", "use blend or ignore")
    model = load(weights, "auto")
    if isinstance(model.detector, GraphDetector):
        print(model.detector.line())
    model.pixels = Pixels(levels or model.pixels.levels, alpha or model.pixels.alpha)
    ctx = Context(section="data" if levels else "images", rules=Rules(pixels=model.pixels, allow_symlinks=True))
    check_pixels({"images": census(found, ctx)}, {"images": found.root}, model.pixels, ctx)
    ctx.findings.raise_first()
    for line in ctx.findings.lines():
        print(line)
    return model


def find_images(images: str | os.PathLike) -> Images:
    """Return the images that a command's argument names: one file, a folder, a glob, a .txt list or a COCO JSON.

    Prints which files are left out because their names are never opened, and which lines are repeated.
    """
    path = Path(images)
    if result_ids.is_coco(path):
        return result_ids.images_of(path)
    if path.is_file() and path.suffix.lower() != ".txt":
        return Images(str(path.parent), [path.name], [path.name])
    ctx = Context(section="images")
    found = read_folder(os.path.abspath(images), None, ctx)
    for line in ctx.findings.lines():
        print(line)
    return found


def picture_name(path: str) -> str:
    """Return the file of the picture that belongs to an image's path."""
    return path if path.lower().endswith((".jpg", ".jpeg", ".png")) else f"{path}.png"


def save(picture: Image.Image, target: Path) -> None:
    """Write a picture; its folder is made if there is none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=92) if target.suffix.lower() != ".png" else picture.save(target)


def unreadable(bad: Sequence[SsodError]) -> str:
    """Say how many images could not be read; nothing where all could."""
    return f"; {len(bad)} unreadable left out, first {bad[0].line()}" if bad else ""
