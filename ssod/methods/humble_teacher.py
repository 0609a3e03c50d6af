"""Humble Teacher: soft labels on all anchors and many proposals, from a flip ensemble. (arXiv:2106.10456)

No threshold, no pseudo-box. On unlabelled images the student's proposal network learns the teacher's objectness and
offsets at every anchor, and its second stage learns what the teacher's says about the same boxes: the best 640
proposals of the teacher. Classes by KL(teacher || student), background among them; box outputs of all classes by their
L2 distance (Sec. 3.2). The teacher's second stage is asked twice, about the weak view and about its mirror image with
the proposals mirrored, and its answers are averaged (Sec. 3.3). ``L = L_S + (n_U / n_S) * beta * L_U``, beta 0.5; the
teacher is an average of decay 0.999 (table 5 compares ``ema.rule``: copied every 10 000 steps, never moved).

No code was released, and the paper leaves open, decided here:

- n_U and n_S count the images of a batch (counted over data sets the factor would be 49 with 2 % of the labels). A
  labelled image counts once for each of its views.
- Losses are averages over rows: summed, as printed, 200 000 anchors would drown all else.
- Proposals are ranked by objectness; the teacher's suppression chooses them.
- Table 6's hard labels: the teacher's certain class (softmax: the likeliest; objectness: above 0.5) at the same rows.
- The paper starts both models from one trained on the labelled images. Here burn-in trains it, with the teacher as a
  copy, and the optimiser's state is kept.

On RetinaNet and FCOS, which no one has published: soft targets at all rows of the dense head, the quality branch
included, KL as one Bernoulli divergence per class, and the ensemble of all maps with those of the mirror image
(``ssod.pseudo_labels.flip_ensemble`` says where that is exact). ``norm: foreground`` suits them better than the average
over rows. Hard labels are refused there: few rows of an object score above one half, and the others would be background
for certain, which lowers the teacher's next scores (docs/results.md).
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ssod.losses.consistency import Normalizer, SoftTargets, distill, kl
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, Labels, Losses
from ssod.methods.config import Teaching
from ssod.pseudo_labels.flip_ensemble import read_mirrored
from ssod.structures import Batch, Detector, Output, Predictions
from ssod.structures.boxes import mirror
from ssod.utils.errors import SsodError
from ssod.utils.schema import Duration


class Config(base.Config):
    """The published constants, and what the paper leaves open."""

    burn_in: Duration = 2000
    "Steps of supervised learning, in place of the paper's trained start; the teacher is a copy until they end."
    weight: float = Field(0.5, ge=0)
    "Beta, the factor of every loss on unlabelled images."
    per_labeled: bool = True
    "Multiply by unlabelled images per labelled one in the batch, n_U / n_S."
    labels: Literal["soft", "hard"] = "soft"
    "The teacher's class probabilities, or its certain choice (table 6; not on RetinaNet and FCOS)."
    ensemble: bool = True
    "Average with what the teacher says about the mirror image."
    proposals: int = Field(640, ge=1)
    "Best proposals of the teacher that both second stages are asked about."
    squared: bool = False
    "Square the L2 distance between encoded boxes."
    norm: Normalizer = "rows"
    "Average over all anchors or dense rows; or `foreground`: weighed by the teacher's class probability, see distill."
    ema: EmaConfig = EmaConfig(decay=0.999, warm_up=False, start=None)
    "How the teacher follows the student after burn-in."

    @property
    def taught_by(self) -> Teaching:
        """See ``base.Config``."""
        return "distances"


class HumbleTeacher(base.Method, burn_in_reads=()):
    """The teacher's output in, distances to it out."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        if cfg.labels == "hard" and "rpn_cls" not in student.kinds:
            problem = "'hard' makes background of the rows that score below one half, those of most objects among them"
            raise SsodError("config", "method.labels", problem, "use soft, or hard with faster_rcnn")
        super().__init__(student, cfg)

    def labels(self, batch: Batch, step: int) -> Labels:
        """See ``base.Method``; the proposals are found here, too: whoever finds them waits for the device.

        Later it would wait for all that the student sees, and the device would then wait for the host.
        """
        made = super().labels(batch, step)
        _ = made.teacher.proposals  # it keeps them
        return made

    def distill(self, ctx: Context) -> Losses:
        """Compare the student's rows with the teacher's, stage by stage; n_U / n_S is in the losses."""
        cfg, teacher, batch = self.cfg, ctx.teacher, ctx.batch
        mirrored = self.mirrored(batch, ctx.step)
        losses = {}
        for stage, rows in ctx.student.stages.items():
            own = teacher.stages[stage]
            if stage == "dense" and mirrored is not None:
                soft = self.soften(soft_targets_of_both(own, mirrored.stages[stage]))
            else:
                soft = self.soften(SoftTargets.of(own))
            self.stats["pseudo/foreground_per_image"] = soft.foreground().sum() / len(batch.weak)
            losses |= distill(stage, rows, soft, kl, squared=cfg.squared, normalizer=cfg.norm)
        if teacher.proposals is not None:
            boxes = [b[: cfg.proposals] for b in teacher.proposals]
            soft = self.soften(soft_targets_for(boxes, batch.weak.sizes, teacher, mirrored))
            losses |= distill("roi", ctx.student.score(boxes), soft, kl, squared=cfg.squared, normalizer="rows")
        ratio = len(batch.weak) / len(batch.labeled) if cfg.per_labeled else 1.0
        return {name: loss * ratio for name, loss in losses.items()}

    @torch.no_grad()
    def mirrored(self, batch: Batch, step: int) -> Output | None:
        """Let the teacher see the mirror image of the weak view; None without an ensemble."""
        return self.ask(batch.weak.flipped(), step) if self.cfg.ensemble else None

    def soften(self, soft: SoftTargets) -> SoftTargets:
        """Keep soft targets as they are, or make them certain, as the config says."""
        return soft if self.cfg.labels == "soft" else soft.hard()


@torch.no_grad()
def soft_targets_of_both(p: Predictions, mirrored: Predictions) -> SoftTargets:
    """Average dense predictions with those for the mirror image, where these have an answer for the row."""
    own, other = SoftTargets.of(p), SoftTargets.of(mirrored)
    deltas = p.coder.mirror(other.deltas, p.sizes[:, 1][p.image])
    maps = [other.probs, deltas] + ([] if other.quality is None else [other.quality])
    maps, known = read_mirrored(p, maps)
    both = own.mean(SoftTargets(maps[0], maps[1], maps[2] if len(maps) > 2 else None, own.softmax))
    return both.where(known, own)


@torch.no_grad()
def soft_targets_for(boxes: list[Tensor], sizes: Tensor, teacher: Output, mirrored: Output | None) -> SoftTargets:
    """Ask the second stage about boxes, N tensors [P_i, 4], and that of the mirrored view about their mirror images."""
    answer = teacher.score(boxes)
    if mirrored is None:
        return SoftTargets.of(answer)
    width = sizes[:, 1]
    other = SoftTargets.of(mirrored.score([mirror(b, w) for b, w in zip(boxes, width)]))
    other.deltas = answer.coder.mirror(other.deltas, width[answer.image])
    return SoftTargets.of(answer).mean(other)


METHOD = HumbleTeacher
