"""Optimisers: torch's own, with the two groupings that detection recipes use."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from ssod.utils.errors import SsodError
from ssod.utils.schema import Section


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    "Share of the last update kept."
    nesterov: bool = False
    "Look ahead along the momentum."
    weight_decay: float = Field(1e-4, ge=0)
    "L2 penalty."
    decay_norm_and_bias: bool = True
    "Whether the penalty also holds for biases and normalisation layers."
    backbone_lr: float = Field(1.0, gt=0)
    "Factor of the learning rate in the backbone."

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; set momentum or drop nesterov")
        return self


class AdamW(Section):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    "Decay of the first and second moment."
    weight_decay: float = Field(0.05, ge=0)
    "Decoupled decay."
    decay_norm_and_bias: bool = False
    "Whether the decay also holds for biases and normalisation layers."
    backbone_lr: float = Field(1.0, gt=0)
    "Factor of the learning rate in the backbone."


# What each keeps of a parameter from step to step.
_KEPT: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}

# Devices whose steps are fused, so that a tensor can make them skip one; on a CPU there is nothing to wait for.
FUSED = frozenset({"cuda"})

OptimizerConfig = Annotated[SGD | AdamW, Field(discriminator="name")]


def build(model: nn.Module, cfg: OptimizerConfig, *, fused: bool = False) -> torch.optim.Optimizer:
    """Return the optimiser of every parameter of ``model`` that wants a gradient.

    Parameters are grouped by (learning-rate factor, weight decay); each group's ``factor`` is what ``set_lr`` uses.
    Parameters with fewer than two dimensions are the biases and the normalisation layers' scales. A parameter belongs
    to the backbone when a part of its dotted name is ``backbone``.

    Args:
        model, cfg: as said.
        fused: use torch's fused steps, which ``step_unless`` needs. They round otherwise.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = cfg.backbone_lr if "backbone" in name.split(".") else 1.0
        decay = cfg.weight_decay if cfg.decay_norm_and_bias or parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    if cfg.backbone_lr != 1 and all(factor == 1 for factor, _ in groups):
        raise SsodError("config", "train.optimizer.backbone_lr", "no trainable parameter is in a backbone", "drop it")
    listed = [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()]
    # The rate is set before every step; what stands here is never used.
    if isinstance(cfg, SGD):
        return torch.optim.SGD(listed, lr=0.0, momentum=cfg.momentum, nesterov=cfg.nesterov, fused=fused or None)
    return torch.optim.AdamW(listed, lr=0.0, betas=cfg.betas, fused=fused or None)


def step_unless(optimizer: torch.optim.Optimizer, skipped: torch.Tensor) -> None:
    """Make a step of a fused optimiser where ``skipped``, [] float32 on the device, is 0; where it is 1, none.

    Then neither parameters nor state change. That is how torch's own GradScaler has steps skipped.
    """
    moved = [p for group in optimizer.param_groups if group.get("momentum") for p in group["params"]]
    for p in moved:  # else a first step that is skipped leaves it without values
        if p.grad is not None and "momentum_buffer" not in optimizer.state[p]:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    # type: ignore because torch reads the attribute, and declares it nowhere.
    optimizer.found_inf = skipped  # type: ignore
    optimizer.step()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group ``lr`` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def clip(parameters: Mapping[str, nn.Parameter], limit: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scale gradients down to the norm ``limit`` (0 = none).

    Returns:
        The norm they had, and that of each by the name of its parameter, unread.
    """
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    norms = dict(zip(gradients, torch._foreach_norm(list(gradients.values()))))
    norm = torch.linalg.vector_norm(torch.stack(list(norms.values())))
    if limit:
        nn.utils.clip_grads_with_norm_(parameters.values(), limit, norm)
    return norm, norms


def state_size(parameters: list[nn.Parameter], cfg: OptimizerConfig) -> int:
    """Return the bytes of the optimiser's state once it has made a step."""
    copies = 2 if isinstance(cfg, AdamW) else int(cfg.momentum > 0)
    return copies * sum(p.numel() * p.element_size() for p in parameters)


def state_by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what ``optimizer`` keeps of each parameter, by its name in ``model``: groups may be others next time."""
    named = model.named_parameters()
    return {name: dict(optimizer.state[p]) for name, p in named if p in optimizer.state}


def load_state(optimizer: torch.optim.Optimizer, model: nn.Module, saved: Mapping[str, Mapping[str, Any]]) -> int:
    """Put back what ``state_by_name`` returned; rates and decays stay as they are.

    Returns:
        How many parameters start without, because what was saved is of another kind of optimiser.
    """
    names = {p: name for name, p in model.named_parameters()}
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    fits = {name: state for name, state in saved.items() if state.keys() == _KEPT[type(optimizer)]}
    state = {i: fits[name] for i, name in enumerate(order) if name in fits}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for p, kept in optimizer.state.items():  # a fused step wants the strides of the parameter
        for key, value in kept.items():
            if value is not None and value.shape == p.shape and value.stride() != p.stride():
                kept[key] = torch.empty_like(p).copy_(value)
    return len(saved) - len(fits)
