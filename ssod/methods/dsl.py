"""DSL: thresholds by class, boxes in doubt that are ignored, and an agreement of two scales. (arXiv:2207.05536)

Order of a step, as in the released code:

1. Labelled images, weight 1, in a view that `patch_shuffle` may have cut.
2. The teacher on the weak view. A detection that reaches the threshold of its class is a pseudo-label; below it, from
   `unsure` on, it is in doubt. Rows that the detector's assigner would not leave to background, were a box in doubt a
   sure one, learn no class, unless they learn a sure box: of FCOS the cells near its center on one level, and not its
   whole area.
3. The student on the strong view, and on its copy at half the size, pasted at the top left of a canvas of the same
   size, with boxes at half their size (``ssod.transforms.half_copy``). The losses of both count `weight` times.
4. All three kinds of images are one batch: their losses are divided by what all of them count together, without the
   weights (``ssod.losses.weighting.one_batch``).
5. Scale consistency: the class logits of each level of the full size, before the sigmoid, are drawn to those of the
   level below of the half size, and these to them; a thousandth of it in the first `slow` steps
   (``ssod.losses.scales``).
6. After each `every` steps thresholds are chosen anew, by how many labels a class had
   (``ssod.pseudo_labels.class_balance``). They lie between `score` and `score` + `rise`.

The teacher moves fast, `ema.decay` 0.99. Its "aggregation" is a backbone that hands a memory from block to block, of
student and teacher both: `detector.rla`.

Paper and released code differ: the paper learns thresholds with a further network and shuffles no patch; this is the
code.

What is not as released:

- Label files. There the initial detector's labels serve for eight epochs; then the teacher labels the images that come
  next, into files, so that labels are some seven steps old and in whole pixels, and images without a box at first are
  never seen. Here the teacher labels in the step; `method.teacher` with `until` puts a file in its place at first, and
  without one `burn_in` trains the teacher. Thresholds follow the labels of `every` steps, there those of all files.
- The weak view is that of the released labelling. Boxes in doubt move with all that the strong view does; there a
  shift or a turn leaves them behind. No pixels of single boxes are moved (STAC's `box_affine`).
- The release counts `slow` anew after a restart, and shuffles boxes to where their pixels are not: here they fit.
- Logits are compared over the images of a process, there of one image. Boxes that leave the strong view are dropped
  with a side of a pixel or less. Biases have the rate of weights, there twice as much; norms do not decay.

Thresholds are on the scale of a detector's scores. Those of FCOS are roots of the released ones, class x centerness,
and so are the numbers of its recipe. The sums that raise thresholds are of roots, too, and so larger.

Published on FCOS. RetinaNet by the same rules is ours: its rows are counted as those of FCOS are, also where the
detector divides image by image. A detector with proposals has no class logits of its levels, and is refused.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ssod.assign.two_sets import with_doubts
from ssod.losses.scales import scale_distance
from ssod.losses.weighting.one_batch import divided_together
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, Losses, add, count_per_image, quantiles
from ssod.pseudo_labels.class_balance import ClassBalance
from ssod.structures import Assigned, Batch, Detector, Output, Pseudo
from ssod.transforms.half_copy import half_boxes, half_copy
from ssod.utils.errors import SsodError
from ssod.utils.schema import Duration

SLOW = 1e-3  # share of the consistency in its first steps


class Config(base.Config):
    """The released constants for 10 % of COCO."""

    weight: float = Field(3.0, ge=0)
    "Factor of every loss on unlabelled images, of both sizes; `consistency` has its own."
    score: float = Field(0.3, ge=0, le=1)
    "Lowest threshold: a detection becomes a pseudo-label when it scores that of its class or more."
    rise: float = Field(0.05, ge=0)
    "A threshold is higher than `score` by this at most."
    power: float = Field(0.05, ge=0)
    "How fast thresholds rise: by (sum of a class's scores / mean number of labels of a class) to this power."
    unsure: float = Field(0.1, ge=0, le=1)
    "A detection below the threshold, from this score on, is neither object nor background."
    every: Duration = 13_300
    "Steps between two choices of thresholds; as released, as many as go once over the unlabelled images."
    consistency: float = Field(1.0, ge=0)
    "Factor of the distance between class logits of both sizes; `weight`, `ramp` and `damping` do not reach it."
    slow: Duration = 5000
    "Steps after burn-in in which that factor is a thousandth."
    ema: EmaConfig = EmaConfig(decay=0.99, warm_up=False)
    "How the teacher follows the student."

    @field_validator("every")
    @classmethod
    def _a_step_at_least(cls, steps: int) -> int:
        if steps < 1:
            raise ValueError("must be 1 or more, in steps or as a share that is")
        return steps

    @field_validator("unsure")
    @classmethod
    def _below_the_labels(cls, unsure: float, info: ValidationInfo) -> float:
        score = info.data.get("score")
        if score is not None and unsure > score:
            raise ValueError(f"is above 'score: {score:g}', so that no detection is in doubt; lower it to that or less")
        return unsure


class Dsl(base.Method, burn_in_reads=()):
    """Three kinds of images, divided as one batch."""

    Config = Config
    cfg: Config
    labels_alone = False  # the thresholds have their say

    def __init__(self, student: Detector, cfg: Config) -> None:
        if "rpn_cls" in student.kinds:
            problem = "'dsl' compares class logits level by level, and a detector with proposals has none of them"
            raise SsodError("config", "method.name", problem, "use it with retinanet or fcos")
        if student.objectness:
            problem = "'dsl' compares the class logits of all rows, and those of this detector speak of objects alone"
            raise SsodError("config", "method.name", problem, "use it with retinanet or fcos")
        if cfg.consistency and len(student.strides) < 2:
            problem = "'dsl' compares each level with the one below, and there is one"
            raise SsodError("config", "detector.levels", problem, "use more levels, or set method.consistency=0")
        super().__init__(student, cfg)
        limits = {"floor": cfg.unsure, "lowest": cfg.score, "rise": cfg.rise, "power": cfg.power}
        self.balance = ClassBalance(student.num_classes, **limits)

    def forward(self, batch: Batch, step: int) -> Losses:
        """Look at all images of a step, then learn from them as from one batch."""
        (labeled, alone), *others = looks = list(self.each_look(batch, step))
        if not others:
            return self.weighed(labeled, self.learn(labeled), alone)
        looks += [(self.at_half_size(ctx), weight) for ctx, weight in others]
        rows = [self.assign(ctx)["dense"] for ctx, _ in looks]
        losses: Losses = {}
        for (ctx, weight), (p, _), a in zip(looks, rows, divided_together(rows, self.student.central)):
            losses = add(losses, self.weighed(ctx, self.learn(ctx, {"dense": (p, a)}), weight))
        if not self.cfg.consistency:
            return losses
        whole, half = (p for p, _ in rows[1:])
        return losses | self.scale("unsup", {"consistency": scale_distance(whole, half)}, self.consistency(step))

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Divide detections into labels and boxes in doubt, and count them."""
        found = teacher.detections()
        labels = self.balance.divide(found)
        self.balance.see(found)
        self.stats |= {
            "pseudo/score_quantiles": quantiles(found),
            "pseudo/threshold": self.balance.thresholds(),
            "pseudo/unsure_per_image": count_per_image(labels.unsure or []),
        }
        return labels

    def assign(self, ctx: Context) -> Assigned:
        """Let rows of boxes in doubt learn no class, unless they learn a sure box."""
        labels, own = ctx.labels, self.criterion.assigners[ctx.side]
        if labels.unsure is None:
            return super().assign(ctx)
        p, sure = self.student.assign(ctx.student, labels.cls, labels.box, own)["dense"]
        _, unsure = self.student.assign(ctx.student, labels.unsure, None, own)["dense"]
        counts = [(len(t), len(u)) for t, u in zip(labels.cls, labels.unsure)]
        return {"dense": (p, with_doubts(sure, unsure, counts))}

    def at_half_size(self, ctx: Context) -> Context:
        """Let the student look at the images of a look once more, at half their size."""
        view = half_copy(ctx.view)
        known = {"labels_or_none": half_boxes(ctx.labels), "guesses": {}, "losses": {}, "stats": {}}
        return replace(ctx, student=self.student.predict(view), view=view, **known)

    def consistency(self, step: int) -> float:
        """Return the factor of the distance between both sizes."""
        return self.cfg.consistency * (SLOW if step < self.cfg.unsup_start + self.cfg.slow else 1.0)

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
        if step >= self.cfg.burn_in and (step + 1 - self.cfg.burn_in) % self.cfg.every == 0:
            self.balance.choose()


METHOD = Dsl
