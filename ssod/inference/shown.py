"""Views of pictures as a detector looks at them together, and what it found there in pixels of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ssod.data.loading.loader import by_canvas, collate
from ssod.inference.graph_content import DIVISOR
from ssod.structures import Targets, View
from ssod.structures.boxes import clip, warp
from ssod.transforms.views import Sample

Size = tuple[int, int]  # (width, height)


@dataclass(frozen=True)
class Shown:
    """N views of one padded size.

    Attributes:
        rows: N, where each stood among those that were batched.
        view: of them, on the CPU.
        back: [N, 3, 3] float64, pixels of the view -> pixels of its picture.
        limits: [N, 2] (height, width) of the pictures, to which boxes are clipped.
    """

    rows: list[int]
    view: View
    back: torch.Tensor
    limits: torch.Tensor

    @staticmethod
    def batched(samples: Sequence[Sample], sizes: Sequence[Size]) -> list[Shown]:
        """Batch views of pictures whose (width, height) are ``sizes``, as in evaluation."""
        batches = []
        for rows in by_canvas(samples, DIVISOR):
            mine = [samples[i] for i in rows]
            back = torch.from_numpy(np.linalg.inv(np.stack([sample.matrix for sample in mine])))
            limits = torch.tensor([sizes[i][::-1] for i in rows])
            batches.append(Shown(rows, collate(mine, rows, DIVISOR), back, limits))
        return batches

    def to_originals(self, found: Sequence[Targets]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Map detections to the pictures: all together, so that the device is waited for three times.

        Args:
            found: N Targets with scores.

        Returns:
            N times boxes [M_i, 4] in float32, labels and scores, on the CPU.
        """
        counts = [len(targets) for targets in found]
        owner = torch.arange(len(found)).repeat_interleave(torch.tensor(counts))
        boxes = torch.cat([targets.boxes for targets in found]).cpu().double()
        columns = [
            clip(warp(boxes, self.back[owner]), self.limits[owner]).float(),
            torch.cat([targets.labels for targets in found]).cpu(),
            torch.cat([targets.confidence() for targets in found]).cpu(),
        ]
        return list(zip(*(column.split(counts) for column in columns)))
