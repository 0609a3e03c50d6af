"""The loop. It has no hooks: the order of its lines is the order of events."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ssod import collective, modelfile
from ssod.engine import checkpoint, dist, log, optim, schedule
from ssod.engine import state as states
from ssod.engine.allocator import keep_freed_memory
from ssod.engine.batch import check_batch, send, shown, too_large
from ssod.engine.guard import Guard, Verdict
from ssod.engine.precision import autocast
from ssod.engine.rng import seed_step
from ssod.engine.runfolder import RunFolder
from ssod.engine.signals import Signals, Stopped
from ssod.engine.train_config import BatchSize, TrainConfig
from ssod.engine.watch import COLLAPSE, Watch, advice
from ssod.engine.window import Clock, Window, totals
from ssod.errors import Exit, SsodError
from ssod.structures import Batch, Detector

__all__ = ["BatchSize", "TrainConfig", "Trainer"]


class Method(Protocol):
    """All that the loop knows of a method (``ssod.methods.base.Method``)."""

    student: Detector
    teacher: Any  # .model is a Detector in eval mode
    stats: dict[str, Tensor]

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]: ...
    def after_step(self, step: int) -> None: ...
    def after_skip(self, step: int) -> None: ...


class Trainer:
    """Trains a method to the last step, through any number of interruptions.

    Args:
        method: an ``nn.Module`` as in ``Method``; moved to the device.
        cfg: how to train.
        batches: given a step, yields ``cfg.accumulate`` micro-batches for it and every later one.
        evaluate: a detector to its metrics, fractions in 0..1; None = no evaluation.
        diagnose: called with step and method after each evaluation of the teacher; what it returns is logged, and read
            by nothing else.
        pictures: called after that with the step if there is a tracker, on rank 0; [H, W, 3] uint8 by name.
        folder: the run's folder, entered.
        identity: what a checkpoint must agree on; see ``identity.check``.
        card: of the model file; see ``modelfile.save``.
        allow_change: keys of ``identity`` that may differ from the checkpoint's.
        phase: names what a step does, for the log: ``burn-in 336/2000``, ``ssod``.
        prepare: called before the first step of this process, when nothing stands in its way any more; writes to the
            folder what says what runs, and returns lines for the log.
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
        diagnose: Callable[[int, nn.Module], dict[str, float]] = lambda step, method: {},
        pictures: Callable[[int], dict[str, np.ndarray]] = lambda step: {},
        prepare: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.cfg, self.folder, self.card, self.phase = cfg, folder, card, phase
        self.batches, self.evaluate, self.diagnose, self.pictures = batches, evaluate, diagnose, pictures
        self.identity = {**identity, "world_size": collective.world_size()}
        self.allow_change, self.prepare = allow_change, prepare
        self.device = dist.pick_device(cfg.device)
        check_batch(cfg)
        if self.device.type == "cpu":
            keep_freed_memory()
        if cfg.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        memory_format = torch.channels_last if cfg.channels_last else torch.preserve_format
        self.method = method.to(self.device, memory_format=memory_format).train()
        self.model = dist.wrap(self.method)
        self.parameters = [p for p in self.method.parameters() if p.requires_grad]
        self.optimizer = optim.build(self.method, cfg.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=cfg.precision == "fp16")
        self.guard = Guard(self.method, self.optimizer)
        self.window = Window()
        self.step = 0  # optimiser steps made, skipped ones included
        self.bad = 0  # bad steps in a row
        self.setbacks = 0  # times it went back to the best teacher since that one was measured
        self.rolls_back = cfg.on_collapse == "roll_back"
        self.best: float | None = None
        self.metrics: dict[str, float] = {}  # of the last evaluation of the teacher
        self.pending = False  # the evaluation of this step is still to come
        self.watch = Watch(cfg.warn_after, *advice(method.cfg))

    def fit(self) -> dict[str, float]:
        """Train to the last step; goes on from the folder's checkpoint if there is one.

        Nothing is written before the checkpoint is known to fit, and nothing at all if the run had ended well.

        Returns:
            The metrics of the last evaluation of the teacher.

        Raises:
            SsodError: code 5 diverged, 75 or 130 stopped with the state saved, 4 the checkpoint does not fit, 6 disk
                or memory.
        """
        cfg = self.cfg
        states.resume(self)
        if self.step >= cfg.steps and dist.on_rank_zero(lambda: self.folder.finished):
            log.tell_finished(self.folder, self.step, self.results())
            return self.metrics
        classes = self.card["classes"]["names"]
        self.log = log.Log(
            self.folder,
            steps=cfg.steps,
            step=self.step,
            pending=self.pending,
            trackers=cfg.trackers,
            classes=classes,
        )
        self.clock = Clock()
        with self.log, Signals() as self.signals:
            self.folder.begin()
            for line in (*self.prepare(), *([f"resuming after step {self.step} of {cfg.steps}"] if self.step else [])):
                self.log.say(line)
            if self.pending:
                self.finish_evaluation()
            batches = self.batches(self.step)
            while self.step < cfg.steps:
                with self.clock:
                    stop = self.train_step(batches)
                if self.due(cfg.log_every):
                    self.write_line()
                self.pending = self.evaluate is not None and self.due(cfg.eval_every)
                save = self.due(cfg.save_every) or (self.pending and self.rolls_back)
                if self.pending and not stop:
                    self.save()  # whatever ends the process in an evaluation costs no step
                    stop = self.run_evaluation()
                if stop or save:
                    self.save()
                if stop:
                    raise self.stopped(stop)
            if self.evaluate is None:
                self.keep_best()
            self.log.end(self.step, self.results())
        return self.metrics

    def results(self) -> dict[str, float]:
        """Return the last and the best teacher, for people; nothing where none was evaluated."""
        name = self.cfg.best
        return {f"teacher {name}": self.metrics[name], "best": self.best} if name in self.metrics else {}

    def train_step(self, batches: Iterator[Batch]) -> int:
        """Make one optimiser step, or skip it; return the exit code of a stop that was asked for, 0 for none."""
        cfg, step = self.cfg, self.step
        optim.set_lr(self.optimizer, self.lr(step))
        seed_step(cfg.seed, step, collective.rank())
        self.guard.remember()
        self.optimizer.zero_grad(set_to_none=True)
        losses, ids = self.forward_backward(batches)
        self.scaler.unscale_(self.optimizer)
        norm = optim.clip(self.parameters, cfg.clip)
        verdict = self.guard.verdict(losses, norm, self.signals.code)  # waits for the device
        if verdict.good:
            try:
                self.scaler.step(self.optimizer)
            except torch.OutOfMemoryError as error:  # the first step makes room for momentum
                raise too_large(step, "in the optimizer's step") from error
            self.scaler.update()
            dist.average_statistics(self.method)
            self.method.after_step(step)  # the teacher moves here, and where a copy falls on a skipped step
            self.window.add(losses | self.method.stats | {"grad_norm": norm})
            self.bad = 0
        else:
            self.skip(verdict, losses, ids)
            self.method.after_skip(step)
        self.step += 1
        return verdict.stop

    def forward_backward(self, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], list[Any]]:
        """Add up the gradient of the step's micro-batches; return its detached losses and labelled image ids."""
        cfg, losses, ids = self.cfg, {}, []
        for micro in range(cfg.accumulate):
            batch = self.clock.wait_for(batches)
            ids += batch.labeled.ids
            try:
                batch = send(batch, self.device, channels_last=cfg.channels_last)
                with dist.no_sync(self.model, micro < cfg.accumulate - 1):
                    with autocast(self.device, cfg.precision):
                        part = self.model(batch, self.step)
                        total = sum(part.values()) / cfg.accumulate
                    self.scaler.scale(total).backward()
            except torch.OutOfMemoryError as error:
                raise too_large(self.step, shown(batch)) from error
            for name, loss in part.items():
                losses[name] = losses.get(name, 0) + loss.detach() / cfg.accumulate
        return losses, ids

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
        # A gradient is averaged over ranks: where only it is bad, the cause lies with another rank.
        found.sort(key=lambda item: item[0].startswith("gradient"))
        culprit, images = found[0] if found else ("gradient", ids)
        shown = ", ".join(str(i) for i in images[:8])
        self.log.say(f"step {self.step}: {culprit} is out of range; skipped ({self.bad} of {self.cfg.bad_steps})")
        if self.bad >= self.cfg.bad_steps:
            raise SsodError(
                self.folder.path,
                f"step {self.step}",
                f"diverged: {culprit} is out of range, {self.bad} steps in a row; images {shown}",
                "lower train.lr or set train.clip; the last good checkpoint is kept",
                code=Exit.DIVERGED,
            )

    def finish_evaluation(self) -> None:
        """Make up for the evaluation that the last process was stopped in."""
        stop = self.run_evaluation()
        if stop:
            raise self.stopped(stop)
        self.save()

    def run_evaluation(self) -> int:
        """Evaluate the teacher, and the student if asked to; keep the best. Return 0, or why it was stopped."""
        try:
            teacher = self.evaluate(self.method.teacher.model)
            seen = self.diagnose(self.step, self.method)
            student = self.evaluate_student() if self.cfg.eval_student else {}
        except Stopped as stopped:
            return stopped.code
        except torch.OutOfMemoryError as error:
            problem = f"out of device memory in the evaluation after step {self.step}, state saved"
            raise SsodError("config", "eval.batch", problem, f"lower it and {self.go_on}", code=Exit.IO) from error
        self.pending = False
        self.metrics = teacher
        found = {f"teacher/{k}": v for k, v in teacher.items()} | {f"student/{k}": v for k, v in student.items()}
        self.log.metrics(self.step, found | seen)
        self.log.pictures(self.step, lambda: self.pictures(self.step))
        better = self.best is None or teacher[self.cfg.best] > self.best
        if better:
            self.best, self.setbacks = teacher[self.cfg.best], 0
            self.keep_best()
        self.judge(found | seen)
        if better and self.rolls_back:
            self.save(checkpoint.BEST)
        return Exit.OK

    def judge(self, found: dict[str, float]) -> None:
        """Tell what an evaluation shows to be wrong; after a collapse do what the config says."""
        alarms = self.watch.judge(found)
        for text in alarms.values():
            self.log.alarm(self.step, text)
        if COLLAPSE in alarms and self.cfg.on_collapse == "stop":
            raise states.collapsed(self, "the teacher collapsed")
        if COLLAPSE in alarms and self.rolls_back:
            self.log.say(states.roll_back(self))

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

    def save(self, name: str = checkpoint.LAST) -> None:
        """Write the checkpoint; a state that is not finite is never written."""
        self.log.sync()
        state = states.collect(self)
        dist.on_rank_zero(lambda: checkpoint.save(self.folder.checkpoints, state, name))

    def write_line(self) -> None:
        """Write the averages since the last line, and what in them should worry the user."""
        every = self.cfg.log_every or self.cfg.steps
        values, steps = self.window.read(), self.step - (self.step - 1) // every * every
        values |= totals(values) | self.clock.read() | {"memory/gb": log.memory(self.device)}
        values |= {"phase": self.phase(self.step - 1), "lr": self.lr(self.step - 1)}
        if self.metrics:
            values[f"teacher/{self.cfg.best}"] = self.metrics[self.cfg.best]
        self.log.line(self.step, values)
        for text in self.watch.look(values, steps):
            self.log.alarm(self.step, text)

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
        problem = f"{why} after step {self.step}, state saved"
        return SsodError(self.folder.path, "", problem, self.go_on, code=Exit(code))

    @property
    def go_on(self) -> str:
        """How a run whose state is saved goes on; without the folder it would be another run."""
        return f"run it again with -o {shlex.quote(str(self.folder.path))} to go on"
