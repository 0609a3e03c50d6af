"""S4OD: each class's threshold has the best F1 on labelled images; boxes teach places by NMS. (arXiv:2204.04492)

A one-stage detector learns from all its rows, few of which are objects: a label that is left out costs it more than a
detector that samples rows. The paper answers with a threshold of each class that follows the best trade-off of quality
and quantity, and with the regression uncertainty of a box, measured by what its suppression leaves out. No code was
released, and of the paper no more than its idea and its figures was at hand. So formulas and constants here are a
contract of ours that fits what is printed, and no evidence of what the authors ran.

Order of a step:

1. The teacher on the weak view. A detection becomes a pseudo-label when its score reaches the threshold of its class;
   all else is background, and nothing is ignored. Every label teaches its class.
2. A label teaches its place when suppression merged `members` boxes or more into it and their sides spread by less than
   `spread` (``ssod.pseudo_labels.nms_spread``). With `soft` its place counts by exp(-spread of it / `spread`) instead.
   The centerness of FCOS and the boxes of a proposal network are learnt with the place. On a dense head the losses of
   places are divided by the rows of all labels: where few places are sure, they weigh little.
3. In the last `look` steps before a choice, the teacher on the labelled images of the batch, in the first of their
   views. Detections are matched with true boxes, the best first, and counted by class and score
   (``ssod.pseudo_labels.greedy_match``).
4. After each `every` steps thresholds are chosen anew: of 0.05, 0.10, ..., 0.95 the lowest one of the highest F1
   (``ssod.pseudo_labels.best_f1``). The first choice is made `look` steps after burn-in; unlabelled images teach from
   there on.

Why the labelled images of some steps, and not a pass over the set? What a step sees is a function of seed and step, so
that a run that goes on chooses as one that was never stopped; all ranks see their share; and no step stops for a pass.
The price is that the teacher moves while it is looked at. These images are learnt from, too: on them fewer detections
are wrong than on others, so that thresholds tend to be lower than the best ones for unlabelled images. None are held
out, as this would take labels from training.

Published on RetinaNet and FCOS. On Faster R-CNN the same rules are ours; its candidates are boxes of the second stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ssod.losses.weighting.one_batch import near
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, quantiles
from ssod.methods.config import before_the_end
from ssod.methods.kept_answers import BoxesAlone
from ssod.pseudo_labels.best_f1 import BestF1
from ssod.pseudo_labels.nms_spread import cluster_spread
from ssod.structures import Assignment, Batch, Clusters, Detector, Output, Predictions, Pseudo, View
from ssod.structures.ragged import select
from ssod.utils.collective import mean_count
from ssod.utils.schema import Duration


class Config(base.Config):
    """Our constants."""

    weight: float = Field(2.0, ge=0)
    "Factor of every loss on unlabelled images."
    score: float = Field(0.5, ge=0, le=1)
    "Threshold of each class before the first choice, and of one whose labelled boxes were never found at all."
    every: Duration = 1000
    "Steps between two choices of thresholds."
    look: Duration = 250
    """Steps before each choice in which the teacher is shown the labelled images, too; 250 steps of 8 images are 2000.
    Unlabelled images teach from so many steps after burn-in on, when the first choice is made."""
    iou: float = Field(0.5, gt=0, le=1)
    "A detection is right when it overlaps a labelled box of its class at least this much."
    spread: float = Field(0.05, gt=0)
    "A label teaches its place when the mean spread of its sides is below this ..."
    members: int = Field(2, ge=1)
    "... and it is one of at least so many boxes that suppression merged."
    soft: bool = False
    "Weigh the place of a label by exp(-its spread / `spread`); a label of fewer `members` teaches none."
    ema: EmaConfig = EmaConfig(decay=0.9996, warm_up=False, start=None)
    "How the teacher follows the student after burn-in."

    @field_validator("every", "look")
    @classmethod
    def _a_step_at_least(cls, steps: int) -> int:
        if steps < 1:
            raise ValueError("must be 1 or more, in steps or as a share that is")
        return steps

    @field_validator("look")
    @classmethod
    def _before_the_choice_and_the_end(cls, look: int, info: ValidationInfo) -> int:
        every = info.data.get("every")
        if every is not None and look > every:
            raise ValueError(f"{look} steps do not fit between two choices, 'every: {every}'; lower it, or raise every")
        before_the_end(info.data.get("burn_in", 0) + look, info)
        return look

    @property
    def unsup_start(self) -> int:
        """See ``base.Config``: the first thresholds are known."""
        return self.burn_in + self.look

    @property
    def needs_maps(self) -> bool:
        """See ``base.Config``: the teacher is asked what it suppressed."""
        return True


class S4OD(base.Method, burn_in_reads=()):
    """Thresholds that labelled images choose, and places that many rows agree on."""

    Config = Config
    cfg: Config
    labels_alone = False  # the thresholds have their say

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.thresholds = BestF1(student.num_classes, start=cfg.score, overlap=cfg.iou)

    # ---- pseudo-labels ---------------------------------------------------------------------------------------------

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep what reaches the threshold of its class; say how much its place counts."""
        clusters = teacher.clusters()
        found, weight = clusters.detections, self.place_weight(clusters)
        scores, labels = torch.cat([t.confidence() for t in found]), torch.cat([t.labels for t in found])
        good = scores >= self.thresholds.values[labels]
        self.stats |= {
            "pseudo/score_quantiles": quantiles(found),
            "pseudo/threshold": self.thresholds.values.clone(),
            "pseudo/steady_per_image": (good & (weight > 0)).sum() / len(found),
        }
        weights = weight.split([len(t) for t in found])
        return Pseudo(select([replace(t, box_weight=w) for t, w in zip(found, weights)], good))

    def place_weight(self, clusters: Clusters) -> Tensor:
        """Return [M] in 0..1: how much the place of each detection counts."""
        cfg = self.cfg
        spread, members = cluster_spread(clusters)
        mean = spread.mean(1)
        weight = (-mean / cfg.spread).exp() if cfg.soft else (mean < cfg.spread).to(mean)
        return weight * (members >= cfg.members)

    def kept(self, out: Output, again: Callable[[], Output]) -> Output:
        """See ``base.Method``: boxes and clusters are enough, if no weighting asks for maps."""
        return super().kept(out, again) if self.cfg.weightings_of_maps else BoxesAndClusters(out, again)

    def reweight(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """Divide what dense rows learn of places by the rows of all labels: few sure places do not count for many."""
        a = super().reweight(stage, p, a, ctx)
        if stage != "dense":
            return a
        rows = self.student.cls_normalizer(stage, p, a)
        shared = {"box": rows}
        if not p.objectness:  # that is learnt by all rows, and is no place
            shared["quality"] = rows
        if self.student.central:
            found = replace(a, box_weight=(a.matches() >= 0).to(a.box))
            shared["centerness"] = mean_count(near(p, found), least=1e-6)
        return replace(a, normalizer=shared | a.normalizer)

    # ---- thresholds ------------------------------------------------------------------------------------------------

    def look_at_labeled(self, batch: Batch, step: int) -> Context:
        """Let the student look at the labelled images, and the teacher where a choice is near."""
        if self.looks(step):
            self.measure(batch.labeled.first(), step)
        return super().look_at_labeled(batch, step)

    @torch.no_grad()
    def measure(self, view: View, step: int) -> None:
        """Count what the teacher finds in labelled images."""
        self.thresholds.count(self.ask(view, step).detections(), view.truth())

    def after_step(self, step: int, skipped: Tensor | None = None) -> None:
        """Move the teacher; then choose thresholds where it is time."""
        super().after_step(step, skipped)
        self.choose(step)

    def after_skip(self, step: int) -> None:
        """See ``Supervised.after_skip``; a choice does not wait for a better step."""
        super().after_skip(step)
        self.choose(step)

    def choose(self, step: int) -> None:
        """Choose thresholds after step number ``step``, where it is time."""
        if step >= self.cfg.burn_in and (step + 1 - self.cfg.unsup_start) % self.cfg.every == 0:
            self.thresholds.choose()

    def looks(self, step: int) -> bool:
        """Return whether a choice is made in the next ``look`` steps, that after ``step`` among them."""
        cfg = self.cfg
        return step >= cfg.burn_in and (step - cfg.unsup_start) % cfg.every >= cfg.every - cfg.look


@dataclass
class BoxesAndClusters(BoxesAlone):
    """The boxes of an output and what was suppressed for their sake."""

    found: Clusters = field(init=False)

    def __post_init__(self, out: Output) -> None:
        self.found = out.clusters()
        self.boxes = self.found.detections

    def clusters(self) -> Clusters:
        """Return the boxes, and what was suppressed for their sake."""
        return self.found


METHOD = S4OD
