"""Dense Teacher: the teacher's map, its surest rows alone, is what the student's rows are asked for. (arXiv:2207.02541)

No suppression, no threshold, no box (Sec. 3.2 and 3.3). Both views have their pixels in the same places. Rows are
ranked by the teacher's best class probability, over all levels and images of a step, padding included; the first
`ratio` of them, and one at least, are asked for all of the teacher's class probabilities, its box and its quality, all
others for background. Classes learn by quality focal loss, ``|t - p|^2 BCE(p, t)``, divided by the sum of the best
probabilities of the chosen rows; boxes by the detector's box loss (published: GIoU) and quality by BCE, both averaged
over the chosen rows. Losses on unlabelled images rise from 0 over `ramp` steps, as many as burn-in has; the teacher is
a copy until `ema.start`.

As released: classes count 4 times (3 with 1 % of COCO, 2 on all of it). What is not as released: rows are chosen, and
sums taken, over the images of all processes (there each by its own); batch-norm statistics of the teacher are the
student's, not their average (they are frozen there); and fewer than 100 rows still have one that is chosen (there
0 / 0).

Published on FCOS whose quality branch predicts IoU (`detector.quality: iou`). On RetinaNet the rule is ours, for its
anchors. It needs a dense map; a detector with proposals is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from ssod.losses.build import LossSpec
from ssod.losses.weighting.criterion import LossConfig, SideLoss
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, LossName
from ssod.methods.config import Teaching
from ssod.structures import Assigned, Assignment, Detector, Predictions
from ssod.utils import collective
from ssod.utils.errors import SsodError
from ssod.utils.schema import Duration


class Config(base.Config):
    """The released constants for 10 % of COCO."""

    burn_in: Duration = 5000
    "Steps of supervised learning."
    ramp: Duration = 5000
    "Steps after burn-in over which `weight` rises from 0."
    ratio: float = Field(0.01, gt=0, le=1)
    "Share of all rows that learn the teacher's answer; the others learn background."
    loss: LossConfig | None = LossConfig(unsup=SideLoss(cls=LossSpec(name="quality_focal")))
    """Losses of labelled (`sup`) and unlabelled (`unsup`) images; default: quality focal loss for the classes of
    unlabelled ones, and else the detector's own."""
    loss_weights: dict[LossName, Annotated[float, Field(ge=0)]] = {"cls": 4.0}
    """Further factors of single losses on unlabelled images; 0 leaves a loss out of the sum, but logs it. A loss that a
    config leaves out has the factor here."""
    ema: EmaConfig = EmaConfig(decay=0.9996, warm_up=False, start=3000)
    "How the teacher follows the student."

    @field_validator("loss", mode="before")
    @classmethod
    def _own_class_loss(cls, loss: Any) -> Any:
        """Keep quality focal loss where a config names other losses alone."""
        if not isinstance(loss, Mapping) or not isinstance(loss.get("unsup", {}), Mapping):
            return loss
        unsup = {name: value for name, value in loss.get("unsup", {}).items() if name != "cls" or value is not None}
        return {**loss, "unsup": {"cls": "quality_focal"} | unsup}

    @property
    def taught_by(self) -> Teaching:
        """See ``base.Config``."""
        return "maps"


class DenseTeacher(base.Method, burn_in_reads=()):
    """The teacher's map in, an assignment out."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        if "rpn_cls" in student.kinds:
            problem = "'dense_teacher' asks rows for the teacher's map, and this detector has proposals"
            raise SsodError("config", "method.name", problem, "use it with retinanet or fcos")
        super().__init__(student, cfg)

    def assign(self, ctx: Context) -> Assigned:
        """Ask the student's rows of unlabelled images for the teacher's map."""
        if ctx.side == "sup":
            return super().assign(ctx)
        assigned = teach(ctx.teacher.stages["dense"], self.cfg.ratio)
        self.stats["pseudo/foreground_per_image"] = assigned.normalizer["cls"] / len(ctx.view)
        return {"dense": (ctx.student.stages["dense"], assigned)}


@torch.no_grad()
def teach(t: Predictions, ratio: float) -> Assignment:
    """Ask the surest share ``ratio`` of rows for what the teacher says of them, and the others for background.

    The share is of all rows that there are on all ranks, of which R are here. Each rank offers as many of its own as
    are chosen in all, of which ranks with canvases of one size cannot hold more.
    """
    probs = t.probs()
    best = probs.amax(1)
    shares = collective.shares()
    most = max(1, int(ratio * len(best) * shares))
    own, rows = best.topk(min(most, len(best)))
    # Nothing that is exchanged later depends on it, so that parts of a step need not wait for each other here.
    offered = collective.all_gather_rows(F.pad(own, (0, most - len(own)), value=-1.0), decides=False)
    chosen = offered.topk(max(1, len(offered) // shares)).values
    weight = torch.zeros_like(best).scatter(0, rows, (own >= chosen[-1]).to(best))
    selected = torch.full((), len(chosen) / shares, device=best.device)
    return Assignment(
        cls=probs * weight[:, None],
        cls_weight=torch.ones_like(best),
        box=t.boxes(),
        box_weight=weight,
        quality=None if t.quality is None else t.quality.float().sigmoid(),
        normalizer={"cls": chosen.sum() / shares, "box": selected, "quality": selected},
    )


METHOD = DenseTeacher
