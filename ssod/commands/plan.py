"""``ssod plan``: what a run will be, before it is one: passes over the data, pace of the teacher, time and memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

import torch
from rich.table import Table

from ssod import build
from ssod.commands import load
from ssod.commands.advice import advice
from ssod.commands.coverage import coverage, doubt
from ssod.commands.dry_run import now, rehearsal
from ssod.config import Config
from ssod.data.datasets import DataSets
from ssod.data.formats.records import Labeled
from ssod.data.loading.workers import reading, usable_cpus
from ssod.engine.logging import log
from ssod.engine.schedule import lr_at, turns
from ssod.engine.stepper import Stepper
from ssod.methods.registry import find
from ssod.structures import Batch
from ssod.utils import collective, distributed
from ssod.utils.printing import console, duration

WARM, TIMED = 2, 5  # steps before and while the clock runs
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Phase:
    """One stretch of a run.

    Attributes:
        name: ``burn-in``, ``ssod`` or ``supervised``.
        start: its first step.
        steps: how many steps it has.
        compute: seconds that the device needs for a step.
        load: seconds that the data workers need for a step's images.
        serial: there are no workers: the process that computes reads as well.
    """

    name: str
    start: int
    steps: int
    compute: float = math.nan
    load: float = math.nan
    serial: bool = False

    @property
    def step(self) -> float:
        """Seconds of a step: workers, if there are any, read the next images while the device computes."""
        return self.compute + self.load if self.serial else max(self.compute, self.load)

    @property
    def seconds(self) -> float:
        """The whole stretch."""
        return self.steps * self.step


@dataclass(frozen=True)
class Plan:
    """What ``plan`` found out.

    Attributes:
        rows: (what, how much) for people, in groups; a row of two empty strings ends a group.
        warnings: what is likely to go wrong.
        phases: with the seconds measured.
        evaluation: seconds of one evaluation, the student's included if it is evaluated; 0 without validation images.
        evaluations: how many there will be.
        memory: most memory used while measuring, in GB: of the device, or of this process on a CPU.
        load: of the machine while it was measured, in words.
    """

    rows: list[tuple[str, str]]
    warnings: list[str]
    phases: list[Phase]
    evaluation: float = 0.0
    evaluations: int = 0
    memory: float = math.nan
    device: str = field(default="cpu")
    load: str = ""

    @property
    def seconds(self) -> float:
        """The whole run."""
        return sum(phase.seconds for phase in self.phases) + self.evaluation * self.evaluations


def plan(cfg: Config) -> Plan:
    """Print what training ``cfg`` will mean, after a few real steps of each phase on this device; saves nothing.

    Returns:
        The same as numbers.

    Raises:
        SsodError: whatever training would raise before its first step, and code 6 when a step does not fit in memory.
    """
    device, here = distributed.pick_device(cfg.train.device), load.measured()  # before the load is this command's own
    with distributed.job(device):
        data = build.load_data(cfg)
        build.check_batch(cfg, data)
        found = measure(cfg, data)
        found = replace(found, load=here.words(), warnings=[*found.warnings, *load.doubts(here, found.device)])
        if collective.rank() == 0:
            show(found, cfg.stem)
    return found


# ---- what follows from the config --------------------------------------------------------------------------------


def phases(cfg: Config) -> list[Phase]:
    """Return the stretches of a run that differ in what a step does; those without a step are left out."""
    make = partial(Phase, serial=cfg.train.workers == 0)
    if not find(cfg.method.name).uses_unlabeled:
        return [make("supervised", 0, cfg.train.steps)]
    burn_in, unsup_start = cfg.method.burn_in, cfg.method.unsup_start
    stretches = [
        make("burn-in", 0, burn_in),
        make("labels only", burn_in, unsup_start - burn_in),
        make(build.TAUGHT, unsup_start, cfg.train.steps - unsup_start),
    ]
    return [phase for phase in stretches if phase.steps]


def half_life(decay: float) -> float:
    """Return the steps after which half of the teacher is newer."""
    return math.log(0.5) / math.log(decay) if decay > 0 else 0.0


def facts(cfg: Config, data: DataSets) -> tuple[list[tuple[str, str]], list[str]]:
    """Return rows and warnings that need no measurement."""
    train, warnings = cfg.train, []
    last = phases(cfg)[-1]
    parts = collective.world_size() * train.accumulate
    rows = [("labelled", f"{len(data.labeled)} images, {len(data.labeled.boxes)} boxes, {len(data.classes)} classes")]
    kinds = {"labelled": (train.batch.labeled, len(data.labeled), train.steps)}
    if last.name == build.TAUGHT:
        kinds["unlabelled"] = (train.batch.unlabeled, len(data.unlabeled), last.steps)
        rows.append(("unlabelled", f"{len(data.unlabeled)} images"))
    rows.append(("val", f"{len(data.val)} images" if data.val else "none: no AP will be known"))
    reached = coverage(cfg, data.labeled)
    if reached is not None:
        rows.append(("within reach", reached.within()))
    if found := doubt(reached):
        warnings.append("; ".join(found))
    if cfg.views.tiles is not None:
        rows.append(("tiles", f"{_tiles_each(cfg, data.labeled):.1f} of a labelled image; a step sees one of each"))
    rows.append(("", ""))
    for kind, (batch, images, steps) in kinds.items():
        shares = f"{collective.world_size()} process(es) x {train.accumulate} part(s) x {batch // parts}"
        rows.append((f"batch {kind}", f"{batch} = {shares}"))
        rows.append((f"passes {kind}", f"{steps * batch / images:.1f}"))
    rows.append(("steps", str(train.steps)))
    if last.name == build.TAUGHT:
        passes = last.start * train.batch.labeled / len(data.labeled)
        value = f"{last.start} steps, {last.start / train.steps:.0%}, {passes:.1f} passes labelled"
        rows.append(("burn-in", value if cfg.method.plateau is None else f"at most {value}: it may end sooner"))
    ema = cfg.method.ema
    every = (ema.every or 1) if ema.rule == "ema" else 1
    life = half_life(ema.decay) * every
    if ema.rule == "ema":
        often = f", every {every} steps" if every > 1 else ""
        rows.append(("EMA half-life", f"{life:.0f} steps (decay {ema.decay:g}{often})"))
    else:
        rows.append(("teacher", f"a copy, renewed every {ema.every} steps" if ema.every else "as burn-in leaves it"))
    if ema.rule == "ema" and life > last.steps:
        problem = f"the teacher's half-life of {life:.0f} steps is longer than the {last.steps} steps with {last.name}"
        warnings.append(
            f"{problem}: it will hardly learn; set method.ema.decay={0.5 ** (10 * every / last.steps):.4f} or lower"
        )
    rows.append(("learning rate", rates(cfg)))
    return rows, warnings


def rates(cfg: Config) -> str:
    """Return the learning rate where it turns: ``0: 1e-05, 500: 0.01, ...``."""
    t = cfg.train
    shape = {"steps": t.steps, "schedule": t.schedule, "warm_up": t.warm_up, "restart_at": cfg.method.restart_at}
    return ", ".join(f"{step}: {lr_at(step, lr=t.lr, **shape):.3g}" for step in turns(**shape))


# ---- what has to be measured -------------------------------------------------------------------------------------


def measure(cfg: Config, data: DataSets) -> Plan:
    """Make a few steps of every phase and look at a few validation images."""
    stepper = rehearsal(build.build_method(cfg, data), cfg.train)
    rows, warnings = facts(cfg, data)
    judged, doubts = advice(cfg, data)
    timed = [time_phase(stepper, build.batches(cfg, data, phase.start), phase) for phase in phases(cfg)]
    for phase in timed:
        if phase.load > 1.2 * phase.compute and cfg.train.workers:
            slow = f"{phase.name}: reading a step's images takes {phase.load:.3g} s, computing {phase.compute:.3g} s"
            more = "raise train.workers" if cfg.train.workers < usable_cpus() else "it takes more CPUs or smaller views"
            warnings.append(f"{slow}; {more}")
    every, steps = cfg.train.eval_every, cfg.train.steps
    models = 2 if cfg.train.eval_student else 1
    return Plan(
        rows=[*rows, ("", ""), *judged] if judged else rows,
        warnings=warnings + doubts,
        phases=timed,
        evaluation=models * time_evaluation(cfg, data, stepper) if data.val else 0.0,
        evaluations=(steps // every + (steps % every > 0) if every else 1) if data.val else 0,
        memory=log.memory(stepper.device),
        device=str(stepper.device),
    )


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
    count = min(len(data.val), max(world, round(2 * cfg.eval.batch * world / _tiles_each(cfg, data.val))))
    evaluate = build.evaluator(cfg, data.val.subset(range(count)))
    start = now(stepper.device)
    evaluate(stepper.method.teacher.model)
    return (now(stepper.device) - start) * len(data.val) / count


def _tiles_each(cfg: Config, data: Labeled) -> float:
    """Return how many tiles an image has on average; 1 where images are looked at whole."""
    tiles, sizes = cfg.views.tiles, data.images.sizes
    return 1.0 if tiles is None or sizes is None or not len(data) else float(tiles.count(sizes).mean())


# ---- what people see ---------------------------------------------------------------------------------------------


def show(found: Plan, title: str) -> None:
    """Print a plan as a table, warnings below it."""
    out = console()
    table = Table(title=title, show_header=False)
    for what, how_much in [*found.rows, ("", ""), *_measured(found)]:
        if what:
            table.add_row(what, how_much)
        else:
            table.add_section()
    out.print(table)
    for warning in found.warnings:
        out.print(f"warning: {warning}", style="yellow")
    out.print("Measured with an untrained detector, which keeps no pseudo-boxes; later steps take a little longer.")
    if found.evaluations and found.phases[-1].name == build.TAUGHT:
        out.print("The look at pseudo-labels after each evaluation (eval.diagnose) is not counted.")


def _measured(found: Plan) -> list[tuple[str, str]]:
    rows = []
    for p in found.phases:
        parts = f"computing {p.compute:.3g}, {'then ' if p.serial else ''}reading {p.load:.3g}"
        rows.append((f"seconds per step, {p.name}", f"{p.step:.3g} ({parts})"))
    if found.evaluations:
        rows.append(("evaluation", f"{found.evaluations} x {duration(found.evaluation)}"))
    rows.append(
        ("in all", f"about {duration(found.seconds)} on {found.device}, measured at {found.load or 'an unknown load'}")
    )
    what = "of this process" if found.device == "cpu" else "of the device"
    rows.append(("memory", f"{found.memory:.1f} GB {what}"))
    return rows
