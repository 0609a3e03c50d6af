"""CSD: a student agrees with itself on an image and on its mirror image; nobody labels. (Jeong et al., NeurIPS 2019)

There is no teacher, no threshold and no pseudo-box. Order of a step (Sec. 3):

1. Labelled images, with all losses of the detector.
2. The student looks at the mirror images, of labelled and of unlabelled ones. Each row of an image has a partner: what
   the mirror image says at the mirrored place. Encoded boxes are mirrored: dx changes its sign, left and right change
   places. Of two stages the second is asked, about the image's proposals and about their mirror images; the proposal
   network is not compared.
3. Background elimination: rows of the image whose likeliest class is likelier than background. The mirror image has no
   say in it.
4. Over these rows of both kinds of images, the mean divergence of the classes, and the mean squared difference of the
   encoded boxes, of all classes. The second has gradients on both sides; so has the first, where each of its two halves
   holds one side fixed.
5. Both count `weight`, which rises over `ramp` from 0 in its first step, and falls over `ramp_down`.

Paper and released code differ in the divergence: Jensen-Shannon (`distance: js`), and the symmetrised KL (`kl`).

What is not as released (soo89/CSD-SSD, soo89/CSD-RFCN):

- There images are resized to one shape and maps are turned column by column. Here they keep theirs, and priors lie on
  the corners of cells, so that the mirrored place of a row may lie between two columns, of which both are read
  (``ssod.pseudo_labels.flip_ensemble``); a row without a partner is not compared.
- The second stage's mean is over all rows, there over those of an image and then over images; and it has no output of
  boxes for background, which the released mean contains.
- Both kinds of images are compared from the first step on; CSD-SSD looks at the labelled ones alone for one epoch, in
  which the weight is near 0.
- Of an image's proposals the best `proposals` are asked about; there all of them.

On RetinaNet and FCOS, which no one has published, ours: a sigmoid head has no background. A class and its absence are
the two outcomes of a distribution of its own, and the divergences of all classes are added. Background is eliminated
where no class scores above `foreground`. The default, 0.4, is what a class says that learns by the focal loss (alpha
0.25, gamma 2) where it is as likely to be there as not; another class loss may want another. FCOS's centerness is
compared as one more such class (`loss_weights: {quality: 0}` leaves it out), its distances in strides.
"""

import math
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ssod.losses.agreement import DIVERGENCES, Pair, agreement
from ssod.losses.consistency import distribution
from ssod.losses.elements import upcast
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, Losses
from ssod.methods.config import Teaching
from ssod.pseudo_labels.flip_ensemble import read_mirrored
from ssod.structures import Detector, Output, Predictions, Pseudo
from ssod.structures.boxes import mirror
from ssod.utils.errors import SsodError
from ssod.utils.schema import Duration

EVEN_CHANCE = 0.4  # what a class says, by the focal loss, of a row where it is as likely to be there as not
PROPOSALS = 2000  # of an image, as many as a detector keeps in training by default


class Config(base.Config):
    """The released constants, those of CSD-SSD; on COCO there are none."""

    # A default that is a share of the steps becomes their number when it is validated, as any share does.
    ramp: Duration = "26.6667%"  # type: ignore
    "Steps after burn-in over which `weight` rises from 0; 0 = at once."
    ramp_shape: Literal["linear", "sigmoid"] = "sigmoid"
    "How `weight` rises over `ramp`: in proportion, or as exp(-5 (1 - t)^2)."
    ramp_down: tuple[Duration, Duration] | None = ("83.3333%", "100%")  # type: ignore
    "The first and the last step of the fall of `weight`, as exp(-12.5 t^2); null = it does not fall."
    distance: Literal["kl", "js"] = "kl"
    "Between the classes: the symmetrised KL divergence (released), or Jensen-Shannon (paper)."
    foreground: float | None = Field(None, ge=0, lt=1)
    "One stage: rows without a class above this score are background, and are not compared; default: 0.4."
    proposals: int | None = Field(None, ge=1)
    "Two stages: best proposals of an image that are asked about in it and in its mirror image; default: 2000."
    ema: EmaConfig = EmaConfig(decay=0.0, warm_up=False)
    "What is measured: decay 0 is the student itself."

    @field_validator("ramp_down")
    @classmethod
    def _falls_after_labels_were_alone(
        cls, value: tuple[int, int] | None, info: ValidationInfo
    ) -> tuple[int, int] | None:
        if value is None:
            return value
        if value[0] > value[1]:  # equal are the shares of a run of a few steps
            raise ValueError(f"the first of {list(value)} is where the weight begins to fall; exchange them")
        if value[1] <= info.data.get("burn_in", 0):
            raise ValueError(f"the weight would be gone at step {value[1]}, before burn-in ends; raise it")
        return value

    @property
    def taught_by(self) -> Teaching:
        """See ``base.Config``: by the distance from the mirror image."""
        return "distances"

    @property
    def asks_teacher(self) -> bool:
        """See ``base.Config``: there is none."""
        return False

    @property
    def compares_labeled(self) -> bool:
        """See ``base.Config``."""
        return True

    @property
    def unsup_start(self) -> int:
        """See ``base.Config``: where the weight rises it is 0 in the first step, which therefore compares nothing."""
        return self.burn_in + (self.ramp > 0)


class Csd(base.Method, burn_in_reads=()):
    """An image in, its mirror image in, distances between the two out."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        two_stages = student.kinds["cls"] == "softmax"
        if two_stages and cfg.foreground is not None:
            problem = "a softmax head has a background class to compare with, and needs no score"
            raise SsodError("config", "method.foreground", problem, "remove it")
        if not two_stages and cfg.proposals is not None:
            problem = "a detector with one stage has no proposals, and its rows are compared"
            raise SsodError("config", "method.proposals", problem, "remove it")
        super().__init__(student, cfg)
        self.score = EVEN_CHANCE if cfg.foreground is None else cfg.foreground
        self.proposals = PROPOSALS if cfg.proposals is None else cfg.proposals

    def distill(self, ctx: Context) -> Losses:
        """Compare each image with its mirror image, unlabelled ones and labelled ones."""
        pairs = [self.pair(look) for look in (ctx.labeled, ctx)]
        kept = [pair.foreground(self.score) for pair in pairs]
        self.stats["pseudo/foreground_per_image"] = kept[1].sum() / len(ctx.view)
        self.stats["labeled/foreground_per_image"] = kept[0].sum() / len(ctx.labeled.view)
        return agreement(pairs, kept, DIVERGENCES[self.cfg.distance])

    def unsup_weight(self, step: int, pseudo: Pseudo | None) -> float | Tensor:
        """Return the weight, which rises as with any method, and falls over the last steps."""
        weight, fall = super().unsup_weight(step, pseudo), self.cfg.ramp_down
        if fall is None or step <= fall[0]:
            return weight
        return weight * math.exp(-12.5 * min(1.0, (step - fall[0]) / max(1, fall[1] - fall[0])) ** 2)

    def pair(self, ctx: Context) -> Pair:
        """Let the student look at the mirror image of a look, and read there what is said about the same places."""
        out, mirrored = ctx.student, self.student.predict(ctx.view.flipped())
        if out.proposals is None:
            return pair_of_rows(out.stages["dense"], mirrored.stages["dense"])
        return pair_of_boxes([boxes[: self.proposals] for boxes in out.proposals], out, mirrored)


def pair_of_rows(p: Predictions, mirrored: Predictions) -> Pair:
    """Pair dense rows with those of the mirrored images (``View.flipped``), read at their mirrored places."""
    deltas = p.coder.mirror(upcast(mirrored.deltas), p.sizes[:, 1][p.image])
    maps = [distribution(upcast(mirrored.logits), p.softmax), deltas]
    maps += [] if mirrored.quality is None else [upcast(mirrored.quality).sigmoid()]
    (probs, deltas, *quality), known = read_mirrored(p, maps)
    return Pair(p, probs, deltas, quality[0] if quality else None, known)


def pair_of_boxes(boxes: list[Tensor], out: Output, mirrored: Output) -> Pair:
    """Ask the second stage about boxes, N tensors [P_i, 4], and that of the mirrored images about the mirrored ones."""
    p = out.score(boxes)
    there = mirrored.score([mirror(b, width) for b, width in zip(boxes, p.sizes[:, 1])])
    deltas = p.coder.mirror(upcast(there.deltas), p.sizes[:, 1][p.image])
    return Pair(p, distribution(upcast(there.logits), p.softmax), deltas)


METHOD = Csd
