"""PseCo: pseudo-labels that the teacher's boxes assign, and one set of labels at two scales. (arXiv:2203.16317)

Order of a step (Sec. 3): labelled images; the teacher on the weak view, whose detections above `score` are the
pseudo-labels. Then, on the strong view:

1. Prediction-guided label assignment (Sec. 3.2). The teacher's proposals, carried into the student's view, are the
   second stage's candidates. Which of them learn a pseudo-label is said by the boxes and classes that the teacher
   predicts for them (``ssod.assign.guided``); all others are background.
2. Positive-proposal consistency voting (Sec. 3.2). The box loss of a pseudo-label's rows counts by how well the boxes
   that the student predicts for them fit it (``ssod.losses.weighting.votes``).
3. Multi-view scale-invariant learning (Sec. 3.3). The student looks once more, at every second pixel and with a
   pyramid one level finer, so that the same rows read other features of the same places. Both looks have the same rows,
   targets and box votes, and their losses are added, not averaged. There is no further term of consistency.

Paper and released code differ, and `as_released` chooses: the code weighs the box loss by the square of the vote s,
times (sum s / sum s^2); the paper, Eq. 6, by s.

What is not as released: the second stage has a softmax, and the teacher's scores of classes leave out background, as in
the released variant with cross-entropy; the candidates of labelled images have their boxes among them; boxes are pooled
from level 5 at most (there from 6); the teacher proposes as in evaluation; the proposal network has one sample of
anchors for both looks (there two); a box that leaves the student's view is dropped with a side of a pixel or less
(there with none); normalizers and the two sums of votes are means over processes; and where all votes are 0, so is the
box loss (there 0 / 0).

Published on Faster R-CNN. On RetinaNet and FCOS the same rules are ours: a row is a candidate, and the teacher's row of
the same level and anchor in the cell nearest to it speaks for it (``background.dense_rows``), so that an object learns
at the level at which the teacher sees it, also where it is larger or smaller in the student's view.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ssod.assign.build import divisor_of
from ssod.assign.center import in_padded_image
from ssod.assign.guided import Guide, guided_matches
from ssod.assign.matches import IGNORED, from_matches
from ssod.losses.weighting.background import dense_rows, transfer
from ssod.losses.weighting.votes import by_votes
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, Losses, above, add, quantiles
from ssod.methods.config import rows_keep_their_place
from ssod.structures import Assigned, Assignment, Batch, Detector, Output, Predictions, Pseudo, Targets
from ssod.structures.boxes import clip, warp
from ssod.utils.errors import SsodError


class Config(base.Config):
    """The released constants for 1 to 10 % of COCO."""

    weight: float = Field(2.0, ge=0)
    "Factor of every loss on unlabelled images."
    score: float = Field(0.5, ge=0, le=1)
    "A detection becomes a pseudo-label when its score is above this."
    overlap: float = Field(0.4, gt=0, le=1)
    "A candidate may learn the pseudo-label that the teacher's box of it overlaps at least this much."
    top: int = Field(12, ge=1)
    "A pseudo-label has as many rows as the largest so many of these overlaps sum to, and one at least."
    half_size: bool | None = None
    "Learn from the same pixels at half their size, too. Default: where the detector can, `detector.half_size: true`."
    as_released: bool = True
    "Weigh boxes by the square of the votes, as the code does; `false`: by the votes, as the paper does."
    ema: EmaConfig = EmaConfig(decay=0.999)
    "How the teacher follows the student."

    _places = field_validator("mix")(rows_keep_their_place)

    @property
    def needs_maps(self) -> bool:
        """See ``base.Config``: the teacher's boxes of all candidates say what they learn."""
        return True


class PseCo(base.Method, burn_in_reads=()):
    """Rows that the teacher assigns, boxes that the student's agreement weighs, and a second look at half the size."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        if cfg.half_size and not student.half_size:
            problem = "this detector's pyramid has no level for images of half their size"
            fix = "set detector.half_size=true with levels from 3 on, or method.half_size=false"
            raise SsodError("config", "method.half_size", problem, fix)
        self.half_size = student.half_size if cfg.half_size is None else cfg.half_size

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep detections by their score."""
        found = teacher.detections()
        self.stats["pseudo/score_quantiles"] = quantiles(found)
        return Pseudo(above(found, self.cfg.score))

    def learn(self, ctx: Context, assigned: Assigned | None = None) -> Losses:
        """Learn from a look; from unlabelled images once more, at half their size, with the same rows and targets."""
        if assigned is not None or ctx.side == "sup" or not self.half_size:
            return super().learn(ctx, assigned)
        assigned = self.assign(ctx)
        view = replace(ctx.view, half_size=True)
        half = replace(ctx, student=self.student.predict(view), view=view, guesses={}, losses={}, stats={})
        same = {stage: (rows_of(half.student, stage, p), a) for stage, (p, a) in assigned.items()}
        return add(super().learn(ctx, assigned), super().learn(half, same))

    def assign(self, ctx: Context) -> Assigned:
        """Let the teacher's boxes say what rows of unlabelled images learn, and votes how much their boxes count."""
        if ctx.side == "sup":
            return super().assign(ctx)
        labels = ctx.labels.cls
        guides = guides_of(ctx)
        matches = [guided_matches(g, t, self.cfg.overlap, self.cfg.top) for g, t in zip(guides, labels)]

        def of_rows(p: Predictions, targets: list[Targets]) -> Assignment:
            divisor = divisor_of(self.student.assigner)  # rows that are none for the detector are none here
            rows = matches
            if divisor is not None:
                rows = [torch.where(there, m, IGNORED) for there, m in zip(in_padded_image(p, divisor), matches)]
            return from_matches(rows, targets, p.num_classes)

        def of_proposals(out: Output, targets: list[Targets]) -> tuple[Tensor, Tensor]:
            # Images differ in how many there are; one more, so that none has none.
            boxes = [F.pad(g.priors, (0, 0, 0, 1)) for g in guides]
            known = [F.pad(m, (0, 1), value=IGNORED) for m in matches]
            return pad_sequence(boxes, True), pad_sequence(known, True, IGNORED)

        assigner = of_rows if ctx.teacher.proposals is None else of_proposals
        assigned = self.student.assign(ctx.student, labels, None, assigner)
        objects, squared = sum(map(len, labels)), self.cfg.as_released
        stage = "roi" if "roi" in assigned else "dense"
        p, a = assigned[stage]
        voted = by_votes(p, a, objects, squared)
        # Votes are about boxes: the quality branch learns all of a label's rows alike.
        assigned[stage] = p, voted if p.quality is None else replace(voted, quality_of=a)
        return assigned


@torch.no_grad()
def guides_of(ctx: Context) -> list[Guide]:
    """Return what the teacher says of the candidates of each image, in the pixels of the student's view."""
    weak, view, proposals = ctx.batch.weak, ctx.view, ctx.teacher.proposals
    there = transfer(weak, view)
    if proposals is None:
        p = ctx.student.stages["dense"]
        seen, priors = dense_rows(p, ctx.teacher.stages["dense"], view, weak), p.priors
        counts = [len(p) // p.num_images] * p.num_images
    else:
        seen = ctx.teacher.score(proposals)
        priors, counts = warp(seen.priors, there[seen.image]), [len(boxes) for boxes in proposals]
    sizes = view.sizes[seen.image]
    priors, boxes = clip(priors, sizes), clip(warp(seen.boxes(), there[seen.image]), sizes)
    return [Guide(*rows) for rows in zip(*(x.split(counts) for x in (priors, boxes, class_scores(seen))))]


def class_scores(p: Predictions) -> Tensor:
    """Return [R, K] scores of classes; a softmax is over the classes alone, and 1 where there is one."""
    logits = p.logits.float()
    return logits[:, :-1].softmax(-1) if p.softmax else logits.sigmoid()


def rows_of(out: Output, stage: str, p: Predictions) -> Predictions:
    """Return what a second look ``out`` says at the places of the rows ``p`` of a first one."""
    if stage != "roi":
        return out.stages[stage]
    return out.score(list(p.priors.unflatten(0, (p.num_images, -1)).unbind()))  # as many rows in every image


METHOD = PseCo
