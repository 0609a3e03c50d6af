"""How sure is a teacher of a box's place? It is asked again about boxes nearby. (Soft Teacher, arXiv:2106.09018)

Jittered boxes go through the teacher's second stage; a box that it is sure of comes back to one place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssod.structures import Output, Targets, View
from ssod.structures.boxes import clip
from ssod.structures.ragged import image_index
from ssod.utils import seeding

_ROWS = -(2**40)  # detectors draw from rows 0 and up of an image's key, mixing from those just below


def box_spread(teacher: Output, found: list[Targets], view: View, *, times: int, scale: float) -> Tensor:
    """Return the spread of each box, the mean over its sides, over all images concatenated, [M] (Sec. 3.3).

    A dense head answers by its nearest row (``Output.score``), so there it is an approximation.

    Args:
        teacher: what it saw in ``view``.
        found: its detections, N Targets.
        view: its keys are what the noise depends on.
        times: boxes drawn around each detection; 2 or more.
        scale: standard deviation of a side's noise, over the box's width or height.
    """
    counts = [len(t) for t in found]
    boxes, labels = torch.cat([t.boxes for t in found]), torch.cat([t.labels for t in found])
    near = jittered(boxes, unit_noise(counts, view.keys, times), scale).split(counts, 1)
    p = teacher.score([b.flatten(0, 1) for b in near])
    refined = p.boxes(torch.cat([part.repeat(times) for part in labels.split(counts)]))
    refined = clip(refined, p.sizes[p.image]).split([times * n for n in counts])
    return spread_of_sides(torch.cat([b.unflatten(0, (times, -1)) for b in refined], 1)).mean(1)


def unit_noise(counts: list[int], keys: Tensor, times: int) -> Tensor:
    """Return normal numbers [times, sum(counts), 4] that depend on an image's key and a box's place in it alone.

    Args:
        counts: boxes of each of N images.
        keys: [N] int64.
        times: draws for each box.
    """
    image = image_index(counts, keys.device)
    place = torch.cat([torch.arange(n, device=keys.device) for n in counts])
    rows = _ROWS + place[:, None] * (4 * times) + torch.arange(4 * times, device=keys.device)
    u = seeding.uniform(keys[image][:, None], rows).clamp(min=2**-25)
    return torch.special.ndtri(u).unflatten(1, (times, 4)).transpose(0, 1)


def jittered(boxes: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Move the sides of boxes [M, 4] by ``noise`` [T, M, 4] times ``scale`` times the box's size; [T, M, 4].

    A side is measured as one pixel at least.
    """
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).repeat(1, 2)
    return boxes + noise * scale * size


def spread_of_sides(refined: Tensor) -> Tensor:
    """Return [M, 4]: how far the sides of T boxes [T, M, 4] around an object spread, over its mean size.

    It is the standard deviation (of T - 1 degrees of freedom) of x over the mean box's width, of y over its height, one
    pixel at least.
    """
    mean = refined.mean(0)
    size = (mean[:, 2:] - mean[:, :2]).clamp(min=1).repeat(1, 2)
    deviation = ((refined - mean).square().sum(0) / (len(refined) - 1)).sqrt()  # std warns where there is no box
    return deviation / size
