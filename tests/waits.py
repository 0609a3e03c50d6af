"""What a GPU would have to be waited for, counted on a CPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class Waits(TorchDispatchMode):
    """Counts, while it is entered, masks that select (how many elements are true?) and values copied from Python.

    Attributes:
        masks: selections by a mask, or searches for what is true.
        copies: tensors made of Python numbers by value; ``full`` and ``arange`` make theirs on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.masks = self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Count, then compute."""
        chosen = args[1] if func is aten.index.Tensor else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in chosen)
        self.masks += by_mask or func is aten.nonzero.default
        self.copies += func is aten.lift_fresh.default
        return func(*args, **(kwargs or {}))
