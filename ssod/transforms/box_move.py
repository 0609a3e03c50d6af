"""Single objects turned or slanted in place, mirrored, or copied beside themselves. (arXiv:2103.17220)

The whole pixels of an object's box are its crop. What becomes of the crop is blended in by a Gaussian that fits it
(``area_map`` at ratio 1, the crop being the picture), so that its border keeps the old pixels. Mirrored, turned and
slanted crops stay in their place, and boxes stay as they are. A shifted crop is a copy: the object stays, and a box
with its label is added. All crops are of the picture before any of them was pasted.

Of a copy that would leave the picture, the part from its top left on that there is room for is pasted, as released. Its
box is that of the pasted pixels; the released code lays the box of a copy that leaves at the right or below at the
border, where nothing of it is. A copy of which less than half finds room is left out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from ssod.structures import Targets, join
from ssod.transforms.area_map import area_map, blend, to_bytes, to_float
from ssod.transforms.box_level import OnBoxes
from ssod.transforms.centered import about_middle, slant, turn
from ssod.transforms.geometry import warped
from ssod.transforms.mix import GREY
from ssod.transforms.picture import Picture
from ssod.transforms.transform import Seen, Size, Transform
from ssod.transforms.zoom import HALF

Rect = tuple[int, int, int, int]  # left, top, right, bottom
MoveName = Literal["flip", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"]
KEY = {  # of its amount
    "rotate": "degrees",
    "shear_x": "degrees",
    "shear_y": "degrees",
    "translate_x": "pixels",
    "translate_y": "pixels",
}
FILL = (round(255 * GREY[0]), round(255 * GREY[1]), round(255 * GREY[2]))


class BoxMove(OnBoxes):
    """Move some objects. Only for labelled images."""

    op: MoveName
    "What to do; `translate_x` and `translate_y` add a copy of the object."
    degrees: float | None = Field(None, gt=0, lt=90)
    "By how much `rotate` turns and the shears slant, to either side by chance."
    pixels: float | None = Field(None, gt=0)
    "How far away the translations put the copy, to either side by chance."

    @model_validator(mode="after")
    def _amount_fits(self) -> Self:
        wanted = KEY.get(self.op)
        for key, value in (("degrees", self.degrees), ("pixels", self.pixels)):
            if key == wanted and value is None:
                raise ValueError(f"'{self.op}' needs '{key}'")
            if key != wanted and value is not None:
                raise ValueError(f"'{self.op}' has no '{key}'; remove it")
        return self

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return self.drawn(rng, size, self._change)

    def _change(self, seen: Seen, targets: Targets, chosen: np.ndarray, rng: np.random.Generator) -> Seen:
        signs = np.where(rng.random(len(chosen)) < 0.5, -1, 1) * chosen
        pixels, after = self.moved(to_float(seen.image.array()), targets, signs)
        seen = replace(seen, image=Picture(to_bytes(pixels)))
        return seen if after is targets else replace(seen, targets=after, since=np.eye(3))

    def moved(self, pixels: np.ndarray, targets: Targets, signs: np.ndarray) -> tuple[np.ndarray, Targets]:
        """Move objects.

        Args:
            pixels: [H, W, 3] in 0..1.
            targets: M boxes in these pixels, with sides above 1.
            signs: [M], 1 or -1 for the direction of each object that takes part, 0 for the others.

        Returns:
            Pixels, and the boxes, those of copies last; the same object where there is none.
        """
        after, size = pixels.copy(), (pixels.shape[1], pixels.shape[0])
        copies: list[Targets] = []
        for i in np.flatnonzero(signs):
            x1, y1, x2, y2 = place = rect_of(targets.boxes[i])
            crop = self.changed(pixels[y1:y2, x1:x2], int(signs[i]))
            if self.pixels is not None:
                distance = int(signs[i]) * round(self.pixels * self.unit(size))
                place = shifted(place, distance, self.op == "translate_x", size)
                if place is None:
                    continue
                copies.append(copied(targets[i : i + 1], (x1, y1), place))
            paste(after, crop, place)
        return after, join([targets, *copies]) if copies else targets

    def changed(self, crop: np.ndarray, sign: int) -> np.ndarray:
        """Return the [h, w, 3] pixels in 0..1 that a crop becomes; those of a copy are its own."""
        if self.op == "flip":
            return crop[:, ::-1]
        if self.degrees is None:
            return crop
        size, degrees = (crop.shape[1], crop.shape[0]), sign * self.degrees
        matrix = {"rotate": turn, "shear_x": slant, "shear_y": slant_down}[self.op](degrees)
        moved = warped(size, about_middle(size, matrix), FILL).act(Picture(to_bytes(crop)))
        return to_float(moved.array())


def rect_of(box: torch.Tensor) -> Rect:
    """Return the whole pixels of a box [4]."""
    x1, y1, x2, y2 = (int(side) for side in box.tolist())
    return x1, y1, x2, y2


def slant_down(degrees: float) -> np.ndarray:
    """Return the shear along y that leaves x = 0 in place, [3, 3]: y' = y + tan(a) x."""
    return np.array([[1.0, 0, 0], [math.tan(math.radians(degrees)), 1, 0], [0, 0, 1]])


def shifted(rect: Rect, distance: int, across: bool, size: Size) -> Rect | None:
    """Return the place of a copy, cut off at the border of a picture of ``size`` (width, height).

    Returns:
        None where less than half of it is left.
    """
    dx, dy = (distance, 0) if across else (0, distance)
    x1, y1, x2, y2 = rect
    left, top = max(x1 + dx, 0), max(y1 + dy, 0)
    right, bottom = min(x2 + dx, size[0]), min(y2 + dy, size[1])
    room = max(right - left, 0) * max(bottom - top, 0)
    return None if room < HALF * (x2 - x1) * (y2 - y1) else (left, top, right, bottom)


def copied(target: Targets, corner: tuple[int, int], place: Rect) -> Targets:
    """Return the box of a copy whose crop began at ``corner``, pasted from its top left on into ``place``."""
    dx, dy = place[0] - corner[0], place[1] - corner[1]
    box = target.boxes + torch.tensor([dx, dy, dx, dy])
    return replace(target, boxes=torch.minimum(box, torch.tensor([*place[2:], *place[2:]]).to(box)))


def paste(pixels: np.ndarray, crop: np.ndarray, place: Rect) -> None:
    """Blend the top left of a crop [h, w, 3] into a place of the [H, W, 3] pixels, which it changes."""
    left, top, right, bottom = place
    size = (right - left, bottom - top)
    alpha = area_map(np.array([[0.0, 0, *size]]), np.ones(1), size)
    pixels[top:bottom, left:right] = blend(pixels[top:bottom, left:right], crop[: size[1], : size[0]], alpha)
