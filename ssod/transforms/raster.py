"""Which library computes pixels: OpenCV where it is installed (``pip install "ssod[fast]"``), else Pillow and torch.

``ops`` is a module, ``raster_opencv`` or ``raster_torch``. Both have the same functions on [H, W, 3] uint8 arrays, and
what they return agrees to a few grey levels (``tests/transforms/test_raster.py`` says to how many). Tables, flips and
crops agree in every bit. One machine keeps to one library, so that a seed gives the same bits; a run notes its name
and version, and is not resumed with another (``engine/checkpointing/resume_check.py``).
"""

from __future__ import annotations

from types import ModuleType

import PIL


def _installed() -> ModuleType:
    try:
        import cv2  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        from ssod.transforms import raster_torch

        return raster_torch
    from ssod.transforms import raster_opencv

    return raster_opencv


ops: ModuleType = _installed()


def libraries() -> dict[str, str]:
    """Return name and version of what decodes images, and of what moves and colors pixels."""
    return {"decoder": f"pillow {PIL.__version__}", "resampler": ops.NAME}
