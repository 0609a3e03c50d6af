"""A picture inside a page, with boxes drawn over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from ssod.diagnostics.gallery import SIDE
from ssod.structures import Targets

Box = tuple[str, str, Sequence[float]]  # (style, what it is, corners)


def boxes_of(style: str, targets: Targets, names: Sequence[str]) -> list[Box]:
    """Return boxes as ``shot`` draws them, each named by its class, its score if it has one, and the style."""
    scores = [None] * len(targets) if targets.scores is None else targets.scores.tolist()
    return [
        (style, f"{names[label]}" + ("" if score is None else f" {score:.2f}") + f", {style}", box)
        for box, label, score in zip(targets.boxes.tolist(), targets.labels.tolist(), scores)
    ]


def shot(image: np.ndarray | Image.Image, boxes: Iterable[Box], label: str, side: int = SIDE) -> Markup:
    """Return an image with boxes drawn over it; a box says what it is when it is pointed at.

    Args:
        image: [H, W, 3] uint8, or an RGB picture.
        boxes: in its pixels.
        label: for readers who do not see it.
        side: of the picture that the page carries, the longer one, in pixels.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    width, height = picture.size
    picture = picture.copy()
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    rects = Markup("").join(
        Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
            style, x1, y1, max(x2 - x1, 0.1), max(y2 - y1, 0.1), what
        )
        for style, what, (x1, y1, x2, y2) in boxes
    )
    return Markup(
        '<svg class="shot" viewBox="0 0 {} {}" role="img" aria-label="{}"><image href="data:image/jpeg;base64,{}" '
        'width="{}" height="{}" preserveAspectRatio="none"/>{}</svg>'
    ).format(width, height, label, Markup(data), width, height, rects)
