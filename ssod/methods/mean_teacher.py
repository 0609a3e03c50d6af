"""Mean Teacher: an EMA teacher's confident boxes are the student's truth. (arXiv:1703.01780, arXiv:2209.01589)

The first paper has the idea; the second has the detection baseline, there on RetinaNet, here on every detector: a fixed
score threshold, and all losses of the detector on pseudo-boxes, boxes and classes alike. Constants are those of the
released baseline (threshold 0.5, weight 2, EMA 0.9995, no burn-in); small data sets want a burn-in (see
configs/mean_teacher).
"""

import torch
from pydantic import Field

from ssod.collective import mean_over_ranks
from ssod.methods import base
from ssod.methods.base import EmaConfig, Losses, above, quantiles
from ssod.structures import Batch, Output, Pseudo


class Config(base.Config):
    """The released baseline's constants."""

    weight: float = Field(2.0, ge=0)
    "Factor of every loss on unlabelled images."
    score: float = Field(0.5, ge=0, le=1)
    "A detection becomes a pseudo-label when its score is above this."
    damping: float = Field(0.01, ge=0, le=1)
    "Factor of the unlabelled losses while fewer than half of the unlabelled images have a pseudo-label."
    ema: EmaConfig = EmaConfig(decay=0.9995)
    "How the teacher follows the student."


class MeanTeacher(base.Method):
    """Fixed threshold in, the detector's own losses out."""

    Config = Config

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep the teacher's detections above the threshold."""
        detections = teacher.detections()
        self.stats["pseudo/score_quantiles"] = quantiles(detections)
        return Pseudo(above(detections, self.cfg.score))

    def unsup(self, out: Output, pseudo: Pseudo, teacher: Output, batch: Batch) -> Losses:
        """Damp the losses while most images have no label: they would teach little but background."""
        losses = super().unsup(out, pseudo, teacher, batch)
        labeled = sum(len(t) > 0 for t in pseudo.cls) / len(pseudo.cls)
        share = mean_over_ranks(torch.tensor(labeled, device=batch.weak.images.device))
        factor = torch.where(share < 0.5, self.cfg.damping, 1.0)
        return {name: loss * factor for name, loss in losses.items()}


METHOD = MeanTeacher
