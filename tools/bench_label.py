"""How much slower than its detector `ssod label` or `ssod predict` is, and how its memory grows with the images.

    python -m tools.bench_label --images 2000 --size 64 [--command predict]

One folder has ``--images`` hard links to a few JPEGs; a small random detector labels them, as COCO, or predicts on
them. **Bare** is what the least program would do: the same detector on the same views in the same batches, made before
the clock starts, and its detections. Both alternate in one process.

Seconds are those of the thread that feeds the detector (``time.thread_time``), of each image beyond the first tenth:
what is done once, as loading the weights, is left out. Threads read images and draw pictures beside it; what these
computed is told for itself. Memory is the most that the process had in its own pages, after that tenth and after all.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ssod.data.formats.image import MAX_PIXELS
from ssod.data.loading.loader import collate
from ssod.data.loading.reader import Reader
from ssod.data.synthetic import write_shapes
from ssod.inference.label import label_files
from ssod.inference.model import BATCH, DIVISOR, Model, load
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


def bench(folder: Path, images: int, size: int, rounds: int, detector: str, run: Command) -> Result:
    """Measure in ``folder``, which is empty."""
    weights = weights_in(folder, detector)
    root = write_shapes(folder / "set", train=PICTURES, val=1, size=size)
    few, all_of_them = (
        links(folder / name, root / "train", many) for name, many in (("few", images // 10), ("all", images))
    )
    model = load(weights)
    views = prepared(model, few)
    quietly(run, weights, few, folder / "first")
    before = peak()
    times, more = [], images - images // 10
    for number in range(rounds):
        once, other = timed(lambda n=number: quietly(run, weights, few, folder / f"few{n}"))
        seconds, others = timed(lambda n=number: quietly(run, weights, all_of_them, folder / f"all{n}"))
        bare, _ = timed(lambda: forward(model, views, more))
        times.append((seconds - once, bare, others - other))
    command, bare, beside = (median(each) / more for each in zip(*times))
    return Result(command, bare, beside, (peak() - before) / more)


def weights_in(folder: Path, detector: str) -> Path:
    """Write a small random detector."""
    model = random_model(detector)
    path = folder / "best.safetensors"
    model_file.save(path, model.detector.state_dict(), model.card)
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


def quietly(run: Command, weights: Path, images: Path, out: Path) -> None:
    """Run a command on a folder, without its words."""
    with contextlib.redirect_stdout(io.StringIO()):
        run(weights, images, out, score=SCORE)


@torch.no_grad()
def forward(model: Model, view: View, images: int) -> None:
    """Look at as many images, a batch after the other."""
    for _ in range(-(-images // BATCH)):
        model.detector.predict(view).detections(SCORE / 2)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that this thread computed, and those of the others."""
    own, whole = time.thread_time(), time.process_time()
    work()
    own, whole = time.thread_time() - own, time.process_time() - whole
    return own, whole - own


def peak() -> int:
    """Return the most bytes that the process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(argv: list[str] | None = None) -> Result:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=count, default=2000)
    parser.add_argument("--size", type=count, default=64, help="height and width of the images")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--detector", default="retinanet", choices=["retinanet", "fcos", "faster_rcnn"])
    parser.add_argument("--command", default="label", choices=list(COMMANDS))
    args = parser.parse_args(argv)
    if args.images < 10 * BATCH:
        parser.error(f"--images must be {10 * BATCH} or more")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = bench(Path(folder), args.images, args.size, args.rounds, args.detector, COMMANDS[args.command])
    print(f"{args.images} images of {args.size} x {args.size} px, {args.detector}, {args.rounds} rounds, one thread")
    one = f"{1000 * found.command:.2f} ms an image, {1 / found.command:.0f} a second"
    print(f"{args.command:8} {one}, of the thread of the detector")
    print(f"bare     {1000 * found.bare:.2f} ms an image, {1 / found.bare:.0f} a second")
    print(f"ratio    {found.ratio:.2f}")
    print(f"beside   {1000 * found.beside:.2f} ms an image, of threads that read and draw")
    print(f"memory   {found.grown:.0f} bytes an image")
    return found


if __name__ == "__main__":
    main()
