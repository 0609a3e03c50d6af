"""The loop. It has no hooks: the order of its lines is the order of events."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ssod import collective, modelfile, seeding
from ssod.engine import checkpoint, dist, log, optim, schedule
from ssod.engine import identity as identities
from ssod.engine.guard import Guard, Verdict
from ssod.engine.precision import autocast
from ssod.engine.runfolder import RunFolder
from ssod.engine.signals import Signals, Stopped
from ssod.engine.train_config import BatchSize, TrainConfig
from ssod.errors import Exit, SsodError
from ssod.structures import Batch, Detector

__all__ = ["BatchSize", "TrainConfig", "Trainer", "check_batch"]


class Method(Protocol):
    """All that the loop knows of a method (``ssod.methods.base.Method``)."""

    student: Detector
    teacher: Any  # .model is a Detector in eval mode
    stats: dict[str, Tensor]

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]: ...
    def after_step(self, step: int) -> None: ...


class Trainer:
    """Trains a method to the last step, through any number of interruptions.

    Args:
        method: an ``nn.Module`` as in ``Method``; moved to the device.
        cfg: how to train.
        batches: given a step, yields ``cfg.accumulate`` micro-batches for it and every later one.
        evaluate: a detector to its metrics, fractions in 0..1; None = no evaluation.
        folder: the run's folder, entered.
        identity: what a checkpoint must agree on; see ``identity.check``.
        card: of the model file; see ``modelfile.save``.
        allow_change: keys of ``identity`` that may differ from the checkpoint's.
        phase: names what a step does, for the log: ``burn-in 336/2000``, ``ssod``.
    """

    def __init__(
        self,
        method: nn.Module,
        cfg: TrainConfig,
        *,
        batches: Callable[[int], Iterator[Batch]],
        evaluate: Callable[[Detector], dict[str, float]] | None,
        folder: RunFolder,
        identity: dict[str, Any],
        card: dict[str, Any],
        allow_change: Collection[str] = (),
        phase: Callable[[int], str] = lambda step: "",
    ) -> None:
        self.cfg, self.folder, self.card, self.phase = cfg, folder, card, phase
        self.batches, self.evaluate = batches, evaluate
        self.identity = {**identity, "world_size": collective.world_size()}
        self.allow_change = allow_change
        self.device = dist.pick_device(cfg.device)
        check_batch(cfg)
        if cfg.deterministic:
            torch.use_deterministic_algorithms(True)
        memory_format = torch.channels_last if cfg.channels_last else torch.preserve_format
        self.method = method.to(self.device, memory_format=memory_format).train()
        self.model = dist.wrap(self.method)
        self.parameters = [p for p in self.method.parameters() if p.requires_grad]
        self.optimizer = optim.build(self.method, cfg.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=cfg.precision == "fp16")
        self.guard = Guard(self.method, self.optimizer)
        self.window = log.Window()
        self.step = 0  # optimiser steps made, skipped ones included
        self.bad = 0  # bad steps in a row
        self.best: float | None = None
        self.metrics: dict[str, float] = {}  # of the last evaluation of the teacher
        self.pending = False  # an evaluation is due that was interrupted
        self.waited, self.line_step, self.since = 0.0, 0, time.perf_counter()

    def fit(self) -> dict[str, float]:
        """Train to the last step; goes on from the folder's checkpoint if there is one.

        Returns:
            The metrics of the last evaluation of the teacher.

        Raises:
            SsodError: code 5 diverged, 75 or 130 stopped with the state saved, 4 the checkpoint does not fit, 6 disk
                or memory.
        """
        cfg = self.cfg
        self.resume()
        self.line_step, self.since = self.step, time.perf_counter()
        self.log = log.Log(self.folder, steps=cfg.steps, step=self.step, tensorboard=cfg.tensorboard)
        with Signals() as self.signals:
            try:
                if self.pending:
                    self.run_evaluation()
                batches = self.batches(self.step)
                while self.step < cfg.steps:
                    stop = self.train_step(batches)
                    if self.due(cfg.log_every):
                        self.write_line()
                    self.pending = self.evaluate is not None and self.due(cfg.eval_every)
                    if self.pending and not stop:
                        stop = self.run_evaluation()
                    if stop or self.due(cfg.save_every):
                        self.save()
                    if stop:
                        raise self.stopped(stop)
                if self.evaluate is None:
                    self.keep_best()
            finally:
                self.log.close()
        return self.metrics

    def train_step(self, batches: Iterator[Batch]) -> int:
        """Make one optimiser step, or skip it; return the exit code of a stop that was asked for, 0 for none."""
        cfg, step = self.cfg, self.step
        optim.set_lr(self.optimizer, self.lr(step))
        seed_step(cfg.seed, step, collective.rank())
        self.optimizer.zero_grad(set_to_none=True)
        self.guard.remember()
        losses: dict[str, Tensor] = {}
        ids: list[Any] = []
        for micro in range(cfg.accumulate):
            batch = self.fetch(batches)
            ids += batch.labeled.ids
            with dist.no_sync(self.model, micro < cfg.accumulate - 1):
                with autocast(self.device, cfg.precision):
                    part = self.model(batch, step)
                    total = sum(part.values()) / cfg.accumulate
                self.scaler.scale(total).backward()
            for name, loss in part.items():
                losses[name] = losses.get(name, 0) + loss.detach() / cfg.accumulate
        self.scaler.unscale_(self.optimizer)
        norm = clip(self.parameters, cfg.clip)
        verdict = self.guard.verdict(losses, norm, self.signals.code)  # the one time a step waits for the device
        if verdict.good:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.method.after_step(step)  # the teacher moves here, and nowhere else
            self.window.add(losses | self.method.stats | {"grad_norm": norm})
            self.bad = 0
        else:
            self.skip(verdict, losses, ids)
        self.step += 1
        return verdict.stop

    def skip(self, verdict: Verdict, losses: dict[str, Tensor], ids: list[Any]) -> None:
        """Leave everything as it was before the step, on all ranks; end the run when it happens too often in a row.

        An fp16 gradient that overflows is no fault: the scale of the loss is halved and the step is not counted. At
        scale 1 there is nothing left to halve, and it is one.
        """
        self.guard.restore()
        self.window.skipped += 1
        scale = self.scaler.get_scale()
        if self.scaler.is_enabled() and verdict.losses and verdict.state and scale > 1:
            self.scaler.update()
            return
        self.scaler.update(scale)  # forget this step, keep the scale
        self.bad += 1
        found = [(name, i) for name, i in dist.gather((self.guard.culprit(losses), ids)) if name]
        culprit, images = found[0] if found else ("gradient", ids)
        shown = ", ".join(str(i) for i in images[:8])
        self.log.say(f"step {self.step}: {culprit} is not finite; skipped ({self.bad} of {self.cfg.bad_steps})")
        if self.bad >= self.cfg.bad_steps:
            raise SsodError(
                self.folder.path,
                f"step {self.step}",
                f"diverged: {culprit} is not finite, {self.bad} steps in a row; images {shown}",
                "lower train.lr or set train.clip; the last good checkpoint is kept",
                code=Exit.DIVERGED,
            )

    def run_evaluation(self) -> int:
        """Evaluate the teacher, and the student if asked to; keep the best. Return 0, or why it was stopped."""
        try:
            teacher = self.evaluate(self.method.teacher.model)
            student = self.evaluate_student() if self.cfg.eval_student else {}
        except Stopped as stopped:
            return stopped.code
        self.pending = False
        self.metrics = teacher
        found = {f"teacher/{k}": v for k, v in teacher.items()} | {f"student/{k}": v for k, v in student.items()}
        # Per-class numbers ("AP/cat") have a file of their own; a line of metrics.jsonl stays short.
        self.log.metrics(self.step, {name: v for name, v in found.items() if name.count("/") == 1})
        dist.on_rank_zero(lambda: self.folder.write_json(self.folder.eval / f"step_{self.step}.json", found))
        if self.best is None or teacher[self.cfg.best] > self.best:
            self.best = teacher[self.cfg.best]
            self.keep_best()
        return Exit.OK

    def evaluate_student(self) -> dict[str, float]:
        """Evaluate the student in eval mode and put it back to training."""
        self.method.student.eval()
        try:
            return self.evaluate(self.method.student)
        finally:
            self.method.train()

    def keep_best(self) -> None:
        """Write the teacher as ``best.safetensors``."""
        card = self.card | {"step": self.step, "metrics": self.metrics}
        state = self.method.teacher.model.state_dict()
        dist.on_rank_zero(lambda: modelfile.save(self.folder.best, state, card))

    def save(self) -> None:
        """Write the checkpoint; a state that is not finite is never written."""
        self.log.sync()
        own = {"window": self.window.state_dict(), "buffers": self.buffers() if collective.active() else {}}
        state = {
            "step": self.step,
            "bad": self.bad,
            "best": self.best,
            "metrics": self.metrics,
            "pending": self.pending,
            "identity": self.identity,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "ranks": dist.gather(own),  # what differs between ranks: live batch-norm statistics, say
        }
        dist.on_rank_zero(lambda: checkpoint.save(self.folder.checkpoints, state))

    def resume(self) -> None:
        """Take up the folder's checkpoint, if there is one."""
        path = dist.on_rank_zero(lambda: checkpoint.find(self.folder.checkpoints))
        if path is None:
            return
        state = checkpoint.load(path)
        identities.check(path, state["identity"], self.identity, self.allow_change)
        checkpoint.check_model(path, state["method"], self.method.state_dict())
        self.step, self.bad, self.best = state["step"], state["bad"], state["best"]
        self.metrics, self.pending = state["metrics"], state["pending"]
        self.method.load_state_dict(state["method"])
        # Rates and decays come from the config, which may have changed; what was learned comes from the file.
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        own = state["ranks"][collective.rank() % len(state["ranks"])]
        self.window.load_state_dict(own["window"], self.device)
        self.method.load_state_dict(own["buffers"], strict=False)

    def buffers(self) -> dict[str, Tensor]:
        """Return this rank's own buffers, on the CPU."""
        kept = self.method.state_dict().keys()
        return {name: buffer.cpu() for name, buffer in self.method.named_buffers() if name in kept}

    def fetch(self, batches: Iterator[Batch]) -> Batch:
        """Wait for the next micro-batch and send it to the device."""
        start = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - start
        batch = batch.to(self.device)
        if self.cfg.channels_last:
            batch = batch.map(lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t)
        return batch

    def write_line(self) -> None:
        """Write the averages since the last line."""
        values = self.window.read()
        seconds, self.since = time.perf_counter() - self.since, time.perf_counter()
        steps = self.step - self.line_step
        values |= {
            "phase": self.phase(self.step - 1),
            "lr": self.lr(self.step - 1),
            "loss/sup": sum(v for name, v in values.items() if name.startswith("sup/")),
            "time/step": seconds / steps,
            "time/data": self.waited / steps,
            "memory/gb": log.memory(self.device),
        }
        if any(name.startswith("unsup/") for name in values):
            values["loss/unsup"] = sum(v for name, v in values.items() if name.startswith("unsup/"))
        if self.metrics:
            values["teacher/AP"] = self.metrics.get(self.cfg.best, -1.0)
        self.log.line(self.step, values)
        self.waited, self.line_step = 0.0, self.step

    def lr(self, step: int) -> float:
        """Return the learning rate of ``step``."""
        cfg = self.cfg
        return schedule.lr_at(step, lr=cfg.lr, steps=cfg.steps, schedule=cfg.schedule, warm_up=cfg.warm_up)

    def due(self, every: int) -> bool:
        """Return whether something that happens every so many steps, and after the last, happens now."""
        return self.step == self.cfg.steps or (every > 0 and self.step % every == 0)

    def stopped(self, code: int) -> SsodError:
        """Return the error that ends a run whose state is saved."""
        why = "preempted" if code == Exit.PREEMPTED else "interrupted"
        return SsodError(
            self.folder.path, "", f"{why} after step {self.step}, state saved", "run it again to go on", code=Exit(code)
        )


def check_batch(cfg: TrainConfig) -> None:
    """Test that the batch divides among processes and micro-batches.

    Raises:
        SsodError: code 2.
    """
    parts = collective.world_size() * cfg.accumulate
    for name, size in (("labeled", cfg.batch.labeled), ("unlabeled", cfg.batch.unlabeled)):
        if size % parts:
            problem = f"{size} images do not divide among {collective.world_size()} processes x {cfg.accumulate} parts"
            raise SsodError("config", f"train.batch.{name}", problem, f"use a multiple of {parts}")


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed every global generator from what a step is, not from what came before it.

    The package itself draws from none of them; dropout and the like do. Neither an interruption nor an evaluation in
    between can then change what a step draws, and no generator has a state worth saving.
    """
    key = seeding.key(seed, "step", step, rank)
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002  the global state is what third parties draw from
    torch.manual_seed(key)


def clip(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to the norm ``limit`` (0 = none) and return the norm they had, as a tensor."""
    if limit:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
