"""Mixup and mosaic: an unlabelled view and labelled images in one picture, after labels exist. (arXiv:2103.11402)

Partners. Unlabelled image ``i`` of n meets labelled image ``i * m // n`` of m: the same pair whatever the number of
ranks, and with as many labelled images as unlabelled ones each labelled image once, as in the released code, which has
one of each on a GPU. Who is in a batch is drawn for both kinds apart; there it is not (``methods/instant_teaching``).
The second and third partner of a mosaic of 4 are the next two labelled images of the process's micro-batch, and after
its last one the first: they depend on the number of ranks times that of micro-batches, not on either alone.

Pixels. The released code mixes normalised, padded tensors, in which padding is 0. Here pixels in 0..1 are mixed and
padding has the normalisation's mean colour, which normalises to 0: normalising is affine, so both give the same
numbers to rounding, also where only one of the two has pixels. What lies outside both images is padding afterwards.

Boxes. Mixup takes the union, with each box's class mass as its image's share of the picture. A mosaic clips boxes to
their part and keeps those that keep strictly more than a quarter of their width and of their height, at full mass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ssod.structures import Pseudo, Targets, View, join
from ssod.structures.ragged import image_index, select
from ssod.utils import seeding
from ssod.utils.schema import Section

GREY = (0.485, 0.456, 0.406)  # the mean colour that detectors subtract
DIVISOR = 32  # a canvas is padded to multiples of it


class MixConfig(Section):
    """How often the student's view is blended with labelled images, and how; what is left over stays as it is."""

    mixup: float = Field(0.25, ge=0, le=1)
    "Probability of mixup."
    mosaic: float = Field(0.25, ge=0, le=1)
    "Probability of mosaic."
    alpha: float = Field(1.0, gt=0)
    "The share of the unlabelled image in a mixup is drawn from Beta(alpha, alpha); 1 = uniform."
    tiles: Literal[2, 4] = 2
    """Images of a mosaic: 2 halves as released, or 4 tiles around a point, three of them labelled. Which two join the
    first labelled one of 4 depends on the number of processes times `train.accumulate`; 2 do not."""

    @model_validator(mode="after")
    def _is_a_distribution(self) -> Self:
        if self.mixup + self.mosaic > 1:
            raise ValueError(f"mixup {self.mixup} + mosaic {self.mosaic} is above 1; lower one")
        return self

    @property
    def partners(self) -> int:
        """Labelled images in one picture; with fewer in a process's micro-batch, one would come twice."""
        return self.tiles - 1 if self.mosaic else 1


@dataclass
class Recipe:
    """What is to be done with each of N images.

    Attributes:
        mixup, mosaic: [N] bool, at most one of them.
        share: [N] share of the unlabelled image in a mixup.
        across: [N] bool, a mosaic of 2 is cut into left and right, else into top and bottom.
        cut: [N] int64, the first column (or row) of the labelled half.
        center: [N, 2] int64, x and y of the point where 4 tiles meet.
        turn: [N] int64 in 0..3, the tile of the unlabelled image: top left, top right, bottom left, bottom right.
    """

    mixup: Tensor
    mosaic: Tensor
    share: Tensor
    across: Tensor
    cut: Tensor
    center: Tensor
    turn: Tensor


@dataclass
class Part:
    """One image's part in each of N mixed pictures.

    Attributes:
        share: [N] weight of its pixels and class mass of its boxes; 0 = it has no part.
        region: [N, 4] box of the picture that it may fill.
        offset: [N, 2] int64, where its top left corner lies (x, y); None = at the top left corner of the picture.
    """

    share: Tensor
    region: Tensor
    offset: Tensor | None = None


class Mixer(nn.Module):
    """Draws a recipe for each image from its key and follows it.

    Args:
        num_classes: K, the width of the soft labels.
        mixup, mosaic, alpha, tiles: as in ``MixConfig``.
    """

    def __init__(self, num_classes: int, *, mixup: float, mosaic: float, alpha: float, tiles: int) -> None:
        super().__init__()
        from scipy.special import betaincinv  # scikit-learn brings scipy; every command would wait for its import

        self.num_classes, self.mixup, self.mosaic, self.tiles = num_classes, mixup, mosaic, tiles
        quantiles = betaincinv(alpha, alpha, np.linspace(0, 1, 1025))
        self.register_buffer("quantiles", torch.from_numpy(quantiles).float(), persistent=False)

    @torch.no_grad()
    def forward(self, view: View, pseudo: Pseudo, labeled: View) -> tuple[View, Pseudo]:
        """Mix N unlabelled images with labelled ones.

        Args:
            view: the student's view.
            pseudo: labels in its pixels.
            labeled: labelled images with their targets; their canvas may be another.

        Returns:
            A view with float images in 0..1 on a canvas that holds both, and soft labels (``Targets.probs``), also
            for images that stayed alone. Keys, ids and matrices are those of ``view``.
        """
        if self.mixup + self.mosaic == 0:
            return view, pseudo
        n, m = len(view), len(labeled)
        partners = [[(i * m // n + k) % m for i in range(n)] for k in range(self.tiles - 1)]
        recipe = self.draw(view, _pick(labeled.sizes, partners[0]))
        return mix(view, pseudo, labeled, partners, recipe, self.num_classes)

    def draw(self, view: View, partner_sizes: Tensor) -> Recipe:
        """Decide by the keys of the images alone; detectors draw from rows 0 and up of a key, so these are below."""
        rows = torch.arange(-7, 0, device=view.keys.device)
        what, share, across, cut, x, y, turn = seeding.uniform(view.keys[:, None], rows).unbind(1)
        across = across < 0.5
        size = torch.maximum(view.sizes, partner_sizes)
        side = torch.where(across, size[:, 1], size[:, 0])
        quarter = (side + DIVISOR - 1) // DIVISOR * DIVISOR // 4
        center = _integer(torch.stack([x, y], 1), size.flip(1) + 1)
        return Recipe(
            mixup=what < self.mixup,
            mosaic=(what >= self.mixup) & (what < self.mixup + self.mosaic),
            share=self.beta(share),
            across=across,
            cut=quarter + _integer(cut, 2 * quarter),
            center=center,
            turn=_integer(turn, torch.full_like(quarter, 4)),
        )

    def beta(self, u: Tensor) -> Tensor:
        """Return the quantiles ``u`` [N] of Beta(alpha, alpha), interpolated."""
        place = u * (len(self.quantiles) - 1)
        low = place.long()
        return torch.lerp(self.quantiles[low], self.quantiles[low + 1], place - low)


def mix(
    view: View, pseudo: Pseudo, labeled: View, partners: list[list[int]], recipe: Recipe, num_classes: int
) -> tuple[View, Pseudo]:
    """Follow a recipe.

    Args:
        view: N unlabelled images.
        pseudo: their labels.
        labeled: labelled images.
        partners: for each further image of a picture (1, or 3 for a mosaic of 4 tiles), N indices into ``labeled``.
        recipe: what to do with each image.
        num_classes: K.

    Returns:
        The mixed view and its labels.
    """
    mixed = recipe.mixup | recipe.mosaic
    size = torch.maximum(view.sizes, _pick(labeled.sizes, partners[0]))
    size = torch.where(mixed[:, None], size, view.sizes)
    canvas = [max(a, b) for a, b in zip(view.images.shape[-2:], labeled.images.shape[-2:])]
    parts = halves(recipe) if len(partners) == 1 else tiles(recipe, size, view.sizes, labeled.sizes, partners)
    sources = [_on_canvas(view.images, view.sizes, canvas)]
    others = _on_canvas(labeled.images, labeled.sizes, canvas)
    sources += [_pick(others, index) for index in partners]
    images = sum(_weigh(image, part) for image, part in zip(sources, parts))
    images = torch.where(inside(size, canvas), images, 0.0)

    truth = [_place([labeled.truth()[i] for i in index], part, num_classes) for index, part in zip(partners, parts[1:])]
    labels = pseudo.each(lambda own: _place(own, parts[0], num_classes))
    labels.cls = [join(targets) for targets in zip(labels.cls, *truth)]
    if labels.box is not None:  # of the boxes that nobody is sure of, labelled images have none
        labels.box = [join(targets) for targets in zip(labels.box, *truth)]
    return replace(view, images=images, sizes=size), labels


def halves(recipe: Recipe) -> list[Part]:
    """Return the part of the unlabelled and of the labelled image: mixup, or the released mosaic of two halves.

    The cut is in ``[L/4, 3L/4)`` of the padded side L of the pair; the halves keep their place in the picture.
    """
    mixup, mosaic = recipe.mixup, recipe.mosaic
    first = recipe.share.new_zeros(len(mixup), 4)
    first[:, 2:].fill_(torch.inf)  # `= torch.inf` would make a tensor of it, to be copied
    second, cut = first.clone(), recipe.cut.to(first)
    first[:, 2] = torch.where(mosaic & recipe.across, cut, torch.inf)
    first[:, 3] = torch.where(mosaic & ~recipe.across, cut, torch.inf)
    second[:, 0] = torch.where(mosaic & recipe.across, cut, 0)
    second[:, 1] = torch.where(mosaic & ~recipe.across, cut, 0)
    mine = torch.where(mixup, recipe.share, 1)
    return [Part(mine, first), Part(torch.where(mosaic, 1, 1 - mine), second)]


def tiles(recipe: Recipe, size: Tensor, own: Tensor, labeled: Tensor, partners: list[list[int]]) -> list[Part]:
    """Return the parts of four images that meet at a point, each with a corner in it and cropped by the picture.

    This is the common mosaic: a canvas of twice the size with its center drawn from the middle half of each side, of
    which the middle is kept (its random affine map is left to the views). What no tile covers has the mean colour.
    Mixup and images that stay alone have the parts of ``halves``, with the first partner.
    """
    mosaic, x, y = recipe.mosaic, recipe.center[:, 0], recipe.center[:, 1]
    plain = halves(replace(recipe, mosaic=torch.zeros_like(mosaic)))
    parts = []
    for k, theirs in enumerate([own] + [_pick(labeled, index) for index in partners]):
        corner = (recipe.turn + k) % 4
        left, top = corner % 2 == 0, corner < 2
        zero, inf = torch.zeros_like(x), torch.full_like(recipe.share, torch.inf)
        region = [torch.where(left, 0, x), torch.where(top, 0, y), torch.where(left, x, inf), torch.where(top, y, inf)]
        region[2], region[3] = torch.minimum(region[2], size[:, 1]), torch.minimum(region[3], size[:, 0])
        offset = torch.stack([torch.where(left, x - theirs[:, 1], x), torch.where(top, y - theirs[:, 0], y)], 1)
        base = plain[min(k, 1)]
        parts.append(
            Part(
                share=torch.where(mosaic, 1, base.share if k < 2 else zero.to(inf)),
                region=torch.where(mosaic[:, None], torch.stack(region, 1).to(inf), base.region),
                offset=torch.where(mosaic[:, None], offset, 0),
            )
        )
    return parts


def _pick(rows: Tensor, index: list[int]) -> Tensor:
    """Return ``rows[index]``; a list as an index would be copied to the device, and waited for."""
    return torch.stack([rows[i] for i in index])


def _integer(u: Tensor, count: Tensor) -> Tensor:
    """Return the integer in ``0..count - 1`` that ``u`` in [0, 1) stands for; the product may round up to ``count``."""
    return torch.minimum((u * count).long(), count - 1)


def _on_canvas(images: Tensor, sizes: Tensor, canvas: list[int]) -> Tensor:
    """[N, 3, h, w] uint8 or float -> [N, 3, H, W] float in 0..1, padding in the mean colour."""
    images = images if images.is_floating_point() else images.float() / 255
    height, width = canvas
    images = F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
    return torch.where(inside(sizes, canvas), images, grey(images))


def grey(like: Tensor) -> Tensor:
    """Return the mean colour, [3, 1, 1], made on the device."""
    return torch.cat([like.new_full((1, 1, 1), value) for value in GREY])


def inside(sizes: Tensor, canvas: list[int]) -> Tensor:
    """[N, 2] (height, width) -> [N, 1, H, W] bool."""
    rows, columns = (torch.arange(side, device=sizes.device) for side in canvas)
    return ((rows < sizes[:, 0, None])[:, :, None] & (columns < sizes[:, 1, None])[:, None, :])[:, None]


def _weigh(images: Tensor, part: Part) -> Tensor:
    """Move images [N, 3, H, W] to where their part begins, and weigh their pixels; 0 outside their region."""
    n, _, height, width = images.shape
    y, x = (torch.arange(side, device=images.device).expand(n, -1) for side in (height, width))
    x1, y1, x2, y2 = part.region[:, :, None].unbind(1)
    inside = ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None, :]
    if part.offset is not None:
        x, y = x - part.offset[:, :1], y - part.offset[:, 1:]
        real = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        image = torch.arange(n, device=images.device)[:, None, None]
        moved = images[image, :, y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None, :]]
        images = torch.where(real[:, None], moved.permute(0, 3, 1, 2), grey(images))
    return images * (inside * part.share[:, None, None])[:, None].to(images)


def _place(targets: list[Targets], part: Part, num_classes: int) -> list[Targets]:
    """Move and clip boxes as their pixels, and keep those of which enough is left; ``open`` is of the whole picture."""
    counts = [len(t) for t in targets]
    image = image_index(counts, part.share.device)
    boxes = torch.cat([t.boxes for t in targets])
    if part.offset is not None:
        boxes = boxes + part.offset[image].repeat(1, 2).to(boxes)
    region = part.region[image].to(boxes)
    clipped = torch.minimum(torch.maximum(boxes, region[:, :2].repeat(1, 2)), region[:, 2:].repeat(1, 2))
    share = part.share[image]
    enough = (clipped[:, 2:] - clipped[:, :2] > (boxes[:, 2:] - boxes[:, :2]) / 4).all(1) & (share > 0)
    placed = []
    for t, b, s, seen in zip(targets, clipped.split(counts), share.split(counts), part.share > 0):
        probs, open = t.soft(num_classes) * s[:, None].to(b), None if t.open is None else t.open & seen
        placed.append(replace(t, boxes=b, probs=probs, weight=t.trust(), open=open))
    return select(placed, enough)
