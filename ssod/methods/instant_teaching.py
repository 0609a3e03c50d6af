"""Instant-Teaching: the model labels for itself, and learns from labels mixed with true ones. (arXiv:2103.11402)

There is no average: the teacher is a copy of the student, made after every step. It looks at the weak view; rows whose
likeliest class scores at least `score` become boxes (``ssod.pseudo.instant``); the strong view and its boxes are mixed
with labelled images (``ssod.pseudo.mix``); all losses of the detector learn from the result.

Kinds of strong augmentation, for the paper's ablation: colour and cutout, or geometry, are operations of the view
`strong`; mixup and mosaic are `mix.mixup` and `mix.mosaic`, 0 = off.

Paper and released code differ; `as_released` chooses, and the published figures are the code's.

* A mixed box's class mass (say 0.3) should be its soft label. In the code the mass that is missing to 1 goes to no
  class: the row's loss is 0.3 times that of a whole box. Without `as_released` what is missing is background, as
  everywhere else in this package.
* The paper adds the losses of labelled and unlabelled images, ``L_s + weight * L_u``. The code runs both through one
  forward pass and divides by all their rows, which is ``(L_s + weight * L_u) / 2`` when both have as many rows: batches
  of equal size, and enough background to fill every sample. Here they are two passes; with `as_released` both are
  halved, also before unlabelled images join in, so that nothing jumps then.

In both, box losses have full weight and the proposal network learns objects and not shares of them.

Published on Faster R-CNN. On RetinaNet and FCOS the same rules are ours: a row's box belongs to all its classes, and
the mass weighs the row's sigmoid losses.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ssod.methods import base
from ssod.methods.base import EmaConfig, Losses
from ssod.pseudo.instant import confidence, confident, rows_of
from ssod.pseudo.mix import MixConfig, Mixer
from ssod.structures import Assignment, Batch, Detector, Output, Predictions, Pseudo, View


class Config(base.Config):
    """The released constants."""

    weight: float = Field(1.0, ge=0)
    "Factor of every loss on unlabelled images (the paper's lambda_u)."
    score: float = Field(0.9, ge=0, le=1)
    "A row becomes a pseudo-label when its likeliest class scores at least this."
    mix: MixConfig = MixConfig()
    "Mixup and mosaic with labelled images."
    as_released: bool = True
    "Losses as in the released code: mass as a weight, mean of labelled and unlabelled images; false = as in the paper."
    ema: EmaConfig = EmaConfig(decay=0.0, warm_up=False)
    "How the teacher follows the student: decay 0 is the student itself."


class InstantTeaching(base.Method):
    """Labels of the moment, mixed with true ones."""

    Config = Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.mixer = Mixer(student.num_classes, **cfg.mix.model_dump())

    def forward(self, batch: Batch, step: int) -> Losses:
        """See ``base.Method.forward``; ``as_released`` averages the two halves instead of adding them."""
        return self.averaged(super().forward(batch, step))

    def averaged(self, losses: Losses) -> Losses:
        """Halve all losses where the released code has one forward pass for both kinds of images."""
        return {name: loss / 2 for name, loss in losses.items()} if self.cfg.as_released else losses

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep confident rows."""
        p = rows_of(teacher)
        self.stats["pseudo/score_quantiles"] = best_scores(p)
        return Pseudo(confident(p, self.cfg.score))

    def mix(self, view: View, pseudo: Pseudo, labeled: View) -> tuple[View, Pseudo]:
        """Blend some of the images with labelled ones."""
        return self.mixer(view, pseudo, labeled)

    def reweight(
        self, stage: str, p: Predictions, a: Assignment, pseudo: Pseudo, teacher: Output, batch: Batch
    ) -> Assignment:
        """Read soft labels as the released code does; the proposal network's are always whole."""
        if a.cls.ndim == 1 or (stage != "rpn" and not self.cfg.as_released):
            return a
        return hardened(a, p.num_classes, by_mass=stage != "rpn")


def hardened(a: Assignment, num_classes: int, *, by_mass: bool) -> Assignment:
    """Give each row with a box its likeliest class as a hard label, and all other rows the background.

    Args:
        a: soft targets [R, K].
        num_classes: K.
        by_mass: multiply the class weight of a row with a box by the mass of its soft target.
    """
    weight = torch.where(a.fg, a.cls_weight * a.cls.sum(1), a.cls_weight) if by_mass else a.cls_weight
    return replace(a, cls=torch.where(a.fg, a.cls.argmax(1), num_classes), cls_weight=weight)


def best_scores(p: Predictions) -> Tensor:
    """Return the 0, 25, 50, 75 and 100 % quantiles [5] of the best score of 100 rows per image; the log shows them."""
    best = confidence(p).amax(1)
    best = best.topk(min(len(best), 100 * p.num_images)).values
    return torch.quantile(best, torch.linspace(0, 1, 5, device=best.device)) if len(best) else best.new_zeros(5)


METHOD = InstantTeaching
