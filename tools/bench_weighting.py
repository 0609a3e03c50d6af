"""What a weighting costs: seconds of a training step with it, over those of the same step without.

    python -m tools.bench_weighting uncertainty --detector retinanet --size 320 --batch 2

Two trainers with the same detector, method and noise take whole steps turn by turn in one process, as ``bench_step.py``
does and explains; the ratio is that of the medians. The weighting is used on labelled and on pseudo-labelled images.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from rich.console import Console

from ssod.commands.dry_run import now, rehearsal
from ssod.detectors.build import DetectorConfig, build
from ssod.engine.batch import send
from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.losses.weighting.registry import RULES
from ssod.methods.registry import find
from ssod.structures import Batch
from ssod.utils.config_errors import read_section
from ssod.utils.errors import SsodError
from tools.bench_step import whole_step
from tools.options import COMMAND_LINE, count, cpu_time
from tools.synthetic import CLASSES, Remember, calibrate, noise


@dataclass
class Cost:
    """Seconds of each round, with and without the weighting, after one round of each that is not counted."""

    plain: list[float]
    weighted: list[float]

    @property
    def ratio(self) -> float:
        """Median with over median without."""
        return median(self.weighted) / median(self.plain)


def stepper_of(args: argparse.Namespace, weighting: str | None, batch: Batch) -> Stepper:
    """Return the steps of a method around an untrained detector that keeps pseudo-boxes of the noise."""
    torch.manual_seed(0)
    section = {"name": args.detector, "backbone": args.backbone}
    detector = build(read_section(DetectorConfig, section, "detector", COMMAND_LINE, {}), CLASSES, pretrained=False)
    sides = ["unsup"] if weighting and RULES[weighting].pseudo else ["sup", "unsup"]
    loss = {side: {"weighting": weighting} for side in sides} if weighting else None
    kind = find("mean_teacher")
    method = kind(detector, kind.Config.model_validate({"name": "mean_teacher", "burn_in": 0, "loss": loss}))
    train = {"steps": 1000, "batch": {"labeled": args.batch, "unlabeled": args.batch}, "device": args.device}
    cfg = TrainConfig.model_validate(train | {"precision": args.precision, "clip": 20}, context={"steps": 1000})
    stepper = rehearsal(method, cfg)
    calibrate(method, [send(batch, stepper.device, channels_last=False)], candidates=300, boxes=7.0)
    return stepper


def bench(args: argparse.Namespace) -> Cost:
    """Time ``args.steps`` rounds."""
    batch = noise(args.batch, args.size, True)
    steppers = [stepper_of(args, weighting, batch) for weighting in (None, args.weighting)]
    clock = time.process_time if args.cpu_time else partial(now, steppers[0].device)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(args.steps + 1):
        for stepper, times in zip(steppers, seconds):
            taken = whole_step(stepper, Remember(iter([batch]), 1), None, clock)
            if number:
                times.append(taken)
    return Cost(*seconds)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weighting", nargs="?", default="uncertainty", choices=sorted(RULES))
    parser.add_argument("--detector", default="retinanet")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=count, default=320, help="side of the square images, a multiple of 32")
    parser.add_argument("--batch", type=count, default=2, help="labelled images, and as many unlabelled ones")
    parser.add_argument("--steps", type=count, default=7, help="rounds")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--cpu-time", action="store_true", help="seconds of this process, for a CPU that others use")
    args = parser.parse_args(argv)
    cpu_time(parser, args)
    return args


def main(argv: list[str] | None = None) -> Cost:
    """Run the benchmark and print it."""
    args = arguments(argv)
    cost = bench(args)
    title = f"{args.detector} {args.backbone}, {args.batch} + {args.batch} x {args.size} px of noise, {args.precision}"
    with_, without = median(cost.weighted), median(cost.plain)
    text = f"{title}: {without:.4f} s a step, {with_:.4f} s with {args.weighting}, ratio {cost.ratio:.3f}"
    Console().print(f"{text} (medians of {args.steps} rounds)", highlight=False, soft_wrap=True)
    return cost


if __name__ == "__main__":
    try:
        main()
    except SsodError as error:
        print(f"bench_weighting: error: {error.line()}", file=sys.stderr)
        sys.exit(int(error.code))
