"""A trained teacher on files: pictures with boxes, and pseudo-labels to train on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from ssod import atomic, review
from ssod import label_files as writers
from ssod.data.findings import Context
from ssod.data.folder import read_folder
from ssod.data.reader import Reader, allowed_bad, too_many
from ssod.data.records import Classes, Images, Labeled
from ssod.data.views import MIN_SIDE, Sample
from ssod.engine.dist import pick_device
from ssod.errors import SsodError
from ssod.model import BATCH, Detected, Model, load
from ssod.pictures import draw

__all__ = ["Detected", "Model", "label_files", "load", "predict_files"]

_READERS = 4


def predict_files(
    weights: str | os.PathLike, images: str | os.PathLike, out: str | os.PathLike, score: float = 0.3
) -> list[dict[str, Any]]:
    """Write pictures with boxes, and ``results.json``, below ``out``; print one line.

    ``results.json`` is a COCO results list of everything the detector found, above its own score threshold or
    ``score``, whichever is lower; pictures show boxes above ``score``. Category ids are those of the training data's
    file. ``image_id`` is the number that the file is named by where every file is named by another number (COCO's
    are), else 1, 2, ... in the order of the names; ``file_name`` says which file it is.

    Args:
        weights: model file or run folder.
        images: an image, a folder (searched recursively), a glob or a .txt list.
        out: the folder.
        score: draw boxes above this score.

    Returns:
        What ``results.json`` holds.

    Raises:
        SsodError: weights or images that cannot be read, ``out`` among the images, a disk that refuses.
    """
    model, found = load(weights, pick_device("auto")), find_images(images)
    out = Path(out)
    targets = [out / _picture_name(path) for path in found.paths]
    for path, target in zip(found.paths, targets):
        if target.resolve() == Path(found.root, path).resolve():
            raise SsodError(target, "", "would be written over: the output folder is the image folder", "change -o")
    ids, shown, rows = _image_ids(found.paths), 0, []
    lowest = min(score, model.detector.decode.score)
    bad: list[SsodError] = []
    for i, picture, detected in look_through(model, found, lowest, bad):
        visible = detected[detected.scores > score]
        shown += len(visible)
        _save(draw(picture, visible, model.classes.names), targets[i])
        rows += _rows(detected, ids[i], found.paths[i], model.classes)
    atomic.write_text(out / "results.json", json.dumps(rows))
    print(f"{len(found) - len(bad)} images, {shown} boxes above {score:g} -> {out}{_told(bad)}")
    return rows


def label_files(
    weights: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    format: str = "coco",
    score: float = 0.5,
) -> Labeled:
    """Write the detections above ``score`` as labels, in a form that can be trained on; print one line.

    An image in which nothing was found is among them, without boxes. ``review.csv`` beside the labels ranks the images
    by how unsure they are (``ssod.review``). Boxes with a side of one pixel or less are left
    out, as they are in training.

    Args:
        weights: model file or run folder.
        images: an image, a folder (searched recursively), a glob or a .txt list.
        out: a new folder; for COCO also a ``.json`` file.
        format: ``coco``, ``yolo`` or ``voc``; see ``ssod.label_files``.
        score: keep boxes above this score.

    Returns:
        What was written.

    Raises:
        SsodError: weights or images that cannot be read, an ``out`` that exists, a disk that refuses.
    """
    found = find_images(images)
    target = writers.prepare(format, Path(out), found)
    model = load(weights, pick_device("auto"))
    ids = _image_ids(found.paths)
    kept, sizes, parts, bad, doubts = [], [], [], [], []
    for i, picture, detected in look_through(model, found, review.SHARE * score, bad):
        doubts.append(review.doubt(found.paths[i], detected.scores.numpy(), score))
        detected = detected[detected.scores > score]
        side = (detected.boxes[:, 2:] - detected.boxes[:, :2]).amin(1)
        kept.append(i)
        sizes.append(picture.size[::-1])
        parts.append(detected[side > MIN_SIDE + 0.01])
    data = Labeled(
        images=Images(found.root, [found.paths[i] for i in kept], [ids[i] for i in kept], np.array(sizes, np.int32)),
        classes=model.classes,
        boxes=torch.cat([t.boxes for t in parts]).numpy(),
        labels=torch.cat([t.labels for t in parts]).numpy(),
        crowd=np.zeros(sum(map(len, parts)), bool),
        difficult=np.zeros(sum(map(len, parts)), bool),
        starts=np.cumsum([0, *map(len, parts)]).astype(np.int64),
    )
    source = writers.write(format, target, data, torch.cat([t.scores for t in parts]).numpy())
    ranking = review.place(target)
    review.write(ranking, doubts)
    told = f"{writers.summary(data)} above {score:g}{_told(bad)}; to look at first: {ranking}"
    print(f"{told}; data.labeled: {source}")
    return data


def find_images(images: str | os.PathLike) -> Images:
    """Return the images that a command's argument names: one file, a folder, a glob or a .txt list."""
    path = Path(images)
    if path.is_file() and path.suffix.lower() != ".txt":
        return Images(str(path.parent), [path.name], [path.name])
    return read_folder(os.path.abspath(images), None, Context(section="images"))


def look_through(
    model: Model, images: Images, score: float | None, bad: list[SsodError]
) -> Iterator[tuple[int, Image.Image, Detected]]:
    """Yield (number, picture, detections) of every readable image, in order; reading goes on while the device works.

    Unreadable files among many are noted in ``bad``; when they are as many as training would not bear, or the only
    one, the first is raised. Links may lead out of the folder: it was named on the command line.
    """
    read = Reader(allow_symlinks=True)

    def prepare(i: int) -> tuple[Image.Image, Sample] | SsodError:
        try:
            picture = read(images, i)
        except SsodError as error:
            return error
        return picture, model.view(picture)

    chunks = [range(i, min(i + BATCH, len(images))) for i in range(0, len(images), BATCH)]
    with ThreadPoolExecutor(_READERS) as pool:
        coming = [pool.submit(prepare, i) for i in chunks[0]]
        for k, chunk in _progress(list(enumerate(chunks))):
            ready = [future.result() for future in coming]
            coming = [pool.submit(prepare, i) for i in chunks[k + 1]] if k + 1 < len(chunks) else []
            bad += [item for item in ready if isinstance(item, SsodError)]
            if len(bad) > allowed_bad(len(images)):
                raise too_many(bad, len(images)) if len(images) > 1 else bad[0]
            good = [(i, item) for i, item in zip(chunk, ready) if not isinstance(item, SsodError)]
            detected = model.detect([s for _, (_, s) in good], [p.size for _, (p, _) in good], score)
            yield from ((i, picture, d) for (i, (picture, _)), d in zip(good, detected))


def _progress(items: list[Any]) -> Iterator[Any]:
    console = Console(stderr=True)
    yield from track(items, "images", console=console, transient=True, disable=not console.is_terminal)


def _image_ids(paths: Sequence[str]) -> list[int]:
    """Return COCO image ids; see ``predict_files``."""
    stems = [Path(path).stem for path in paths]
    if all(stem.isascii() and stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(paths) + 1))


def _picture_name(path: str) -> str:
    return path if path.lower().endswith((".jpg", ".jpeg", ".png")) else f"{path}.png"


def _save(picture: Image.Image, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, quality=92) if target.suffix.lower() != ".png" else picture.save(target)
    except OSError as error:
        raise atomic.refused(target, error) from None


def _rows(found: Detected, image: int, path: str, classes: Classes) -> list[dict[str, Any]]:
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


def _told(bad: Sequence[SsodError]) -> str:
    return f"; {len(bad)} unreadable left out, first {bad[0].line()}" if bad else ""
