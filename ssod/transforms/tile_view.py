"""What a detector gets to see of one tile of an image, where nothing is left to chance."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from ssod.structures.tiles import Rect
from ssod.transforms.geometry import shift_matrix
from ssod.transforms.views import Pipeline, Sample, make_views


def view_tile(image: Image.Image, rect: Rect, pipeline: Pipeline, number: int = 0) -> Sample:
    """Return the view of evaluation of a tile.

    Args:
        image: upright RGB picture.
        rect: the tile; the view is that of a picture which has no other pixels.
        pipeline: the view of evaluation.
        number: of the image, on which all that the view draws depends.

    Returns:
        The view; its matrix begins at pixels of the whole image.
    """
    made = make_views(image.crop(rect), None, {"val": pipeline}, 0, "val", number, 0)["val"]
    return replace(made, matrix=made.matrix @ shift_matrix(-rect[0], -rect[1]))
