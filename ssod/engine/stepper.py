"""One step: the gradient of a batch, the test that it is sound, and the optimiser; or nothing at all."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssod.engine import optim, schedule
from ssod.engine.batch import check_batch, send, shown, too_large
from ssod.engine.guard import Guard
from ssod.engine.micro_batches import MicroBatches
from ssod.engine.step import Step
from ssod.engine.train_config import TrainConfig
from ssod.structures import Batch, Detector
from ssod.utils import collective, distributed
from ssod.utils.device import autocast, keep_freed_memory
from ssod.utils.seeding import seed_step
from ssod.utils.signals import Signals


class Method(Protocol):
    """All that the engine knows of a method (``ssod.methods.base.Method``)."""

    student: Detector
    teacher: Any  # .model is a Detector in eval mode
    stats: dict[str, Tensor]
    restart_at: int | None  # before this step `restart` is called; None = never

    def restart(self) -> None:
        """Let the student start afresh."""

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return the losses, scalars by name, and set ``stats``."""

    def after_step(self, step: int, skipped: Tensor | None = None) -> None:
        """Let the teacher follow the student; where ``skipped`` is 1, do as ``after_skip``."""

    def after_skip(self, step: int) -> None:
        """Do for the teacher what falls on a step that was skipped."""


class Stepper:
    """All that a step changes: a method, its optimiser and the scale of its loss.

    Args:
        method: an ``nn.Module`` as in ``Method``; moved to the device.
        cfg: how to train.
        signals: asked in every step whether the run is to stop after it.

    Attributes:
        ahead: steps by which burn-in was shorter than the config says. The method is told a step number that is so much
            higher; the schedule and what is drawn follow the steps that were made.
    """

    def __init__(self, method: nn.Module, cfg: TrainConfig, signals: Signals) -> None:
        self.cfg, self.signals = cfg, signals
        self.device = distributed.pick_device(cfg.device)
        check_batch(cfg)
        if self.device.type == "cpu":
            keep_freed_memory()
        if cfg.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        memory_format = torch.channels_last if cfg.channels_last else torch.preserve_format
        # type: ignore because torch's hint of `to` leaves memory_format out.
        self.method = method.to(self.device, memory_format=memory_format).train()  # type: ignore
        self.model = distributed.wrap(self.method)
        self.named = {name: p for name, p in self.method.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.late = self.device.type in optim.FUSED  # the verdict on a step is read when all of it is on its way
        self.optimizer = optim.build(self.method, cfg.optimizer, fused=self.late)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=cfg.precision == "fp16")
        self.guard = Guard(self.method, self.optimizer)
        self.micro_batches = MicroBatches(self)
        self.ahead = 0

    def train_step(self, batches: Iterator[Batch], step: int) -> Step:
        """Make step number ``step`` from the next micro-batches, or skip it; on a GPU, it may still be on its way.

        Raises:
            SsodError: code 6, the batch or the optimiser's state does not fit on the device.
        """
        if step == self.method.restart_at:
            self.method.restart()
            self.optimizer.state.clear()
        optim.set_lr(self.optimizer, self.lr(step))
        self.seed(step, 0)
        self.guard.remember()
        self.optimizer.zero_grad(set_to_none=True)
        parts = [next(batches) for _ in range(self.cfg.accumulate)]
        if len(parts) == 1:
            losses = self.learn(parts[0], step, last=True)
        else:
            losses = self.micro_batches.learn(parts, step)
        return self.finish(step, losses, [name for part in parts for name in part.labeled.ids])

    def seed(self, step: int, part: int) -> None:
        """Seed what a part of a step draws, as on a rank of its own."""
        seed_step(self.cfg.seed, step, collective.rank() * self.cfg.accumulate + part)

    def learn(self, batch: Batch, step: int, *, last: bool) -> dict[str, Tensor]:
        """Add the gradient of one part of a step, with the ``last`` one over ranks, and return its losses."""
        with self.on_device(batch, step) as batch, distributed.no_sync(self.model, not last):
            with autocast(self.device, self.cfg.precision):
                losses: dict[str, Tensor] = self.model(batch, step + self.ahead)
                # type: ignore because a step has a loss: the sum is never the number 0.
                total: Tensor = sum(losses.values()) / self.cfg.accumulate  # type: ignore
            self.scaler.scale(total).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def look(self, batch: Batch, step: int) -> None:
        """Run one part of a step without gradient, for what its parts have to tell one another."""
        with self.on_device(batch, step) as batch, autocast(self.device, self.cfg.precision):
            self.method(batch, step + self.ahead)

    @contextmanager
    def on_device(self, batch: Batch, step: int) -> Generator[Batch, None, None]:
        """Copy a batch to the device, and say what did not fit where its memory does not suffice."""
        try:
            batch = send(batch, self.device, channels_last=self.cfg.channels_last)
            yield batch
        except torch.OutOfMemoryError as error:
            raise too_large(step, shown(batch)) from error

    def finish(self, step: int, losses: dict[str, Tensor], ids: list[Any]) -> Step:
        """Let the optimiser and the teacher move if all is finite on every rank; else leave all as it was.

        On a GPU the device does what it decides, and the host waits for nothing: the optimiser skips, the teacher's
        decay becomes 1, buffers are put back. On a CPU, where nothing is waited for, and with an optimiser that knows
        no such step, the host reads the verdict first.
        """
        self.scaler.unscale_(self.optimizer)
        norm, norms = optim.clip(self.named, self.cfg.clip)
        scale = self.scaler.scale(torch.ones((), device=self.device))
        judged = self.guard.judge(losses, norms, scale, self.signals.code)
        self.rescale(scale, judged.fault)
        if self.late:
            self.move(step, judged.bad)
        elif judged.read().good:
            self.move(step)
        else:
            self.guard.restore()
            self.method.after_skip(step + self.ahead)
        return Step(step, judged, losses | self.method.stats | {"grad_norm": norm}, ids)

    def move(self, step: int, skipped: Tensor | None = None) -> None:
        """Let the optimiser and the teacher move; where ``skipped``, [] on the device, is 1, leave all as it was."""
        try:
            if skipped is None:
                self.optimizer.step()
            else:
                optim.step_unless(self.optimizer, skipped)
        except torch.OutOfMemoryError as error:  # the first step makes room for momentum
            raise too_large(step, "in the optimizer's step") from error
        distributed.average_statistics(self.method)
        if skipped is None:
            self.method.after_step(step + self.ahead)  # the teacher moves here; a copy, also on a skipped step
        else:
            self.guard.restore(skipped > 0)
            self.method.after_step(step + self.ahead, skipped)

    def rescale(self, scale: Tensor, fault: Tensor) -> None:
        """Halve the scale of the loss where it alone was too large, and raise it now and then; a fault leaves it."""
        if self.scaler.is_enabled():
            self.scaler.update()
            self.scaler.update(torch.where(fault, scale, self.scaler.scale(torch.ones_like(scale))))

    def lr(self, step: int) -> float:
        """Return the learning rate of ``step``."""
        cfg, restart_at = self.cfg, self.method.restart_at
        shape = {"schedule": cfg.schedule, "warm_up": cfg.warm_up, "restart_at": restart_at}
        return schedule.lr_at(step, lr=cfg.lr, steps=cfg.steps, **shape)

    # ---- what a checkpoint keeps of it -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that has been learned: ``method``, ``optimizer`` and ``scaler``."""
        return {
            "method": self.method.state_dict(),
            "optimizer": optim.state_by_name(self.optimizer, self.method),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any], buffers: Mapping[str, Tensor]) -> int:
        """Put back what ``state_dict`` returned, then this rank's own ``buffers``.

        Rates and decays come from the config, which may have changed; what was learned comes from ``saved``.

        Returns:
            How many parameters start without momentum, because what was saved is of another optimiser.
        """
        self.method.load_state_dict(saved["method"])
        dropped = optim.load_state(self.optimizer, self.method, saved["optimizer"])
        if saved["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(saved["scaler"])
        self.method.load_state_dict(buffers, strict=False)
        return dropped

    def own_buffers(self) -> dict[str, Tensor]:
        """Return this rank's own buffers, on the CPU; nothing where there is one rank.

        A module names in ``alike`` those of its buffers that are the same on all ranks (a bank of crops has hundreds of
        megabytes): one copy of them is enough, that of ``state_dict``.
        """
        if not collective.active():
            return {}
        modules = self.method.named_modules()
        alike = {f"{path}.{name}".lstrip(".") for path, module in modules for name in getattr(module, "alike", ())}
        own = self.method.state_dict().keys() - alike
        return {name: buffer.cpu() for name, buffer in self.method.named_buffers() if name in own}

    def state_size(self) -> int:
        """Return the bytes of ``state_dict`` once the optimiser has made a step."""
        size = sum(t.numel() * t.element_size() for t in self.method.state_dict().values() if isinstance(t, Tensor))
        return size + optim.state_size(self.parameters, self.cfg.optimizer)
