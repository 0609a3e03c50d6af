"""A trained teacher on files: pictures with boxes; and what looks through images for every command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import track

from ssod.data.checks.pixels import census, check_pixels
from ssod.data.formats.findings import Context, Rules
from ssod.data.formats.folder import read_folder
from ssod.data.formats.image import MAX_PIXELS, Alpha, Pixels
from ssod.data.formats.records import Classes, Images
from ssod.data.loading.reader import Reader, allowed_bad
from ssod.inference import output_dir, result_ids
from ssod.inference.draw_boxes import draw
from ssod.inference.model import BATCH, Detected, Model, check_score, load
from ssod.transforms.views import Sample
from ssod.utils import atomic
from ssod.utils.distributed import pick_device
from ssod.utils.errors import SsodError
from ssod.utils.printing import console

__all__ = ["Detected", "Model", "load", "predict_files"]

_READERS = 4


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
) -> list[dict[str, Any]]:
    """Write pictures with boxes, and ``results.json``, to the new folder ``out``; print one line.

    ``results.json`` is a COCO results list of everything the detector found, above its own score threshold or
    ``score``, whichever is lower; pictures show boxes above ``score``. Where ``images`` or ``ids`` is a COCO JSON,
    image and category ids are that file's, found by file name and by class name. Otherwise category ids are those of
    the training data's file, and ``image_id`` is the file's name, which nobody takes for the number of an image; of
    files with COCO's own names of twelve digits it is their number. ``file_name`` says which file it is. Nothing is
    written over, and ``out`` is whole or not there.

    Args:
        weights: model file or run folder.
        images: an image, a folder (searched recursively), a glob, a .txt list, or a COCO JSON beside its images.
        out: a new or empty folder, outside of the one that is searched.
        score: draw boxes above this score, 0..1.
        levels, alpha: how pixels of more than 8-bit RGB are read, as in ``data.levels`` and ``data.alpha``; None = as
            in training.
        max_pixels: an image with more is refused before it is decoded.
        ids: a COCO JSON that lists these images, whose ids the results are to carry.

    Returns:
        What ``results.json`` holds.

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
    shown, rows = 0, []
    lowest = min(score, model.detector.decode.score)
    bad: list[SsodError] = []
    with output_dir.staged(out) as stage:
        for i, picture, detected in look_through(model, found, lowest, bad, max_pixels):
            visible = detected[detected.scores > score]
            shown += len(visible)
            save(draw(picture, visible, model.classes.names), stage / picture_name(found.paths[i]))
            rows += _rows(detected, numbers[i], found.paths[i], classes)
        atomic.write_text(stage / "results.json", json.dumps(rows))
    print(f"{len(found) - len(bad)} images, {shown} boxes above {score:g} -> {out}{unreadable(bad)}; {said}")
    return rows


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
    model = load(weights, pick_device("auto"))
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


def look_through(
    model: Model, images: Images, score: float | None, bad: list[SsodError], max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[int, Image.Image, Detected]]:
    """Yield (number, picture, detections) of every readable image, in order; reading goes on while the device works.

    Unreadable files among many are noted in ``bad``; when they are as many as training would not bear, or the only
    one, the first is raised. Links may lead out of the folder: it was named on the command line.
    """
    read = Reader(max_pixels, allow_symlinks=True, pixels=model.pixels)

    def prepare(i: int) -> tuple[Image.Image, Sample | None] | SsodError:
        try:
            picture = read(images, i)
        except SsodError as error:
            return _as_options(error)
        return picture, model.prepare(picture)

    chunks = [range(i, min(i + BATCH, len(images))) for i in range(0, len(images), BATCH)]
    with ThreadPoolExecutor(_READERS) as pool:
        coming = [pool.submit(prepare, i) for i in chunks[0]]
        for k, chunk in _progress(list(enumerate(chunks))):
            ready = [future.result() for future in coming]
            coming = [pool.submit(prepare, i) for i in chunks[k + 1]] if k + 1 < len(chunks) else []
            bad += [item for item in ready if isinstance(item, SsodError)]
            if len(bad) > allowed_bad(len(images)):
                raise _too_many(bad, len(images)) if len(images) > 1 else bad[0]
            good = [(i, item) for i, item in zip(chunk, ready) if not isinstance(item, SsodError)]
            detected = model.look([p for _, (p, _) in good], [s for _, (_, s) in good], score)
            yield from ((i, picture, d) for (i, (picture, _)), d in zip(good, detected))


def _as_options(error: SsodError) -> SsodError:
    """Return an error about an image with the options of a command in the place of a config's keys."""
    fix = error.fix.replace("data.levels=[low,high]", "--levels LOW HIGH")
    fix = fix.replace("data.max_pixels=", "--max-pixels ")
    return SsodError(error.file, error.field, error.problem, fix, code=error.code)


def _too_many(bad: Sequence[SsodError], n: int) -> SsodError:
    problem = f"{len(bad)} of {n} images cannot be read; this one: {bad[0].problem}"
    return SsodError(bad[0].file, bad[0].field, problem, "remove or replace them", code=bad[0].code)


def _progress(items: list[Any]) -> Iterator[Any]:
    shown = console(stderr=True, wrap=True)
    yield from track(items, "images", console=shown, transient=True, disable=not shown.is_terminal)


def picture_name(path: str) -> str:
    """Return the file of the picture that belongs to an image's path."""
    return path if path.lower().endswith((".jpg", ".jpeg", ".png")) else f"{path}.png"


def save(picture: Image.Image, target: Path) -> None:
    """Write a picture; its folder is made if there is none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=92) if target.suffix.lower() != ".png" else picture.save(target)


def _rows(found: Detected, image: int | str, path: str, classes: Classes) -> list[dict[str, Any]]:
    """Return COCO results of one image."""
    sides = torch.cat([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
    return [
        {
            "image_id": image,
            "category_id": classes.ids[label],
            "bbox": [round(value, 3) for value in box],
            "score": round(score, 6),
            "file_name": path,
        }
        for box, label, score in zip(sides.tolist(), found.labels.tolist(), found.scores.tolist())
    ]


def unreadable(bad: Sequence[SsodError]) -> str:
    """Say how many images could not be read; nothing where all could."""
    return f"; {len(bad)} unreadable left out, first {bad[0].line()}" if bad else ""
