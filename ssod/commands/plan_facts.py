"""What a config says of a run without measuring: its stretches, its passes over the data, the pace of its teacher."""

from __future__ import annotations

import math
from functools import partial

from ssod import build
from ssod.commands.coverage import coverage, doubt
from ssod.commands.planned import Amounts, Phase
from ssod.config import Config
from ssod.data.datasets import DataSets
from ssod.data.formats.records import Labeled
from ssod.engine.schedule import lr_at, turns
from ssod.methods.ema_config import EmaConfig, cap, grown
from ssod.methods.registry import find
from ssod.utils import collective


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


def kept(ema: EmaConfig, step: int) -> float:
    """Return the share of the teacher that its move after step number ``step`` keeps, by its warm-up, too."""
    if not ema.warm_up:
        return ema.decay
    return min(ema.decay, cap(step, ema.gamma)) if ema.growth is None else grown(ema.decay, step, ema.growth)


def amounts(cfg: Config, data: DataSets) -> Amounts:
    """Return what a run is given, and how often it sees it."""
    steps, batch, last = cfg.train.steps, cfg.train.batch, phases(cfg)[-1]
    taught = last.name == build.TAUGHT
    labeled, unlabeled = len(data.labeled), len(data.unlabeled) if taught else 0
    return Amounts(
        steps=steps,
        images_labeled=labeled,
        images_unlabeled=unlabeled,
        images_val=len(data.val) if data.val else 0,
        batch_labeled=batch.labeled,
        batch_unlabeled=batch.unlabeled if taught else 0,
        epochs_labeled=steps * batch.labeled / labeled,
        epochs_unlabeled=last.steps * batch.unlabeled / unlabeled if taught else 0.0,
    )


def facts(cfg: Config, data: DataSets, found: Amounts) -> tuple[list[tuple[str, str]], list[str]]:
    """Return rows and warnings that need no measurement; ``found`` are the config's ``amounts``."""
    train, warnings = cfg.train, []
    last = phases(cfg)[-1]
    parts = collective.world_size() * train.accumulate
    boxes = f"{len(data.labeled.boxes)} boxes, {len(data.classes)} classes"
    rows = [("labelled", f"{found.images_labeled} images, {boxes}")]
    kinds = {"labelled": (found.batch_labeled, found.epochs_labeled)}
    if last.name == build.TAUGHT:
        kinds["unlabelled"] = (found.batch_unlabeled, found.epochs_unlabeled)
        rows.append(("unlabelled", f"{found.images_unlabeled} images"))
    rows.append(("val", f"{found.images_val} images" if found.images_val else "none: no AP will be known"))
    reached = coverage(cfg, data.labeled)
    if reached is not None:
        rows.append(("within reach", reached.within()))
    if problem := doubt(reached):
        warnings.append("; ".join(problem))
    if cfg.views.tiles is not None:
        rows.append(("tiles", f"{tiles_each(cfg, data.labeled):.1f} of a labelled image; a step sees one of each"))
    rows.append(("", ""))
    for kind, (batch, epochs) in kinds.items():
        shares = f"{collective.world_size()} process(es) x {train.accumulate} part(s) x {batch // parts}"
        rows.append((f"batch {kind}", f"{batch} = {shares}"))
        rows.append((f"passes {kind}", f"{epochs:.1f}"))
    rows.append(("steps", str(found.steps)))
    if last.name == build.TAUGHT:
        passes = last.start * train.batch.labeled / len(data.labeled)
        value = f"{last.start} steps, {last.start / train.steps:.0%}, {passes:.1f} passes labelled"
        rows.append(("burn-in", value if cfg.method.plateau is None else f"at most {value}: it may end sooner"))
    ema = cfg.method.ema
    every = (ema.every or 1) if ema.rule == "ema" else 1
    share = kept(ema, train.steps - 1)
    life = half_life(share) * every
    if ema.rule == "ema":
        often = f", every {every} steps" if every > 1 else ""
        often += f"; {share:.3g} at the end of this run's warm-up" if share < ema.decay else ""
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


def tiles_each(cfg: Config, data: Labeled) -> float:
    """Return how many tiles an image has on average; 1 where images are looked at whole."""
    tiles, sizes = cfg.views.tiles, data.images.sizes
    return 1.0 if tiles is None or sizes is None or not len(data) else float(tiles.count(sizes).mean())
