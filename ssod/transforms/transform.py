"""What an operation of a view is: what is drawn at random apart from what is then done.

An ``Augmentation`` is a frozen config section with ``draw(rng, size) -> Transform``. A ``Transform`` is deterministic:
it turns one picture into another and states the 3x3 matrix that takes old pixels to new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

Size = tuple[int, int]  # (width, height), Pillow's order


@dataclass(frozen=True)
class Transform:
    """What a draw decided.

    Attributes:
        size: (width, height) of the result.
        matrix: [3, 3] float64, old pixels -> new pixels.
        apply: the picture before -> the picture after; never changes its argument.
    """

    size: Size
    matrix: np.ndarray
    apply: Callable[[Image.Image], Image.Image]


class Augmentation(Protocol):
    """Something a view is made with."""

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """Decide what to do with a picture of ``size`` (width, height)."""
        ...


def pixels(size: Size, apply: Callable[[Image.Image], Image.Image]) -> Transform:
    """Return a transform that changes colours and moves nothing."""
    return Transform(size, np.eye(3), apply)


def nothing(size: Size) -> Transform:
    """Return the transform that leaves the picture as it is."""
    return pixels(size, lambda image: image)


def chain(augmentations: Sequence[Augmentation], rng: np.random.Generator, size: Size) -> Transform:
    """Draw ``augmentations`` one after another and return the transform that does all of them in order."""
    transforms, matrix = [], np.eye(3)
    for augmentation in augmentations:
        transform = augmentation.draw(rng, size)
        transforms.append(transform)
        matrix, size = transform.matrix @ matrix, transform.size

    def apply(image: Image.Image) -> Image.Image:
        for transform in transforms:
            image = transform.apply(image)
        return image

    return Transform(size, matrix, apply)
