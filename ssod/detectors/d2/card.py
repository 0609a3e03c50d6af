"""A detectron2 detector that a model file of a stranger asks for: what may be asked, and how much may be built of it.

detectron2 builds what a config says, of any size and on no meta device. So the numbers of the config are judged first,
also where detectron2 is not installed, and what its builder makes is counted against what the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ssod.detectors.d2.config import BASE, D2Config, flatten, is_package_name
from ssod.utils.errors import Exit, SsodError

LARGEST = 100_000  # of a model's numbers; the largest in detectron2's own configs is 12 000, of proposals
MOST = 10_000  # values of a config; detectron2's own have some 300
SPARE = 4_000_000  # elements that no file holds: anchors, what is derived from a state and dropped again
TRUSTED = "use a run's best.safetensors that you trust"


def refuse_files(section: Mapping[str, Any]) -> None:
    """Refuse a card's ``detector`` section that names a file of this machine, before it is opened.

    Raises:
        SsodError: code 7.
    """
    config = section.get("config")
    named = config.get(BASE) if isinstance(config, dict) else config
    if isinstance(named, str) and (not is_package_name(named) or Path(named).exists()):
        problem = f"names the file {named!r:.60}, and a card holds what stands in it"
        raise SsodError("config", "detector.config", problem, TRUSTED, code=Exit.UNSAFE)


def judge(cfg: D2Config) -> None:
    """Test the numbers of a card's ``detector`` section before anything is built.

    Raises:
        SsodError: code 4, a number or a list is unreasonable; code 7, a key is none of a config.
    """
    tree = cfg.config if isinstance(cfg.config, dict) else {}
    values = flatten(tree, "config.") | {f"opts.{key}": value for key, value in cfg.opts.items()}
    if len(values) > MOST:
        raise _absurd("detector.config", f"{len(values)} values > {MOST} limit")
    for key, value in values.items():
        of_model = key.lower().startswith(("config.model.", "opts.model."))
        _judge(f"detector.{key}", value, LARGEST if of_model else 2**63 - 1)


def _judge(key: str, value: Any, largest: int) -> None:
    if isinstance(value, list | tuple):
        if len(value) > MOST:
            raise _absurd(key, f"{len(value)} values > {MOST} limit")
        for part in value:
            _judge(key, part, largest)
    elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= largest):
        raise _absurd(key, f"{value!r:.40} is beyond the limit of {largest}")


def _absurd(field: str, problem: str) -> SsodError:
    return SsodError("config", field, problem, TRUSTED, code=Exit.CHECKPOINT)


class Bounded(TorchFunctionMode):
    """Refuses, while it is entered, tensors that no model with the weights of a file would make.

    Args:
        shapes: of the file's weights.
    """

    MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace)

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.left = 2 * sum(map(math.prod, shapes)) + SPARE  # once as it is made, once as it is filled

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Count before memory is taken."""
        if func in self.MAKERS:
            made: Callable[..., torch.Tensor] = func
            self.left -= made(*args, **{**(kwargs or {}), "device": "meta"}).numel()
            if self.left < 0:
                raise _absurd("detector.config", "asks for more than the file's weights")
        return func(*args, **(kwargs or {}))
