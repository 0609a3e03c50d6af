"""YOLO's mosaic of four pictures, and the affine map that cuts a part out of it. (arXiv:2302.07577, as released)

The picture and three others of its kind, labelled or unlabelled, are scaled to one length and meet at a point of a
canvas of twice that length: what reaches over its border is cut off, what none covers is grey. The others are drawn by
the picture's own key, as those of ``zoom_out`` are, so that the number of workers and a restart change nothing.

Efficient Teacher shows its teacher the whole canvas at half its size (``stretch``), where all objects are small, and
its student an ``affine`` map of that. A view's matrix is that of the picture itself. That is enough to carry boxes from
view to view; whoever knows boxes of this picture alone does not know those of the others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field, field_validator

from ssod.structures import join
from ssod.structures.boxes import clip, warp
from ssod.transforms.geometry import Span, resized, shift_matrix
from ssod.transforms.picture import Picture
from ssod.transforms.transform import MIN_SIDE, Seen, Size, Transform, moved
from ssod.utils.schema import Section

TILES = 4
FILL = (114, 114, 114)


class Mosaic(Section):
    """Put the picture and three others of its kind, drawn at random, around a point of a canvas of twice `size`."""

    size: int = Field(640, ge=2)
    "Length in pixels of the longer side that each of the four is scaled to. The canvas has twice as long sides."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``. The point lies in the middle half of both sides of the canvas."""
        x, y = (int(rng.integers(self.size // 2, 3 * self.size // 2 + 1)) for _ in range(2))
        first, seed = int(rng.integers(TILES)), int(rng.integers(1 << 63))
        canvas = (2 * self.size, 2 * self.size)

        def place(size: Size, corner: int) -> tuple[Transform, np.ndarray]:
            scale = self.size / max(size)
            tile = resized(size, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
            left, top = (x - tile.size[0] if corner % 2 == 0 else x), (y - tile.size[1] if corner < 2 else y)
            return tile, shift_matrix(left, top)

        def boxed(seen: Seen) -> Seen:
            parts, setting = [seen], seen.setting
            if setting.count:
                picks = np.random.Generator(np.random.Philox(seed)).choice(setting.count, TILES - 1, replace=False)
                parts += [
                    Seen(Picture.of(image), np.eye(3), targets) for image, targets in map(setting.read, picks.tolist())
                ]
            sheet = np.full((canvas[1], canvas[0], 3), FILL[0], np.uint8)
            whole = Picture(sheet)
            laid = []
            for k, one in enumerate(parts):
                tile, shift = place(one.image.size, (first + k) % TILES)
                there = tile.follow(one)
                pasted(sheet, there.image.array(), (int(shift[0, 2]), int(shift[1, 2])))
                laid.append(replace(there, image=whole, matrix=shift @ there.matrix, since=shift @ there.since))
            if seen.targets is None:
                return laid[0]
            return replace(laid[0], targets=join([one.boxes() for one in laid]), since=np.eye(3))

        def alone(picture: Picture) -> Picture:
            return boxed(Seen(picture, np.eye(3), None)).image

        tile, shift = place(size, first)
        return Transform(canvas, shift @ tile.matrix, alone, boxed, always=True)


def pasted(sheet: np.ndarray, pixels: np.ndarray, corner: tuple[int, int]) -> None:
    """Write pixels onto a sheet, which it changes; what lies beyond its border is left out.

    Args:
        sheet: [H, W, 3].
        pixels: [h, w, 3].
        corner: (x, y) of their top left corner on the sheet, anywhere.
    """
    left, top = corner
    x, y = max(0, left), max(0, top)
    part = pixels[y - top : max(0, sheet.shape[0] - top), x - left : max(0, sheet.shape[1] - left)]
    sheet[y : y + part.shape[0], x : x + part.shape[1]] = part


class Affine(Section):
    """Scale the picture about its middle, move it, and keep what lies on a canvas of its own (YOLO)."""

    scale: Span = (0.2, 1.8)
    "Factor of the sides, drawn uniformly."
    translate: float = Field(0.1, ge=0, le=1)
    "How far the middle may move from that of the canvas, as a share of its sides."
    size: int | None = Field(None, ge=1)
    "Sides of the canvas in pixels; by default those of the picture."
    visible: float = Field(0.1, ge=0, le=1)
    "A known box of which a smaller share of the area stays is dropped."

    @field_validator("scale")
    @classmethod
    def _positive(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] <= 0:
            raise ValueError(f"must be above 0, got {list(scale)}")
        return scale

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        to = size if self.size is None else (self.size, self.size)
        scale = rng.uniform(*self.scale)
        x, y = (side * rng.uniform(0.5 - self.translate, 0.5 + self.translate) for side in to)
        matrix = shift_matrix(x, y) @ np.diag([scale, scale, 1.0]) @ shift_matrix(-size[0] / 2, -size[1] / 2)
        move = moved(to, matrix, FILL)

        def boxed(seen: Seen) -> Seen:
            targets = seen.boxes()
            whole = warp(targets.boxes, torch.from_numpy(matrix))
            inside = clip(whole, torch.tensor([to[::-1]]))
            sides = inside[:, 2:] - inside[:, :2]
            enough = sides.prod(1) >= self.visible * (whole[:, 2:] - whole[:, :2]).prod(1)
            keep = (enough | (targets.trust() == 0)) & (sides > MIN_SIDE).all(1)
            left = replace(targets, boxes=inside)[keep]
            return replace(seen, image=move.act(seen.image), matrix=matrix @ seen.matrix, targets=left, since=np.eye(3))

        return replace(move, boxed=boxed)
