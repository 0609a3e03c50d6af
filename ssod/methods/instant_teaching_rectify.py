"""Instant-Teaching*: two models, each taught by labels that the other one has corrected. (arXiv:2103.11402, Sec. 3.4)

`student` and `peer.student` start from the same pretrained backbone; pyramid and heads of the peer are drawn anew. Both
look at the same weak view, correct each other's boxes (``ssod.pseudo_labels.co_rectify``), and learn with mixup and
mosaic as in `instant_teaching`; the loss is the sum of both. Evaluated, kept and exported is `student` alone.

Paper and released code differ in more than `instant_teaching` says, and `as_released` chooses this, too:

* The code corrects the union of both models' boxes in two rounds: each model's opinion is averaged in, and all that is
  known by then is averaged with the opinion of the other model, whose boxes are suppressed once more.
* The paper has one round: a model's own boxes above `score`, each averaged with what the peer says about it.

Either way a box must still score `score` afterwards, so that one of which the peer is not convinced is no label. What
the log, an evaluation and the report say about labels is said of those that are left; `peer/...` is of the peer's.

The peer's strong view is the view `strong2` where the config has one (as released: same operations, drawn apart), else
it is `strong`, with the same mixing. Not as released: both learn the labelled images in the same views, where the code
draws those apart too; and `weight` need not be 1, which it asserts and which is the default here.

Exact on Faster R-CNN. On RetinaNet and FCOS, which are unpublished, a second opinion is that of the nearest row.
"""

from copy import deepcopy

import torch
from pydantic import field_validator
from torch import Tensor

from ssod.methods import instant_teaching
from ssod.methods.base import Labels, Losses, count_per_image, tag
from ssod.methods.config import TeacherConfig
from ssod.methods.instant_teaching import InstantTeaching, best_scores
from ssod.pseudo_labels.co_rectify import co_rectify, rectify_once
from ssod.pseudo_labels.nms_once import at_least, confident, rows_of
from ssod.structures import Batch, Detector, Output, Pseudo, View
from ssod.utils import seeding
from ssod.utils.errors import SsodError
from ssod.utils.given import given


class Config(instant_teaching.Config):
    """The released constants."""

    as_released: bool = True
    """Labels and losses as in the released code: two rounds of correction, mass as a weight, mean of labelled and
    unlabelled images; false = as in the paper."""
    fresh_heads: bool = True
    "Draw the peer's pyramid and heads anew; set false when training starts from a whole detector (weights: coco)."

    @field_validator("teacher")
    @classmethod
    def _the_two_label_for_each_other(cls, teacher: TeacherConfig | None) -> TeacherConfig | None:
        if teacher is not None:
            raise ValueError("takes the place of two models that label for each other; remove it")
        return teacher


class InstantTeachingRectify(InstantTeaching):
    """Instant-Teaching twice, with labels from each other; ``peer`` is the second one, with its own teacher."""

    Config = Config
    cfg: Config
    labels_alone = False

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        if cfg.fresh_heads and student.pretrained_heads:
            problem = "true, but 'detector.weights' holds a whole detector, whose pyramid and heads would be lost"
            raise SsodError("config", "method.fresh_heads", problem, "set method.fresh_heads=false")
        twin = deepcopy(student)
        self.peer = InstantTeaching(redrawn(twin) if cfg.fresh_heads else twin, cfg)

    def forward(self, batch: Batch, step: int) -> Losses:
        """Both learn from the labels, then from what they believe together; the peer's losses are ``peer_<name>``."""
        self.stats = {"labeled/boxes_per_image": count_per_image(batch.labeled.truth())}
        self.peer.stats = {}
        losses = self.losses(batch, step)
        self.stats |= tag("peer", self.peer.stats)
        return losses

    def losses(self, batch: Batch, step: int) -> Losses:
        """Losses of both, as of two methods side by side."""
        batch = self.filled(batch, step)
        sup = both(*(m.learn(m.look_at_labeled(batch, step)) for m in (self, self.peer)))
        losses = self.scale("sup", sup, self.sup_weight(step))
        if step < self.cfg.burn_in:
            return losses
        with torch.no_grad():
            labels = self.labels(batch, step)
        own = learn(self, labels, batch, step, batch.strong)
        for_peer = given(labels.peer, "there are two students, and labels for one")
        other = learn(self.peer, for_peer, batch, step, batch.views.get("strong2", batch.strong))
        return losses | both(own, other)

    def labels(self, batch: Batch, step: int) -> Labels:
        """See ``Method.labels``: what both models find, corrected by each other."""
        mine, theirs = self.ask(batch.weak, step), self.peer.ask(batch.weak, step)
        for_me, for_peer = self.rectify(mine, theirs)
        return Labels(mine, for_me, peer=Labels(theirs, for_peer))

    def rectify(self, mine: Output, theirs: Output) -> tuple[Pseudo, Pseudo]:
        """Return the labels of the student and of its peer, in the pixels of the weak view."""
        score, released = self.cfg.score, self.cfg.as_released
        rows = rows_of(mine), rows_of(theirs)
        self.stats["pseudo/score_quantiles"] = best_scores(rows[0])
        found = [confident(p, score, secondary=released) for p in rows]
        if released:
            labels = co_rectify(mine, theirs, found[0], found[1], self.student.num_classes)
        else:
            labels = rectify_once(found[0], theirs), rectify_once(found[1], mine)
        for_me, for_peer = (Pseudo(at_least(targets, score)) for targets in labels)
        return for_me, for_peer

    @torch.no_grad()
    def after_step(self, step: int, skipped: Tensor | None = None) -> None:
        """Move both teachers."""
        super().after_step(step, skipped)
        self.peer.after_step(step, skipped)

    @torch.no_grad()
    def after_skip(self, step: int) -> None:
        """Make the copies of both teachers that are due."""
        super().after_skip(step)
        self.peer.after_skip(step)


def learn(m: InstantTeaching, labels: Labels, batch: Batch, step: int, strong: View) -> Losses:
    """Losses of a method's student on its strong view, mixed as the method mixes."""
    moved = given(labels.pseudo, "Instant-Teaching learns from boxes").move(batch.weak, strong)
    m.count(moved)  # before it is mixed, which may add labelled boxes
    view, mixed = m.mix(strong, moved, batch.labeled)
    unsup = m.learn(m.look("unsup", batch, step, view, mixed, labels.teacher))
    return m.scale("unsup", unsup, m.unsup_weight(step, moved), m.cfg.loss_weights)


def both(mine: Losses, theirs: Losses) -> Losses:
    """Put the losses of the student and of its peer side by side."""

    def peer(name: str) -> str:
        side, slash, loss = name.rpartition("/")
        return f"{side}{slash}peer_{loss}"

    return mine | {peer(name): loss for name, loss in theirs.items()}


@torch.no_grad()
def redrawn(detector: Detector) -> Detector:
    """Draw everything but ``detector.body`` anew, in place: each tensor's elements change places.

    Layers are initialised with independent numbers of one distribution per tensor, so that a permutation is as good a
    draw as the first; constants stay what they are.
    """
    generator = torch.Generator().manual_seed(seeding.key("peer"))
    kept = {id(parameter) for parameter in detector.body.parameters()}
    for parameter in detector.parameters():
        if id(parameter) not in kept:
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return detector


METHOD = InstantTeachingRectify
