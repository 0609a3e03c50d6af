"""What suppression leaves of many boxes, and what it took them from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssod.structures.mapped import Mapped
from ssod.structures.targets import Targets


@dataclass
class Clusters(Mapped):
    """The detections of N images, each with the candidates that were suppressed for its sake.

    Attributes:
        detections: N Targets with scores, the best first.
        boxes: [N, C, 4] candidates as they entered suppression, of some detectors not clipped to the image.
        owner: [N, C] int64, which detection of the image a candidate belongs to, the detection's own box among them;
            -1 = none.
    """

    detections: list[Targets]
    boxes: Tensor
    owner: Tensor
