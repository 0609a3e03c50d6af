"""ACRST: crops of objects that the teacher misses, pasted into what the student sees. (arXiv:2107.05031)

Built on Unbiased Teacher. The paper names five parts: a bank of cropped objects (CropBank), pasting them to balance
foreground and background (FBR), pasting those classes more often that pseudo-labels under-represent (AFFR), a filter of
two stages for pseudo-labels, and selective supervision. No code was released; thresholds, sizes and formulas of these
parts are ours. They fit what is printed. From Unbiased Teacher are burn-in, average, weight, score and class loss.

Order of a step:

1. The teacher on the clean weak view. A detection becomes a pseudo-label when its score reaches `score` (strictly above
   it in Unbiased Teacher) and the classifier of whole images believes in its class, `image_score`. Pseudo-labels are
   counted by class, and cut out for the bank.
2. True boxes are cut out of the labelled images, as the loader made them, for the bank.
3. Up to `paste.most` crops are pasted onto each image that the student is to see, labelled ones from the first step on.
   Classes are drawn by what they lack to a pseudo-recall of 1; pasted boxes are never counted.
4. Then come strong colours, blur and erasing (`colors`), so that what was pasted is augmented like the rest. A labelled
   image enters twice, as in Unbiased Teacher: in its own colours, and in strong ones.
5. Every box teaches classes. Places are learnt from true boxes alone: a pasted box has a box weight of 0 on labelled
   images, too, and box losses on unlabelled images have the factor 0 of `loss_weights`. FCOS learns centerness from
   pseudo-labels, as in `unbiased_teacher`, but not from pasted boxes.

The bank is on the device, and so is all that follows pasting. Views of the loader should have geometry alone. Colours
in a view come before pasting: crops are stored with them, and images are coloured twice. Colours on the device are
those of Unbiased Teacher but for what ``ssod.transforms.recolor`` names. A crop is stored as a square of `bank.side`
pixels, so that a large object is pasted with less detail than it had.

The classifier is one linear layer on the mean of the coarsest map of the pyramid; its loss (BCE, weight 1, mean over
images and classes) reaches the backbone. It is asked for the classes that an image had before pasting: else it would
learn to see pasted edges. What vetoes is its average, which follows as the teacher does, on the teacher's map. Another
teacher (`teacher`) has no such classifier; then the average looks at the weak view as well.

All ranks, and all parts of a step, share one bank and one count. Published on Faster R-CNN; RetinaNet and FCOS have the
same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, LossName, quantiles
from ssod.methods.kept_answers import BoxesAndTop
from ssod.methods.teachers import build_teacher
from ssod.pseudo_labels.image_veto import ImageClassifier, confirmed, label_sets, presence_loss
from ssod.pseudo_labels.pseudo_recall import PseudoRecall
from ssod.structures import Batch, Detector, LabelStatistics, Output, Pseudo, Targets, View, open_classes
from ssod.structures.ragged import image_index, select
from ssod.transforms.crop_bank import LABELED, PSEUDO, CropBank, worth_keeping
from ssod.transforms.geometry import Span
from ssod.transforms.paste import paste, places
from ssod.transforms.recolor import ColorsConfig, recolored
from ssod.utils import seeding
from ssod.utils.given import given
from ssod.utils.schema import Duration, Section, over_default

_ROWS = -(2**41)  # of an image's key; see seeding.uniform
_TWICE = 2**40  # what the key of a labelled image's second look differs by


class BankConfig(Section):
    """Which objects are kept for pasting."""

    size: int = Field(100, ge=1)
    "Crops of a class, of true labels and of pseudo-labels each; new ones take the places of the oldest."
    side: int = Field(96, ge=8)
    "Side in pixels of the square as which a crop is stored. The bank has 6 x classes x size x side^2 bytes."
    least: float = Field(8.0, ge=1)
    "A box is kept whose sides have at least so many pixels ..."
    covered: float = Field(0.3, ge=0, le=1)
    "... and of which other boxes cover no larger share."


class PasteConfig(Section):
    """How crops are pasted."""

    most: int = Field(5, ge=0)
    "Crops of an image, drawn uniformly from 0 to this; 0 pastes none, and the bank stays empty."
    scale: Span = (0.5, 1.5)
    "Factor of a crop's sides, drawn uniformly."
    visible: float = Field(0.3, ge=0, le=1)
    "A box, or an earlier crop, of which less stays visible is dropped. What the border cuts off does not count here."
    inside: float = Field(0.0, ge=0, le=1)
    "A crop of which less would lie inside the image is not pasted; 0 = a sliver of it is a label, too."

    @field_validator("scale")
    @classmethod
    def _positive(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] <= 0:
            raise ValueError(f"must be above 0, got {list(scale)}")
        return scale


class Config(base.Config):
    """Unbiased Teacher's constants for 1 to 10 % of COCO, and ours."""

    burn_in: Duration = 2000
    "Steps of supervised learning; crops of true labels are kept and pasted from the first one on."
    weight: float = Field(4.0, ge=0)
    "Factor of every loss on unlabelled images."
    score: float = Field(0.7, ge=0, le=1)
    "A detection becomes a pseudo-label when its score is at least this ..."
    image_score: float = Field(0.3, ge=0, le=1)
    "... and the classifier of whole images gives its class at least this; 0 = it is not asked, but still learns."
    image_weight: float = Field(1.0, gt=0)
    "Factor of the classifier's loss."
    recall_decay: float = Field(0.999, ge=0, lt=1)
    "Factor at each step of the counts of pseudo-labels by which classes are drawn."
    bank: BankConfig = BankConfig()
    "Which objects are kept."
    paste: PasteConfig = PasteConfig()
    "How they are pasted."
    colors: ColorsConfig = ColorsConfig()
    "Strong colours, blur and erasing, after pasting."
    loss_weights: dict[LossName, Annotated[float, Field(ge=0)]] = {"box": 0.0, "rpn_box": 0.0}
    """Further factors of single losses on unlabelled images; 0 leaves a loss out of the sum, but logs it. A loss that a
    config leaves out has the factor here: `{box: 1, rpn_box: 1}` learns places from pseudo-labels, never from crops."""
    ema: EmaConfig = EmaConfig(decay=0.9996, warm_up=False, start=None)
    "How the teacher follows the student after burn-in."

    _own_parts = field_validator("bank", "paste", "colors", mode="before")(over_default)

    @property
    def needs_maps(self) -> bool:
        """See ``base.Config``: the classifier reads the teacher's coarsest map."""
        return True


class Acrst(base.Method):
    """A bank, a count and a classifier; what the student sees is pasted, then coloured."""

    Config = Config
    cfg: Config
    labels_alone = False  # the classifier has its say

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        k = student.num_classes
        self.bank = CropBank(k, cfg.bank.size, cfg.bank.side)
        self.recall = PseudoRecall(k, cfg.recall_decay)
        self.classifier = ImageClassifier(cast(int, student.backbone.out_channels), k)
        # type: ignore because an average follows any module, and is hinted for the one that it is mostly used for.
        self.image_teacher = build_teacher(self.classifier, cfg.ema, cfg.burn_in)  # type: ignore

    def see_labels(self, statistics: LabelStatistics) -> None:
        """Note how often each class is to be expected."""
        super().see_labels(statistics)
        self.recall.see(statistics)

    @torch.no_grad()
    def after_step(self, step: int, skipped: Tensor | None = None) -> None:
        """Move the teacher, and the average of the classifier as it."""
        super().after_step(step, skipped)
        self.image_teacher.after_step(self.classifier, step, skipped)  # type: ignore  # as in __init__

    @torch.no_grad()
    def after_skip(self, step: int) -> None:
        """See ``Supervised.after_skip``."""
        super().after_skip(step)
        self.image_teacher.after_skip(self.classifier, step)  # type: ignore  # as in __init__

    # ---- pseudo-labels ---------------------------------------------------------------------------------------------

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep what both stages of the filter pass; count it, and put it into the bank."""
        cfg, found = self.cfg, teacher.detections()
        probs = self.believed(teacher, batch.weak)
        image = image_index([len(t) for t in found], probs.device)
        scores, labels = torch.cat([t.confidence() for t in found]), torch.cat([t.labels for t in found])
        first, both = confirmed(scores, labels, image, probs, cfg.score, cfg.image_score)
        kept = select(found, both)
        self.keep(PSEUDO, batch.weak, kept)
        self.recall.count(torch.cat([t.labels for t in kept]), len(kept))
        self.stats |= {
            "pseudo/score_quantiles": quantiles(found),
            "pseudo/vetoed_per_image": (first & ~both).sum() / len(found),
            "pseudo/share_of_expected": self.recall.recall(),
        }
        return Pseudo(kept)

    def believed(self, teacher: Output, view: View) -> Tensor:
        """Return [N, K]: how likely each image holds each class, 1 where the classifier is not asked."""
        if self.cfg.image_score == 0:
            return torch.ones(len(view), self.student.num_classes, device=view.images.device)
        own = teacher if self.given is None else self.teacher.predict(view)
        return self.presence(self.image_teacher.model, own, view).float().sigmoid()

    def kept(self, out: Output, again: Callable[[], Output]) -> Output:
        """See ``base.Method``: of the maps the coarsest is enough, if no weighting asks for others."""
        return super().kept(out, again) if self.cfg.weightings_of_maps else BoxesAndTop(out, again)

    def presence(self, classifier: torch.nn.Module, out: Output, view: View) -> Tensor:
        """Return [N, K] logits: which classes a classifier sees in each image."""
        height, width = view.images.shape[-2:]
        return classifier(out.pyramid[-1], (height, width), view.sizes)

    def keep(self, source: int, view: View, targets: list[Targets]) -> None:
        """Put boxes into the bank, cut out of a view that nothing was pasted onto; none if no crop is to be pasted."""
        bank = self.cfg.bank
        if self.cfg.paste.most == 0:
            return
        self.bank.push(source, view, targets, worth_keeping(targets, bank.least, bank.covered))

    # ---- what the student sees -------------------------------------------------------------------------------------

    def look_at_labeled(self, batch: Batch, step: int) -> Context:
        """Paste crops onto the labelled images; let the student look at them twice, and the classifier learn."""
        clean = batch.labeled
        self.keep(LABELED, clean, clean.truth())
        pasted, truth = self.pasted(clean, clean.truth())
        both = twice(pasted, recolored(pasted, self.cfg.colors))
        ctx = self.look("sup", batch, step, both, Pseudo(truth + truth))
        present = label_sets(clean.truth(), self.student.num_classes).repeat(2, 1)
        open = open_classes(clean.truth() * 2, self.student.num_classes)
        logits = self.presence(self.classifier, ctx.student, both)
        ctx.losses["image"] = self.cfg.image_weight * presence_loss(logits, present, open)
        return ctx

    @torch.no_grad()
    def mix(self, view: View, pseudo: Pseudo | None, labeled: View) -> tuple[View, Pseudo | None]:
        """Paste crops onto the student's view and colour it; then mix it, if the config says so."""
        labels = given(pseudo, "this method learns from boxes")
        view, cls = self.pasted(view, labels.cls)
        return super().mix(recolored(view, self.cfg.colors), Pseudo(cls), labeled)

    def pasted(self, view: View, targets: list[Targets]) -> tuple[View, list[Targets]]:
        """Return a view with crops pasted onto it, float in 0..1, and its boxes with theirs."""
        cfg = self.cfg.paste
        rows = torch.arange(1 + 6 * cfg.most, device=view.keys.device)
        u = seeding.uniform(view.keys[:, None], _ROWS + rows)
        number, u = u[:, :1], u[:, 1:].unflatten(1, (cfg.most, 6))
        wanted = rows[: cfg.most] < (number * (cfg.most + 1)).floor()
        crops = self.bank.draw(u[..., :3], self.recall.probability(), wanted)
        where = places(u[..., 3:], crops.sides, view.sizes, cfg.scale, cfg.inside)
        return paste(view, targets, crops, where, cfg.visible)


def twice(view: View, strong: View) -> View:
    """Return one view with the images of both; rows of the second are drawn apart."""
    images, sizes, matrix = (
        torch.cat([getattr(v, name) for v in (view, strong)]) for name in ("images", "sizes", "matrix")
    )
    keys = torch.cat([view.keys, strong.keys ^ _TWICE])
    return replace(view, images=images, sizes=sizes, matrix=matrix, keys=keys, ids=view.ids * 2, targets=None)


METHOD = Acrst
