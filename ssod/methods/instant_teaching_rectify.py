"""Instant-Teaching*: two models, each taught by labels that the other one has corrected. (arXiv:2103.11402, Sec. 3.4)

`student` and `peer.student` start from the same pretrained backbone; pyramid and heads of the peer are drawn anew. Both
look at the same weak view, correct the union of their boxes in two rounds (``ssod.pseudo.rectify``), and learn with
mixup and mosaic as in `instant_teaching`; the loss is the sum of both. Evaluated, kept and exported is `student` alone.

The peer's strong view is the view `strong2` where the config has one (as released: same operations, drawn apart), else
it is `strong`, with the same mixing. Both learn the labelled images in the same views; the released code draws those
apart too. It also asserts that `weight` is 1, which is the default here.

Exact on Faster R-CNN. On RetinaNet and FCOS, which are unpublished, a second opinion is that of the nearest row.
"""

from copy import deepcopy

import torch
from torch import nn

from ssod import seeding
from ssod.methods import instant_teaching
from ssod.methods.base import Losses, Method, count_per_image, tag
from ssod.methods.instant_teaching import InstantTeaching, best_scores
from ssod.pseudo.instant import at_least, confident, rows_of
from ssod.pseudo.rectify import co_rectify
from ssod.structures import Batch, Detector, Output, Pseudo, View


class Config(instant_teaching.Config):
    """The released constants."""

    fresh_heads: bool = True
    "Draw the peer's pyramid and heads anew; set false when training starts from a whole detector (weights: coco)."


class InstantTeachingRectify(InstantTeaching):
    """Instant-Teaching twice, with labels from each other; ``peer`` is the second one, with its own teacher."""

    Config = Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        twin = deepcopy(student)
        self.peer = InstantTeaching(redrawn(twin) if cfg.fresh_heads else twin, cfg)

    def forward(self, batch: Batch, step: int) -> Losses:
        """Both learn from the labels, then from what they believe together; the peer's losses are ``peer_<name>``."""
        self.stats = {"labeled/boxes_per_image": count_per_image(batch.labeled.targets)}
        losses = tag("sup", both(supervised(self, batch), supervised(self.peer, batch)))
        if step < self.cfg.burn_in:
            return self.averaged(losses)
        with torch.no_grad():
            mine, theirs = self.teacher.predict(batch.weak), self.peer.teacher.predict(batch.weak)
            for_me, for_peer = self.rectify(mine, theirs)
        own = learn(self, for_me, mine, batch, batch.strong)
        other = learn(self.peer, for_peer, theirs, batch, batch.views.get("strong2", batch.strong))
        weight = self.weight(step)
        unsup = both(self.scale(own, weight), self.peer.scale(other, weight))
        return self.averaged(losses | tag("unsup", unsup))

    def rectify(self, mine: Output, theirs: Output) -> tuple[Pseudo, Pseudo]:
        """Return the labels of the student and of its peer, in the pixels of the weak view."""
        score, rows = self.cfg.score, (rows_of(mine), rows_of(theirs))
        self.stats["pseudo/score_quantiles"] = best_scores(rows[0])
        found = (confident(p, score, secondary=True) for p in rows)
        labels = co_rectify(mine, theirs, *found, self.student.num_classes)
        for_me, for_peer = (Pseudo(at_least(targets, score)) for targets in labels)
        self.stats["pseudo/boxes_per_image"] = count_per_image(for_me.cls)
        return for_me, for_peer

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move both teachers."""
        super().after_step(step)
        self.peer.after_step(step)


def supervised(m: Method, batch: Batch) -> Losses:
    """Losses of a method's student on labelled images."""
    return m.learn("sup", m.student.predict(batch.labeled), batch.labeled.targets)


def learn(m: Method, pseudo: Pseudo, teacher: Output, batch: Batch, strong: View) -> Losses:
    """Losses of a method's student on its strong view, mixed as the method mixes."""
    view, pseudo = m.mix(strong, pseudo.move(batch.weak, strong), batch.labeled)
    return m.unsup(m.student.predict(view), pseudo, teacher, batch)


def both(mine: Losses, theirs: Losses) -> Losses:
    """Put the losses of the student and of its peer side by side."""
    return mine | {f"peer_{name}": loss for name, loss in theirs.items()}


@torch.no_grad()
def redrawn(detector: nn.Module) -> nn.Module:
    """Draw everything but the backbone's body anew, in place: each tensor's elements change places.

    Layers are initialised with independent numbers of one distribution per tensor, so that a permutation is as good a
    draw as the first; constants stay what they are.
    """
    generator = torch.Generator().manual_seed(seeding.key("peer"))
    for name, parameter in detector.named_parameters():
        if not name.startswith("backbone.body."):
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return detector


METHOD = InstantTeachingRectify
