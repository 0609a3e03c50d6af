"""Measure how far exported graphs are from torch: three detectors, 50 images in each of four sizes.

    python tools/export_parity.py [--format onnx|pt2] [--images 50] [--detector retinanet ...]

A fourth, `dense_detector`, is measured where it is named. The detectors are small, with random weights whose last
layers are scaled so that scores are spread out; the threshold is set so that about a quarter of the images have no
detection. Exits with 1 if a graph crashes or differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from ssod.detectors.build import DetectorConfig, build
from ssod.inference.export import Graph, convert, runner
from ssod.inference.export_parity import Parity, Run, as_view, measure, rows, texture, within
from ssod.inference.graph_content import DIVISOR
from ssod.inference.model import Model

DETECTORS = ("retinanet", "fcos", "faster_rcnn")
LAST = ("cls_logits", "cls_score", "bbox_reg", "bbox_pred", "ctrness", "objectness")  # layers
SIZES = ((96, 128), (101, 133), (77, 333), (256, 200))  # plain, odd, long, larger; padded to multiples of 32


def random_model(name: str, seed: int = 0, **changes: object) -> Model:
    """Return a small detector of three classes that finds things in some random pictures and nothing in others.

    Args:
        name: retinanet, fcos, faster_rcnn or dense_detector.
        seed: of its weights.
        changes: other values of its config section.
    """
    own = {"rpn": {"before": (200, 200), "after": (100, 100)}} if name == "faster_rcnn" else {"head_norm": "none"}
    section = {"name": name, "backbone": "tiny", "weights": "none", "norm": "batch", "channels": 32, **own, **changes}
    cfg = TypeAdapter(DetectorConfig).validate_python(section)
    torch.manual_seed(seed)
    detector = build(cfg, 3, pretrained=False).eval().requires_grad_(False)
    for key, weight in detector.named_parameters():
        if any(part in key for part in LAST):
            nn.init.normal_(weight, std=0.05) if weight.ndim > 1 else nn.init.zeros_(weight)
    _spread(detector)
    best = torch.tensor([_best(detector, images, sizes) for images, sizes in pictures(16, SIZES[0], seed=99)])
    detector.decode = detector.decode.model_copy(update={"score": float(best.quantile(0.25))})
    card = {
        "detector": cfg.model_copy(update={"decode": detector.decode}).model_dump(mode="json"),
        "classes": {"names": ["cat", "dog", "bird"], "ids": [3, 7, 11]},
        "val_view": [],
    }
    return Model(detector, card, torch.device("cpu"))


def _spread(detector: nn.Module) -> None:
    """Scale the last layers so that scores are spread out below 0.9 (equal ones are ties) and deltas vary by a half."""
    images, sizes = next(batch for batch in pictures(16, SIZES[0], seed=98) if len(batch[0]) == 2)
    for goal in ("scale", "shift"):
        seen = rows(detector, images, sizes)
        odds = seen.probs().logit()
        for key, value in detector.named_parameters():
            if "cls_logits" in key or "cls_score" in key:
                if goal == "scale" and value.ndim > 1:
                    value *= 4 / (odds.max() - odds.median())
                elif goal == "shift" and value.ndim == 1:
                    value[-seen.num_classes * (len(value) // seen.num_classes) :] += 2 - odds.max()
            elif goal == "scale" and value.ndim > 1 and any(part in key for part in ("bbox_reg", "bbox_pred")):
                value *= 1 if "ctrness" in key else 0.5 / seen.deltas.std()


def _best(detector: nn.Module, images: Tensor, sizes: Tensor) -> float:
    return float(detector.predict(as_view(images, sizes)).detect(0.0).scores.max())


def pictures(count: int, size: tuple[int, int], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``count`` random pictures of (height, width) and of any contrast, alone and in pairs by turns."""
    draw = torch.Generator().manual_seed(seed)
    height, width = (-(-side // DIVISOR) * DIVISOR for side in size)
    made = 0
    while made < count:
        n = min(1 + made % 3 % 2, count - made)
        contrast = torch.rand(n, 1, 1, 1, generator=draw) * 2
        images = torch.stack([texture(height, width, draw) for _ in range(n)])
        images = ((images - 0.5) * contrast + torch.rand(n, 3, 1, 1, generator=draw)).clamp(0, 1)
        sizes = torch.tensor([size, (size[0] - 9, size[1] - 20)])[:n]
        yield within(images, sizes), sizes
        made += n


@dataclass
class Sweep:
    """What ``sweep`` found for one detector."""

    parity: Parity
    crashes: int


def sweep(model: Model, run: Run, count: int) -> Sweep:
    """Compare a detector's graph, loaded as ``run``, with torch on ``count`` pictures of each size."""
    total, crashes = Parity(), 0

    def guarded(images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal crashes
        try:
            return run(images, sizes)
        except Exception as error:
            crashes += 1
            print(f"{tuple(images.shape)}: {type(error).__name__}: {error}", file=sys.stderr)
            return torch.zeros(len(images), 1, 4), torch.zeros(len(images), 1), torch.zeros(len(images), 1)

    for number, size in enumerate(SIZES):
        total.merge(measure(model.detector, Graph(model.detector), guarded, pictures(count, size, seed=number)))
    return Sweep(total, crashes)


def main() -> int:
    """Run the sweep and print a line for each detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=("onnx", "pt2"), default="onnx")
    parser.add_argument("--images", type=int, default=50, help="of each size")
    parser.add_argument("--detector", nargs="*", choices=(*DETECTORS, "dense_detector"), default=DETECTORS)
    args = parser.parse_args()
    failed = False
    for name in args.detector:
        start, model = time.perf_counter(), random_model(name)
        found = sweep(model, runner(convert(model, args.format), args.format), args.images)
        print(f"{name} {args.format}: {found.parity.line()}; {found.parity.differ} differ, {found.crashes} crashes")
        print(f"  {time.perf_counter() - start:.0f} s {found.parity.problem}", flush=True)
        failed |= bool(found.parity.differ or found.crashes)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
