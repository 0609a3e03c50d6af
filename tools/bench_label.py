"""How much slower than its detector `ssod label` or `ssod predict` is, and how its memory grows with the images.

    python -m tools.bench_label --images 2000 --size 64 [--command predict]

A folder has ``--images`` hard links to a few JPEGs, which are shown at half their size; a small random detector labels
them, as COCO, or predicts on them. After each batch the same thread does what the least program would do for one, the
**bare** look: the same detector on such views, made before the clock starts, and its detections. So both meet the
machine as it is at that moment.

Seconds are those of the thread that feeds the detector (``time.thread_time``), of each image beyond the first tenth:
what is done once, as loading the weights, is left out, and writing the labels counts. Threads read images and draw
pictures beside it; what these computed is told for itself. Memory is the most that the process had in its own pages,
after that tenth and after all.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from ssod.data.formats.image import MAX_PIXELS
from ssod.data.loading.loader import collate
from ssod.data.loading.reader import Reader
from ssod.data.synthetic import write_shapes
from ssod.inference.graph_content import DIVISOR
from ssod.inference.label import label_files
from ssod.inference.model import BATCH, Model, load
from ssod.inference.predict import find_images, predict_files
from ssod.structures import View
from ssod.utils import model_file
from tools.export_parity import random_model
from tools.options import count

PICTURES = 8
SCORE = 0.5
Command = Callable[..., object]
COMMANDS: dict[str, Command] = {"label": label_files, "predict": predict_files}


@dataclass
class Result:
    """What one image costs.

    Attributes:
        command, bare: seconds of the main thread, medians of the rounds.
        beside: seconds of the threads that read and draw.
        grown: bytes that the peak of the memory rose by, with all images after a tenth of them, for each of the others.
    """

    command: float
    bare: float
    beside: float
    grown: float

    @property
    def ratio(self) -> float:
        """The command over bare."""
        return self.command / self.bare


class Clock:
    """Looks at a view after each batch of a command, and knows what either took.

    Args:
        model, view: of the bare look.
        start: batches after which the clock starts.
    """

    def __init__(self, model: Model, view: View, start: int) -> None:
        self.model, self.view, self.start = model, view, start
        self.batches, self.bare = 0, 0.0

    def after(self) -> None:
        """Take a bare look; call it after each batch."""
        begin = time.thread_time()
        forward(self.model, self.view)
        end = time.thread_time()
        self.batches += 1
        if self.batches == self.start:
            self.began, self.whole, self.peak = end, time.process_time(), peak()
        elif self.batches > self.start:
            self.bare += end - begin

    def result(self) -> Result:
        """Return what an image cost since the clock started."""
        own, whole = time.thread_time() - self.began, time.process_time() - self.whole
        images = (self.batches - self.start) * BATCH
        parts = own - self.bare, self.bare, whole - own, peak() - self.peak
        return Result(*(part / images for part in parts))


def bench(folder: Path, images: int, size: int, rounds: int, detector: str, run: Command) -> Result:
    """Measure in ``folder``, which is empty; return the medians of the rounds."""
    weights = weights_in(folder, detector, size)
    root = write_shapes(folder / "set", train=PICTURES, val=1, size=2 * size)
    linked = links(folder / "all", root / "train", images)
    model = load(weights)
    view, results = prepared(model, linked), []
    for number in range(rounds):
        clock = Clock(model, view, images // BATCH // 10)
        with clocked(clock), contextlib.redirect_stdout(io.StringIO()):
            run(weights, linked, folder / f"out{number}", score=SCORE)
        results.append(clock.result())
    *costs, _ = (median(each) for each in zip(*map(astuple, results)))
    return Result(*costs, results[0].grown)  # later rounds have the memory of the first


@contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Have commands take a bare look after each batch."""
    look = Model.look

    def and_bare(self: Model, *args: Any) -> Any:
        found = look(self, *args)
        clock.after()
        return found

    with patch.object(Model, "look", and_bare):
        yield


def weights_in(folder: Path, detector: str, size: int) -> Path:
    """Write a small random detector, to which images are shown ``size`` pixels high."""
    model = random_model(detector)
    path = folder / "best.safetensors"
    model_file.save(path, model.detector.state_dict(), {**model.card, "val_view": [{"resize": {"short": size}}]})
    return path


def links(folder: Path, source: Path, images: int) -> Path:
    """Make a folder of ``images`` links to the pictures of another."""
    folder.mkdir()
    pictures = sorted(source.iterdir())
    for number in range(images):
        picture = pictures[number % len(pictures)]
        os.link(picture, folder / f"{number:07}{picture.suffix}")
    return folder


def prepared(model: Model, folder: Path) -> View:
    """Return one batch as the detector gets it."""
    found, read = find_images(folder), Reader(MAX_PIXELS, allow_symlinks=True, pixels=model.pixels)
    samples = [model.prepare(read(found, i)) for i in range(BATCH)]
    return collate(samples, list(range(BATCH)), DIVISOR)


@torch.no_grad()
def forward(model: Model, view: View) -> None:
    """Look at a batch."""
    model.detector.predict(view).detections(SCORE / 2)


def peak() -> int:
    """Return the most bytes that the process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(argv: list[str] | None = None) -> Result:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=count, default=2000)
    parser.add_argument("--size", type=count, default=64, help="height and width of the views")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--detector", default="retinanet", choices=["retinanet", "fcos", "faster_rcnn"])
    parser.add_argument("--command", default="label", choices=list(COMMANDS))
    args = parser.parse_args(argv)
    if args.images < 10 * BATCH:
        parser.error(f"--images must be {10 * BATCH} or more")
    args.images -= args.images % BATCH  # whole batches
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = bench(Path(folder), args.images, args.size, args.rounds, args.detector, COMMANDS[args.command])
    print(f"{args.images} views of {args.size} x {args.size} px, {args.detector}, {args.rounds} rounds, one thread")
    one = f"{1000 * found.command:.2f} ms an image, {1 / found.command:.0f} a second"
    print(f"{args.command:8} {one}, of the thread of the detector")
    print(f"bare     {1000 * found.bare:.2f} ms an image, {1 / found.bare:.0f} a second")
    print(f"ratio    {found.ratio:.2f}")
    print(f"beside   {1000 * found.beside:.2f} ms an image, of threads that read and draw")
    print(f"memory   {found.grown:.0f} bytes an image")
    return found


if __name__ == "__main__":
    main()
