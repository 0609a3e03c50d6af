"""What a two-stage detector sees and says: proposals, and a RoI head that answers for any box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ssod.detectors.decode import DecodeConfig, Detections, Rule, suppress, top
from ssod.structures import Clusters, Predictions, Rank, Targets
from ssod.structures.boxes import clip
from ssod.structures.ragged import image_index

RoIHead = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], Predictions]


@dataclass
class TwoStageOutput:
    """What a two-stage detector saw in N images.

    Attributes:
        stages: ``{"rpn": predictions}``, one class, image-major, level-major inside an image.
        features: the pyramid by name, [N, channels, h, w] each.
        search: finds the proposals; not called where boxes come from elsewhere, as from a teacher.
        keys: [N] random keys of the images, from which rows are sampled in training.
        head: the RoI head: (features, boxes [R, 4], their images [R], sizes [N, 2]) -> predictions.
        decode: the detector's settings.
        rule: how rows become detections.
    """

    stages: dict[str, Predictions]
    features: dict[str, Tensor]
    search: Callable[[], Detections]
    keys: Tensor
    head: RoIHead
    decode: DecodeConfig
    rule: Rule

    @cached_property
    def found(self) -> Detections:
        """[N, P] proposals, padded with score 0 to a fixed size."""
        return self.search()

    @property
    def pyramid(self) -> list[Tensor]:
        """The feature map of each level."""
        return list(self.features.values())

    @cached_property
    def proposals(self) -> list[Tensor]:
        """N tensors [P_i, 4] without gradient, best first. Reads the counts back from the device, once."""
        return [t.boxes for t in self.found.to_targets()]

    def score(self, boxes: list[Tensor]) -> Predictions:
        """Run the RoI head on any boxes, N tensors [M_i, 4]; M_i may be 0 for some images or all."""
        rows = torch.cat(boxes).detach().float()
        image = image_index([len(b) for b in boxes], rows.device)
        return self.head(self.features, rows, image, self.stages["rpn"].sizes)

    @torch.no_grad()
    def detect(
        self, score: float | None = None, rank: Rank = Predictions.probs, *, clusters: bool = False
    ) -> Detections:
        """Return padded detections of fixed size; see ``structures.Output.detections``, and ``decode.Rule``."""
        cfg = self.decode if score is None else self.decode.model_copy(update={"score": score})
        n, each = self.found.scores.shape
        image = torch.arange(n, device=self.found.boxes.device).repeat_interleave(each)
        p = self.head(self.features, self.found.boxes.flatten(0, 1), image, self.stages["rpn"].sizes)
        scores = torch.where(self.found.scores.flatten()[:, None] > 0, rank(p), 0.0)
        return self.rule(p, scores, (each,), cfg, clusters=clusters)

    def detections(self, score: float | None = None, rank: Rank | None = None) -> list[Targets]:
        """Return N Targets with scores, clipped to the images, sorted by score."""
        return self.detect(score, rank or Predictions.probs).to_targets()

    def clusters(self) -> Clusters:
        """See ``structures.Output``."""
        return self.detect(clusters=True).to_clusters()


# (what it saw, the boxes of N images) -> boxes [N, C, 4] to sample rows from, and the target of each [N, C], -1 none,
# -2 ignored; None = proposals and labelled boxes, matched by overlap.
Candidates = Callable[[TwoStageOutput, list[Targets]], tuple[Tensor, Tensor]] | None


@torch.no_grad()
def propose(p: Predictions, before: int, after: int, threshold: float) -> Detections:
    """Turn RPN rows into proposals (Ren et al. 2015, with FPN's suppression level by level).

    Args:
        p: RPN rows.
        before: best rows of each level that enter suppression.
        after: proposals kept per image.
        threshold: overlap above which the lower score goes.

    Returns:
        [N, after] boxes clipped to the images; ``labels`` say from which level a box came.
    """
    n = p.num_images
    # A sigmoid that underflows would look like padding.
    scores = p.probs().clamp(min=torch.finfo(torch.float32).tiny).view(n, -1, 1)
    rows, values, level = [], [], []
    for i, part in enumerate(scores.split(p.levels, 1)):
        value, index = top(part, before)
        rows.append(index + sum(p.levels[:i]))
        values.append(value)
        level.append(torch.full_like(index, i))
    rows, values, level = torch.cat(rows, 1), torch.cat(values, 1), torch.cat(level, 1)
    image = torch.arange(n, device=rows.device)[:, None].expand_as(rows).flatten()
    flat = image * scores.shape[1] + rows.flatten()
    boxes = clip(p.coder.decode(p.deltas[flat, 0].float(), p.priors[flat]), p.sizes[image]).view(n, -1, 4)
    values = torch.where((boxes[..., 2:] - boxes[..., :2] >= 1e-3).all(-1), values, 0.0)
    return suppress(boxes, values, level, len(p.levels), threshold, after)
