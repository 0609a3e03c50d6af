"""A large folder labelled in parts, one of which is killed and started again; and the memory of `label` and `predict`.

    python -m tools.bench_shards --images 20000 --shards 4
    python -m tools.bench_shards --images 20000 --memory

One folder has ``--images`` hard links to a few small JPEGs; a small random detector looks at them. Each part is a
process of ``ssod label --shard``, all at the same time. The second is killed (SIGKILL) when it has worked for
``--kill-after`` seconds; it has written nothing by then, and is started again. ``ssod merge`` joins the parts. A gap is
an image of the folder that the joined file lacks, a double one that it has twice.

With ``--memory`` the commands look at a tenth of the images, and at all. Memory is the most that a process had in its
own pages (``ru_maxrss`` of ``wait4``).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ssod.inference.export_parity import texture
from ssod.utils import model_file
from tools.export_parity import random_model
from tools.options import count

PICTURES = 8
SIDE = 32  # pixels
SCORE = "0.1"  # that the random detector gives some boxes
MB = 1 / 1e6 if sys.platform == "darwin" else 1024 / 1e6  # of what getrusage counts in


@dataclass(frozen=True)
class Joined:
    """What became of the parts.

    Attributes:
        images: in the joined file.
        gaps: images of the folder that it lacks.
        doubles: entries of images that it has already.
        seconds: from the first start to the joined file.
        memory: MB, the peak of the part that had most.
    """

    images: int
    gaps: int
    doubles: int
    seconds: float
    memory: float


def shards(folder: Path, images: int, parts: int, kill_after: float) -> Joined:
    """Label in parts in ``folder``, which is empty, and join them."""
    weights, photos = prepare(folder, {"photos": images})
    outs = [folder / f"part{number}" for number in range(1, parts + 1)]
    begin = time.monotonic()
    running = [label(weights, photos[0], out, f"{n}/{parts}") for n, out in enumerate(outs, 1)]
    victim = running[min(1, parts - 1)]
    outs_of = dict(zip(running, outs))
    while not any(outs_of[victim].glob(".tmp-ssod-*")):  # it loads its weights
        if victim.poll() is not None:
            raise SystemExit("the part to be killed ended by itself")
        time.sleep(0.1)
    time.sleep(kill_after)
    victim.send_signal(signal.SIGKILL)
    if ended(victim)[0] != -signal.SIGKILL:
        raise SystemExit("the part to be killed had ended: give more images, or fewer seconds")
    left = sorted(path.name for path in outs_of[victim].iterdir())
    print(f"killed after {kill_after:g} s of work; its folder holds {left}", flush=True)
    again = label(weights, photos[0], outs_of[victim], f"{running.index(victim) + 1}/{parts}")
    memory = max(finished(process) for process in [*(p for p in running if p is not victim), again])
    joined = folder / "all.json"
    finished(command("merge", *(str(out / "instances.json") for out in outs), "-o", str(joined)))
    seconds = time.monotonic() - begin
    names = Counter(Path(row["file_name"]).name for row in json.loads(joined.read_text())["images"])
    gaps = {path.name for path in photos[0].iterdir()} - names.keys()
    return Joined(len(names), len(gaps), sum(names.values()) - len(names), seconds, memory)


def memory(folder: Path, images: int) -> dict[str, tuple[float, float]]:
    """Return the peaks of ``label`` and ``predict``, MB, over a tenth of the images and over all."""
    weights, (few, every) = prepare(folder, {"few": images // 10, "all": images})
    names = ("label", "predict")
    begun = {name: [look(name, weights, of, folder / f"{name}-{of.name}") for of in (few, every)] for name in names}
    return {name: (finished(first), finished(second)) for name, (first, second) in begun.items()}


def prepare(folder: Path, sets: dict[str, int]) -> tuple[Path, list[Path]]:
    """Write a model file, and folders of so many links to a few pictures."""
    model = random_model("retinanet", levels=(4, 5), channels=16)
    weights = folder / "best.safetensors"
    model_file.save(weights, model.detector.state_dict(), {**model.card, "val_view": []})
    draw = torch.Generator().manual_seed(5)
    pictures = [folder / f"{number}.jpg" for number in range(PICTURES)]
    for path in pictures:
        pixels = ((texture(SIDE, SIDE, draw) - 0.5) * 3 + 0.5).clamp(0, 1) * 255
        Image.fromarray(pixels.byte().permute(1, 2, 0).numpy()).save(path)
    made = [folder / name for name in sets]
    for place, many in zip(made, sets.values()):
        place.mkdir()
        for number in range(many):
            os.link(pictures[number % PICTURES], place / f"{number:07}.jpg")
    return weights, made


def label(weights: Path, images: Path, out: Path, part: str) -> subprocess.Popen:
    """Begin to label a part."""
    return look("label", weights, images, out, "--shard", part)


def look(name: str, weights: Path, images: Path, out: Path, *more: str) -> subprocess.Popen:
    """Begin ``ssod label`` or ``ssod predict``."""
    return command(name, str(weights), str(images), "-o", str(out), "--score", SCORE, *more)


def command(*words: str) -> subprocess.Popen:
    """Begin a command in a session of its own, as a cluster does; it prints here what goes wrong alone."""
    words = (sys.executable, "-m", "ssod", *words)
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)


def ended(process: subprocess.Popen) -> tuple[int, float]:
    """Wait for the end of a process; return its code, and the peak of its memory in MB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * MB


def finished(process: subprocess.Popen) -> float:
    """Wait for the good end of a process; return the peak of its memory in MB."""
    code, peak = ended(process)
    if code:
        raise SystemExit(f"{' '.join(map(str, process.args))} ended with {code}")
    return peak


def main(argv: Sequence[str] | None = None) -> Joined | dict[str, tuple[float, float]]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=count, default=20000)
    parser.add_argument("--shards", type=count, default=4)
    parser.add_argument("--kill-after", type=float, default=3.0, help="seconds")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        if args.memory:
            peaks = memory(Path(name), args.images)
            for what, (few, every) in peaks.items():
                print(f"{what}: {few:.0f} MB over {args.images // 10} images, {every:.0f} MB over {args.images}")
            return peaks
        found = shards(Path(name), args.images, args.shards, args.kill_after)
    print(f"{found.images} images in {args.shards} parts, one of them killed and started again: {found.seconds:.0f} s,")
    print(f"{found.memory:.0f} MB at most in a part, gaps {found.gaps}, doubles {found.doubles}")
    return found


if __name__ == "__main__":
    main()
