"""Features of a box, whatever its size: RoIAlign from the pyramid level that fits it."""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align
from torchvision.ops.poolers import initLevelMapper


class RoIPool(nn.Module):
    """RoIAlign from one level for each box (Lin et al. 2017, eq. 1). Equals torchvision's ``MultiScaleRoIAlign``.

    That one takes its boxes image by image, in a list whose length an export fixes; this one takes rows, as everything
    here does, so that the batch stays dynamic.

    Args:
        levels: first and last pyramid level that boxes are pooled from; level l has stride 2**l.
        size: cells per side of the result.
        scale: side in pixels of a box that belongs to level 4.
        adaptive: detectron2's ROIAlignV2: samples half a pixel up and left, as many as a cell has pixels.
    """

    def __init__(self, levels: tuple[int, int], size: int, scale: float, adaptive: bool = False) -> None:
        super().__init__()
        self.first, self.last = levels
        self.size, self.adaptive = size, adaptive
        # type: ignore because torchvision's hint says int; it divides by it.
        self.level_of = initLevelMapper(*levels, canonical_scale=scale)  # type: ignore

    def forward(self, features: list[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Pyramid [N, C, h, w] (finest first; further levels are not read), [R, 4], [R] -> [R, C, size, size]."""
        regions = torch.cat([image[:, None].to(boxes), boxes], 1)
        level = self.level_of([boxes])
        rows = [(level == i).nonzero().squeeze(1) for i in range(self.last - self.first + 1)]
        samples, parts = 0 if self.adaptive else 2, []
        for i, r in enumerate(rows):
            scale = 0.5 ** (self.first + i)
            parts.append(roi_align(features[i], regions[r], self.size, scale, samples, aligned=self.adaptive))
        return in_order(parts, rows, boxes.shape[0])


def in_order(parts: list[Tensor], rows: list[Tensor], count: int) -> Tensor:
    """Return [count, ...] whose rows ``rows[i]`` are ``parts[i]``; every row is in one of them.

    One copy, however many parts there are; the count is the caller's, so that an export knows it.
    """
    found = torch.cat(parts)
    return found.new_zeros(count, *found.shape[1:]).index_copy_(0, torch.cat(rows), found)
