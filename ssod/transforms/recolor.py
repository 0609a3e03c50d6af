"""Strong colours, blur and erased rectangles on the device, for views that are changed after they were made.

The operations of the preset ``unbiased_strong`` (Unbiased Teacher, arXiv:2102.09480), as a function of an image's key,
on tensors of the whole batch. Brightness, contrast, saturation and hue in random order, and grey, are one affine map of
a pixel's colour. So nothing is cut to 0..1 between them but at the end, and hue is turned about the grey axis (YIQ)
where Pillow turns it in HSV. A rectangle that does not fit is made to fit, where torchvision draws it again, and its
noise repeats after 64 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from ssod.structures import View
from ssod.transforms.erasing import Erase
from ssod.transforms.geometry import Span
from ssod.utils import seeding
from ssod.utils.schema import Section

_ROWS = -(2**42)  # of an image's key; see seeding.uniform
LUMA = (0.299, 0.587, 0.114)
YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
RGB: list[list[float]] = np.linalg.inv(np.array(YIQ)).tolist()
RADIUS = 6  # of the blur in pixels, three deviations of the widest
TILE = 64  # side of the noise that is repeated

Share = Annotated[float, Field(ge=0, le=1)]


class ColorsConfig(Section):
    """Strong colours of a view."""

    jitter: Share = 0.8
    "Probability that brightness, contrast, saturation and hue change."
    brightness: float = Field(0.4, ge=0)
    "Factor drawn from [1 - b, 1 + b], not below 0."
    contrast: float = Field(0.4, ge=0)
    "Factor drawn from [1 - c, 1 + c], not below 0."
    saturation: float = Field(0.4, ge=0)
    "Factor drawn from [1 - s, 1 + s], not below 0."
    hue: float = Field(0.1, ge=0, le=0.5)
    "Turn drawn from [-h, h], in turns of the colour circle."
    gray: Share = 0.2
    "Probability that the colour is taken away."
    blur: Share = 0.5
    "Probability of a Gaussian blur."
    sigma: Span = (0.1, 2.0)
    "Its standard deviation in pixels, 2 at most."
    erase: tuple[Erase, ...] = (
        Erase(p=0.7, area=(0.05, 0.2), ratio=(0.3, 3.3)),
        Erase(p=0.5, area=(0.02, 0.2), ratio=(0.1, 6.0)),
        Erase(p=0.3, area=(0.02, 0.2), ratio=(0.05, 8.0)),
    )
    "Rectangles of noise, one after the other."

    @field_validator("sigma")
    @classmethod
    def _within_reach(cls, sigma: tuple[float, float]) -> tuple[float, float]:
        if not 0 < sigma[0] <= sigma[1] <= RADIUS / 3:
            raise ValueError(f"deviations lie in (0, {RADIUS // 3}], got {list(sigma)}")
        return sigma


@torch.no_grad()
def recolored(view: View, cfg: ColorsConfig) -> View:
    """Return the view in strong colours, float in 0..1; its boxes, places and keys are as they were."""
    images = view.images if view.images.is_floating_point() else view.images.float() / 255
    height, width = (torch.arange(n, device=images.device) for n in images.shape[-2:])
    rows, columns = height < view.sizes[:, :1], width < view.sizes[:, 1:]  # [N, H], [N, W]
    real = (rows[:, :, None] & columns[:, None, :])[:, None]
    count = 12 + 5 * len(cfg.erase)
    u = seeding.uniform(view.keys[:, None], _ROWS + torch.arange(count, device=images.device))
    factor, shift = color_map(torch.where(real, images, 0).sum((2, 3)) / real.sum((2, 3)), u, cfg)
    images = sum(factor[:, :, j, None, None] * images[:, j : j + 1] for j in range(3)) + shift[..., None, None]
    images = images.clamp(0, 1)
    if cfg.blur:
        deviation = between(u[:, 11], *cfg.sigma)
        kernel = gaussian(torch.where(u[:, 10] < cfg.blur, deviation, 0))
        images = smoothed(smoothed(images, kernel, columns).transpose(2, 3), kernel, rows).transpose(2, 3)
    for i, erase in enumerate(cfg.erase):
        draws = u[:, 12 + 5 * i : 17 + 5 * i]
        hole = rectangle(draws, view.sizes, erase, height, width)
        images = torch.where(hole, noise(view.keys, 1 + i, images), images)
    return replace(view, images=torch.where(real, images, 0.0).contiguous())


def vector(values: Sequence[float], like: Tensor) -> Tensor:
    """Return some numbers as a tensor that is made on the device; it is not waited for."""
    return torch.cat([like.new_full((1,), value) for value in values])


def between(u: Tensor, low: float, high: float) -> Tensor:
    """Return ``u`` in [0, 1) moved to [low, high)."""
    return low + (high - low) * u


def color_map(mean: Tensor, u: Tensor, cfg: ColorsConfig) -> tuple[Tensor, Tensor]:
    """Return the affine map of colours of each image, factors [N, 3, 3] and shifts [N, 3].

    Args:
        mean: [N, 3] colour of each image in 0..1, to whose grey contrast refers.
        u: [N, 10 or more] in [0, 1): whether to jitter, four strengths, four places in the order, whether to be grey.
        cfg: strengths and probabilities.
    """
    one = torch.eye(3, device=u.device)
    luma = vector(LUMA, u)
    gray = luma.expand(3, 3)
    spread = (cfg.brightness, cfg.contrast, cfg.saturation)
    b, c, s = (between(u[:, 1 + i], max(0.0, 1 - x), 1 + x)[:, None, None] for i, x in enumerate(spread))
    steps = torch.stack([b * one, c * one, s * one + (1 - s) * gray, turned(between(u[:, 4], -cfg.hue, cfg.hue))], 1)
    factor, shift = one.repeat(len(u), 1, 1), torch.zeros_like(mean)
    for k in u[:, 5:9].argsort(1).unbind(1):
        step = steps.gather(1, k[:, None, None, None].expand(-1, 1, 3, 3))[:, 0]
        pull = torch.where(k[:, None] == 1, (1 - c[:, 0]) * (mean * luma).sum(1, keepdim=True), 0)
        factor, shift, mean = product(step, factor), applied(step, shift) + pull, applied(step, mean) + pull
    jitter = u[:, 0, None] < cfg.jitter
    factor, shift = torch.where(jitter[..., None], factor, one), torch.where(jitter, shift, 0)
    flat = torch.where(u[:, 9, None, None] < cfg.gray, gray, one)
    return product(flat, factor), applied(flat, shift)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of matrices [N, 3, 3], exact under autocast."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def applied(a: Tensor, x: Tensor) -> Tensor:
    """Return matrices [N, 3, 3] times vectors [N, 3], exact under autocast."""
    return (a * x[:, None]).sum(-1)


def turned(turns: Tensor) -> Tensor:
    """Return [N, 3, 3], the turn of the hue by ``turns`` [N] of the circle: Rodrigues' rotation in YIQ's plane."""
    to, back = (torch.stack([vector(row, turns) for row in rows]) for rows in (YIQ, RGB))
    c, s = (2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    turn = torch.stack([one, zero, zero, zero, c, s, zero, -s, c], 1).view(-1, 3, 3)
    return product(product(back.expand_as(turn), turn), to.expand_as(turn))


def gaussian(sigma: Tensor) -> Tensor:
    """Return [N, 13] weights that sum to 1; a deviation of 0 leaves the picture as it is."""
    at = torch.arange(-RADIUS, RADIUS + 1, device=sigma.device)
    weight = (-(at**2) / (2 * sigma[:, None].clamp(min=1e-2) ** 2)).exp()
    return weight / weight.sum(1, keepdim=True)


def smoothed(images: Tensor, kernel: Tensor, real: Tensor) -> Tensor:
    """Blur [N, 3, H, W] along the last side by [N, 13]; padding, where ``real`` [N, W] is false, has no part in it."""
    width = images.shape[-1]
    images = F.pad(torch.where(real[:, None, None], images, 0), (RADIUS, RADIUS))
    counts = F.pad(real.to(images), (RADIUS, RADIUS))
    total, share = torch.zeros_like(images[..., :width]), torch.zeros_like(counts[:, :width])
    for k, weight in enumerate(kernel.unbind(1)):
        total.addcmul_(weight[:, None, None, None], images[..., k : k + width])
        share.addcmul_(weight[:, None], counts[:, k : k + width])
    return total / share.clamp(min=1e-6)[:, None, None]


def rectangle(u: Tensor, sizes: Tensor, cfg: Erase, y: Tensor, x: Tensor) -> Tensor:
    """Return [N, 1, H, W] bool, the rectangle that is erased in each image, perhaps none; ``u`` is [N, 5]."""
    height, width = sizes.to(u).unbind(1)
    area = between(u[:, 1], *cfg.area) * height * width
    ratio = between(u[:, 2], *map(math.log, cfg.ratio)).exp()
    tall = torch.minimum((area * ratio).sqrt().round(), height)
    wide = torch.minimum((area / ratio).sqrt().round(), width)
    top, left = (u[:, 3] * (height - tall + 1)).floor(), (u[:, 4] * (width - wide + 1)).floor()
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None]) & (u[:, :1] < cfg.p)
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def noise(keys: Tensor, number: int, like: Tensor) -> Tensor:
    """Return uniform noise of the shape of images [N, 3, H, W]: a tile a side of 64 pixels, over and over."""
    height, width = like.shape[-2:]
    count = 3 * TILE * TILE
    rows = _ROWS - number * count - torch.arange(count, device=keys.device)
    tile = seeding.uniform(keys[:, None], rows).view(-1, 3, TILE, TILE).to(like)
    return tile.repeat(1, 1, -(-height // TILE), -(-width // TILE))[..., :height, :width]
