"""Where the time of a training step goes, and how much of it is the method's and the loop's own.

    python tools/bench_step.py --detector retinanet --size 320 --batch 2
    python tools/bench_step.py --config configs/mean_teacher/mean_teacher_fcos_r50_fpn_coco_10p.yaml train.accumulate=4

**The whole step** is ``Trainer.train_step`` as ``ssod train`` runs it, at a learning rate of 0: batch to the device,
student and teacher, pseudo-labels, losses, backward, clipping, the test that everything is finite, optimiser, EMA.

**The bare step** is the least that any teacher-student step must compute on the same images: the student's forward,
losses and backward on the labelled view; the same on the strong view, with the very pseudo-labels of the whole step,
made before the clock starts; the teacher's forward on the weak view, without gradient, of a two-stage detector with
its proposals and their classes. No detections, no transfer of boxes, no clipping, guard, optimiser or EMA.

Whole and bare steps alternate in one process; the ratio is that of their medians. CUDA is synchronised before each
reading of the clock. There the phases are measured in rounds of their own, because the readings hinder the step. On a
CPU that others use as well, ``--cpu-time`` counts the seconds that this process computed instead of those that passed.

Without ``--config`` images are noise, labelled boxes are random and weights are untrained; an untrained detector would
keep no pseudo-box, so its thresholds are set such that ``--candidates`` (prior, class) pairs of an image enter
suppression and ``--boxes`` pseudo-boxes of an image are kept, on average. An untrained FCOS draws boxes without size,
so its distances begin at 4 strides. With a config the batches are those of its loader; the rest is the same.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ssod import config, run
from ssod.boxes import LtrbCoder
from ssod.data import datasets
from ssod.detectors.build import DetectorConfig, build
from ssod.detectors.decode import rank
from ssod.engine.batch import send
from ssod.engine.precision import autocast
from ssod.engine.train_config import TrainConfig
from ssod.engine.trainer import Trainer
from ssod.errors import SsodError
from ssod.methods.base import Method
from ssod.methods.find import find
from ssod.pseudo.threshold import FixedThreshold
from ssod.rehearse import now, rehearsal
from ssod.structures import Batch, Pseudo, Targets, View

CLASSES = 80
Clock = Callable[[], float]


class Stopwatch:
    """Charges every moment between ``start`` and ``stop`` to one phase; calls that are wrapped switch the phase."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.on = clock, False
        self.phases: dict[str, list[float]] = defaultdict(list)
        self._now: dict[str, float] = defaultdict(float)
        self._phase, self._since = "other", 0.0

    def wrap(self, owner: Any, name: str, during: str, after: str) -> None:
        """Replace ``owner.name`` by itself plus a switch to phase ``during``, and to ``after`` when it returns."""
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return inner(*args, **kwargs)
            self._switch(during)
            try:
                return inner(*args, **kwargs)
            finally:
                self._switch(after)

        setattr(owner, name, timed)

    def start(self) -> None:
        """Begin a step."""
        self.on, self._phase, self._since = True, "other", self.clock()

    def stop(self) -> None:
        """End a step and keep its phases."""
        self._switch("other")
        self.on = False
        for phase in {*self._now, *self.phases}:
            self.phases[phase].append(self._now[phase])
        self._now.clear()

    def _switch(self, phase: str) -> None:
        moment = self.clock()
        self._now[self._phase] += moment - self._since
        self._phase, self._since = phase, moment


def watched(trainer: Trainer, clock: Clock) -> Stopwatch:
    """Wrap the parts of a trainer's step."""
    watch, method = Stopwatch(clock), trainer.method
    watch.wrap(trainer.clock, "wait_for", "data wait", "copy to device")
    watch.wrap(method, "forward", "student forward", "backward")
    watch.wrap(method.student, "predict", "student forward", "student forward")
    watch.wrap(method.teacher, "predict", "teacher forward", "label")
    if hasattr(method.teacher.model, "roi_rows"):
        watch.wrap(method.teacher.model, "roi_rows", "teacher forward", "label")
    watch.wrap(method, "mix", "label", "student forward")
    watch.wrap(trainer.scaler, "unscale_", "clip", "clip")
    watch.wrap(trainer.guard, "verdict", "guard", "guard")
    watch.wrap(trainer.scaler, "step", "optimiser", "other")
    watch.wrap(method, "after_step", "EMA", "other")
    return watch


class Remember:
    """An iterator that keeps the last ``count`` items it gave."""

    def __init__(self, source: Iterator[Batch], count: int) -> None:
        self.source, self.count, self.last = source, count, []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.last = [*self.last, next(self.source)][-self.count :]
        return self.last[-1]


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
    trainer: Trainer, stream: Remember, *, rounds: int, candidates: int, boxes: float, cpu_time: bool = False
) -> Result:
    """Time ``rounds`` whole and as many bare steps, turn by turn, after one of each."""
    method, cfg, device = trainer.method, trainer.cfg, trainer.device
    clock: Clock = time.process_time if cpu_time else partial(now, device)
    first = [next(stream) for _ in range(cfg.accumulate)]
    if method.uses_unlabeled:
        calibrate(method, [send(b, device, channels_last=cfg.channels_last) for b in first], candidates, boxes)
    watch, times, kept = watched(trainer, clock), [], []
    for number in range(-1, rounds):
        whole = whole_step(trainer, stream, watch if device.type == "cpu" and number >= 0 else None, clock)
        batches = [send(b, device, channels_last=cfg.channels_last) for b in stream.last]
        labels = [pseudo_labels(method, b, cfg) for b in batches]
        kept += [len(t) for p in labels if p for t in p.cls]
        begin = clock()
        for batch, pseudo in zip(batches, labels):
            bare_step(method, batch, pseudo, cfg)
        if number >= 0:
            times.append((whole, clock() - begin))
    for _ in range(rounds if device.type != "cpu" else 0):
        whole_step(trainer, stream, watch, clock)
    return Result(
        whole=median(w for w, _ in times),
        bare=median(b for _, b in times),
        phases={name: median(values) for name, values in watch.phases.items()},
        boxes=sum(kept) / len(kept) if kept else 0.0,
        rounds=times,
    )


def whole_step(trainer: Trainer, stream: Remember, watch: Stopwatch | None, clock: Clock) -> float:
    """Make one step of the phase in which pseudo-labels are used; return its seconds."""
    trainer.step = getattr(trainer.method.cfg, "learns_from", 0)
    begin = clock()
    if watch is not None:
        watch.start()
    trainer.train_step(stream)
    if watch is not None:
        watch.stop()
    return clock() - begin


def bare_step(method: Method, batch: Batch, pseudo: Pseudo | None, cfg: TrainConfig) -> None:
    """Make the bare step of the module's page on one micro-batch."""
    student, device = method.student, batch.labeled.images.device
    method.zero_grad(set_to_none=True)
    work = [(batch.labeled, batch.labeled.targets)] + ([] if pseudo is None else [(batch.strong, pseudo.cls)])
    for view, targets in work:
        with autocast(device, cfg.precision):
            losses = student.losses(student.predict(view), targets)
        sum(losses.values()).backward()
    if pseudo is not None:
        with torch.no_grad(), autocast(device, cfg.precision):
            out = method.teacher.predict(batch.weak)
            if "rpn" in out.stages:
                out.score(list(out.found.boxes))


@torch.no_grad()
def pseudo_labels(method: Method, batch: Batch, cfg: TrainConfig) -> Pseudo | None:
    """Return the boxes that the whole step has for this batch, in the strong view; None for a supervised method.

    A method that learns the teacher's output as it is has none; its bare step learns that the view is background.
    """
    if not method.uses_unlabeled:
        return None
    with autocast(batch.weak.images.device, cfg.precision):
        pseudo = method.label(method.teacher.predict(batch.weak), batch)
    if pseudo is None:
        return Pseudo([Targets.empty(batch.strong.images.new_zeros(1).float()) for _ in batch.strong.sizes])
    return pseudo.move(batch.weak, batch.strong)


@torch.no_grad()
def calibrate(method: Method, batches: list[Batch], candidates: int, boxes: float) -> None:
    """Set the detector's and the method's score thresholds; see the module's page."""
    if isinstance(getattr(method.student, "coder", None), LtrbCoder):
        for name, module in method.named_modules():
            if name.endswith("bbox_reg"):
                torch.nn.init.constant_(module.bias, 4.0)
    scores, images = [], 0
    for batch in batches:
        out = method.teacher.predict(batch.weak)
        scores.append(pair_scores(out))
        images += len(batch.weak)
    score = kth(torch.cat(scores), candidates * images)
    for detector in (method.student, method.teacher.model):
        detector.decode = detector.decode.model_copy(update={"score": score})
    if "score" in type(method.cfg).model_fields:
        found = [t.scores for b in batches for t in method.teacher.predict(b.weak).detections()]
        score = kth(torch.cat(found), round(boxes * images))
        method.cfg = method.cfg.model_copy(update={"score": score})
        if isinstance(getattr(method, "threshold", None), FixedThreshold):
            method.threshold.score = score


def pair_scores(out: Any) -> Tensor:
    """Return the scores of all (prior, class) pairs that an output would decode, flat."""
    if "dense" in out.stages:
        return rank(out.stages["dense"]).flatten()
    return out.score(list(out.found.boxes)).probs().flatten()


def kth(scores: Tensor, count: int) -> float:
    """Return the threshold above which ``count`` scores lie, or as many as there are."""
    values = scores.float().topk(min(count + 1, len(scores))).values
    return float(values[-1])


# ---- what to run -------------------------------------------------------------------------------------------------


def synthetic(args: argparse.Namespace) -> tuple[Method, TrainConfig, Callable[[int], Iterator[Batch]]]:
    """Return a method around an untrained detector, how to train, and batches of noise."""
    torch.manual_seed(0)
    section = {"name": args.detector, "backbone": args.backbone}
    detector = build(TypeAdapter(DetectorConfig).validate_python(section), CLASSES, pretrained=False)
    kind = find(args.method)
    at_once = {key: 0 for key in ("burn_in", "start") if key in kind.Config.model_fields}
    method = kind(detector, kind.Config.model_validate({"name": args.method} | at_once))
    batch = {"labeled": args.batch, "unlabeled": args.batch if semi(kind) else 0}
    train = {"steps": 1000, "batch": batch, "device": args.device, "precision": args.precision, "clip": 20}
    cfg = TrainConfig.model_validate(train, context={"steps": 1000})
    made = noise(args.batch, args.size, semi(kind))
    return method, cfg, lambda start: itertools.repeat(made)


def semi(kind: type[Method]) -> bool:
    """Whether a method learns from unlabelled images."""
    return kind.uses_unlabeled


def noise(images: int, side: int, unlabeled: bool) -> Batch:
    """Return a batch of noise with seven random boxes in each labelled image."""
    g = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(images):
        corner = torch.rand(7, 2, generator=g) * side * 0.7
        size = (0.05 + 0.25 * torch.rand(7, 2, generator=g)) * side
        targets.append(Targets(torch.cat([corner, corner + size], 1), torch.randint(CLASSES, (7,), generator=g)))

    def view(seed: int, targets: list[Targets] | None = None) -> View:
        return View(
            images=torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=g),
            sizes=torch.full((images, 2), side),
            matrix=torch.eye(3).repeat(images, 1, 1),
            keys=torch.arange(images) + 1000 * seed,
            ids=list(range(images)),
            targets=targets,
        )

    return Batch(view(0, targets), {"weak": view(1), "strong": view(2)} if unlabeled else {})


def configured(path: Path, overrides: list[str]) -> tuple[Method, TrainConfig, Callable[[int], Iterator[Batch]]]:
    """Return a config's method, how to train, and its loader's batches."""
    cfg = config.load(path, overrides)
    data = datasets.load(cfg.data)
    method = run.build_method(cfg, len(data.classes))
    return method, cfg.train, partial(run.batches, cfg, data, method)


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
    parser.add_argument("--size", type=int, default=320, help="side of the square images, a multiple of 32")
    parser.add_argument("--batch", type=int, default=2, help="labelled images, and as many unlabelled ones")
    parser.add_argument("--steps", type=int, default=5, help="rounds")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--candidates", type=int, default=300, help="pairs of an image that enter suppression")
    parser.add_argument("--boxes", type=float, default=7.0, help="pseudo-boxes of an image (COCO has 7.3 labelled)")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of this process, for a CPU that others use")
    args = parser.parse_args(argv)
    if args.cpu_time and args.device != "cpu":
        parser.error("--cpu-time needs --device cpu")
    if args.overrides and args.config is None:
        parser.error(f"unexpected {args.overrides[0]}; key=value belongs to --config")
    return args


def main(argv: list[str] | None = None) -> Result:
    """Run the benchmark and print it."""
    args = arguments(argv)
    if args.config is None:
        method, cfg, batches = synthetic(args)
        title = f"{args.method}, {args.detector} {args.backbone}, {args.batch} + {args.batch} x {args.size} px of noise"
    else:
        method, cfg, batches = configured(args.config, args.overrides)
        title = args.config.stem
    trainer = rehearsal(method, cfg, batches)
    stream = Remember(iter(batches(getattr(method.cfg, "learns_from", 0))), cfg.accumulate)
    result = bench(
        trainer, stream, rounds=args.steps, candidates=args.candidates, boxes=args.boxes, cpu_time=args.cpu_time
    )
    show(result, f"{title}, {cfg.precision}", f"{trainer.device}{', processor time' if args.cpu_time else ''}")
    return result


if __name__ == "__main__":
    try:
        main()
    except SsodError as error:
        print(f"bench_step: error: {error.line()}", file=sys.stderr)
        sys.exit(int(error.code))
