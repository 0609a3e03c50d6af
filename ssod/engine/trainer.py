"""The loop. It has no hooks: the order of its lines is the order of events."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssod.engine import endings
from ssod.engine.checkpointing import burn_in, checkpoint, contents
from ssod.engine.checkpointing import resume_check as identities
from ssod.engine.logging import log
from ssod.engine.logging.alarms import COLLAPSE, Watch, advice
from ssod.engine.logging.meters import Clock, totals
from ssod.engine.parts import RunParts
from ssod.engine.record import Record
from ssod.engine.stepper import Stepper
from ssod.engine.tally import Tally
from ssod.engine.train_config import TrainConfig
from ssod.structures import Batch
from ssod.utils import collective, distributed
from ssod.utils.errors import Exit
from ssod.utils.signals import Signals, Stopped

__all__ = ["TrainConfig", "Trainer"]

ROLL_BACKS = 3  # so many without a better teacher in between end the run: the cause is not chance


class Trainer:
    """Trains a method to the last step, through any number of interruptions.

    Args:
        method: an ``nn.Module`` as in ``stepper.Method``; moved to the device.
        cfg: how to train.
        parts: what else the run is made of: its data, its evaluation, its folder.
    """

    def __init__(self, method: nn.Module, cfg: TrainConfig, parts: RunParts) -> None:
        self.cfg, self.parts, self.folder = cfg, parts, parts.folder
        self.identity = {**parts.identity, "world_size": collective.world_size()}
        self.signals = Signals()
        self.stepper = Stepper(method, cfg, self.signals)
        self.method = self.stepper.method
        self.record = Record(parts.folder, parts.card, cfg.best)
        self.watch = Watch(cfg.warn_after, *advice(method.cfg))
        self.tally, self.clock = Tally(parts.folder.path, cfg.bad_steps), Clock()
        self.step = 0  # optimiser steps made, skipped ones included
        self.pending = False  # the evaluation of this step is still to come
        self.rolls_back = cfg.on_collapse == "roll_back"
        self.setbacks = 0  # times it went back to the best teacher since that one was measured
        self.source: Path | None = None  # the run whose burn-in this one begins with, until it has a state of its own

    def fit(self) -> dict[str, float]:
        """Train to the last step; goes on from the folder's checkpoint if there is one, else from a given burn-in.

        Nothing is written before the checkpoint is known to fit, and nothing at all if the run had ended well.

        Returns:
            The metrics of the last evaluation of the teacher.

        Raises:
            SsodError: code 4 the checkpoint does not fit, 5 diverged, 6 disk or memory, 75 or 130 stopped, state saved.
        """
        self.resume()
        if self.step >= self.cfg.steps and distributed.on_rank_zero(lambda: self.folder.finished):
            log.log_finished(self.folder, self.step, self.record.results())
            return self.record.last
        with self.begun(), contextlib.ExitStack() as opened:  # or a traceback would keep the workers alive
            known, batches = -1, iter(())
            while self.step < self.cfg.steps:
                if known != self.stepper.ahead:  # at first, and where burn-in ended sooner than the batches know
                    opened.close()
                    known, batches = self.stepper.ahead, opened.enter_context(self.open_batches())
                with self.clock:
                    step = self.stepper.train_step(batches, self.step)
                    self.step += 1
                    stop = self.tally.take(step, self.log.say, halts=self.halts())
                self.log.tick(self.step, self.clock.last)
                self.finish_step(stop)
        return self.record.last

    @contextlib.contextmanager
    def open_batches(self) -> Generator[Iterator[Batch], None, None]:
        """Open the batches of all steps from here on."""
        with contextlib.closing(self.parts.batches(self.step, self.stepper.ahead)) as batches:
            yield self.clock.timed(batches)

    @contextlib.contextmanager
    def begun(self) -> Generator[None, None, None]:
        """Open what the run writes to; when all steps are made, write what remains."""
        cfg, parts = self.cfg, self.parts
        if self.source is not None:
            distributed.on_rank_zero(partial(burn_in.take_over, self.source, self.folder, self.step))
        steps = {"steps": cfg.steps, "step": self.step, "pending": self.pending, "eval_every": cfg.eval_every}
        self.log = log.Log(self.folder, **steps, trackers=cfg.trackers, classes=parts.card["classes"]["names"])
        with self.log, self.signals:
            self.folder.begin()
            for line in (*parts.begin(), *log.first_line(self.step, cfg.steps, self.source)):
                self.log.say(line)
            if self.source is not None:
                self.save()  # from here on it is resumed like any other
            if self.pending:
                self.finish_evaluation()
            yield
            if not parts.evaluates:
                self.record.write(self.method.teacher.model, self.step)
            self.log.end(self.step, self.record.results())

    def finish_step(self, stop: int) -> None:
        """Do what belongs to some steps: lines, evaluations, checkpoints; end the run where ``stop`` asks for it."""
        if self.step - 1 == self.method.restart_at:  # the student is another one: its best is sought from here on
            self.record.best, self.watch.best = None, 0.0
        if self.due(self.cfg.log_every):
            self.write_line()
        self.pending = self.parts.evaluates and self.due(self.cfg.eval_every)
        keep = self.cfg.keep_burn_in and self.step == self.parts.burn_in.ends
        save = self.due(self.cfg.save_every) or keep or (self.pending and self.rolls_back)
        if keep:
            self.save(checkpoint.BURN_IN, deciding=self.parts.burn_in.deciding(self.step))
        if self.pending and not stop:
            self.save()  # whatever ends the process in an evaluation costs no step
            stop = self.run_evaluation()
        if stop or save:
            self.save()
        if stop:
            raise endings.stopped(self.folder.path, self.step, stop)

    def halts(self) -> bool:
        """Return whether anything but a step comes now, which must know what became of all steps."""
        keep = self.cfg.keep_burn_in and self.step == self.parts.burn_in.ends
        return keep or any(map(self.due, (self.cfg.log_every, self.cfg.eval_every, self.cfg.save_every)))

    def due(self, every: int) -> bool:
        """Return whether something that happens every so many steps, and after the last, happens now."""
        return self.step == self.cfg.steps or (every > 0 and self.step % every == 0)

    def write_line(self) -> None:
        """Write the averages since the last line, and what in them should worry the user."""
        values, every, last = self.tally.window.read(), self.cfg.log_every or self.cfg.steps, self.step - 1
        values |= totals(values) | self.clock.read() | {"memory/gb": log.memory(self.stepper.device)}
        values |= {"phase": self.parts.phase(last + self.stepper.ahead), "lr": self.stepper.lr(last)}
        if self.cfg.best in self.record.last:
            values[f"teacher/{self.cfg.best}"] = self.record.last[self.cfg.best]
        self.log.line(self.step, values)
        for text in self.watch.look(values, self.step - last // every * every):
            self.log.alarm(self.step, text)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def finish_evaluation(self) -> None:
        """Make up for the evaluation that the last process was stopped in."""
        if stop := self.run_evaluation():
            raise endings.stopped(self.folder.path, self.step, stop)
        self.save()

    def run_evaluation(self) -> int:
        """Evaluate the teacher, and the student if asked to; keep the best. Return 0, or why it was stopped."""
        try:
            teacher = self.parts.evaluate(self.method.teacher.model)
            seen = self.parts.diagnose(self.step, self.method)
            student = self.evaluate_student() if self.cfg.eval_student else {}
        except Stopped as stopped:
            return stopped.code
        except torch.OutOfMemoryError as error:
            raise endings.no_room_to_evaluate(self.folder.path, self.step) from error
        self.pending = False
        found = {f"teacher/{k}": v for k, v in teacher.items()} | {f"student/{k}": v for k, v in student.items()}
        seen |= self.end_burn_in(teacher)
        self.log.metrics(self.step, found | seen)
        self.log.pictures(self.step, lambda: self.parts.pictures(self.step))
        if better := self.record.take(teacher):
            self.setbacks = 0
            self.record.write(self.method.teacher.model, self.step)
        self.judge(found | seen)
        if better and self.rolls_back:
            self.save(checkpoint.BEST)
        return Exit.OK

    def end_burn_in(self, teacher: dict[str, float]) -> dict[str, float]:
        """End burn-in where the teacher no longer gets better; return what readers of the log have to know of it."""
        best, ends, plateau = self.cfg.best, self.parts.burn_in.ends, self.parts.burn_in.plateau
        over = self.stepper.ahead or self.step >= ends
        if plateau is None or over or not plateau.reached(teacher[best]):
            return {}
        self.stepper.ahead = ends - self.step
        self.log.say(f"step {self.step}: the teacher's {best} has stopped growing; unlabelled images join in")
        return {"burn_in/ahead": float(self.stepper.ahead)}

    def evaluate_student(self) -> dict[str, float]:
        """Evaluate the student in eval mode and put it back to training."""
        self.method.student.eval()
        try:
            return self.parts.evaluate(self.method.student)
        finally:
            self.method.train()

    def judge(self, found: dict[str, float]) -> None:
        """Tell what an evaluation shows to be wrong; after a collapse do what the config says."""
        alarms = self.watch.judge(found)
        for text in alarms.values():
            self.log.alarm(self.step, text)
        if COLLAPSE in alarms and self.cfg.on_collapse == "stop":
            raise endings.collapsed(self.folder.path, "the teacher collapsed")
        if COLLAPSE in alarms and self.rolls_back:
            self.roll_back()

    # ---- what the run would lose with its process --------------------------------------------------------------------

    def save(self, name: str = checkpoint.LAST, **more: Any) -> None:
        """Write the checkpoint, with ``more`` in it; a state that is not finite is never written."""
        self.log.sync()
        state = self.state_dict() | more
        distributed.on_rank_zero(lambda: checkpoint.save(self.folder.checkpoints, state, name))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds, on every rank; call it on all of them."""
        own = {"window": self.tally.window.state_dict(), "buffers": self.stepper.own_buffers()}
        return {
            "step": self.step,
            "bad": self.tally.bad,
            "best": self.record.best,
            "metrics": self.record.last,
            "pending": self.pending,
            "setbacks": self.setbacks,
            "ahead": self.stepper.ahead,
            "plateau": self.parts.burn_in.plateau and self.parts.burn_in.plateau.state_dict(),
            "watch": self.watch.state_dict(),
            "identity": self.identity,
            **self.stepper.state_dict(),
            "ranks": distributed.gather(own),  # what differs between ranks: sums since the last line, say
        }

    def resume(self) -> None:
        """Take up the checkpoint of the run's folder, else the burn-in that it begins with; nothing is written.

        Raises:
            SsodError: code 4, no checkpoint is good or it does not fit; code 6, the disk has no room for more.
        """
        folder, size, source = self.folder.checkpoints, self.stepper.state_size(), self.parts.burn_in.source
        more = [checkpoint.BEST] * self.rolls_back + [checkpoint.BURN_IN] * self.cfg.keep_burn_in
        distributed.on_rank_zero(lambda: checkpoint.check_space(folder, size, *more))
        if (path := distributed.on_rank_zero(lambda: checkpoint.find(folder))) is not None:
            saved, own = self.take_up(path)
        elif source is not None:
            self.source, read = source, partial(burn_in.read, source, self.parts.burn_in.deciding)
            saved, own = self.put_back(source, distributed.together(lambda: read(self.method.state_dict())))
        else:
            return
        self.step, self.pending, self.setbacks = saved["step"], saved["pending"], saved.get("setbacks") or 0
        self.stepper.ahead = saved.get("ahead") or 0
        if self.parts.burn_in.plateau:
            self.parts.burn_in.plateau.load_state_dict(saved.get("plateau") or {})
        if self.source is not None:  # which may have been evaluated at other steps
            self.pending = self.parts.evaluates and self.due(self.cfg.eval_every)
        self.tally.window.load_state_dict(own["window"], self.stepper.device)

    def roll_back(self) -> None:
        """Put all that learns back to where the best teacher was measured.

        The step goes on counting. What follows is other batches, at the learning rate of their own steps: from the
        same step the same batches would lead to the same end.

        Raises:
            SsodError: code 5, it has happened too often, or there is no state of the best teacher to go back to.
        """
        folder, path = self.folder.path, self.folder.checkpoints / checkpoint.BEST
        if not distributed.on_rank_zero(path.exists):
            raise endings.collapsed(folder, f"the teacher collapsed, and there is no {path.name} to go back to")
        if self.setbacks == ROLL_BACKS:
            raise endings.collapsed(folder, f"the teacher collapsed again after {ROLL_BACKS} times of going back")
        saved, _ = self.take_up(path)
        self.setbacks += 1
        self.log.say(f"step {self.step}: back to the state of step {saved['step']} ({self.setbacks} of {ROLL_BACKS})")

    def take_up(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Put back what was learned, and what is known about it, from a checkpoint of this run and of this model.

        Returns:
            All that the checkpoint holds, and the part of it that is this rank's own.
        """
        saved = distributed.together(lambda: contents.load(path))
        now, allow = self.identity, self.parts.allow_change
        distributed.on_rank_zero(lambda: identities.check(path, saved["identity"], now, allow))
        distributed.together(lambda: contents.check_fit(path, saved, self.method.state_dict()))
        return self.put_back(path, saved)

    def put_back(self, path: Path, saved: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Put back what was learned from a state that fits; see ``take_up``."""
        own = identities.own_share(path, saved["ranks"])
        self.tally.bad, self.record.best, self.record.last = saved["bad"], saved.get("best"), saved["metrics"]
        self.watch.load_state_dict(saved.get("watch") or {})
        dropped = self.stepper.load_state_dict(saved, own["buffers"])
        log.warn_without_momentum(self.folder.path, dropped, self.cfg.optimizer.name)
        return saved, own
