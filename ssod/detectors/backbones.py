"""Backbones and their feature pyramid, from torchvision's parts, and one small net of our own for the CPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import Conv2dNormActivation, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelP6P7

from ssod.detectors.half_size import HalfSizePyramid
from ssod.detectors.rla import Layers, Stage, aggregate
from ssod.utils.errors import SsodError
from ssod.utils.schema import Section, Switch

NormLayer = Callable[[int], nn.Module]

# Children of each backbone from the input on: what `trainable_layers` counts from the end.
_RESNET = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
_MOBILE = (("0", "1"), ("2", "3"), ("4", "5", "6"), tuple(map(str, range(7, 13))), ("13", "14", "15"), ("16",))
_TINY = (("stem",), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
GROUPS = {"resnet18": _RESNET, "resnet50": _RESNET, "resnet101": _RESNET, "mobilenet_v3_large": _MOBILE, "tiny": _TINY}

# Where levels 2, 3, 4, 5 (strides 4, 8, 16, 32) leave, and with how many channels.
_LAYERS = ("layer1", "layer2", "layer3", "layer4")
LEVELS = {
    "resnet18": (_LAYERS, (64, 128, 256, 512)),
    "resnet50": (_LAYERS, (256, 512, 1024, 2048)),
    "resnet101": (_LAYERS, (256, 512, 1024, 2048)),
    "mobilenet_v3_large": (("3", "6", "12", "16"), (24, 40, 112, 960)),
    "tiny": (_LAYERS, (32, 64, 96, 128)),
}


class BackboneConfig(Section):
    """What every detector has below its head."""

    backbone: Literal["resnet18", "resnet50", "resnet101", "mobilenet_v3_large", "tiny"] = "resnet50"
    "The feature extractor; `tiny` has under a million parameters and is for the CPU at 128 pixels or so."
    weights: str = "imagenet"
    "Start from `imagenet`, `coco` (the whole detector, resnet50 only), `none` (`tiny`), or a .pth/.safetensors."
    norm: Literal["frozen", "affine", "batch", "group"] = "frozen"
    """Normalisation of the backbone. `frozen` keeps the pretrained batch-norm; `affine` keeps its statistics and learns
    scale and shift (mmdetection's norm_eval); `batch` learns both. Default without pretrained weights, and of `tiny`:
    `group`."""
    trainable_layers: int | None = Field(None, ge=0, le=6)
    "Stages of the backbone that learn, from its end; by default 3 with pretrained weights, all without and of `tiny`."
    channels: int = Field(256, ge=8, le=1 << 16, multiple_of=8)
    "Channels of the feature pyramid and of the head."
    levels: tuple[int, int] = (3, 7)
    "First and last pyramid level; level l has stride 2**l. Level 6 alone is pooled, 6 and 7 are convolutions."

    half_size: Switch = None
    """`true` adds the level below the first, from which a method can look at images of half their size with the same
    strides in pixels of the full one (PseCo). Other looks do not read it."""
    level6: Literal["c5"] | None = None
    "`c5` takes level 6 from the backbone's last stage (detectron2's RetinaNet); by default it comes from level 5."
    downsample: Literal["1x1"] | None = None
    """Which convolution of a ResNet-50 or 101 bottleneck has the stride: `1x1` is the first (MSRA's original, most of
    detectron2's models); by default the second (torchvision)."""
    rla: Switch = None
    """`true`: the blocks of a ResNet hand on a memory, which each reads and writes (recurrent layer aggregation, DSL).
    Weights of a plain ResNet fit, and the net starts as that one; stages that do not learn then leave the memory 0. Its
    normalisation follows `norm`; of its statistics a plain file knows nothing, so that `frozen` there is none, and
    `affine` scale and shift alone."""
    pixel_std: tuple[float, float, float] | None = None
    "What RGB in 0..255 is divided by; `[1, 1, 1]` for detectron2's MSRA models. By default ImageNet's deviations."
    name: str
    "The detector."

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        data.setdefault("weights", "none" if data.get("backbone") == "tiny" else "imagenet")
        data.setdefault("norm", "group" if data["weights"] == "none" or data.get("backbone") == "tiny" else "frozen")
        return data

    @model_validator(mode="after")
    def _levels(self) -> BackboneConfig:
        first, last = self.levels
        if not (2 <= first <= 5 and first <= last <= 7):
            raise ValueError(f"levels {first}..{last}: the first is one of 2..5, the last one of first..7")
        if self.half_size and first == 2:
            raise ValueError("half_size: needs a level below the first, and there is none below 2; use levels from 3")
        return self


def refuse_impossible(cfg: BackboneConfig) -> None:
    """Raise ``SsodError`` where backbone, weights and normalisation do not go together."""
    if cfg.weights == "none" and cfg.norm in ("frozen", "affine"):
        problem = f"{cfg.norm}: statistics that nothing has measured normalise nothing"
        raise SsodError("config", "detector.norm", problem, "use norm: group or batch, or pretrained weights")
    if cfg.weights == "imagenet" and cfg.backbone == "tiny":
        problem = "there are no imagenet weights of 'tiny'"
        raise SsodError("config", "detector.weights", problem, "use weights: none, or a file of your own")
    if cfg.weights == "coco" and cfg.backbone != "resnet50":
        problem = f"there are no coco weights with backbone '{cfg.backbone}'"
        raise SsodError("config", "detector.weights", problem, "use backbone: resnet50, or weights: imagenet")
    if cfg.weights == "coco" and cfg.name == "dense_detector":
        problem = "there are no coco weights of 'dense_detector'"
        raise SsodError("config", "detector.weights", problem, "use weights: imagenet, or a file of your own")
    if cfg.weights in ("imagenet", "coco") and cfg.norm == "group":
        problem = f"there are no {cfg.weights} weights with group normalisation"
        raise SsodError("config", "detector.norm", problem, "use norm: frozen, affine or batch, or weights: none")
    if cfg.downsample and cfg.backbone not in ("resnet50", "resnet101"):
        problem = f"'{cfg.backbone}' has no bottlenecks"
        raise SsodError("config", "detector.downsample", problem, "remove it, or use backbone: resnet50")
    if cfg.rla and cfg.backbone not in ("resnet18", "resnet50", "resnet101"):
        problem = f"'{cfg.backbone}' has no blocks that could hand it on"
        raise SsodError("config", "detector.rla", problem, "remove it, or use backbone: resnet50")
    if cfg.level6 and (cfg.levels[1] != 7 or LEVELS[cfg.backbone][1][-1] == cfg.channels):
        problem = "needs levels up to 7, and other channels than the backbone's last stage"
        raise SsodError("config", "detector.level6", problem, "remove it")
    groups = len(GROUPS[cfg.backbone])
    if cfg.trainable_layers is not None and cfg.trainable_layers > groups:
        problem = f"{cfg.trainable_layers} stages, but '{cfg.backbone}' has {groups}"
        raise SsodError("config", "detector.trainable_layers", problem, f"use 0..{groups}")


def build_backbone(cfg: BackboneConfig) -> BackboneWithFPN:
    """Return backbone and pyramid with random weights: [N, 3, H, W] -> one [N, channels, h, w] per level.

    Raises:
        SsodError: see ``refuse_impossible``.
    """
    refuse_impossible(cfg)
    norm = norm_layer(cfg.norm, eps=1e-3 if cfg.backbone == "mobilenet_v3_large" else 1e-5)
    if cfg.backbone == "tiny":
        body: nn.Module = Tiny(norm)
    else:
        body = get_model(cfg.backbone, weights=None, norm_layer=norm)
        body = body.get_submodule("features") if cfg.backbone == "mobilenet_v3_large" else body
    if cfg.downsample == "1x1":
        stride_first(body)
    names, widths = LEVELS[cfg.backbone]
    first, last = cfg.levels
    used = range(first - 2 - bool(cfg.half_size), min(last, 5) - 1)
    if cfg.rla:
        aggregate(body, norm, names[used[-1]])
    freeze(body, cfg)
    return_layers = {names[i]: str(n) for n, i in enumerate(used)}
    pyramid = (HalfSizePyramid if cfg.half_size else BackboneWithFPN)(
        body,
        return_layers=return_layers,
        in_channels_list=[widths[i] for i in used],
        out_channels=cfg.channels,
        extra_blocks=_extra(last, cfg.channels, widths[-1] if cfg.level6 == "c5" else cfg.channels),
    )
    if cfg.rla:
        pyramid.body = Layers(body, return_layers)
    return pyramid


def stride_first(body: nn.Module) -> None:
    """Move the stride of every bottleneck from its 3x3 to its first 1x1 convolution."""
    for block in (getattr(body, f"layer{i}")[0] for i in (2, 3, 4)):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


def freeze(body: nn.Module, cfg: BackboneConfig) -> None:
    """Switch off the gradients of all but the last ``trainable_layers`` stages.

    Of these, a stage with a memory hands on 0 until a file says how it writes: random numbers would stay random.
    """
    groups = GROUPS[cfg.backbone]
    count = cfg.trainable_layers
    if count is None:
        count = len(groups) if cfg.weights == "none" or cfg.backbone == "tiny" else 3
    for name in sum(groups[: len(groups) - count], ()):
        stage = body.get_submodule(name).requires_grad_(False)
        if isinstance(stage, Stage):
            nn.init.zeros_(stage.hidden.recurrent.weight)


def norm_layer(kind: str, eps: float = 1e-5) -> NormLayer:
    """Return the constructor of a normalisation layer, called with the number of channels."""
    if kind == "frozen":
        return partial(FrozenBatchNorm2d, eps=eps)
    if kind == "group":
        return group_norm
    return partial(nn.BatchNorm2d if kind == "batch" else StillBatchNorm2d, eps=eps)


class StillBatchNorm2d(nn.BatchNorm2d):
    """Batch-norm that never looks at the batch: statistics stay, scale and shift learn."""

    def train(self, mode: bool = True) -> StillBatchNorm2d:
        """Stay in eval mode."""
        return super().train(False)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return GroupNorm with the most groups, up to 32, of four channels or more; 32 groups for 256 channels."""
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and (channels // g >= 4 or g == 1))
    return nn.GroupNorm(groups, channels)


class Normalise(nn.Module):
    """uint8 0..255 or float 0..1 to zero mean and unit variance as ImageNet has it; padding stays 0.

    Args:
        std: other deviations of RGB in 0..255.
    """

    def __init__(self, std: tuple[float, float, float] | None = None) -> None:
        super().__init__()
        mean = torch.tensor([0.485, 0.456, 0.406])
        deviation = torch.tensor([0.229, 0.224, 0.225]) if std is None else torch.tensor(std) / 255
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", deviation[:, None, None], persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """[N, 3, H, W] and [N, 2] (height, width) without padding -> [N, 3, H, W]."""
        scale = 1.0 if images.is_floating_point() else 255.0
        x = (images.to(self.mean) / scale - self.mean) / self.std
        height, width = sizes[:, 0, None], sizes[:, 1, None]
        rows = torch.arange(images.shape[-2], device=images.device) < height  # [N, H]
        columns = torch.arange(images.shape[-1], device=images.device) < width  # [N, W]
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], x, 0.0)


class Tiny(nn.Sequential):
    """Five strided stages of plain 3x3 convolutions, the last four with one residual block: 0.7 M parameters.

    Args:
        norm: normalisation layer.
        widths: channels of the stem and the four stages.
    """

    def __init__(self, norm: NormLayer, widths: tuple[int, ...] = (16, *LEVELS["tiny"][1])) -> None:
        stages: list[tuple[str, nn.Module]] = [("stem", Conv2dNormActivation(3, widths[0], 3, 2, norm_layer=norm))]
        stages += [(f"layer{i}", _Stage(widths[i - 1], widths[i], norm)) for i in range(1, 5)]
        super().__init__(OrderedDict(stages))


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: NormLayer) -> None:
        super().__init__()
        self.down = Conv2dNormActivation(inputs, outputs, 3, 2, norm_layer=norm)
        self.conv1 = Conv2dNormActivation(outputs, outputs, 3, norm_layer=norm)
        self.conv2 = Conv2dNormActivation(outputs, outputs, 3, norm_layer=norm, activation_layer=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return F.relu(x + self.conv2(self.conv1(x)))


class _EverySecond(ExtraFPNBlock):
    """Level 6 as every second cell of level 5: torchvision's ``LastLevelMaxPool``, whose pool of one cell is no more.

    A slice keeps an exported graph open for canvases of any size with torch 2.11, too, where the pool's is not.
    """

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return [*results, results[-1][:, :, ::2, ::2]], [*names, "pool"]


class _NoExtra(ExtraFPNBlock):
    """The pyramid ends where the backbone does."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return results, names


def _extra(last: int, channels: int, inputs: int) -> ExtraFPNBlock:
    if last == 7:
        return LastLevelP6P7(inputs, channels)  # from level 5 where these are equal, else from the last stage
    return _EverySecond() if last == 6 else _NoExtra()
