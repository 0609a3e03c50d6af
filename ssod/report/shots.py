"""A picture inside a page, with boxes drawn over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence

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
        _rect(style, f"{x1:.1f}", f"{y1:.1f}", f"{max(x2 - x1, 0.1):.1f}", f"{max(y2 - y1, 0.1):.1f}", what)
        for style, what, (x1, y1, x2, y2) in boxes
    )
    return Markup(
        '<svg class="shot" viewBox="0 0 {} {}" role="img" aria-label="{}"><image href="data:image/jpeg;base64,{}" '
        'width="{}" height="{}" preserveAspectRatio="none"/>{}</svg>'
    ).format(width, height, label, Markup(data), width, height, rects)


def legend(kinds: Mapping[str, str]) -> Markup:
    """Return what each style of box means, drawn as in the pictures; ``kinds`` has the words by the style."""
    items = Markup("").join(
        Markup('<li><svg class="shot" viewBox="0 0 28 18" aria-hidden="true">{}</svg>{}</li>').format(
            _rect(style, "4", "4", "20", "10"), words
        )
        for style, words in kinds.items()
    )
    return Markup('<ul class="legend boxes">{}</ul>').format(items)


def _rect(style: str, x: str, y: str, width: str, height: str, what: str = "") -> Markup:
    """Return a box: a dark line below, so that it is seen on any picture, and one in the colour of the style."""
    title = Markup("<title>{}</title>").format(what) if what else Markup("")
    place = Markup('x="{}" y="{}" width="{}" height="{}"').format(x, y, width, height)
    return Markup('<rect class="case {0}" {1}/><rect class="{0}" {1}>{2}</rect>').format(style, place, title)
