"""Recurrent layer aggregation: a memory that the blocks of a ResNet read and write. (arXiv:2110.11852)

DSL's "aggregated teacher" (arXiv:2207.05536) is an average of a student with this backbone. A map h of 32 channels is 0
below the first stage. Each block reads it beside its input x; its skip connection does not. What the block adds to its
input, y, is written: ``h <- Conv3x3(tanh(norm(h + Conv1x1(y))))``. Both convolutions are those of the stage, the
normalisation is the block's own. Where a block halves its map, h is averaged over two by two cells. The pyramid reads
the stages' outputs as ever, so that the last block has nothing to write for.

What reads the memory starts at 0, as does what a file of a plain ResNet does not have: the net starts as the plain one.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck

CHANNELS = 32
LAYERS = ("layer1", "layer2", "layer3", "layer4")
FRESH = tuple(f"backbone.body.{layer}.hidden." for layer in LAYERS)  # what a plain ResNet has not

# How the authors' files call the parts of stage i.
_THEIRS = (
    (re.compile(r"^stages\.(\d)\."), "layer{}."),
    (re.compile(r"^stage_bns\.(\d)\."), "layer{}.hidden.norms."),
    (re.compile(r"^conv_outs\.(\d)\."), "layer{}.hidden.out."),
    (re.compile(r"^recurrent_convs\.(\d)\."), "layer{}.hidden.recurrent."),
)


class Memory(nn.Module):
    """How the blocks of a stage write.

    Args:
        channels: of what a block adds to its input.
        writes: how many blocks write.
        norm: normalisation layer.
    """

    def __init__(self, channels: int, writes: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.out = nn.Conv2d(channels, CHANNELS, 1, bias=False)
        self.recurrent = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(norm(CHANNELS) for _ in range(writes))
        for layer in (self.out, self.recurrent):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, h: Tensor, y: Tensor, block: int) -> Tensor:
        """[N, 32, H, W], [N, channels, H, W] -> [N, 32, H, W]."""
        return self.recurrent(torch.tanh(self.norms[block](h + self.out(y))))


Block = BasicBlock | Bottleneck


class Stage(nn.Module):
    """The blocks of a stage, under their old names, and ``hidden``.

    Args:
        blocks: torchvision's, which are changed.
        norm: normalisation layer.
        last: whether nobody reads what the last block would write.
    """

    def __init__(self, blocks: Sequence[Block], norm: Callable[[int], nn.Module], *, last: bool) -> None:
        super().__init__()
        for i, block in enumerate(blocks):
            block.conv1 = wider(block.conv1)
            self.add_module(str(i), block)
        final = blocks[-1].conv3 if isinstance(blocks[-1], Bottleneck) else blocks[-1].conv2
        self.hidden = Memory(final.out_channels, len(blocks) - last, norm)

    def blocks(self) -> list[Block]:
        """Return the blocks in their order."""
        return [block for block in self.children() if isinstance(block, Block)]

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W], [N, 32, H, W] -> the stage's output and the memory, of the same size."""
        for i, block in enumerate(self.blocks()):
            y = residual(block, torch.cat([x, h], 1))
            skip = x if block.downsample is None else block.downsample(x)
            x = F.relu(y + skip)
            if block.stride != 1:
                h = F.avg_pool2d(h, 2, ceil_mode=True)  # as large as x, whose side is rounded up
            if i < len(self.hidden.norms):
                h = self.hidden(h, y, i)
        return x, h


def residual(block: Block, x: Tensor) -> Tensor:
    """Return what a block adds to its input."""
    x = block.relu(block.bn1(block.conv1(x)))
    x = block.bn2(block.conv2(x))
    return block.bn3(block.conv3(block.relu(x))) if isinstance(block, Bottleneck) else x


def wider(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution that reads the memory behind its old input, by weights of 0."""
    inputs, outputs = conv.in_channels, conv.out_channels
    kernel, stride, padding = (conv.kernel_size[0], conv.stride[0], int(conv.padding[0]))
    made = nn.Conv2d(inputs + CHANNELS, outputs, kernel, stride, padding, bias=False)
    with torch.no_grad():
        made.weight[:, :inputs] = conv.weight
        made.weight[:, inputs:] = 0
    return made


def aggregate(body: nn.Module, norm: Callable[[int], nn.Module], last: str) -> None:
    """Let the stages of a torchvision ResNet hand on a memory, in place, up to the stage ``last``."""
    for name in LAYERS[: LAYERS.index(last) + 1]:
        blocks = [block for block in body.get_submodule(name).children() if isinstance(block, Block)]
        body.set_submodule(name, Stage(blocks, norm, last=name == last))


class Layers(IntermediateLayerGetter):
    """torchvision's getter of a net's layers, that hands the memory from stage to stage."""

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """[N, 3, H, W] -> the map of each layer that is asked for."""
        found: OrderedDict[str, Tensor] = OrderedDict()
        h: Tensor | None = None
        for name, module in self.items():
            if isinstance(module, Stage):
                x, h = module(x, torch.zeros_like(x[:, :CHANNELS]) if h is None else h)
            else:
                x = module(x)
            if name in self.return_layers:
                found[self.return_layers[name]] = x
        return found


# ---- weights from files --------------------------------------------------------------------------------------------


def own_name(name: str) -> str:
    """Return our name of a weight of the authors' RLA-ResNet; others keep theirs."""
    for pattern, ours in _THEIRS:
        if found := pattern.match(name):
            return ours.format(int(found[1]) + 1) + name[found.end() :]
    return name


def widened(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a plain ResNet's weights 0 for what reads the memory, where the net ``own`` has one."""
    return {name: _with_zeros(value, own[name]) if name in own else value for name, value in state.items()}


def _with_zeros(value: Tensor, own: Tensor) -> Tensor:
    if own.ndim != 4 or value.ndim != 4 or own.shape[1] != value.shape[1] + CHANNELS:
        return value
    return torch.cat([value, value.new_zeros(value.shape[0], CHANNELS, *value.shape[2:])], 1)
