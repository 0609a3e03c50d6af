"""torchvision's own detectors with random weights, and ours with the same weights, for comparison."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import _default_anchorgen
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ssod.detectors.build import DetectorConfig, build
from ssod.structures import Targets, View

NAMES = ("retinanet", "fcos", "faster_rcnn")  # torchvision has them, too
ALL = (*NAMES, "dense_detector")
CONFIG = TypeAdapter(DetectorConfig)
FINAL = ("cls_logits", "cls_score", "bbox_reg", "bbox_pred", "bbox_ctrness", "objectness")
SIZES = ((128, 160), (128, 128), (96, 150))


def config(name: str, **changes: object) -> DetectorConfig:
    """A detector section for tests: tiny, random weights."""
    return CONFIG.validate_python({"name": name, "backbone": "tiny", "weights": "none", "channels": 32, **changes})


def torchvision_detector(name: str, columns: int, lively: bool = False) -> nn.Module:
    """torchvision's detector on ResNet-18 with ``columns`` classes, its transform told to leave sizes alone.

    ``lively`` heads say something at once, so that scores and boxes differ.
    """
    dense = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)} if name != "faster_rcnn" else {}
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, **dense)
    if name == "retinanet":
        model = RetinaNet(body, columns, anchor_generator=_default_anchorgen(), detections_per_img=100)
    elif name == "fcos":
        model = FCOS(body, columns, score_thresh=0.05)
    else:
        model = FasterRCNN(body, columns)
    model.transform._skip_resize = True
    if lively:
        enliven(model, lambda: detect(model, images()))
    return model


def enliven(model: nn.Module, run: Callable[[], object], final: tuple[str, ...] = FINAL) -> None:
    """Scale the last layers so that logits have a standard deviation of 2 and deltas one of 0.3, when ``run``."""
    last = [m for n, m in model.named_modules() if n.endswith(final)]
    boxes = [m for n, m in model.named_modules() if n.endswith(("bbox_reg", "bbox_pred", "anchor_deltas"))]
    for layer in last:
        nn.init.normal_(layer.weight, std=0.01)

    def rescale(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        handles.pop(layer).remove()
        wanted = 0.3 if layer in boxes else 2.0
        layer.weight.data *= wanted / (output - layer.bias.view(-1, *[1] * (output.ndim - 2))).std()
        return layer(*inputs)

    handles = {layer: layer.register_forward_hook(rescale) for layer in last}
    with torch.no_grad():
        run()


def detect(model: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Detections of torchvision's model without resizing, which its transform skips in training mode only."""
    model.eval()
    model.transform.train()
    with torch.no_grad():
        return model(images)


def pair(name: str, folder: Path, columns: int, num_classes: int, lively: bool = False) -> tuple[nn.Module, nn.Module]:
    """torchvision's model, and ours after loading its saved ``state_dict``."""
    torch.manual_seed(1)
    theirs = torchvision_detector(name, columns, lively)
    path = folder / f"{name}.pth"
    torch.save(theirs.state_dict(), path)
    cfg = config(name, backbone="resnet18", weights=str(path), norm="frozen", trainable_layers=5, channels=256)
    return theirs, build(cfg, num_classes)


def images(sizes: tuple[tuple[int, int], ...] = SIZES, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(3, h, w, generator=g) for h, w in sizes]


def view(pictures: list[Tensor], divisor: int = 32, canvas: tuple[int, int] | None = None) -> View:
    """Pad to a common size; the padding is 0.5, so that code that forgets to mask it fails."""
    up = partial(_round_up, divisor=divisor)
    h, w = canvas or (up(max(i.shape[1] for i in pictures)), up(max(i.shape[2] for i in pictures)))
    batch = torch.full((len(pictures), 3, h, w), 0.5)
    for slot, picture in zip(batch, pictures):
        slot[:, : picture.shape[1], : picture.shape[2]] = picture
    n = len(pictures)
    sizes = torch.tensor([list(i.shape[1:]) for i in pictures])
    return View(batch, sizes, torch.eye(3).repeat(n, 1, 1), torch.arange(1, n + 1) * 7919, list(range(n)))


def _round_up(x: int, divisor: int) -> int:
    return -(-x // divisor) * divisor


def targets() -> list[Targets]:
    """Boxes of three images, the second without any."""
    boxes = torch.tensor([[10.0, 10, 70, 80], [30, 20, 120, 100]])
    return [
        Targets(boxes, torch.tensor([1, 3])),
        Targets.empty(boxes),
        Targets(torch.tensor([[5.0, 5, 60, 60]]), torch.tensor([4])),
    ]
