"""What an operation of a view is: what is drawn at random apart from what is then done.

An ``Augmentation`` is a frozen config section with ``draw(rng, size) -> Transform``. A ``Transform`` is deterministic:
it turns one picture into another and states the 3x3 matrix that takes old pixels to new ones. That is all that most
operations do, and boxes follow the matrix. One that reads boxes, or changes which there are, has ``boxed`` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from ssod.structures import Pieces, Targets, move_targets
from ssod.transforms.picture import Color, Picture, Size

MIN_SIDE = 1.0  # a box with a side of at most this many pixels is dropped, as Pseudo.move does with pseudo-boxes


def _nobody(number: int) -> tuple[Image.Image, Targets | None]:
    raise LookupError(f"no other image {number}: this view is made of one picture alone")


@dataclass(frozen=True)
class Setting:
    """What an operation may ask for besides the picture. Only views in training have one.

    Attributes:
        progress: share of the run's steps that lie behind, in 0..1; a function of the step.
        count: images of the run that are of the picture's kind, labelled or unlabelled.
        read: number of one of them -> the image, upright RGB, and its boxes, None of an unlabelled one.
    """

    progress: float = 1.0
    count: int = 0
    read: Callable[[int], tuple[Image.Image, Targets | None]] = _nobody


ALONE = Setting()


@dataclass(frozen=True)
class Seen:
    """A picture on its way through the operations of a view.

    Boxes are moved at the end, by one matrix, or where an operation reads them: a box that is turned twice grows once.

    Attributes:
        image: the picture; one of Pillow's is taken, too.
        matrix: [3, 3] float64, pixels of the file's upright image -> pixels of ``image``.
        targets: boxes, or None where nobody knows them.
        since: [3, 3] float64, pixels that the boxes refer to -> pixels of ``image``.
        setting: what operations may ask for.
        pieces: how the picture was cut (``structures.Pieces``, N = 1, float64), where nobody knows boxes; None = it is
            whole. ``matrix`` is then as if it had not been.
    """

    image: Picture
    matrix: np.ndarray
    targets: Targets | None
    since: np.ndarray = field(default_factory=lambda: np.eye(3))
    setting: Setting = ALONE
    pieces: Pieces | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", Picture.of(self.image))

    def boxes(self) -> Targets:
        """Return the boxes [M, 4] float64 in pixels of ``image``: hulls, clipped, without those that became too small.

        Raises:
            TypeError: nobody knows them.
        """
        if self.targets is None:
            raise TypeError("an operation reads boxes of an image without labels; the config should have refused it")
        t = self.targets
        exact = Targets(t.boxes.double(), t.labels, t.scores, t.probs, t.weight, open=t.open)
        size = torch.tensor([self.image.size[::-1]])
        return move_targets([exact], torch.from_numpy(self.since)[None], size, MIN_SIDE)[0]

    def settled(self) -> Seen:
        """Return the same with boxes in pixels of ``image``."""
        return replace(self, targets=self.boxes(), since=np.eye(3))


@dataclass(frozen=True)
class Transform:
    """What a draw decided.

    Attributes:
        size: (width, height) of the result.
        matrix: [3, 3] float64, old pixels -> new pixels.
        act: the picture before -> the picture after.
        boxed: does the same where boxes are known, in the place of ``act`` and ``matrix``; None = boxes just follow.
        always: whether ``boxed`` does it also where they are not: no matrix says where pixels go.
    """

    size: Size
    matrix: np.ndarray
    act: Callable[[Picture], Picture]
    boxed: Callable[[Seen], Seen] | None = None
    always: bool = False

    def apply(self, image: Image.Image | Picture) -> Picture:
        """Return the picture after, whose pixels may not be computed yet; ``image`` is not changed."""
        return self.act(Picture.of(image))

    def follow(self, seen: Seen) -> Seen:
        """Return what becomes of a picture, its matrix and its boxes."""
        if self.boxed is not None and (self.always or seen.targets is not None):
            return self.boxed(seen)
        image, pieces = self.apply(seen.image), seen.pieces and seen.pieces.then(torch.from_numpy(self.matrix)[None])
        matrix, since = self.matrix @ seen.matrix, self.matrix @ seen.since
        return replace(seen, image=image, matrix=matrix, since=since, pieces=pieces)


class Augmentation(Protocol):
    """Something a view is made with."""

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """Decide what to do with a picture of ``size`` (width, height)."""
        ...


def pixels(size: Size, change: Callable[[np.ndarray], np.ndarray]) -> Transform:
    """Return a transform that changes colours and moves nothing.

    Args:
        size: (width, height) of the picture.
        change: [H, W, 3] uint8 -> the same shape and type; never changes its argument.
    """

    def act(picture: Picture) -> Picture:
        before = picture.array()
        after = change(before)
        return picture if after is before else Picture(after)

    return Transform(size, np.eye(3), act)


def moved(size: Size, matrix: np.ndarray, fill: Color | None = None) -> Transform:
    """Return a transform that moves pixels and changes none; see ``Picture.moved``."""
    return Transform(size, matrix, lambda picture: picture.moved(size, matrix, fill))


def nothing(size: Size) -> Transform:
    """Return the transform that leaves the picture as it is."""
    return Transform(size, np.eye(3), lambda picture: picture)


def chain(augmentations: Sequence[Augmentation], rng: np.random.Generator, size: Size) -> Transform:
    """Draw ``augmentations`` one after another and return the transform that does all of them in order."""
    transforms, matrix = [], np.eye(3)
    for augmentation in augmentations:
        transform = augmentation.draw(rng, size)
        transforms.append(transform)
        matrix, size = transform.matrix @ matrix, transform.size

    def act(picture: Picture) -> Picture:
        for transform in transforms:
            picture = transform.act(picture)
        return picture

    def boxed(seen: Seen) -> Seen:
        for transform in transforms:
            seen = transform.follow(seen)
        return seen

    reads = any(transform.boxed is not None for transform in transforms)
    always = any(transform.always for transform in transforms)
    return Transform(size, matrix, act, boxed if reads else None, always)


def needs_boxes(picture: Picture) -> Picture:
    """Stand in for the ``act`` of an operation that means nothing without boxes."""
    raise TypeError("an operation needs boxes, and this image has none that are known; the config should refuse it")
