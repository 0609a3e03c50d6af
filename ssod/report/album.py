"""The pictures of a data set on a page: figures of its images, with boxes and what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from ssod.data.formats.findings import Context
from ssod.data.formats.header import path_of
from ssod.data.formats.image import open_image
from ssod.data.formats.records import Images, Labeled
from ssod.report.page import text
from ssod.report.shots import Box, shot
from ssod.utils.errors import SsodError

SIDE = 320  # pixels of the longer side of a picture
LABEL, DOUBTED = "kept", "rejected"  # styles: blue, and red and dashed
WORDS = {"labeled": "labelled", "unlabeled": "unlabelled", "val": "val"}  # parts, as people call them
_MOST_NAMED = 4  # classes that a caption counts


class Album:
    """Opens the images of a data set and draws their labels.

    Args:
        sets: per part, images with labels or without.
        ctx: rules, by which images are opened.
    """

    def __init__(self, sets: Mapping[str, Labeled | Images], ctx: Context) -> None:
        self.sets, self.ctx = sets, ctx

    def size(self, part: str) -> int:
        """Return the number of images of a set."""
        return len(self.sets[part])

    def spread(self, part: str, most: int) -> list[int]:
        """Return up to ``most`` rows of a set, evenly spread."""
        size = self.size(part)
        return np.unique(np.linspace(0, size - 1, min(most, size)).round().astype(int)).tolist()

    def labels(self, part: str, row: int) -> list[Box]:
        """Return the boxes of an image; of an unlabelled one none."""
        data = self.sets[part]
        if isinstance(data, Images):
            return []
        return [self.box(part, i, LABEL) for i in range(int(data.starts[row]), int(data.starts[row + 1]))]

    def counts(self, part: str, row: int) -> str:
        """Return ``2 car, 1 van``: the boxes of an image by class; of an unlabelled one nothing."""
        data = self.sets[part]
        if isinstance(data, Images):
            return ""
        own = Counter(data.labels[data.starts[row] : data.starts[row + 1]].tolist()).most_common()
        said = [f"{count} {data.classes.names[label]}" for label, count in own[:_MOST_NAMED]]
        more = [f"{len(own) - _MOST_NAMED} more classes"] if len(own) > _MOST_NAMED else []
        return ", ".join([*said, *more]) or "no box"

    def class_name(self, part: str, label: int) -> str:
        """Return the name of a label; of unlabelled images there is none."""
        data = self.sets[part]
        return data.classes.names[label] if isinstance(data, Labeled) else ""

    def words(self, part: str, box: int) -> str:
        """Return ``car, 31.0 x 12.5``: class and size of a box, by its row."""
        data = self.sets[part]
        assert isinstance(data, Labeled)
        width, height = (data.boxes[box, 2:] - data.boxes[box, :2]).tolist()
        crowd = ", crowd" if data.crowd[box] else ""
        return f"{self.class_name(part, int(data.labels[box]))}, {width:.1f} x {height:.1f}{crowd}"

    def box(self, part: str, box: int, style: str) -> Box:
        """Return a labelled box, by its row, as it is drawn."""
        data = self.sets[part]
        assert isinstance(data, Labeled)
        return style, self.words(part, box), data.boxes[box].tolist()

    def figure(self, part: str, row: int, boxes: Sequence[Box], said: str) -> Markup:
        """Return an image with boxes, its name above it and what is to be said below."""
        return Markup("<figure><figcaption>{}</figcaption>{}<p class='small'>{}</p></figure>").format(
            self._name(part, row), self._shot(part, row, boxes, said), said
        )

    def pair(self, first: tuple[str, int], second: tuple[str, int]) -> Markup:
        """Return two images, each named by (part, row), side by side."""
        halves = [
            Markup("<div>{}<p>{}: {}</p></div>").format(
                self._shot(part, row, self.labels(part, row), ""), WORDS[part], self._name(part, row)
            )
            for part, row in (first, second)
        ]
        caption = f"{self._name(*first)} and {self._name(*second)}"
        return Markup('<figure><figcaption>{}</figcaption><div class="pair">{}{}</div></figure>').format(
            caption, *halves
        )

    def _name(self, part: str, row: int) -> str:
        return self._images(part).paths[row]

    def _images(self, part: str) -> Images:
        data = self.sets[part]
        return data.images if isinstance(data, Labeled) else data

    def _shot(self, part: str, row: int, boxes: Sequence[Box], said: str) -> Markup:
        try:
            picture = self._open(part, row)
        except SsodError as error:
            return text(f"No picture: {error.problem}")
        return shot(picture, boxes, ": ".join(filter(None, (self._name(part, row), said))), SIDE)

    def _open(self, part: str, row: int) -> Image.Image:
        rules = self.ctx.rules
        return open_image(path_of(self._images(part), row, self.ctx), max_pixels=rules.max_pixels, pixels=rules.pixels)
