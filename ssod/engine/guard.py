"""The test that stands between a backward pass and the weights: is every number finite, on every rank?

A step that fails it is skipped by all ranks together: no weight, no teacher and no buffer changes.
"""

from dataclasses import dataclass

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

from ssod.utils import collective
from ssod.utils.given import given

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
    """

    losses: bool
    gradient: bool
    state: bool
    stop: int

    @property
    def good(self) -> bool:
        """Whether the step may change anything."""
        return self.losses and self.gradient and self.state


class Guard:
    """Watches one method, which holds ``student`` and ``teacher``, and its optimiser.

    Buffers that a forward pass writes (batch-norm statistics, score banks) are remembered before each step, so that a
    skipped step leaves no trace in them. Reading costs one pass over weights and optimiser state, and one copy
    from the device.
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
        self._written = [slot for name, slot in self._slots.items() if "teacher" not in name.split(".")]
        self._saved = [buffer.clone() for buffer in self._live()]

    def remember(self) -> None:
        """Note the buffers before a forward pass."""
        if self._saved:
            torch._foreach_copy_(self._saved, self._live())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the buffers back as they were noted."""
        if self._saved:
            torch._foreach_copy_(self._live(), self._saved)

    @torch.no_grad()
    def verdict(self, losses: dict[str, Tensor], norm: Tensor, stop: int) -> Verdict:
        """Judge a step on every rank at once; waits for the device, until all of the step is computed.

        Args:
            losses: scalars of this rank.
            norm: the gradient's norm.
            stop: exit code of the stop asked of this rank, 0 for none.
        """
        bad = [
            ~torch.stack([loss.float() for loss in losses.values()]).isfinite().all(),
            ~(norm < LIMIT),  # true for NaN
            self._state_is_bad(),
            torch.as_tensor(stop),
        ]
        votes = torch.stack([vote.to(norm.device, torch.float32) for vote in bad])
        if collective.active():
            torch_dist.all_reduce(votes, torch_dist.ReduceOp.MAX)
        bad_losses, bad_gradient, bad_state, stop_code = votes.tolist()
        return Verdict(not bad_losses, not bad_gradient, not bad_state, int(stop_code))

    def culprit(self, losses: dict[str, Tensor]) -> str:
        """Name the first loss, gradient or tensor of this rank that is not finite, in the order of computation.

        Returns:
            ``loss sup/cls = nan``, ``gradient of student.head.weight``, ...; empty when this rank has none.
        """
        banks, rest = self._state()
        for name, tensor in rest.items():
            if not bool((tensor.abs() < LIMIT).all()):
                return name
        for name, tensor in banks.items():  # a threshold may be infinite (nothing passes), but not NaN
            if bool(tensor.isnan().any()):
                return name
        for name, loss in losses.items():
            if not bool(loss.isfinite()):
                return f"loss {name} = {float(loss)}"
        for name, parameter in self._parameters.items():
            if parameter.grad is not None and not bool((parameter.grad.abs() < LIMIT).all()):
                return f"gradient of {name}"
        return ""

    def _live(self) -> list[Tensor]:
        return [buffer_of(module, name) for module, name in self._written]

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return every floating-point tensor that outlives a step: a method's own buffers, and all the rest."""
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        rest: dict[str, Tensor] = dict(self._parameters)
        banks: dict[str, Tensor] = {}
        for path, (module, name) in self._slots.items():
            model = {"student", "teacher"} & set(path.split("."))  # those of a second model are deeper
            (rest if model else banks)[path] = buffer_of(module, name)
        for parameter, state in self.optimizer.state.items():
            named = {f"{key} of {names[id(parameter)]}": value for key, value in state.items()}
            # Adam counts its steps in scalars on the CPU; there is nothing to watch in them.
            rest |= {key: value for key, value in named.items() if isinstance(value, Tensor) and value.ndim}
        return _floats(banks), _floats(rest)

    def _state_is_bad(self) -> Tensor:
        banks, rest = self._state()
        bad = ~(_norms(rest) < LIMIT).all()
        return bad | _norms(banks).isnan().any() if banks else bad


def buffer_of(module: nn.Module, name: str) -> Tensor:
    """Return a buffer that was there when the run began."""
    return given(module._buffers[name], f"the buffer {name} has been taken away")


def _floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}


def _norms(tensors: dict[str, Tensor]) -> Tensor:
    """Return the 2-norm of each tensor: no less than its largest magnitude, NaN where one is in it."""
    wide = [t.detach() for t in tensors.values() if t.dtype == torch.float64]
    rest = [t.detach() for t in tensors.values() if t.dtype != torch.float64]
    norms = [*(torch._foreach_norm(wide) if wide else ())]
    norms += torch._foreach_norm(rest, dtype=torch.float32) if rest else ()  # the norm of halves overflows as a half
    return torch.stack([norm.float() for norm in norms])
