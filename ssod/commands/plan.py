"""``ssod plan``: what a run will be, before it is one: passes over the data, pace of the teacher, time and memory."""

from __future__ import annotations

from dataclasses import asdict, replace

from ssod import build
from ssod.commands import load
from ssod.commands.advice import advice
from ssod.commands.dry_run import rehearsal
from ssod.commands.plan_facts import amounts, facts, phases
from ssod.commands.plan_timing import time_evaluation, time_phase
from ssod.commands.planned import Plan, show
from ssod.config import Config
from ssod.data.datasets import DataSets
from ssod.data.loading.workers import usable_cpus
from ssod.engine.logging import log
from ssod.utils import collective, distributed


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
        if collective.rank() == 0:
            timed = [phase.name for phase in phases(cfg)] + ["evaluation"] * bool(data.val)
            print(f"timing a few steps: {', '.join(timed)} ...", flush=True)
        found = measure(cfg, data)
        found = replace(found, load=here.words(), warnings=[*found.warnings, *load.doubts(here, found.device)])
        if collective.rank() == 0:
            show(found, cfg.stem)
    return found


def measure(cfg: Config, data: DataSets) -> Plan:
    """Make a few steps of every phase and look at a few validation images."""
    stepper = rehearsal(build.build_method(cfg, data), cfg.train)
    given = amounts(cfg, data)
    rows, warnings = facts(cfg, data, given)
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
        **asdict(given),
        rows=[*rows, ("", ""), *judged] if judged else rows,
        warnings=warnings + doubts,
        phases=timed,
        evaluation=models * time_evaluation(cfg, data, stepper) if data.val else 0.0,
        evaluations=(steps // every + (steps % every > 0) if every else 1) if data.val else 0,
        memory_gb=log.memory(stepper.device),
        device=str(stepper.device),
    )
