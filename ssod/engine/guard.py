"""The test that stands between a backward pass and the weights: is every number finite, on every rank?

A step that fails it is skipped by all ranks together: no weight, no teacher and no buffer changes. The device decides,
and leaves its decision there as a tensor, for an optimiser that can skip by one; the host may read it later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

from ssod.utils import collective
from ssod.utils.given import given
from ssod.utils.on_device import copy_where

# A magnitude no healthy weight, gradient or momentum has, small enough that an update made from such numbers, Adam's
# squares included, is still finite in float32: what passes here cannot make a weight, and so a teacher, non-finite.
LIMIT = 1e18


@dataclass(frozen=True)
class Verdict:
    """What all ranks agree on after a backward pass.

    Attributes:
        losses: every loss is finite.
        gradient: the gradient's norm is below ``LIMIT``.
        state: student, teacher and optimiser state are below ``LIMIT``.
        stop: exit code of a stop that some rank was asked for; 0 = none.
        scale: what the losses were multiplied by for the backward pass.
    """

    losses: bool
    gradient: bool
    state: bool
    stop: int
    scale: float

    @property
    def good(self) -> bool:
        """Whether the step may change anything."""
        return self.losses and self.gradient and self.state

    @property
    def overflow(self) -> bool:
        """Whether the scale of the loss alone was too large, which is no fault; at scale 1 nothing is left to halve."""
        return self.losses and self.state and not self.gradient and self.scale > 1


@dataclass(frozen=True)
class Seen:
    """Numbers of one kind that a step is judged by.

    Attributes:
        names: whose they are.
        values: [N], one of each.
        bad: [N] bool, which are out of range.
        shown: whether a message tells the value, too.
    """

    names: list[str]
    values: Tensor
    bad: Tensor
    shown: bool = False


class Judgement:
    """The verdict on a step where it was made, on the device.

    Args:
        votes: [5], those of all ranks: losses, gradient and state are bad (1, else 0), code of a stop, scale.
        seen: what this rank saw, in the order in which a culprit is sought.

    Attributes:
        bad: [] float32, 1 where the step must change nothing, else 0.
        fault: [] bool, bad for more than the scale of the loss.
    """

    def __init__(self, votes: Tensor, seen: list[Seen]) -> None:
        losses, gradient, state, _, scale = votes.unbind()
        self.bad = votes[:3].amax()
        self.fault = ((losses + state) > 0) | ((gradient > 0) & (scale <= 1))
        self._seen = seen
        self._votes = votes.to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if votes.is_cuda else None
        if self._copied is not None:
            self._copied.record()
        self._verdict: Verdict | None = None

    @property
    def known(self) -> bool:
        """Whether the host has read it."""
        return self._verdict is not None

    def read(self) -> Verdict:
        """Return the verdict; the first time, wait until the device has come to it."""
        if self._verdict is None:
            if self._copied is not None:
                self._copied.synchronize()
            losses, gradient, state, stop, scale = self._votes.tolist()
            self._verdict = Verdict(not losses, not gradient, not state, int(stop), scale)
        return self._verdict

    def culprit(self) -> str:
        """Name the first tensor, loss or gradient of this rank that was out of range.

        Returns:
            ``loss sup/cls = nan``, ``gradient of student.head.weight``, ...; empty when this rank has none.
        """
        for seen in self._seen:
            bad = seen.bad.tolist()
            if True in bad:
                at = bad.index(True)
                return f"{seen.names[at]} = {seen.values.tolist()[at]}" if seen.shown else seen.names[at]
        return ""


class Guard:
    """Watches one method, which holds ``student`` and ``teacher``, and its optimiser.

    Buffers that a forward pass writes (batch-norm statistics, score banks) are remembered before each step, so that a
    skipped step leaves no trace in them. Judging costs one pass over weights and optimiser state.
    """

    def __init__(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._parameters = dict(method.named_parameters())
        self._slots = {
            f"{path}.{name}".lstrip("."): (module, name)
            for path, module in method.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and name not in module._non_persistent_buffers_set
        }
        # The teacher's buffers move in after_step and after_skip only, of which none comes before restore.
        self._written = {path: slot for path, slot in self._slots.items() if "teacher" not in path.split(".")}
        self._saved = [buffer.clone() for buffer in self._live()]

    def remember(self) -> None:
        """Note the buffers before a forward pass."""
        if self._saved:
            torch._foreach_copy_(self._saved, self._live())

    @torch.no_grad()
    def restore(self, where: Tensor | None = None) -> None:
        """Put the buffers back as they were noted.

        Args:
            where: [] bool on the device, whether to do so; None = do.
        """
        if self._saved and where is None:
            torch._foreach_copy_(self._live(), self._saved)
        elif where is not None:
            copy_where(where, self._live(), self._saved)

    @torch.no_grad()
    def judge(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor], scale: Tensor, stop: int) -> Judgement:
        """Judge a step on every rank at once; nothing is read.

        A culprit is sought in buffers as they were noted: what a forward pass writes there is not what was bad first.

        Args:
            losses: scalars of this rank.
            norms: the norm of each gradient, by name of the parameter.
            scale: [], what the losses were multiplied by.
            stop: exit code of the stop asked of this rank, 0 for none.
        """
        noted, live = dict(zip(self._written, self._saved)), dict(zip(self._written, self._live()))
        told = torch.stack([loss.detach().float() for loss in losses.values()])
        loss = Seen([f"loss {name}" for name in losses], told, ~told.isfinite(), shown=True)
        gradient = _compared([f"gradient of {name}" for name in norms], torch.stack(list(norms.values())))
        kept = _out_of_range(self._kept())
        state = torch.cat([seen.bad for seen in (*kept, *self._by_kind(live))])
        bad = [loss.bad.any(), ~(torch.linalg.vector_norm(gradient.values) < LIMIT), state.any()]  # true for NaN
        votes = torch.stack([vote.to(told) for vote in (*bad, torch.full_like(scale, stop), scale)])
        if collective.active():
            torch_dist.all_reduce(votes, torch_dist.ReduceOp.MAX)
        return Judgement(votes, [*kept, *self._by_kind(noted), loss, gradient])

    def _live(self) -> list[Tensor]:
        return [buffer_of(module, name) for module, name in self._written.values()]

    def _kept(self) -> dict[str, Tensor]:
        """Return what outlives a step and no forward pass writes: weights, the teacher, what the optimiser keeps."""
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        teacher = self._slots.keys() - self._written.keys()
        kept = self._parameters | {path: buffer_of(*slot) for path, slot in self._slots.items() if path in teacher}
        for parameter, state in self.optimizer.state.items():
            named = {f"{key} of {names[id(parameter)]}": value for key, value in state.items()}
            # Adam counts its steps in scalars; there is nothing to watch in them.
            kept |= {key: value for key, value in named.items() if isinstance(value, Tensor) and value.ndim}
        return kept

    @staticmethod
    def _by_kind(written: dict[str, Tensor]) -> list[Seen]:
        """Judge buffers that a forward pass writes: those of models, and a method's own."""
        models = {path for path in written if "student" in path.split(".")}  # that of a second model is deeper
        banks = _floats({path: buffer for path, buffer in written.items() if path not in models})
        seen = _out_of_range({path: buffer for path, buffer in written.items() if path in models})
        if banks:  # a threshold may be infinite (nothing passes), but not NaN
            norms = _norms(banks)
            seen.append(Seen(list(banks), norms, norms.isnan()))
        return seen


def buffer_of(module: nn.Module, name: str) -> Tensor:
    """Return a buffer that was there when the run began."""
    return given(module._buffers[name], f"the buffer {name} has been taken away")


def _out_of_range(tensors: dict[str, Tensor]) -> list[Seen]:
    """Judge the magnitudes of tensors; nothing where none holds fractions."""
    floats = _floats(tensors)
    return [_compared(list(floats), _norms(floats))] if floats else []


def _compared(names: list[str], norms: Tensor) -> Seen:
    return Seen(names, norms, ~(norms < LIMIT))  # true for NaN


def _floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of fractions by their format, as ``_norms`` has them."""
    floats = [(name, t) for name, t in tensors.items() if t.is_floating_point() and t.numel()]
    return dict(sorted(floats, key=lambda item: item[1].dtype != torch.float64))


def _norms(tensors: dict[str, Tensor]) -> Tensor:
    """Return the 2-norm of each tensor: no less than its largest magnitude, NaN where one is in it."""
    wide = [t.detach() for t in tensors.values() if t.dtype == torch.float64]
    rest = [t.detach() for t in tensors.values() if t.dtype != torch.float64]
    norms = [*(torch._foreach_norm(wide) if wide else ())]
    norms += torch._foreach_norm(rest, dtype=torch.float32) if rest else ()  # the norm of halves overflows as a half
    return torch.stack([norm.float() for norm in norms])
