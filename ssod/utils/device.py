"""What a device is asked for: number formats of a forward pass, and memory that a CPU run keeps."""

import ctypes
import sys
from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Return torch's autocast to ``precision`` on ``device``; a context that does nothing for fp32."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


# <malloc.h> of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees until it ends; its peak does not grow.

    glibc gives large blocks back to the system as soon as they are free, and the system zeroes every page that it hands
    out again. The activations of a training step are such blocks: it costs a CPU step about a twentieth of its time.

    Returns:
        Whether the C library could be told; others than glibc have no such setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
