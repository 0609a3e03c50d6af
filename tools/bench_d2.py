"""Seconds of a training step around detectron2's Faster R-CNN: our loop against detectron2's own.

    python -m tools.bench_d2 --size 320 --batch 2 --rounds 11

Ours is ``Stepper.train_step`` of the supervised method, as ``ssod train`` runs it: forward, losses and backward of our
detector around detectron2's modules, the test that everything is finite, the optimiser, the moving average of the
weights. Theirs is ``SimpleTrainer.run_step``: forward, losses and backward of detectron2's own model, the optimiser,
the losses written to its storage; it averages no weights and tests the loss only. Both have the same weights, images,
boxes and SGD at a learning rate of 0, and take turns in one process; who begins a round changes from one to the next.
The ratio is that of the medians. On a CPU that others use, ``--cpu-time`` counts the seconds that this process
computed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from pydantic import TypeAdapter
from rich.console import Console

from ssod.commands.dry_run import now, rehearsal
from ssod.detectors.build import DetectorConfig, build
from ssod.detectors.d2.model import build_model
from ssod.engine import optim
from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.methods.supervised import Config, Supervised
from ssod.structures import Batch, View
from ssod.utils.errors import SsodError
from tools.options import count, cpu_time
from tools.synthetic import CLASSES, noise

# Without weights nothing may be frozen.
OPTS: dict[str, Any] = {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 0}


@dataclass
class Result:
    """Seconds of each round.

    Attributes:
        ours, theirs: of a step.
    """

    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """Ours over theirs, medians."""
        return median(self.ours) / median(self.theirs)


def pair(section: DetectorConfig, cfg: TrainConfig, batch: Batch) -> tuple[Stepper, Any]:
    """Return our steps and detectron2's trainer, with the same weights."""
    from detectron2.engine import SimpleTrainer

    torch.manual_seed(0)
    detector = build(section, CLASSES)
    stepper = rehearsal(Supervised(detector, Config(name="supervised")), cfg)
    model = build_model(section, CLASSES)
    model.load_state_dict(stepper.method.student.state_dict())
    model.to(stepper.device)
    optimizer = optim.build(model, cfg.optimizer)
    optim.set_lr(optimizer, 0.0)
    return stepper, SimpleTrainer(model, itertools.repeat(inputs(batch.labeled)), optimizer)


def inputs(view: View) -> list[dict[str, Any]]:
    """Return a view as detectron2's loader gives it: uint8 BGR images and boxes."""
    from detectron2.structures import Boxes, Instances

    entries = []
    for image, targets in zip(view.images, view.targets or []):
        instances = Instances(tuple(image.shape[1:]))
        instances.gt_boxes, instances.gt_classes = Boxes(targets.boxes.clone()), targets.labels.clone()
        entries.append({"image": image.flip(0).contiguous(), "instances": instances})
    return entries


def bench(ours: Stepper, theirs: Any, batch: Batch, *, rounds: int, cpu_time: bool = False) -> Result:
    """Time ``rounds`` steps of each, turn by turn, after two of each."""
    from detectron2.utils.events import EventStorage

    stream, result = itertools.repeat(batch), Result([], [])

    def timed(step: Any, *args: Any) -> float:
        begin = time.process_time() if cpu_time else now(ours.device)
        step(*args)
        return (time.process_time() if cpu_time else now(ours.device)) - begin

    with EventStorage(0) as theirs.storage:
        for number in range(-2, rounds):
            turns = [(result.ours, ours.train_step, stream, number + 2), (result.theirs, theirs.run_step)]
            for kept, step, *args in turns if number % 2 else reversed(turns):
                seconds = timed(step, *args)
                if number >= 0:
                    kept.append(seconds)
    return result


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50, choices=[18, 50, 101], help="of the ResNet")
    parser.add_argument("--size", type=count, default=320, help="side of the square images, a multiple of 32")
    parser.add_argument("--batch", type=count, default=2, help="images")
    parser.add_argument("--rounds", type=count, default=11)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--cpu-time", action="store_true", help="seconds of this process, for a CPU that others use")
    args = parser.parse_args(argv)
    cpu_time(parser, args)
    return args


def main(argv: list[str] | None = None) -> Result:
    """Run the benchmark and print it."""
    args = arguments(argv)
    opts = OPTS | {"MODEL.RESNETS.DEPTH": args.depth}
    if args.depth == 18:
        opts["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64
    section = TypeAdapter(DetectorConfig).validate_python({"name": "d2_faster_rcnn", "opts": opts})
    train = {"steps": 1000, "batch": {"labeled": args.batch, "unlabeled": 0}, "device": args.device}
    batch = noise(args.batch, args.size, False)
    ours, theirs = pair(section, TrainConfig.model_validate(train, context={"steps": 1000}), batch)
    result = bench(ours, theirs, batch, rounds=args.rounds, cpu_time=args.cpu_time)
    for text in (
        f"d2_faster_rcnn, ResNet-{args.depth}, {args.batch} x {args.size} px of noise, {ours.device}"
        f"{', processor time' if args.cpu_time else ''}, {args.rounds} alternating rounds",
        f"our Stepper.train_step                 {median(result.ours):.4f} s",
        f"detectron2's SimpleTrainer.run_step    {median(result.theirs):.4f} s",
        f"ratio                                  {result.ratio:.3f}",
    ):
        Console().print(text, highlight=False, soft_wrap=True)
    return result


if __name__ == "__main__":
    try:
        main()
    except SsodError as error:
        print(f"bench_d2: error: {error.line()}", file=sys.stderr)
        sys.exit(int(error.code))
