"""Reweighters on rows made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssod.losses.box import giou
from ssod.losses.sigmoid import bce, focal
from ssod.losses.softmax import cross_entropy
from ssod.losses.weighting.background import background_reliability, dense_rows, score
from ssod.losses.weighting.bayes import Guess
from ssod.losses.weighting.context import Context, overlap
from ssod.losses.weighting.pisa import carl, clusters, hierarchy, isr_n, isr_p
from ssod.losses.weighting.registry import cleanliness, iou_target, ohem
from ssod.losses.weighting.sample_weighting import SampleWeighting
from ssod.losses.weighting.uncertainty import Uncertainty, judge
from ssod.structures import Assignment, Batch, Predictions, Pseudo, Targets, View
from ssod.structures.boxes import DeltaCoder
from ssod.structures.ragged import rank_within
from tests.losses.rows import Plain
from tests.rows import context

K, R = 3, 60


def rows(seed: int = 0, softmax: bool = False, images: int = 2) -> tuple[Predictions, Assignment]:
    """R rows; a third are foreground, of two objects an image, one row is ignored; deltas are boxes."""
    g = torch.Generator().manual_seed(seed)
    start = 40 * torch.rand(R, 2, generator=g)
    wanted = torch.cat([start, start + 10 + 20 * torch.rand(R, 2, generator=g)], 1)
    image = torch.arange(R) * images // R
    matched = torch.where(torch.arange(R) % 3 == 0, image * 2 + torch.arange(R) // 3 % 2, -1)
    matched[1] = -2
    fg = matched >= 0
    cls = torch.where(fg, matched % K, K)
    p = Predictions(
        logits=torch.randn(R, K + int(softmax), generator=g),
        deltas=(wanted + 4 * torch.randn(R, 4, generator=g))[:, None],
        priors=wanted + 6 * torch.randn(R, 2, generator=g).repeat(1, 2),
        image=image,
        sizes=torch.full((images, 2), 100),
        coder=Plain(),
        softmax=softmax,
    )
    return p, Assignment(cls, (matched != -2).float(), wanted, fg.float(), matched=matched)


def context_of(softmax: bool = False, **more: object) -> Context:
    losses = {"cls": cross_entropy if softmax else focal, "box": giou, "rpn_cls": bce, "rpn_box": giou}
    return context(labels=Pseudo([Targets.empty(torch.zeros(1))] * 2), rows=losses, **more)


def total(p: Predictions, a: Assignment, softmax: bool, chosen: torch.Tensor) -> float:
    loss = cross_entropy if softmax else focal
    return float((loss(p, a).double() * a.cls_weight.double())[chosen].sum())


def test_ranks_inside_groups() -> None:
    group, value = torch.tensor([1, 0, 1, 0, 1, 7]), torch.tensor([0.3, 0.9, 0.5, 0.1, 0.3, 0.2])
    assert rank_within(group, value).tolist() == [1, 0, 0, 1, 2, 0]
    assert rank_within(group[:0], value[:0]).tolist() == []


def test_hierarchical_ranks_by_hand() -> None:
    """The bests of both objects come before all seconds, even where a second scores higher than the other's best."""
    group, value = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    assert hierarchy(group, value, torch.zeros(5, dtype=torch.long)).tolist() == [0, 2, 4, 1, 3]
    assert hierarchy(group, value, torch.tensor([0, 0, 0, 1, 1])).tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_prime_samples_leave_the_summed_loss(softmax: bool, bias: float) -> None:
    for seed in range(5):
        p, a = rows(seed, softmax)
        b = isr_p("roi", p, a, context_of(softmax), bias=bias)
        assert total(p, b, softmax, a.fg) == pytest.approx(total(p, a, softmax, a.fg), rel=1e-6)
        assert torch.equal(b.cls_weight[~a.fg], a.cls_weight[~a.fg])
        assert not torch.allclose(b.cls_weight[a.fg], a.cls_weight[a.fg])
        c = isr_n("roi", p, a, context_of(softmax), bias=bias)
        assert total(p, c, softmax, ~a.fg) == pytest.approx(total(p, a, softmax, ~a.fg), rel=1e-6)
        assert torch.equal(c.cls_weight[a.fg], a.cls_weight[a.fg])
        assert c.cls_weight[1] == 0


def test_a_better_placed_row_of_an_object_counts_more() -> None:
    p, a = rows()
    weight = isr_p("dense", p, a, context_of()).cls_weight
    near = torch.zeros(R)
    fg = a.fg.nonzero().squeeze(1)
    near[fg] = overlap(p, a, fg)
    for target in range(4):
        mine = a.matched == target
        order = near[mine].argsort(descending=True)
        sorted_weights = weight[mine][order]
        assert (sorted_weights.diff() < 0).all()


def test_negatives_are_ranked_inside_their_clusters() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 10]])
    groups = torch.tensor([0, 0, 0, 1])
    found = clusters(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), groups, 0.5)
    assert found[0] == found[1]
    assert len(found.unique()) == 3


def test_the_exponents_are_those_of_the_released_faster_rcnn() -> None:
    """2 for positives, 0.5 for negatives, as a config gets them that names no parameter."""
    p, a = rows(softmax=True)
    for weigh, exponent, other in ((isr_p, 2.0, 0.5), (isr_n, 0.5, 2.0)):
        weight = weigh("roi", p, a, context_of(True)).cls_weight
        assert torch.equal(weight, weigh("roi", p, a, context_of(True), gamma=exponent).cls_weight)
        assert not torch.allclose(weight, weigh("roi", p, a, context_of(True), gamma=other).cls_weight)


def test_carl_keeps_the_mean_weight_and_teaches_scores() -> None:
    p, a = rows()
    p.logits.requires_grad_()
    b = carl("dense", p, a, context_of())
    assert b.box_weight[a.fg].mean().item() == pytest.approx(1, rel=1e-6)
    assert torch.equal(b.fg, a.fg)
    loss = giou(p, b)
    (loss.detach() * b.box_weight[a.fg]).sum().backward()
    own = p.logits.grad[a.fg].gather(1, a.cls[a.fg, None])[:, 0]
    assert own[loss.argmax()] > 0 > own[loss.argmin()]  # descent lowers the score of the worst box, raises the best's
    assert not p.logits.grad[~a.fg].any()


def test_ohem_keeps_positives_and_the_hardest_background_of_each_image() -> None:
    p, a = rows()
    b = ohem("dense", p, a, context_of(), ratio=0.5)
    loss = focal(p, a)
    assert torch.equal(b.cls_weight[a.fg], a.cls_weight[a.fg])
    for image in range(2):
        mine = (p.image == image) & ~a.fg & (a.cls_weight > 0)
        kept = mine & (b.cls_weight > 0)
        assert kept.sum() == ((p.image == image) & a.fg).sum() // 2
        assert loss[kept].min() >= loss[mine & ~kept].max()
    none = replace(a, cls=torch.full((R,), K), box_weight=torch.zeros(R))
    assert (ohem("dense", p, none, context_of(), ratio=3.0).cls_weight > 0).sum() == 3 * 2


def test_cleanliness_by_hand() -> None:
    p, a = rows()
    b = cleanliness("dense", p, a, context_of(), alpha=0.75, gamma=1.0, top=2)
    fg = a.fg.nonzero().squeeze(1)
    near, prob = overlap(p, a, fg), p.logits[fg].sigmoid().gather(1, a.cls[fg, None])[:, 0]
    clean = b.cls[fg].gather(1, a.cls[fg, None])[:, 0]
    kept = clean > 0
    assert all(kept[a.matched[fg] == t].sum() == 2 for t in range(4))
    torch.testing.assert_close(clean[kept], (0.75 * near + 0.25 * prob)[kept])
    weight = 0.75 / (1 - near.clamp(max=0.99)) + 0.25 / (1 - prob.clamp(max=0.99))
    torch.testing.assert_close(b.cls_weight[fg][kept], (weight / weight[kept].mean())[kept])
    assert b.box_weight[fg][kept].mean().item() == pytest.approx(1, rel=1e-5)
    assert not b.box_weight[fg][~kept].any()  # the others are background now
    assert not b.cls[~a.fg].any()
    assert b.cls_weight[fg][~kept].tolist() == [1.0] * int((~kept).sum())


def test_iou_targets() -> None:
    p, a = rows()
    b = iou_target("dense", p, a, context_of())
    fg = a.fg.nonzero().squeeze(1)
    torch.testing.assert_close(b.cls[fg].sum(1), overlap(p, a, fg))
    torch.testing.assert_close(b.cls[fg].argmax(1), a.cls[fg])
    assert not b.cls[~a.fg].any()


def test_the_score_of_a_pseudo_label_is_its_rows_weight() -> None:
    p, a = rows()
    targets = [
        Targets(torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([0.9, 0.6])),
        Targets(torch.zeros(2, 4), torch.tensor([2, 0])),  # without scores: true boxes that were mixed in
    ]
    b = score("rpn", p, a, context(labels=Pseudo(targets)))
    wanted = torch.tensor([0.9, 0.6, 1, 1])[a.matched.clamp(min=0)]
    torch.testing.assert_close(b.cls_weight[a.fg], wanted[a.fg])
    torch.testing.assert_close(b.box_weight[a.fg], wanted[a.fg])
    assert torch.equal(b.cls_weight[~a.fg], a.cls_weight[~a.fg])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("softmax", [False, True])
def test_uncertainty_weights(normalise: bool, softmax: bool) -> None:
    g = torch.Generator().manual_seed(1)
    p, a = rows(softmax=softmax)
    guess = Guess(3 * torch.randn(R, generator=g), torch.rand(R, generator=g), torch.zeros(R))
    s = context_of(softmax, guesses={"dense": guess})
    weighting = Uncertainty(normalise=normalise)
    b = weighting("dense", p, a, s)
    counted = a.cls_weight > 0
    best, label = p.probs().max(1)
    correct = torch.where(best > 0.5, label, K) == a.cls
    assert 0 < correct[counted].sum() < counted.sum()
    assert b.cls_weight[counted & ~correct].min() > b.cls_weight[counted & correct].max()
    if normalise:
        assert b.cls_weight[counted].mean().item() == pytest.approx(1, rel=1e-6)
    else:
        assert b.cls_weight.max() <= 1
        assert b.cls_weight[counted & correct].max() < 0.5 <= b.cls_weight[counted & ~correct].min()
    assert b.cls_weight[1] == 0
    assert s.stats["D_correct"] < 0.5 < s.stats["D_wrong"]
    assert s.stats["wrong"].item() == pytest.approx(((~correct & counted).sum() / counted.sum()).item(), rel=1e-5)
    assert b.box_weight is a.box_weight


def test_the_logged_means_are_of_all_steps_and_fade() -> None:
    p, a = rows()
    weighting = Uncertainty()
    sure, unsure = (Guess(torch.full((R,), 9.0), torch.full((R,), s), torch.zeros(R)) for s in (0.0, 20.0))
    first, second = context_of(guesses={"dense": sure}), context_of(guesses={"dense": unsure})
    weighting("dense", p, a, first)
    weighting("dense", p, a, second)
    assert first.stats["U_wrong"].item() == pytest.approx(0.5, abs=1e-3)
    assert first.stats["U_wrong"] < second.stats["U_wrong"]


def test_the_logged_spread_is_that_of_each_kinds_rows() -> None:
    """Each stage has its own; a spread far below the mean is not lost in rounding."""
    p, a = rows()
    g = torch.Generator().manual_seed(2)
    for scale in (1e-2, 3.0):
        guess = Guess(torch.randn(R, generator=g), scale * torch.rand(R, generator=g), torch.zeros(R))
        for stage, prefix in (("dense", ""), ("rpn", "rpn_")):
            weighting, ctx = Uncertainty(), context_of(guesses={stage: guess})
            weighting(stage, p, a, ctx)
            uncertain, _, correct = judge(guess, p, a)
            for kind, chosen in (("wrong", ~correct), ("correct", correct)):
                values = uncertain[chosen & (a.cls_weight > 0)].double()
                assert ctx.stats[f"{prefix}U_{kind}"].item() == pytest.approx(values.mean().item(), rel=1e-5)
                wanted = values.std(correction=0).item()
                assert ctx.stats[f"{prefix}U_std_{kind}"].item() == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("stage", ["dense", "roi"])
def test_learnt_weights_begin_at_one_and_fall_where_losses_are_large(stage: str) -> None:
    torch.manual_seed(0)
    softmax = stage == "roi"
    p, a = rows(softmax=softmax)
    # A weight of lam / L is best. With lam a bit below the loss of an ordinary row, 0.5 and 1.5, weights are apart from
    # their limits, where all are alike; the mean of hard rows is a third of that of the others, whatever the seed.
    net = SampleWeighting(lam=1.0 if softmax else 0.3)
    assert torch.equal(net(stage, p, a, context_of(softmax)).cls_weight, a.cls_weight)
    loss = (cross_entropy if softmax else focal)(p, a)
    weighed = a.fg if stage == "dense" else a.cls_weight > 0
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(150):
        s = context_of(softmax)
        b = net(stage, p, a, s)
        optimizer.zero_grad()
        ((loss * b.cls_weight)[weighed].mean() + s.losses["weighting"]).backward()
        optimizer.step()
    weight = b.cls_weight[weighed]
    hard = loss[weighed] > loss[weighed].median()
    assert weight[hard].mean() < 0.7 * weight[~hard].mean()
    assert ((weight > np.exp(-2.01)) & (weight < np.exp(2.01))).all()
    assert torch.equal(b.cls_weight[~weighed], a.cls_weight[~weighed])
    assert torch.equal(b.box_weight[~a.fg], a.box_weight[~a.fg])
    assert torch.equal(b.fg, a.fg)


def test_learnt_weights_are_made_for_the_rows_that_have_them_and_learn_in_every_step() -> None:
    """Background outnumbers objects a thousandfold; DDP wants a gradient also where there is no object."""
    p, a = rows()
    net = SampleWeighting()
    seen = []
    net.net.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    net("dense", p, a, context_of())
    s = context_of()
    net("dense", p, replace(a, box_weight=torch.zeros(R), matched=torch.full((R,), -1)), s)
    s.losses["weighting"].backward()
    assert seen == [int(a.fg.sum()), 0]
    assert seen[0] < R
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    "weigh",
    [ohem, isr_p, isr_n, carl, cleanliness, iou_target, score, SampleWeighting()],
    ids=lambda w: getattr(w, "__name__", type(w).__name__),
)
def test_no_foreground_and_no_rows(weigh) -> None:
    p, a = rows()
    none = Assignment(torch.full((R,), K), torch.ones(R), a.box, torch.zeros(R), matched=torch.full((R,), -1))
    nothing = torch.zeros(0, dtype=torch.long)
    empty = Assignment(*(getattr(none, n)[nothing] for n in ("cls", "cls_weight", "box", "box_weight")))
    empty.matched = none.matched[nothing]
    for predictions, assignment in ((p, none), (p[nothing], empty)):
        b = weigh("dense", predictions, assignment, context_of())
        assert b.cls_weight.isfinite().all()
        assert b.box_weight.isfinite().all()
        assert not b.fg.any()


# ---- what a teacher says -------------------------------------------------------------------------------------------


class Answers:
    """A teacher that gives prepared answers and remembers where it was asked."""

    def __init__(self, p: Predictions) -> None:
        self.p, self.asked = p, None

    def score(self, boxes: list[torch.Tensor]) -> Predictions:
        self.asked = boxes
        return self.p


def look(matrix: torch.Tensor, side: int = 100) -> View:
    n = len(matrix)
    return View(torch.zeros(n, 3, side, side), torch.full((n, 2), side), matrix, torch.arange(n))


def test_the_teacher_is_asked_about_its_own_view() -> None:
    p, a = rows(softmax=True)
    mirror = torch.tensor([[-1.0, 0, 100], [0, 1, 0], [0, 0, 1]]).repeat(2, 1, 1)
    teacher = Answers(replace(p, logits=torch.zeros(R, K + 1)))
    views = {"strong": look(mirror), "weak": look(torch.eye(3).repeat(2, 1, 1))}
    known = context(teacher=teacher, view=views["strong"], batch=Batch(views["weak"], views))
    background_reliability("roi", p, a, known)
    x1, y1, x2, y2 = p.priors.unbind(1)
    wanted = torch.stack([100 - x2, y1, 100 - x1, y2], 1).clamp(0, 100)
    torch.testing.assert_close(torch.cat(teacher.asked), wanted)


def grid(logits: torch.Tensor, n: int) -> Predictions:
    """Two levels of squares on 64 pixels, strides 8 and 16, two anchors a cell."""
    priors = []
    for stride in (8, 16):
        y, x = torch.meshgrid(torch.arange(0, 64, stride), torch.arange(0, 64, stride), indexing="ij")
        center = torch.stack([x, y], -1).flatten(0, 1).float() + stride / 2
        priors += [torch.cat([c - h, c + h]) for c in center for h in (stride, 2 * stride)]
    priors = torch.stack(priors).repeat(n, 1)
    image = torch.arange(n).repeat_interleave(len(priors) // n)
    sizes = torch.full((n, 2), 64)
    return Predictions(
        logits,
        torch.zeros(len(priors), 1, 4),
        priors,
        image,
        sizes,
        DeltaCoder(),
        levels=(128, 32),
        strides=(8, 16),
        grids=((8, 8), (4, 4)),
    )


def test_dense_rows_are_those_at_the_same_place() -> None:
    p = grid(torch.arange(320.0)[:, None], 2)
    eye, mirror = torch.eye(3).repeat(2, 1, 1), torch.tensor([[-1.0, 0, 64], [0, 1, 0], [0, 0, 1]]).repeat(2, 1, 1)
    same = dense_rows(p, p, look(eye, 64), look(eye, 64))
    assert torch.equal(same.logits, p.logits)
    flipped = dense_rows(p, p, look(eye, 64), look(mirror, 64)).logits[:, 0].view(2, -1)
    own = p.logits[:, 0].view(2, -1)
    for start, wide, stop in ((0, 8, 128), (128, 4, 160)):
        cells = own[:, start:stop].view(2, wide, wide, 2)
        assert torch.equal(flipped[:, start:stop].view(2, wide, wide, 2), cells.flip(2))


def test_background_of_a_sigmoid_head_counts_by_the_teacher() -> None:
    p = grid(torch.zeros(160, K), 1)
    teacher = replace(p, logits=torch.randn(160, K, generator=torch.Generator().manual_seed(0)))
    out = type("Out", (), {"stages": {"dense": teacher}})()
    fg = torch.zeros(160)
    fg[3] = 1
    a = Assignment(torch.where(fg > 0, 1, K), torch.ones(160), torch.zeros(160, 4), fg)
    eye = look(torch.eye(3)[None], 64)
    known = context(teacher=out, view=eye, batch=Batch(eye, {"weak": eye, "strong": eye}))
    b = background_reliability("dense", p, a, known)
    wanted = torch.where(fg > 0, 1.0, 1 - teacher.logits.sigmoid().amax(1))
    torch.testing.assert_close(b.cls_weight, wanted / wanted.mean())
    assert F.cosine_similarity(b.cls_weight, wanted, dim=0) > 0.999999
