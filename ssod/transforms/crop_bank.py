"""Objects cut out of images, a queue for each class, to be pasted onto others. (ACRST, arXiv:2107.05031, CropBank)

No code was published: what is kept, and for how long, is ours. Crops of true labels and of pseudo-labels have queues of
their own. All ranks and parts of a step put in the crops of all of them, in their order, so that every one has the same
bank, and a run that goes on has it again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from ssod.structures import Targets, View
from ssod.transforms.paste import Crops
from ssod.utils import collective

LABELED, PSEUDO = 0, 1  # where a crop is from
POINTS = 16  # a side; how much of a box others cover is measured at so many points of it


def cut_out(view: View, boxes: Sequence[Tensor], side: int) -> Tensor:
    """Return [M, 3, side, side] uint8: what is in the boxes of N images, stretched to squares, all images concatenated.

    Nothing outside a box is read: samples lie between the centers of its outermost pixels.
    """
    made = []
    for image, b in zip(view.images, boxes):
        levels = image[None].float() * (255 if view.images.is_floating_point() else 1)
        inner = torch.cat([b[:, :2] + 0.5, torch.maximum(b[:, 2:] - 0.5, b[:, :2] + 1)], 1).float()
        made.append(roi_align(levels, [inner], side, aligned=True))
    return torch.cat(made).round().clamp(0, 255).to(torch.uint8)


def worth_keeping(targets: Sequence[Targets], least: float, covered: float) -> Tensor:
    """Return [M] bool over N images: boxes that are no ignore region, large enough and not hidden behind others.

    Args:
        targets: the boxes.
        least: shortest side in pixels.
        covered: largest share of a box that the other boxes of its image may cover together; 1 = all of it.
    """
    boxes, trust = torch.cat([t.boxes for t in targets]), torch.cat([t.trust() for t in targets])
    large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= least
    # Ignore regions mark crowds, which may surround an object; they hide nothing.
    shares = [covered_share(t.boxes, t.trust() > 0) for t in targets]
    return large & (trust > 0) & (torch.cat(shares) <= covered)


def covered_share(boxes: Tensor, covers: Tensor) -> Tensor:
    """Return [M], the share of each box that the others together cover, measured at 16 x 16 points of it.

    Args:
        boxes: [M, 4], of one image.
        covers: [M] bool, those that hide others.
    """
    at = (torch.arange(POINTS, device=boxes.device) + 0.5) / POINTS
    grid = boxes[:, None, :2] + at[:, None] * (boxes[:, None, 2:] - boxes[:, None, :2])  # [M, 16, (x, y)]
    inside = (grid[:, None] > boxes[:, None, :2]) & (grid[:, None] < boxes[:, None, 2:])  # [M, other, 16, (x, y)]
    other = covers & ~torch.eye(len(boxes), dtype=torch.bool, device=boxes.device)
    inside = inside & other[:, :, None, None]
    hidden = (inside[..., None, :, 0] & inside[..., :, None, 1]).any(1)
    return hidden.flatten(1).float().mean(1)


class CropBank(nn.Module):
    """Two queues of crops a class, of fixed size: what comes in takes the place of the oldest.

    Args:
        num_classes: K.
        size: crops of a queue.
        side: S, of a stored crop in pixels; the bank has 6 K size S^2 bytes.

    Attributes:
        pixels: [2 K size + 1, 3, S, S] uint8; the queues of true labels first, and a spare row that stays 0.
        sides: [2 K size + 1, 2] float32, (width, height) of each before it was stretched.
        pushed: [2 K] int64, crops that a queue was ever given.
    """

    pixels: Tensor
    sides: Tensor
    pushed: Tensor
    alike = ("pixels", "sides", "pushed")  # on all ranks

    def __init__(self, num_classes: int, size: int, side: int) -> None:
        super().__init__()
        self.num_classes, self.size, self.side = num_classes, size, side
        rows = 2 * num_classes * size + 1
        self.register_buffer("pixels", torch.zeros(rows, 3, side, side, dtype=torch.uint8))
        self.register_buffer("sides", torch.zeros(rows, 2))
        self.register_buffer("pushed", torch.zeros(2 * num_classes, dtype=torch.long))

    @torch.no_grad()
    def push(self, source: int, view: View, targets: Sequence[Targets], keep: Tensor) -> None:
        """Put in the boxes of N images.

        Args:
            source: ``LABELED`` or ``PSEUDO``.
            view: the images, before anything was pasted onto them.
            targets: their boxes, in the view's pixels.
            keep: [M] bool, which of them; see ``worth_keeping``.
        """
        boxes, labels = torch.cat([t.boxes for t in targets]), torch.cat([t.labels for t in targets])
        # One exchange, in bytes: rows of pixels, and behind them width, height, queue and whether it counts.
        queue = labels + source * self.num_classes
        facts = torch.cat([boxes[:, 2:] - boxes[:, :2], torch.stack([queue, keep], 1)], 1).float().contiguous()
        crops = cut_out(view, [t.boxes for t in targets], self.side)
        rows = collective.all_gather_rows(torch.cat([crops.flatten(1), facts.view(torch.uint8)], 1))
        pixels, facts = rows[:, :-16], rows[:, -16:].contiguous().view(torch.float32)
        self.write(pixels.unflatten(1, (3, self.side, self.side)), facts[:, :2], facts[:, 2].long(), facts[:, 3] > 0)

    def write(self, pixels: Tensor, sides: Tensor, queue: Tensor, keep: Tensor) -> None:
        """Put crops [M, ...] into their queues, in their order; those that are not kept go to the spare row."""
        mine = (queue[:, None] == torch.arange(len(self.pushed), device=queue.device)) & keep[:, None]  # [M, 2 K]
        total = mine.sum(0)
        number = mine.cumsum(0).gather(1, queue[:, None])[:, 0] - 1
        keep = keep & (number >= total[queue] - self.size)  # of too many for a queue the last stay
        row = queue * self.size + (self.pushed[queue] + number) % self.size
        row = torch.where(keep, row, len(self.sides) - 1)
        self.pixels.index_copy_(0, row, pixels)
        self.sides.index_copy_(0, row, sides)
        self.pixels[-1].zero_()
        self.sides[-1].zero_()
        self.pushed += total

    def fill(self) -> Tensor:
        """Return [2, K] int64, how many crops each queue has."""
        return self.pushed.clamp(max=self.size).view(2, self.num_classes)

    @torch.no_grad()
    def draw(self, draws: Tensor, probability: Tensor, wanted: Tensor) -> Crops:
        """Draw crops; a class without any is drawn again, and so is nothing while the bank is empty.

        Args:
            draws: [N, C, 3] in [0, 1), for the class, the queue (each with probability 1/2) and the crop.
            probability: [K] of the classes.
            wanted: [N, C] bool; other crops are of no size.
        """
        fill = self.fill()
        there = (fill.sum(0) > 0).to(probability)
        share = probability * there
        share = torch.where(share.sum() > 0, share, there)  # those that are wanted have none
        classes = torch.arange(len(share), device=share.device)
        upto = (share * (classes <= classes[:, None])).sum(1)  # cumsum of floats has no fixed order on a GPU
        label = (upto <= draws[..., :1] * upto[-1]).sum(-1).clamp(max=len(share) - 1)
        first = (draws[..., 1] >= 0.5).long()
        source = torch.where(fill[first, label] > 0, first, 1 - first)
        count = fill[source, label]
        number = torch.minimum((draws[..., 2] * count).long(), (count - 1).clamp(min=0))
        row = (source * self.num_classes + label) * self.size + number
        row = torch.where(wanted & (count > 0), row, len(self.sides) - 1)
        return Crops(self.pixels[row], self.sides[row], label)
