"""What a method may know of the labelled set before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LabelStatistics:
    """What the labelled set holds; ignore regions do not count.

    What incomplete labels leave out is estimated from the images whose labels of the class are complete.

    Attributes:
        images: how many, also those without a box.
        boxes: [K] int64, of each class.
        images_with: [K] int64, images that have a box of the class.
        complete: [K + 1] int64, images whose labels are complete in each class, and, last, in all of them; None = all
            images are.
    """

    images: int
    boxes: Tensor
    images_with: Tensor
    complete: Tensor | None = None

    @property
    def boxes_per_image(self) -> Tensor:
        """[K] float, mean number of boxes of each class; their sum is that of all boxes."""
        return self.boxes / self.images
