"""Where the time of a training step goes, and how much of it is the method's and the loop's own.

    python -m tools.bench_step --detector retinanet --size 320 --batch 2
    python -m tools.bench_step --config my.yaml train.accumulate=4

**The whole step** is ``Stepper.train_step`` as ``ssod train`` runs it, at a learning rate of 0: batch to the device,
student and teacher, pseudo-labels, losses, backward, clipping, the test that everything is finite, optimiser, EMA.

**The bare step** takes the very looks that the whole step before it took, and no more (``tools/looks.py``): each
forward pass of a student with gradient, on the same pixels, with the detector's own losses on the boxes that the whole
step had for them, and backward; each forward pass of a teacher, without gradient; of two stages with the proposals and
the boxes that were asked about. So mirror images, copies at half the size and mixed pictures count in both, and the
line ``looks`` says how many there are. No detections, no making of labels or views, no transfer of boxes, no clipping,
guard, optimiser or EMA.

Whole and bare steps alternate in one process; the ratio is that of their medians. CUDA is synchronised before each
reading of the clock. There the phases are measured in rounds of their own, because the readings hinder the step. On a
CPU that others use as well, ``--cpu-time`` counts the seconds that this process computed instead of those that passed.

Without ``--config`` the detector is RetinaNet, or the first other that the method takes, which the title says; with
what the method's recipe asks of it, where the method refuses a plain one. Images are noise, labelled boxes are random
and weights are untrained; an untrained detector would keep no pseudo-box, so its thresholds are set such that
``--candidates`` (prior, class) pairs of an image enter suppression and ``--boxes`` pseudo-boxes of an image are kept,
on average, and as many are in doubt where the method asks for some. Sizes of MixPL's mosaics are scaled to the images.
With a config the batches are those of its loader, and its detector and sizes are its own; the rest is the same.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median

from rich.console import Console
from rich.table import Table

from ssod import build as composition
from ssod import config
from ssod.commands.dry_run import now, rehearsal
from ssod.engine.batch import send
from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.methods.base import Method
from ssod.structures import Batch
from ssod.utils.errors import SsodError
from tools.fitted import fitted
from tools.looks import Look, Looks
from tools.options import count, cpu_time, size
from tools.stopwatch import Clock, Stopwatch, watched
from tools.synthetic import Remember, calibrate, first_step, noise


@dataclass
class Result:
    """Seconds, medians over the rounds.

    Attributes:
        whole, bare: of a step.
        phases: of the whole step, by name.
        boxes: pseudo-boxes per image.
        looks: those of the last step, in words.
        rounds: (whole, bare) of each.
    """

    whole: float
    bare: float
    phases: dict[str, float]
    boxes: float
    looks: str = ""
    rounds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Whole over bare."""
        return self.whole / self.bare


def bench(
    stepper: Stepper, stream: Remember, *, rounds: int, candidates: int, boxes: float, cpu_time: bool = False
) -> Result:
    """Time ``rounds`` whole and as many bare steps, turn by turn, after one of each."""
    method, cfg, device = stepper.method, stepper.cfg, stepper.device
    clock: Clock = time.process_time if cpu_time else partial(now, device)
    first = [next(stream) for _ in range(cfg.accumulate)]
    if method.uses_unlabeled:
        calibrate(method, [send(b, device, channels_last=cfg.channels_last) for b in first], candidates, boxes)
    looks = Looks(stepper)
    watch, times, kept = watched(stepper, clock), [], []
    for number in range(-1, rounds):
        with looks.noted():
            whole = whole_step(stepper, stream, watch if device.type == "cpu" and number >= 0 else None, clock)
        kept += [float(count) for name, count in method.stats.items() if name.endswith("pseudo/boxes_per_image")]
        begin = clock()
        bare_step(method, looks.taken, cfg.precision)
        if number >= 0:
            times.append((whole, clock() - begin))
    for _ in range(rounds if device.type != "cpu" else 0):
        whole_step(stepper, stream, watch, clock)
    return Result(
        whole=median(w for w, _ in times),
        bare=median(b for _, b in times),
        phases={name: median(values) for name, values in watch.phases.items()},
        boxes=mean(kept) if kept else 0.0,  # of a peer, too
        looks=looks.words(),
        rounds=times,
    )


def whole_step(stepper: Stepper, stream: Remember, watch: Stopwatch | None, clock: Clock) -> float:
    """Make one step of the phase in which pseudo-labels are used; return its seconds."""
    step = first_step(stepper.method)
    batches = stream if watch is None else watch.waiting(stream)
    begin = clock()
    if watch is not None:
        watch.start()
    stepper.train_step(batches, step)
    if watch is not None:
        watch.stop()
    return clock() - begin


def bare_step(method: Method, looks: list[Look], precision: str) -> None:
    """Take the looks of a step once more, and nothing else."""
    method.zero_grad(set_to_none=True)
    for look in looks:
        look.again(precision)


# ---- what to run -------------------------------------------------------------------------------------------------


def synthetic(args: argparse.Namespace) -> tuple[Method, TrainConfig, Callable[[int], Iterator[Batch]], str]:
    """Return a method around an untrained detector, how to train, batches of noise, and the detector in words."""
    method, words = fitted(args.method, args.detector, args.backbone, min(args.size))
    batch = {"labeled": args.batch, "unlabeled": args.batch if method.uses_unlabeled else 0}
    method.see_batch(batch["unlabeled"])
    train = {"steps": 1000, "batch": batch, "device": args.device, "precision": args.precision, "clip": 20}
    cfg = TrainConfig.model_validate(train, context={"steps": 1000})
    made = noise(args.batch, args.size, method.uses_unlabeled)
    return method, cfg, lambda start: itertools.repeat(made), words


def configured(path: Path, overrides: list[str]) -> tuple[Method, TrainConfig, Callable[[int], Iterator[Batch]]]:
    """Return a config's method, how to train, and its loader's batches."""
    cfg = config.load(path, overrides)
    data = composition.load_data(cfg)
    method = composition.build_method(cfg, data)
    return method, cfg.train, partial(composition.batches, cfg, data)


def show(result: Result, title: str, device: str) -> None:
    """Print the phases and the ratio."""
    table = Table(title=title)
    for column, justify in (("phase", "left"), ("seconds", "right"), ("share", "right")):
        table.add_column(column, justify=justify)
    total = sum(result.phases.values())
    for name, seconds in sorted(result.phases.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds:.4f}", f"{seconds / total:.1%}")
    console = Console()
    console.print(table)
    lines = [
        f"whole step  {result.whole:.4f} s   train_step: copy, student, teacher, labels, backward, clip, guard, "
        "optimiser, EMA",
        f"bare step   {result.bare:.4f} s   the same looks: student forward + losses + backward, teacher forward; "
        "given labels, nothing else",
        f"looks       {result.looks}",
        f"ratio       {result.ratio:.3f}      medians of {len(result.rounds)} alternating rounds on {device}; "
        f"{result.boxes:.1f} pseudo-boxes per image",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="a config instead of the synthetic batch; key=value may follow")
    parser.add_argument("overrides", nargs="*", help="changes to --config")
    parser.add_argument("--method", default="mean_teacher")
    parser.add_argument("--detector", help="by default the first that the method takes, beginning with retinanet")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=size, default="320", help="height and width of images, 800x1333, or their side")
    parser.add_argument("--batch", type=count, default=2, help="labelled images, and as many unlabelled ones")
    parser.add_argument("--steps", type=count, default=5, help="rounds")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--candidates", type=count, default=300, help="pairs of an image that enter suppression")
    parser.add_argument("--boxes", type=float, default=7.0, help="pseudo-boxes of an image (COCO has 7.3 labelled)")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of this process, for a CPU that others use")
    args = parser.parse_args(argv)
    cpu_time(parser, args)
    if args.overrides and args.config is None:
        parser.error(f"unexpected {args.overrides[0]}; key=value belongs to --config")
    return args


def main(argv: list[str] | None = None) -> Result:
    """Run the benchmark and print it."""
    args = arguments(argv)
    if args.config is None:
        method, cfg, batches, words = synthetic(args)
        height, width = args.size
        shown = f"{args.batch} + {args.batch} x {height} x {width} px of noise"
        title = f"{args.method}, {words}, {shown}"
    else:
        method, cfg, batches = configured(args.config, args.overrides)
        title = args.config.stem
    stepper = rehearsal(method, cfg)
    stream = Remember(iter(batches(first_step(method))), cfg.accumulate)
    result = bench(
        stepper, stream, rounds=args.steps, candidates=args.candidates, boxes=args.boxes, cpu_time=args.cpu_time
    )
    show(result, f"{title}, {cfg.precision}", f"{stepper.device}{', processor time' if args.cpu_time else ''}")
    return result


if __name__ == "__main__":
    try:
        main()
    except SsodError as error:
        print(f"bench_step: error: {error.line()}", file=sys.stderr)
        sys.exit(int(error.code))
