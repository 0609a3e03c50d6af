"""Features of images of half their size, as large as those of the full size: the pyramid begins one level finer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ssod.utils.given import given


class HalfSizePyramid(BackboneWithFPN):
    """A pyramid with one level more at its fine end, for images of half their size (PseCo, arXiv:2203.16317, Sec. 3.3).

    Called with images, it is the pyramid without that level, whose parameters then have a gradient of 0: where several
    processes learn, each parameter needs one in each step.

    Args:
        body: the feature extractor.
        return_layers: its layers and what their maps are called, the finest of the additional level first.
        in_channels_list: the channels of these maps.
        out_channels: channels of the pyramid.
        extra_blocks: the levels above.
    """

    def __init__(
        self,
        body: nn.Module,
        return_layers: dict[str, str],
        in_channels_list: list[int],
        out_channels: int,
        extra_blocks: ExtraFPNBlock,
    ) -> None:
        super().__init__(body, return_layers, in_channels_list[1:], out_channels, extra_blocks)
        inner = Conv2dNormActivation(in_channels_list[0], out_channels, 1, norm_layer=None, activation_layer=None)
        layer = Conv2dNormActivation(out_channels, out_channels, 3, norm_layer=None, activation_layer=None)
        self.finest = nn.ModuleDict({"inner": inner, "layer": layer})
        for p in self.finest.parameters():  # as torchvision begins the others
            nn.init.kaiming_uniform_(p, a=1) if p.ndim == 4 else nn.init.zeros_(p)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] -> the map of each level, by name."""
        read = self.body(x)
        read.pop(next(iter(read)))
        maps = self.fpn(read)
        if self.training:
            first = next(iter(maps))
            maps[first] = maps[first] + 0 * sum(p.sum() for p in self.finest.parameters())
        return maps

    def half_size(self, x: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] -> maps of every second pixel, as large as ``forward``'s: all levels but the coarsest."""
        read = self.body(x[..., ::2, ::2])
        inner = [self.finest["inner"], *self.fpn.inner_blocks]
        layers = [self.finest["layer"], *self.fpn.layer_blocks]
        found: list[Tensor] = []
        above: Tensor | None = None
        for values, lateral, layer in reversed(list(zip(read.values(), inner, layers))):
            here = lateral(values)
            above = here if above is None else here + F.interpolate(above, size=here.shape[-2:], mode="nearest")
            found.insert(0, layer(above))
        extra = given(self.fpn.extra_blocks, "a pyramid of ours always has them")
        found, names = extra(found, list(read.values()), list(read))
        return dict(zip(names[:-1], found[:-1]))


def pyramid_of(backbone: nn.Module, images: Tensor, half_size: bool) -> dict[str, Tensor]:
    """Return the maps of normalised images by level, finest first; see ``structures.View.half_size``.

    Raises:
        TypeError: the pyramid has no level for images of half their size.
    """
    if not half_size:
        return backbone(images)
    if not isinstance(backbone, HalfSizePyramid):
        raise TypeError("this pyramid has no level for images of half their size; Detector.half_size says so")
    return backbone.half_size(images)
