"""Where the time of a training step goes, and how much of it is the method's and the loop's own.

    python -m tools.bench_step --detector retinanet --size 320 --batch 2
    python -m tools.bench_step --config my.yaml train.accumulate=4

**The whole step** is ``Stepper.train_step`` as ``ssod train`` runs it, at a learning rate of 0: batch to the device,
student and teacher, pseudo-labels, losses, backward, clipping, the test that everything is finite, optimiser, EMA.

**The bare step** is the least that any teacher-student step must compute on the same images: the student's forward,
losses and backward on the labelled view; the same on the strong view, with the very pseudo-labels of the whole step,
made before the clock starts; the teacher's forward on the weak view, without gradient, of a two-stage detector with
its proposals and their classes; of Humble Teacher also the teacher's forward on the mirror image. No detections, no
transfer of boxes, no clipping, guard, optimiser or EMA.

Whole and bare steps alternate in one process; the ratio is that of their medians. CUDA is synchronised before each
reading of the clock. There the phases are measured in rounds of their own, because the readings hinder the step. On a
CPU that others use as well, ``--cpu-time`` counts the seconds that this process computed instead of those that passed.

Without ``--config`` images are noise, labelled boxes are random and weights are untrained; an untrained detector would
keep no pseudo-box, so its thresholds are set such that ``--candidates`` (prior, class) pairs of an image enter
suppression and ``--boxes`` pseudo-boxes of an image are kept, on average. With a config the batches are those of its
loader; the rest is the same.
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
from statistics import median

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from ssod import build as composition
from ssod import config
from ssod.commands.dry_run import now, rehearsal
from ssod.detectors.build import DetectorConfig, build
from ssod.engine.batch import send
from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.methods.base import Method
from ssod.methods.config import Common
from ssod.methods.humble_teacher import HumbleTeacher
from ssod.methods.registry import find
from ssod.structures import Batch, Pseudo, Targets, View
from ssod.structures.boxes import mirror
from ssod.utils.config_errors import read_section
from ssod.utils.device import autocast
from ssod.utils.errors import SsodError
from tools.options import COMMAND_LINE, count, cpu_time, size
from tools.stopwatch import Clock, Stopwatch, watched
from tools.synthetic import CLASSES, Remember, calibrate, learners, noise


@dataclass
class Result:
    """Seconds, medians over the rounds.

    Attributes:
        whole, bare: of a step.
        phases: of the whole step, by name.
        boxes: pseudo-boxes per image.
    """

    whole: float
    bare: float
    phases: dict[str, float]
    boxes: float
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
    watch, times, kept = watched(stepper, clock), [], []
    for number in range(-1, rounds):
        whole = whole_step(stepper, stream, watch if device.type == "cpu" and number >= 0 else None, clock)
        batches = [send(b, device, channels_last=cfg.channels_last) for b in stream.last]
        labels = [pseudo_labels(method, b, cfg) for b in batches]
        kept += [len(t) for each in labels for p in each if p for t in p.cls]
        begin = clock()
        for batch, pseudo in zip(batches, labels):
            bare_step(method, batch, pseudo, cfg)
        if number >= 0:
            times.append((whole, clock() - begin))
    for _ in range(rounds if device.type != "cpu" else 0):
        whole_step(stepper, stream, watch, clock)
    return Result(
        whole=median(w for w, _ in times),
        bare=median(b for _, b in times),
        phases={name: median(values) for name, values in watch.phases.items()},
        boxes=sum(kept) / len(kept) if kept else 0.0,
        rounds=times,
    )


def first_step(method: Method) -> int:
    """Return the first step whose losses on unlabelled images count."""
    return method.cfg.unsup_start if method.uses_unlabeled else 0


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


def bare_step(method: Method, batch: Batch, labels: list[Pseudo | None], cfg: TrainConfig) -> None:
    """Make the bare step of the module's page on one micro-batch, for every student of the method."""
    method.zero_grad(set_to_none=True)
    for learner, view, pseudo in zip(learners(method), strong_views(batch), labels):
        learn(learner, batch.labeled, batch.labeled.targets, cfg)
        if pseudo is not None:
            learn(learner, view, pseudo.cls, cfg)
            look(learner, batch.weak, cfg)


def strong_views(batch: Batch) -> list[View | None]:
    """Return the strong view of the student and of its peer; None of a supervised method."""
    strong = batch.views.get("strong")
    return [strong, batch.views.get("strong2", strong)]


def learn(method: Method, view: View, targets: list[Targets], cfg: TrainConfig) -> None:
    """Forward, losses and backward of a student."""
    with autocast(view.images.device, cfg.precision):
        losses = method.student.reduce(method.student.assign(method.student.predict(view), targets))
    sum(losses.values()).backward()


@torch.no_grad()
def look(method: Method, view: View, cfg: TrainConfig) -> None:
    """Forward of a teacher."""
    with autocast(view.images.device, cfg.precision):
        out = method.labeler(first_step(method)).predict(view)
        boxes = list(out.found.boxes) if "rpn" in out.stages else None
        if boxes is not None:
            out.score(boxes)
        if isinstance(method, HumbleTeacher) and method.cfg.ensemble:  # its second look is the paper's, not ours
            mirrored = method.labeler(first_step(method)).predict(view.flipped())
            if boxes is not None:
                mirrored.score([mirror(b, w) for b, w in zip(boxes, view.sizes[:, 1])])


@torch.no_grad()
def pseudo_labels(method: Method, batch: Batch, cfg: TrainConfig) -> list[Pseudo | None]:
    """Return the boxes that each student of the whole step has for this batch, in its strong view.

    None for a supervised method. One that learns the teacher's output as it is has no boxes; its bare step learns that
    the view is background.
    """
    if not method.uses_unlabeled:
        return [None]
    with autocast(batch.weak.images.device, cfg.precision):
        made = method.labels(batch, first_step(method))
    nothing = [Targets.empty(batch.weak.images.new_zeros(1).float()) for _ in batch.weak.sizes]
    labels = [Pseudo(nothing) if each.pseudo is None else each.pseudo for each in (made, made.peer) if each]
    return [pseudo.move(batch.weak, view) for pseudo, view in zip(labels, strong_views(batch))]


# ---- what to run -------------------------------------------------------------------------------------------------


def synthetic(args: argparse.Namespace) -> tuple[Method, TrainConfig, Callable[[int], Iterator[Batch]]]:
    """Return a method around an untrained detector, how to train, and batches of noise."""
    torch.manual_seed(0)
    section = {"name": args.detector, "backbone": args.backbone}
    detector = build(read_section(DetectorConfig, section, "detector", COMMAND_LINE, {}), CLASSES, pretrained=False)
    kind = find(args.method)
    method = kind(detector, at_once(kind))
    batch = {"labeled": args.batch, "unlabeled": args.batch if kind.uses_unlabeled else 0}
    train = {"steps": 1000, "batch": batch, "device": args.device, "precision": args.precision, "clip": 20}
    cfg = TrainConfig.model_validate(train, context={"steps": 1000})
    made = noise(args.batch, args.size, kind.uses_unlabeled)
    return method, cfg, lambda start: itertools.repeat(made)


def at_once(kind: type[Method]) -> Common:
    """Return the config of a method whose unlabelled images teach as early as it allows: STAC's teacher burns in."""
    begin = {key: 0 for key in ("burn_in", "start") if key in kind.Config.model_fields}
    name = kind.__module__.rpartition(".")[2]
    try:
        return kind.Config.model_validate({"name": name} | begin, context={"steps": 1000})
    except ValidationError:
        return kind.Config.model_validate({"name": name} | begin | {"burn_in": 1}, context={"steps": 1000})


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
        f"bare step   {result.bare:.4f} s   student forward + losses + backward on labelled and strong views, teacher "
        "forward; given labels, nothing else",
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
    parser.add_argument("--detector", default="retinanet")
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
        method, cfg, batches = synthetic(args)
        height, width = args.size
        shown = f"{args.batch} + {args.batch} x {height} x {width} px of noise"
        title = f"{args.method}, {args.detector} {args.backbone}, {shown}"
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
