"""Pseudo-labels of a trained teacher to files, in a form that can be trained on or corrected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssod.data.formats.image import MAX_PIXELS, Alpha
from ssod.data.formats.records import Images, Labeled
from ssod.inference import label_limits, label_parts, labelled, next_images, output_dir, predict, review_queue
from ssod.inference import label_writers as writers
from ssod.inference.graph import check_floor
from ssod.inference.label_limits import Limits
from ssod.inference.label_parts import Values, Written
from ssod.inference.label_store import LabelStore
from ssod.inference.model import BATCH, Model, check_score
from ssod.inference.next_images import Chosen
from ssod.inference.picture_files import drawing, picture_name
from ssod.inference.shard import read_shard
from ssod.inference.stream import WORKERS
from ssod.transforms.transform import MIN_SIDE
from ssod.utils.distributed import Device
from ssod.utils.errors import SsodError
from ssod.utils.progress import screen


@dataclass(frozen=True)
class WrittenLabels:
    """Labels that were written.

    Attributes:
        out: the folder or file.
        format: as it was asked for.
        images: how many are among the labels, those without a box included.
        boxes: how many there are.
        unreadable: images that were left out because they cannot be read.
        review: the table that ranks the images by how unsure they are.
        next, audit: the images to label next, and the sample to check, in the same format; None = not asked for.
        labels: the labels themselves; boxes and classes are read from the disk when they are looked at.
    """

    out: Path
    format: str
    images: int
    boxes: int
    unreadable: int
    review: Path
    next: Path | None
    audit: Path | None
    labels: Labeled = field(repr=False)


def label_files(
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
    """Write detections as labels, in a form that can be trained on or corrected, and print what was written.

    An image in which nothing was found is among them, without boxes. ``review.csv`` beside the labels ranks the images
    by how unsure they are (``ssod.inference.review_queue``). Boxes with a side of one pixel or less are left
    out, as they are in training. Memory holds some batches of images, and of the others a few numbers beside the path.

    Args:
        weights: model file, run folder, or exported graph.
        images: an image, a folder (searched recursively), a glob or a .txt list.
        out: a new folder; for COCO also a ``.json`` file, and the folder may hold other files.
        format: ``coco``, ``yolo``, ``voc``, ``labelstudio`` or ``cvat``.
        score: keep boxes above this score, 0..1; None = 0.5, or as ``precision`` asks.
        precision: keep the boxes of a class from the score on from which this share of them was right on the run's own
            val images; a class without such a score is left out, and told (``ssod.evaluation.cutoffs``).
        next: so many images to label next, which most is to be learnt from (``ssod.inference.next_images``), with
            pictures, in a folder beside the labels; 0 = none.
        audit: so many images of a random sample, whose labels to check (``ssod audit``), likewise; 0 = none. ``next``
            chooses others.
        labeled: sets that are labelled already, as the run's own images are: neither of the two takes them.
        levels, alpha, max_pixels: how pixels are read, as in ``ssod.predict``.
        workers: threads that read images, and as many that draw pictures; 0 = none.
        batch: images that the detector looks at together.
        device: where it runs; ``auto`` takes a GPU where there is one.
        shard: one part of the images alone, ``3/8``; ``ssod merge`` joins what the processes of all parts wrote. None =
            all.

    Returns:
        What was written, and where.

    Raises:
        SsodError: weights or images that cannot be read, an ``out`` that exists or, where images are linked there,
            lies among them, a disk that refuses; a precision that no class reaches, or that nothing tells of; a part
            that there is not; a sample of all images that leaves none to label next.
    """
    _check_options(score, precision, next, audit, shard)
    part = None if shard is None else read_shard(shard)
    parts = labelled.parts(Path(weights), next=next, audit=audit, labeled=labeled)
    found = predict.find_images(images)
    found = found if part is None else part.part(found)
    target = writers.prepare(format, Path(out), images, found, parts.names)
    if parts.next:
        output_dir.refuse_shared(found, picture_name, "picture", "rename one")
    free = label_parts.unlabelled(found, parts.labelled) if parts.names else []
    label_parts.check_enough(len(free), parts)
    model = predict.model_for(weights, found, levels, alpha, device)
    limits = _limits(weights, model, score, precision)
    bad: list[SsodError] = []
    look = _Look(model, limits, max_pixels, workers, batch)
    with screen(), writers.staged(target) as stage:
        disk = stage.parent if target.suffix == ".json" else stage
        store = LabelStore(disk)
        values = Values(limits, model.classes.names, parts.counts, disk) if parts.next else None
        look.through(found, bad, store, values)
        written, left = store.read(found, model.classes), store.rows(free)
        writers.write(format, stage, written.data, written.scores, written.doubts)
        audit, others = label_parts.drawn(left, parts)
        if values is not None:
            _write_next(format, writers.part(stage, "next"), written, values.choose(others, parts.next), look)
        if parts.audit:
            _write_part(format, writers.part(stage, "audit"), written.subset(audit))
    places = {name: writers.part(target, name) for name in parts.names}
    message = f"{writers.summary(written.data)} {limits.words}{predict.unreadable(bad)}"
    review = review_queue.place(target)
    print(f"{message}; to look at first: {review}; {writers.source(format, target, written.data.images)}")
    for name, place in places.items():
        print(label_parts.told(name, place, parts, len(left)))
    if not len(written.data.boxes):
        print(_advice(written.doubts, limits))
    counts = {"images": len(written.data), "boxes": len(written.data.boxes), "unreadable": len(bad)}
    where = {"review": review, "next": places.get("next"), "audit": places.get("audit")}
    return WrittenLabels(target, format, **counts, **where, labels=written.data)


def _check_options(score: float | None, precision: float | None, next: int, audit: int, shard: str | None) -> None:
    """Refuse options that say nothing together, before a file is opened."""
    check_score(score)
    if score is not None and precision is not None:
        raise SsodError("command line", "--precision", "stands beside --score", "give one of the two")
    if shard is not None and (next or audit):
        problem = f"stands beside --{'next' if next else 'audit'}, which chooses among all images"
        raise SsodError("command line", "--shard", problem, "leave one of the two out")


def _limits(weights: str | os.PathLike, model: Model, score: float | None, precision: float | None) -> Limits:
    """Return the scores from which a detection is a label, and print what is said of them."""
    if precision is not None:
        limits = label_limits.of_precision(weights, model.classes.names, precision)
    else:
        limits = label_limits.of_score(label_limits.SCORE if score is None else score, len(model.classes))
    check_floor(Path(weights), float(limits.above.min()), float(np.float32(model.detector.floor)))
    for line in limits.lines:
        print(line)
    return limits


def _write_next(format: str, place: Path, written: Written, chosen: Sequence[Chosen], look: _Look) -> None:
    """Write the images to label next: what is found in them, why they were chosen, and pictures."""
    part = written.subset([one.place for one in chosen])
    _write_part(format, place, part)
    folder = place.parent if place.suffix == ".json" else place
    next_images.write(folder / "next.csv", chosen, written.data.images.paths)
    look.draw(part.data.images, folder / "pictures")


def _write_part(format: str, place: Path, part: Written) -> None:
    writers.write(format, place, part.data, part.scores, part.doubts)


def _advice(doubts: review_queue.Doubts, limits: Limits) -> str:
    if limits.option == "--precision":
        return "no label: no box scores as high as its class must; lower --precision, or train the model longer"
    return review_queue.advice(doubts, float(limits.near[0]))


class _Look:
    """Looks through images for labels.

    Args:
        model: what looks.
        limits: of the labels.
        how: ``max_pixels``, ``workers`` and ``batch`` of ``stream.look_through``.
    """

    def __init__(self, model: Model, limits: Limits, *how: int) -> None:
        self.model, self.limits, self.how = model, limits, how
        wanted = review_queue.SHARE * float(limits.near.min())
        self.lowest = max(wanted, model.detector.floor)
        if self.lowest > wanted:
            print(f"doubts are told by boxes from {self.lowest:g} on, which the graph begins at, not from {wanted:.2g}")

    def through(self, found: Images, bad: list[SsodError], store: LabelStore, values: Values | None) -> None:
        """Add the detections above their limits to ``store``; ``values`` takes note of each image, too."""
        near, above = self.limits.near, self.limits.above
        for i, picture, detected in predict.look_through(self.model, found, self.lowest, bad, *self.how):
            boxes, labels, scores = detected.boxes.numpy(), detected.labels.numpy(), detected.scores.numpy()
            chosen = scores > above[labels]
            doubt = review_queue.doubt(found.paths[i], scores, near[labels], chosen)
            if values is not None:
                values.see(picture, detected)
            chosen &= (boxes[:, 2:] - boxes[:, :2]).min(1) > MIN_SIDE + 0.01
            store.add(i, picture.size, doubt, boxes=boxes[chosen], labels=labels[chosen], scores=scores[chosen])

    def draw(self, images: Images, folder: Path) -> None:
        """Write pictures of ``images`` with all boxes that were judged, labels or not."""
        _, workers, _ = self.how
        with drawing(folder, self.model.classes.names, workers) as draw:
            for i, picture, detected in predict.look_through(self.model, images, self.lowest, [], *self.how):
                draw(images.paths[i], picture, detected)
