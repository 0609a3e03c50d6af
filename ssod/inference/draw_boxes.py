"""Whatever a caller has an image in, as a PIL picture; and boxes drawn on one."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssod.data.formats.image import AS_THEY_ARE, Pixels, open_image, to_rgb
from ssod.structures import Targets
from ssod.utils.errors import Exit, SsodError
from ssod.utils.lettering import lettering

Picture = str | os.PathLike | Image.Image | np.ndarray | Tensor


def as_picture(image: Picture, name: str = "image", pixels: Pixels = AS_THEY_ARE) -> Image.Image:
    """Return an upright RGB picture.

    Args:
        image: a path; a PIL image, taken as it is but for its colour mode; a uint8 array [H, W, 3] (RGB) or [H, W]; a
            uint16 array [H, W]; a tensor [3, H, W] or [1, H, W], uint8 in 0..255 or float in 0..1.
        name: what messages call it.
        pixels: how pixels of more than 8-bit RGB are read.

    Raises:
        SsodError: what ``open_image`` says about a file, or what is wrong with the array's shape, type or range.
    """
    if isinstance(image, (str, os.PathLike)):
        return open_image(os.fspath(image), pixels=pixels)
    if not isinstance(image, (Image.Image, np.ndarray, Tensor)):
        raise _wrong(name, f"a {type(image).__name__}", "give a path, a PIL image, an array or a tensor")
    if 0 in (image.size if isinstance(image, Image.Image) else image.shape):
        raise _wrong(name, "has no pixels", "leave it out")
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image, pixels)
        except ValueError as error:
            raise _wrong(name, str(error), "convert it to 8-bit RGB") from None
    if isinstance(image, Tensor):
        return Image.fromarray(_pixels(image, name))
    if image.dtype == np.uint16 and image.ndim == 2:
        return to_rgb(Image.fromarray(image), pixels)
    if image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        return Image.fromarray(image).convert("RGB")
    raise _wrong(name, f"array of {image.dtype} {list(image.shape)}", "give uint8 [height, width, 3], RGB")


def _pixels(image: Tensor, name: str) -> np.ndarray:
    """Return [H, W, 3] uint8 of a [3 or 1, H, W] tensor."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        fix = "give [3, height, width]; of a batch, give a list"
        raise _wrong(name, f"tensor of {image.dtype} {list(image.shape)}", fix)
    image = image.detach().cpu()
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise _wrong(name, "float values outside 0..1", "divide by 255, and do not normalise")
        image = (image * 255).round().to(torch.uint8)
    elif image.dtype != torch.uint8:
        raise _wrong(name, f"tensor of {image.dtype}", "give uint8 in 0..255 or float in 0..1")
    return image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def _wrong(name: str, problem: str, fix: str) -> SsodError:
    return SsodError(name, "", problem, fix, code=Exit.USAGE)


def color(label: int) -> tuple[int, int, int]:
    """Return a colour that differs from those of the neighbouring labels: hues a golden ratio apart."""
    hue = label * 0.6180339887 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(image: Image.Image, found: Targets, names: Sequence[str]) -> Image.Image:
    """Return a copy of an RGB picture with boxes, class names and scores.

    Args:
        image: the picture.
        found: boxes in its pixels, with or without scores; the best one is drawn last, on top.
        names: class name of each label.
    """
    image = image.copy()
    canvas = ImageDraw.Draw(image)
    short = min(image.size)
    width = max(1, round(short / 250))
    letters = lettering(names)
    font = letters.font(max(10, round(short / 40)))
    boxes, labels = found.boxes.tolist(), found.labels.tolist()
    scores = [None] * len(found) if found.scores is None else found.scores.tolist()
    for box, label, score in reversed(list(zip(boxes, labels, scores))):
        name = letters.text(names[label])
        text = name if score is None else f"{name} {score:.2f}"
        canvas.rectangle(box, outline=color(label), width=width)
        _tag(canvas, text, box, color(label), font, image.size)
    return image


def _tag(
    canvas: ImageDraw.ImageDraw,
    text: str,
    box: Sequence[float],
    fill: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Write ``text`` on a plate above the box, or inside it where there is no room above."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = max(0, min(box[0], size[0] - wide))
    y = box[1] - high if box[1] >= high else min(box[1], size[1] - high)
    canvas.rectangle((x, y, x + wide, y + high), fill=fill)
    bright = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 140
    canvas.text((x + 2 - left, y + 2 - top), text, fill="black" if bright else "white", font=font)
