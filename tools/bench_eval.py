"""CPU seconds and memory of COCO's evaluation in columns, against pycocotools, on a set of COCO's size.

python -m tools.bench_eval [--images 5000] [--detections 100] [--classes 80] [--alone]

Each is measured in a process of its own, on the same boxes: ``ours`` from columns to COCO's numbers, and to the table
of matches as well, which the report and the intervals are made of; ``pycocotools`` from a list of results to the same
numbers. Seconds are those of the processor, so that a machine which others use as well does not matter; memory is the
highest that the process ever had, imports and the set included. The numbers are compared, to the last bit.

``--alone`` leaves pycocotools out, which takes a minute or more for a set of COCO's size, and a gigabyte.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

from ssod.evaluation.coco import NAMES, coco_metrics
from ssod.evaluation.columns import Found, Truth
from ssod.evaluation.matching import match

SIDE = 640.0  # of an image, in pixels
TRUE = 7.3  # boxes of an image, on average, as in COCO's val2017
MANY = 0.4  # share of the detections that lie near a box of their class


def scene(images: int, detections: int, classes: int, seed: int = 0) -> tuple[Truth, Found]:
    """Return a truth whose few common classes have most of the boxes, and detections near some boxes and elsewhere."""
    rng = np.random.default_rng(seed)
    counts = rng.geometric(1 / (1 + TRUE), images) - 1
    share = 1 / np.arange(1, classes + 1)
    image, label = np.repeat(np.arange(images), counts), rng.choice(classes, counts.sum(), p=share / share.sum())
    boxes = _boxes(rng, len(image))
    annotations = [
        {"id": i, "image_id": n, "category_id": k, "bbox": box, "area": 0.6 * box[2] * box[3], "iscrowd": crowd}
        for i, (n, k, box, crowd) in enumerate(
            zip(image.tolist(), label.tolist(), boxes.tolist(), (rng.random(len(image)) < 0.01).astype(int).tolist()), 1
        )
    ]
    truth = {
        "images": [{"id": n, "width": int(SIDE), "height": int(SIDE)} for n in range(images)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(classes)],
    }
    total = images * detections
    near = rng.random(total) < MANY * (len(image) > 0)
    of = rng.integers(0, max(len(image), 1), total)
    found_image, found_label = np.repeat(np.arange(images), detections), rng.integers(0, classes, total)
    found_boxes = _boxes(rng, total)
    found_image[near], found_label[near] = image[of[near]], label[of[near]]
    found_boxes[near] = boxes[of[near]] * rng.normal(1, 0.1, (near.sum(), 4)).clip(0.5, 1.5)
    scores = rng.beta(1, 6, total) + near * rng.beta(1, 3, total)
    return truth, Found(list(range(images)), found_image, found_label, found_boxes, scores.clip(0.001, 1))


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return [count, 4] ``x, y, w, h`` inside an image, half of them small."""
    sides = np.exp(rng.uniform(np.log(8), np.log(SIDE / 2), (count, 2)))
    return np.concatenate([rng.random((count, 2)) * (SIDE - sides), sides], 1)


def pycocotools(truth: Truth, results: list[dict]) -> dict[str, float]:
    """Return COCO's twelve numbers by pycocotools itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    tables = [COCO(), COCO()]
    areas = [{"id": i, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0, **r} for i, r in enumerate(results, 1)]
    for table, rows in zip(tables, (truth["annotations"], areas)):
        table.dataset = {**truth, "annotations": rows}
        table.createIndex()
    run = COCOeval(*tables, "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return dict(zip(NAMES, map(float, run.stats)))


def measured(which: str, images: int, detections: int, classes: int) -> dict[str, Any]:
    """Return CPU seconds of each part, the highest memory in MB, and the twelve numbers, of this process."""
    truth, found = scene(images, detections, classes)
    work: dict[str, Callable[[], Any]] = {"metrics": lambda: coco_metrics(truth, found)}
    work["matches"] = lambda: match(truth, found, "coco")
    if which == "pycocotools":
        columns = (found.image, found.label, found.boxes, found.scores)
        keys = ("image_id", "category_id", "bbox", "score")
        results = [dict(zip(keys, row)) for row in zip(*(column.tolist() for column in columns))]
        work = {"metrics": lambda: pycocotools(truth, results)}
    seconds, numbers = {}, {}
    for name, call in work.items():
        begin = time.process_time()
        result = call()
        seconds[name] = time.process_time() - begin
        numbers = numbers or {name: result[name] for name in NAMES}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return {"seconds": seconds, "peak": peak, "numbers": numbers}


def main(
    images: Annotated[int, typer.Option(min=1, help="Images.")] = 5000,
    detections: Annotated[int, typer.Option(min=1, help="Detections of each image, on average.")] = 100,
    classes: Annotated[int, typer.Option(min=1, help="Classes.")] = 80,
    alone: Annotated[bool, typer.Option("--alone", help="Leave pycocotools out.")] = False,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print seconds, memory and their ratio."""
    if only is not None:
        sys.stdout = sys.stderr  # pycocotools talks
        found = measured(only, images, detections, classes)
        print(json.dumps(found), file=sys.__stdout__)
        return
    sizes = [f"--images={images}", f"--detections={detections}", f"--classes={classes}"]
    told = {}
    for which in ("ours",) if alone else ("ours", "pycocotools"):
        words = [sys.executable, "-m", "tools.bench_eval", *sizes, f"--only={which}"]
        told[which] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    typer.echo(f"{images} images, {images * detections} detections, {classes} classes")
    for which, found in told.items():
        parts = "   ".join(f"{name} {seconds:7.2f} s" for name, seconds in found["seconds"].items())
        typer.echo(f"{which:12} {found['peak']:6.0f} MB   {parts}")
    if alone:
        return
    ratio = told["pycocotools"]["seconds"]["metrics"] / told["ours"]["seconds"]["metrics"]
    same = told["pycocotools"]["numbers"] == told["ours"]["numbers"]
    typer.echo(f"{'ratio':12} {ratio:6.1f}      the twelve numbers are {'equal' if same else 'NOT EQUAL'}")


if __name__ == "__main__":
    typer.run(main)
