"""Instant-Teaching: the model labels for itself, and learns from labels mixed with true ones. (arXiv:2103.11402)

There is no average: the teacher is a copy of the student, made after every step. It looks at the weak view; rows whose
likeliest class scores at least `score` become boxes (``ssod.pseudo_labels.nms_once``); the strong view and its boxes
are mixed with labelled images (``ssod.transforms.mix``); all losses of the detector learn from the result.

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

What is not as released, whatever the switch:

* A label is clipped to the student's view, and dropped when that leaves it a side of one pixel or less; the code clamps
  it at 0 alone.
* Any labelled image may meet any unlabelled one, by their places in a batch (``ssod.transforms.mix``). The code pairs
  each labelled image for good with one block of the unlabelled list, and never looks at what is left over of that list.
* The proposal network's anchors are assigned by another rule, which configs/detectors/faster_rcnn_r50_fpn.yaml names.

Published on Faster R-CNN. On RetinaNet and FCOS the same rules are ours: a row's box belongs to all its classes, and
the mass weighs the row's sigmoid losses.
"""

import torch
from pydantic import Field
from torch import Tensor

from ssod.methods import base
from ssod.methods.base import Context, EmaConfig
from ssod.pseudo_labels.label_mass import harden_labels
from ssod.pseudo_labels.nms_once import confidence, confident, rows_of
from ssod.structures import Assignment, Batch, Output, Predictions, Pseudo
from ssod.transforms.mix import MixConfig


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

    @property
    def needs_maps(self) -> bool:
        """See ``base.Config``: labels are rows of the teacher's map."""
        return True


class InstantTeaching(base.Method, burn_in_reads=("as_released",)):
    """Labels of the moment, mixed with true ones."""

    Config = Config
    cfg: Config

    @property
    def share(self) -> float:
        """One half where the released code has one forward pass for both kinds of images and averages over it."""
        return 0.5 if self.cfg.as_released else 1.0

    def sup_weight(self, step: int) -> float:
        """Average the two kinds of images, or add them."""
        return self.share

    def unsup_weight(self, step: int, pseudo: Pseudo | None) -> float | Tensor:
        """Average the two kinds of images, or add them."""
        return self.share * super().unsup_weight(step, pseudo)

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep confident rows."""
        p = rows_of(teacher)
        self.stats["pseudo/score_quantiles"] = best_scores(p)
        return Pseudo(confident(p, self.cfg.score))

    def reweight(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """Read soft labels as the released code does; the proposal network's are always whole."""
        a = super().reweight(stage, p, a, ctx)
        return harden_labels(a, p.num_classes, by_mass=True) if self.cfg.as_released else a


def best_scores(p: Predictions) -> Tensor:
    """Return the 0, 25, 50, 75 and 100 % quantiles [5] of the best score of 100 rows per image; the log shows them."""
    best = confidence(p).amax(1)
    best = best.topk(min(len(best), 100 * p.num_images)).values
    return torch.quantile(best, torch.linspace(0, 1, 5, device=best.device)) if len(best) else best.new_zeros(5)


METHOD = InstantTeaching
