"""How long a step, its images and an evaluation take: a few real ones on this device."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import replace
from statistics import median

import torch

from ssod import build
from ssod.commands.dry_run import now
from ssod.commands.plan_facts import tiles_each
from ssod.commands.planned import Phase
from ssod.config import Config
from ssod.data.datasets import DataSets
from ssod.data.loading.workers import reading
from ssod.engine.stepper import Stepper
from ssod.structures import Batch
from ssod.utils import collective

WARM, TIMED = 2, 5  # steps before and while the clock runs
_CPU = torch.device("cpu")


def time_phase(stepper: Stepper, batches: Generator[Batch, None, None], phase: Phase) -> Phase:
    """Measure how long the data workers and the device need for one step of ``phase``; ``batches`` are its own."""
    with reading(batches):
        kept, load = time_loading(batches, stepper.cfg.accumulate, stepper.cfg.workers)
    stream, seconds = itertools.cycle(kept), []
    for _ in range(WARM + TIMED):
        start = now(stepper.device)
        stepper.train_step(stream, phase.start)
        seconds.append(now(stepper.device) - start)
    return replace(phase, compute=median(seconds[WARM:]), load=load)


def time_loading(batches: Iterator[Batch], accumulate: int, workers: int) -> tuple[list[Batch], float]:
    """Return a step's micro-batches and the seconds per step in which the workers deliver.

    The first item is not counted: workers start with it. After it come two items of every worker, for they deliver in
    bursts.
    """
    kept, times = [], []
    begin = now(_CPU)
    for i, batch in enumerate(itertools.islice(batches, max(accumulate, 1 + 2 * max(workers, 1)))):
        times.append(now(_CPU))
        if i < accumulate:
            kept.append(batch)
    per_item = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0] - begin
    return kept, per_item * accumulate


def time_evaluation(cfg: Config, data: DataSets, stepper: Stepper) -> float:
    """Return the seconds of one evaluation, from that of at most about two batches of images, or of tiles."""
    world = collective.world_size()
    count = min(len(data.val), max(world, round(2 * cfg.eval.batch * world / tiles_each(cfg, data.val))))
    evaluate = build.evaluator(cfg, data.val.subset(range(count)))
    start = now(stepper.device)
    evaluate(stepper.method.teacher.model)
    return (now(stepper.device) - start) * len(data.val) / count
