"""What the teacher keeps, rejects and moves on an unlabelled image, for the report's page and for trackers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ssod.data.formats.records import Labeled
from ssod.structures import Batch, Pseudo, Targets, View, move_targets
from ssod.utils.lettering import lettering

SHOWN = 6  # images
SURE = 0.3  # detections above this score are shown for a method that chooses none
MOST_REJECTED = 12  # boxes drawn of those that were not kept, the highest scores
SIDE = 480  # pixels of the longer side of a drawn view
COLORS = {"truth": (250, 200, 0), "rejected": (220, 40, 40), "unsure": (40, 160, 70), "kept": (30, 110, 240)}


@dataclass(frozen=True)
class Shown:
    """An unlabelled image in both views; everything on the CPU.

    Attributes:
        id: of the image.
        weak, strong: [H, W, 3] uint8, without the padding of the batch.
        kept, unsure, rejected, truth: boxes in pixels of the weak view; unsure ones are neither object nor background,
            or what the method makes of them.
        moved: the kept boxes in pixels of the strong view; those that left it are missing.
    """

    id: Any
    weak: np.ndarray
    strong: np.ndarray
    kept: Targets
    unsure: Targets
    rejected: Targets
    moved: Targets
    truth: Targets


def show(batch: Batch, found: list[Targets], chosen: Pseudo | None, hidden: Labeled | None) -> list[Shown]:
    """Return every unlabelled image of a batch.

    Args:
        batch: its weak view is what the teacher saw.
        found: N detections, kept or not.
        chosen: what the method made of them; None = it chooses none, and what is surer than ``SURE`` stands for it.
        hidden: true boxes of these images and others, if they are known.
    """
    kept = Pseudo([t[t.scores > SURE] for t in found]) if chosen is None else chosen
    moved = kept.move(batch.weak, batch.strong)
    unsure = [t[:0] for t in kept.cls] if kept.unsure is None else kept.unsure
    truth = [Targets.empty(batch.weak.matrix)] * len(batch.weak)
    if hidden is not None:
        number = {image: row for row, image in enumerate(hidden.images.ids)}
        boxes = [hidden.targets(number[image]).to(batch.weak.matrix.device) for image in batch.weak.ids]
        truth = move_targets(boxes, batch.weak.matrix, batch.weak.sizes)
    rows = []
    for i, image in enumerate(batch.weak.ids):
        rejected = found[i][~(_among(found[i], kept.cls[i]) | _among(found[i], unsure[i]))]
        boxes = [targets.to("cpu") for targets in (kept.cls[i], unsure[i], rejected, moved.cls[i], truth[i])]
        rows.append(Shown(image, pixels(batch.weak, i), pixels(batch.strong, i), *boxes))
    return rows


def pixels(view: View, i: int) -> np.ndarray:
    """Return image ``i`` of a view without its padding, [H, W, 3] uint8."""
    height, width = view.sizes[i].tolist()
    image = view.images[i, :, :height, :width].cpu()
    if image.is_floating_point():
        image = (image.float() * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).contiguous().numpy()


def draw(shown: Shown) -> np.ndarray:
    """Return the weak view, with kept, unsure, rejected and true boxes, beside the strong one with the kept ones.

    Returns:
        [H, W, 3] uint8, a line of text on top.
    """
    rejected = shown.rejected[:MOST_REJECTED]
    weak = _drawn(shown.weak, {"rejected": rejected, "unsure": shown.unsure, "kept": shown.kept, "truth": shown.truth})
    strong = _drawn(shown.strong, {"kept": shown.moved})
    caption = f"{shown.id}: {len(shown.kept)} kept (blue), "
    caption += f"{len(shown.unsure)} unsure (green), " if len(shown.unsure) else ""
    caption += f"{len(shown.rejected)} rejected (red), {len(shown.moved)} moved"
    caption += ", truth (yellow)" if len(shown.truth) else ""
    letters = lettering([caption])
    size = weak.width + strong.width + 4, max(weak.height, strong.height) + 20
    sheet = Image.new("RGB", size, "white")
    ImageDraw.Draw(sheet).text((3, 2), letters.text(caption), fill="black", font=letters.font(13))
    sheet.paste(weak, (0, 20))
    sheet.paste(strong, (weak.width + 4, 20))
    return np.array(sheet)


def _drawn(image: np.ndarray, boxes: dict[str, Targets]) -> Image.Image:
    """Return a view at the size of a picture, with boxes in the colours of their kind; the last kind is on top."""
    picture = Image.fromarray(image)
    scale = SIDE / max(picture.size)
    picture = picture.resize([max(1, round(scale * side)) for side in picture.size])
    canvas = ImageDraw.Draw(picture)
    for kind, targets in boxes.items():
        for box in (targets.boxes * scale).tolist():
            canvas.rectangle(box, outline=COLORS[kind], width=1 if kind == "truth" else 3)  # both are seen
    return picture


def spread(ids: Sequence[Any]) -> set[Any]:
    """Return up to ``SHOWN`` of the images, evenly spread."""
    return {ids[i] for i in np.linspace(0, len(ids) - 1, SHOWN).round().astype(int)} if len(ids) else set()


def _among(found: Targets, kept: Targets) -> Tensor:
    """Return [M] bool, which detections are among the kept boxes."""
    if not len(found) or not len(kept):
        return torch.zeros(len(found), dtype=torch.bool, device=found.boxes.device)
    same = (found.boxes[:, None] - kept.boxes[None]).abs().amax(2) < 1e-3
    return (same & (found.labels[:, None] == kept.labels[None])).any(1)
