"""PseCo: the released code's numbers through our functions, and what the second look shares with the first."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ssod import config
from ssod.assign.center import in_padded_image
from ssod.assign.guided import Guide, guided_matches
from ssod.assign.matches import from_matches
from ssod.detectors.build import DetectorConfig
from ssod.detectors.half_size import HalfSizePyramid
from ssod.detectors.weights import fit
from ssod.losses.box import l1
from ssod.losses.sigmoid import focal
from ssod.losses.softmax import cross_entropy
from ssod.losses.weighting.votes import by_votes, votes
from ssod.methods.pseco import Config, guides_of
from ssod.structures import Assignment, Batch, Predictions, Targets, View
from ssod.structures.boxes import DeltaCoder
from ssod.utils.errors import SsodError
from tests.losses.rows import Plain
from tests.paths import golden_path
from tests.rows import context
from tests.small import small_config
from tests.test_methods import DETECTORS, K, batch, bits, detector, method, no_targets, optimizer_of, step, view
from tests.waits import Waits

CODER = DeltaCoder(shift=10, size=5)


def cases(kind: str) -> list[dict]:
    found = json.loads(str(np.load(golden_path("pseco.npz"), allow_pickle=False)["cases_json"]))
    return [case for case in found if case["kind"] == kind]


def named(kind: str) -> list:
    """The cases of a kind by name; where the file is absent, one that is skipped."""
    try:
        return [pytest.param(case, id=case["name"]) for case in cases(kind)]
    except pytest.skip.Exception as absent:
        return [pytest.param({}, marks=pytest.mark.skip(reason=str(absent)))]


def array(case: dict, name: str) -> Tensor:
    found = torch.from_numpy(np.load(golden_path("pseco.npz"), allow_pickle=False)[f"{case['id']}.{name}"])
    return found.float() if found.is_floating_point() else found


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach(), wanted, rtol=rtol, atol=atol)


# ---- the released code's numbers -----------------------------------------------------------------------------------


def look(case: dict, who: str) -> View:
    n = case["images"]
    return replace(
        view(0, n=1),
        sizes=torch.stack([array(case, f"i{i}.{who}_hw") for i in range(n)]),
        matrix=torch.stack([array(case, f"i{i}.{who}_matrix") for i in range(n)]),
    )


def said(case: dict, logits: Tensor, deltas: Tensor, boxes: list[Tensor], sizes: Tensor) -> Predictions:
    image = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(b) for b in boxes]))
    softmax = case["class_loss"] == "softmax_ce"
    return Predictions(logits, deltas.unflatten(1, (-1, 4)), torch.cat(boxes), image, sizes, CODER, softmax=softmax)


def teacher(case: dict) -> SimpleNamespace:
    """Answers for its own proposals with the logits and deltas of the file."""
    images = range(case["images"])
    logits, deltas = (torch.cat([array(case, f"i{i}.teacher_{x}") for i in images]) for x in ("logits", "deltas"))
    proposals = [array(case, f"i{i}.proposals_teacher") for i in images]
    sizes = look(case, "teacher").sizes
    return SimpleNamespace(proposals=proposals, score=lambda boxes: said(case, logits, deltas, boxes, sizes))


def labels_of(case: dict) -> list[Targets]:
    images = range(case["images"])
    return [Targets(array(case, f"i{i}.kept_boxes"), array(case, f"i{i}.kept_labels")) for i in images]


def matched(case: dict) -> tuple[list[Guide], list[Tensor]]:
    weak, strong = look(case, "teacher"), look(case, "student")
    ctx = context(teacher=teacher(case), view=strong, batch=Batch(weak, {"weak": weak, "strong": strong}))
    guides = guides_of(ctx)
    return guides, [guided_matches(g, t, case["bag_iou"], case["topk"]) for g, t in zip(guides, labels_of(case))]


@pytest.mark.parametrize("case", named("roi"))
def test_the_teacher_s_boxes_say_who_learns_what(case: dict) -> None:
    """Two images, no label, an empty bag, two labels at one place, proposals that have left the view, one class."""
    guides, matches = matched(case)
    for i, (guide, match) in enumerate(zip(guides, matches)):
        close(guide.priors, array(case, f"i{i}.proposals_student"), atol=2e-3)  # inverses of float32 matrices
        close(guide.boxes, array(case, f"i{i}.teacher_boxes_student"), atol=2e-3)
        assert torch.equal(match, array(case, f"i{i}.assigned"))


@pytest.mark.parametrize("case", named("roi"))
def test_losses_of_both_looks(case: dict) -> None:
    """The votes of the first look weigh the boxes of both, and the sampled rows divide all of them."""
    guides, matches = matched(case)
    student = detector("faster_rcnn", classes=case["num_classes"])
    softmax = case["class_loss"] == "softmax_ce"
    student.rows |= {"cls": cross_entropy if softmax else focal, "box": l1}
    factor = 1 if softmax else 10
    # The file has the positives of an image before its negatives.
    orders = [torch.cat([array(case, f"i{i}.{x}_index") for x in ("positive", "negative")]) for i in range(len(guides))]
    a = from_matches([m[order] for m, order in zip(matches, orders)], labels_of(case), case["num_classes"])
    assert torch.equal(a.cls, array(case, "labels"))
    boxes, sizes = [g.priors[order] for g, order in zip(guides, orders)], look(case, "student").sizes
    objects = sum(map(len, labels_of(case)))
    for suffix in ("", "_v2") if case["two_views"] else ("",):
        logits, deltas = (array(case, f"student_{x}{suffix}").requires_grad_() for x in ("logits", "deltas"))
        p = said(case, logits, deltas, boxes, sizes)
        if not suffix:
            close(votes(p, a, objects), array(case, "box_weight_sigma"), rtol=1e-3)
            a = by_votes(p, a, objects, squared=True)
        losses = student.reduce({"roi": (p, a), "rpn": empty_rpn()})
        close(losses["cls"] * factor, array(case, f"loss_cls{suffix}"))
        close(losses["box"], array(case, f"loss_box{suffix}"), rtol=1e-3)
        (losses["cls"] * factor + losses["box"]).backward()
        close(logits.grad, array(case, f"grad_student_logits{suffix}"), rtol=1e-3)
        close(deltas.grad, array(case, f"grad_student_deltas{suffix}"), rtol=1e-3)


def empty_rpn() -> tuple[Predictions, Assignment]:
    none = torch.zeros(0)
    p = Predictions(torch.zeros(0, 1), torch.zeros(0, 1, 4), torch.zeros(0, 4), none.long(), torch.zeros(1, 2), Plain())
    return p, Assignment(none.long(), none, torch.zeros(0, 4), none)


@pytest.mark.parametrize("case", named("select"))
def test_selection_golden(case: dict) -> None:
    """The limit is strict; a box without a side teaches nothing."""
    found = Targets(array(case, "boxes"), array(case, "labels"), array(case, "scores"))
    m = method("pseco", detector("faster_rcnn"), score=case["score_threshold"])
    here = replace(view(0, n=1), sizes=torch.tensor([[1000, 1000]]))
    labels = m.label(SimpleNamespace(detections=lambda: [found]), Batch(here, {"weak": here})).move(here, here)
    assert torch.equal(labels.cls[0].boxes, found.boxes[array(case, "kept_mask")])


@pytest.mark.parametrize("case", named("unsup_ramp"))
def test_ramp_golden(case: dict) -> None:
    """The weight rises as released, one step earlier: the first one counts, too."""
    m = method("pseco", detector("fcos"), burn_in=case["start"], ramp=case["ramp"])
    for iteration, factor in zip(array(case, "iteration").tolist(), array(case, "factor").tolist()):
        if iteration > case["start"]:  # before, unlabelled images are not even loaded
            assert m.unsup_weight(iteration - 1, None) == pytest.approx(2 * factor)


@pytest.mark.parametrize("case", named("levels"))
def test_levels_golden(case: dict) -> None:
    """Maps of both looks are as large as each other and as those of the file."""
    image = torch.zeros(1, 3, *array(case, "image_hw").tolist())
    pyramid = half("faster_rcnn", levels=[3, 7]).backbone.eval()
    assert isinstance(pyramid, HalfSizePyramid)
    with torch.no_grad():
        both = pyramid(image), pyramid.half_size(image)
    for maps, wanted in zip(both, ("view1_hw", "view2_hw")):
        assert [list(x.shape[-2:]) for x in maps.values()] == array(case, wanted).tolist()


@pytest.mark.parametrize("case", named("half_image"))
def test_half_image_golden(case: dict) -> None:
    """The body sees every second pixel, from the first on."""
    pyramid = half("fcos").backbone
    seen: list[Tensor] = []
    pyramid.body.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    image = array(case, "image")
    with torch.no_grad():
        pyramid.half_size(image)
    assert torch.equal(seen[0], array(case, "half"))


# ---- who learns what -----------------------------------------------------------------------------------------------


def guide(boxes: Tensor, scores: Tensor) -> Guide:
    return Guide(boxes, boxes, scores)


def test_a_label_has_as_many_rows_as_their_overlaps_sum_to() -> None:
    """Of twenty rows that fit a label exactly twelve learn it, the first ones; of one that half fits it, that one."""
    label = Targets(torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]), torch.tensor([0, 1]))
    rows = torch.cat([label.boxes[:1].repeat(20, 1), torch.tensor([[50.0, 50, 60, 55]])])
    match = guided_matches(guide(rows, torch.full((21, 2), 0.5)), label, 0.4, 12)
    assert match.tolist() == [0] * 12 + [-1] * 8 + [1]
    few = guided_matches(guide(rows, torch.full((21, 2), 0.5)), label, 0.4, 3)
    assert few.tolist() == [0] * 3 + [-1] * 17 + [1]


def test_the_score_of_the_label_s_class_chooses() -> None:
    """Two rows at one place, of which the second is surer of another class; one of three thirds learns."""
    label = Targets(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1]))
    rows = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 5], [0, 0, 10, 5]])
    scores = torch.tensor([[0.9, 0.2], [0.1, 0.8], [0.9, 0.7]])
    assert guided_matches(guide(rows, scores), label, 0.4, 12).tolist() == [-1, 0, -1]
    nothing = guided_matches(guide(rows[:0], scores[:0]), label, 0.4, 12)
    assert nothing.tolist() == []


# ---- votes ---------------------------------------------------------------------------------------------------------


def voted(boxes: Tensor, squared: bool) -> Tensor:
    """The weights of five rows: two of one object, one of another, one of background, one ignored."""
    wanted = torch.tensor([[0.0, 0, 10, 10]]).repeat(5, 1)
    size, image = torch.tensor([[20, 20]]), torch.zeros(5, dtype=torch.long)
    p = Predictions(torch.zeros(5, 1), boxes[:, None], wanted, image, size, Plain())
    matched = torch.tensor([0, 0, 1, -1, -2])
    on = (matched >= 0).float()
    a = Assignment(torch.tensor([0, 0, 0, 1, 1]), torch.ones(5), wanted, on, matched=matched)
    return by_votes(p, a, 2, squared).box_weight


def test_votes_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2.5], [0, 0, 10, 10], [0, 0, 10, 10]])
    torch.testing.assert_close(voted(boxes, False), torch.tensor([0.75, 0.75, 0.25, 0, 0]))
    scale = 1.75 / (2 * 0.75**2 + 0.25**2)
    torch.testing.assert_close(voted(boxes, True), scale * torch.tensor([0.75**2, 0.75**2, 0.25**2, 0, 0]))


def test_boxes_that_miss_their_object_have_no_say() -> None:
    """All votes are 0, and so are the weights: 0 / 0 as released."""
    far = torch.tensor([[100.0, 100, 110, 110]]).repeat(5, 1)
    assert not voted(far, True).any()


def test_nothing_waits_for_the_device() -> None:
    label = Targets(torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]), torch.tensor([0, 1]))
    rows = label.boxes.repeat(10, 1)
    with Waits() as waits:
        match = guided_matches(guide(rows, torch.full((20, 2), 0.5)), label, 0.4, 12)
        a = from_matches([match], [label], 2)
        p = Predictions(torch.zeros(20, 2), rows[:, None], rows, torch.zeros_like(match), torch.ones(1, 2), Plain())
        by_votes(p, a, 2, squared=True)
    assert waits.masks == 0


# ---- a step --------------------------------------------------------------------------------------------------------


HALF = {"retinanet": {}, "fcos": {}, "faster_rcnn": {"levels": [3, 6]}}


def half(net: str, classes: int = K, **changes: object) -> torch.nn.Module:
    usual = DETECTORS[net]
    DETECTORS[net] = usual | HALF[net] | {"half_size": True} | changes
    try:
        return detector(net, classes)
    finally:
        DETECTORS[net] = usual


def spied(m: object, data: Batch) -> tuple[dict[str, Tensor], list[dict]]:
    """Losses of a step, and what each of its looks was asked for: labelled images, the first look, the second."""
    asked: list[dict] = []
    reduce = m.student.reduce
    m.student.reduce = lambda assigned, *more: asked.append(dict(assigned)) or reduce(assigned, *more)
    losses = m(data, 50)
    m.student.reduce = reduce
    return losses, asked


@pytest.mark.parametrize("net", DETECTORS)
def test_both_looks_share_rows_targets_and_votes(net: str) -> None:
    m = method("pseco", half(net))
    losses, asked = spied(m, batch())
    assert len(asked) == 3
    for stage, (p, a) in asked[1].items():
        q, b = asked[2][stage]
        assert torch.equal(p.priors, q.priors)
        assert not torch.equal(p.logits, q.logits)
        assert all(torch.equal(getattr(a, x), getattr(b, x)) for x in ("cls", "box", "cls_weight", "box_weight"))
        assert a.fg.any()
    each = [m.student.reduce(of) for of in asked[1:]]
    for name, loss in each[0].items():
        torch.testing.assert_close(losses[f"unsup/{name}"], 2 * (loss + each[1][name]))
    one = method("pseco", half(net), half_size=False)(batch(), 50)
    torch.testing.assert_close(one["unsup/cls"], 2 * each[0]["cls"])


def test_rows_that_are_none_for_the_detector_are_none_for_a_pseudo_label() -> None:
    """Those beyond an image, padded as its assigner says, are not even background."""
    net = half("retinanet", assigner={"name": "iou", "divisor": 1})
    _, asked = spied(method("pseco", net, half_size=False), batch())
    p, a = asked[1]["dense"]
    there = in_padded_image(p, 1).flatten()
    assert not there.all()
    assert torch.equal(a.cls_weight > 0, there)


def test_votes_leave_the_quality_branch_alone() -> None:
    m = method("pseco", half("fcos"), half_size=False)
    _, asked = spied(m, batch())
    _, a = asked[1]["dense"]
    assert (a.box_weight < a.quality_of.box_weight).any()
    assert torch.equal(a.quality_of.fg, a.quality_of.box_weight > 0)


@pytest.mark.parametrize("net", DETECTORS)
def test_the_same_rows_learn_whatever_the_student_sees(net: str) -> None:
    """The teacher alone says which; the student's weights move votes, and no target."""
    found = []
    for noise in (0.0, 0.1):
        m = method("pseco", half(net))
        with torch.no_grad():
            for p in m.student.parameters():
                p += noise * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        _, asked = spied(m, batch())
        found.append(asked[1]["roi" if net == "faster_rcnn" else "dense"])
    (_, a), (_, b) = found
    assert torch.equal(a.cls, b.cls)
    assert torch.equal(a.matched, b.matched)
    assert not torch.equal(a.box_weight, b.box_weight)


@pytest.mark.parametrize("net", DETECTORS)
def test_a_step_trains_the_finest_level_and_moves_the_teacher(net: str) -> None:
    m = method("pseco", half(net))
    before = bits(m)
    losses = step(m, batch(), 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None for p in m.teacher.parameters())
    grads = {name: p.grad for name, p in m.student.named_parameters() if p.requires_grad}
    assert all(g is not None for g in grads.values())
    finest = [g for name, g in grads.items() if name.startswith("backbone.finest.")]
    assert len(finest) == 4
    assert all(g.any() for g in finest)
    assert any(not torch.equal(before[k], v) for k, v in bits(m).items() if k.startswith("teacher."))


@pytest.mark.parametrize("net", DETECTORS)
def test_labelled_images_alone_give_the_finest_level_a_gradient_of_0(net: str) -> None:
    m = method("pseco", half(net), burn_in=100)
    sum(m(batch(), 50).values()).backward()
    finest = m.student.backbone.finest
    assert all(p.grad is not None and not p.grad.any() for p in finest.parameters())


@pytest.mark.parametrize("net", DETECTORS)
def test_with_that_level_a_detector_is_the_one_without_it(net: str) -> None:
    """It takes the other one's weights, and finds the same."""
    plain, finer = half(net, half_size=None), half(net)
    missing, unexpected = finer.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("backbone.finest.") for name in missing)
    assert not unexpected
    cfg = TypeAdapter(DetectorConfig).validate_python({"name": net, "backbone": "tiny"})
    assert set(fit(half(net), plain.state_dict(), cfg, "x").fresh) == set(missing)
    with torch.no_grad():
        a, b = (d.eval().predict(view(3)).detections(0.01) for d in (plain, finer))
    assert all(torch.equal(x.boxes, y.boxes) and torch.equal(x.scores, y.scores) for x, y in zip(a, b))


@pytest.mark.parametrize("levels", [[3, 5], [3, 6], [3, 7]])
def test_at_half_the_size_it_is_the_pyramid_that_begins_one_level_finer(levels: list[int]) -> None:
    finer = half("faster_rcnn", levels=levels).eval().backbone
    usual = half("faster_rcnn", levels=[2, levels[1]], half_size=None).eval().backbone
    state = finer.state_dict()
    for part in ("inner", "layer"):
        for level in (2, 1, 0):
            for x in ("weight", "bias"):
                state[f"fpn.{part}_blocks.{level + 1}.0.{x}"] = state[f"fpn.{part}_blocks.{level}.0.{x}"]
        for x in ("weight", "bias"):
            state[f"fpn.{part}_blocks.0.0.{x}"] = state.pop(f"finest.{part}.0.{x}")
    usual.load_state_dict(state)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted, got = list(usual(image[..., ::2, ::2]).values())[:-1], list(finer.half_size(image).values())
    assert len(got) == len(wanted) == levels[1] - levels[0] + 1
    assert all(torch.equal(a, b) for a, b in zip(got, wanted))


@pytest.mark.parametrize("net", DETECTORS)
def test_no_label_one_class_odd_sizes(net: str) -> None:
    m = method("pseco", half(net, 1), score=1.0)
    data = batch([t[:0] for t in no_targets()])
    for v in (data.labeled, *data.views.values()):
        v.sizes = torch.tensor([[91, 77], [53, 95]])
    losses = step(m, data, 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["unsup/box"] == 0 < losses["unsup/cls"]


def test_a_teacher_without_proposals_leaves_nothing_to_sample() -> None:
    m = method("pseco", half("faster_rcnn"))
    predict = m.teacher.model.predict

    def blind(look: View) -> object:
        out = predict(look)
        out.__dict__["found"] = out.found._replace(scores=out.found.scores * 0)
        return out

    m.teacher.model.predict = blind
    losses = m(batch(), 50)
    assert losses["unsup/cls"] == losses["unsup/box"] == 0
    assert losses["unsup/rpn_cls"] > 0


def test_plain_votes_where_the_paper_has_them() -> None:
    released, paper = (spied(method("pseco", half("fcos"), as_released=x), batch())[1][1] for x in (True, False))
    (_, a), (_, b) = released["dense"], paper["dense"]
    vote = b.box_weight
    torch.testing.assert_close(a.box_weight, vote.square() * vote.sum() / vote.square().sum())


@pytest.mark.parametrize("weighting", ["uncertainty", {"name": "ohem", "ratio": 0.1}, "carl"], ids=str)
@pytest.mark.parametrize("net", ["fcos", "faster_rcnn"])
def test_weightings_of_a_config_look_at_each_look(net: str, weighting: object) -> None:
    plain, m = (method("pseco", half(net), loss={"unsup": {"weighting": w}}) for w in ([], [weighting]))
    _, (_, *before) = spied(plain, batch())
    losses, (_, *after) = spied(m, batch())
    assert all(loss.isfinite() for loss in losses.values())
    assert ("unsup/aux" in losses) == (weighting == "uncertainty")
    stage = "roi" if net == "faster_rcnn" else "dense"
    for one, two in zip(before, after):
        (_, a), (_, b) = one[stage], two[stage]
        assert not (torch.equal(a.cls_weight, b.cls_weight) and torch.equal(a.box_weight, b.box_weight))


# ---- the config ----------------------------------------------------------------------------------------------------


def test_the_released_constants_are_the_defaults() -> None:
    cfg = Config(name="pseco")
    assert (cfg.score, cfg.overlap, cfg.top, cfg.weight) == (0.5, 0.4, 12, 2.0)
    assert cfg.as_released
    assert (cfg.ema.decay, cfg.ema.warm_up, cfg.ema.start) == (0.999, True, 0)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"mix": {"mixup": 0.5, "mosaic": 0}}, "method.mix", "the teacher is asked what it sees at each row's place"),
        ({"top": 0}, "method.top", "greater than or equal to 1"),
    ],
)
def test_what_the_config_refuses(tmp_path, changes: dict, field: str, words: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method={"name": "pseco", "burn_in": 6} | changes))
    assert (error.value.field, error.value.code) == (field, 2)
    assert words in str(error.value)


def test_a_detector_without_that_level_has_one_view_and_is_refused_where_two_are_asked_for() -> None:
    assert (method("pseco", detector("fcos")).half_size, method("pseco", half("fcos")).half_size) == (False, True)
    with pytest.raises(SsodError, match=r"method.half_size: .*; set detector.half_size=true"):
        method("pseco", detector("fcos"), half_size=True)
    with pytest.raises(ValueError, match="needs a level below the first"):
        half("faster_rcnn", levels=[2, 6])
    with pytest.raises(TypeError, match="no level for images of half their size"):
        detector("fcos").predict(replace(view(0), half_size=True))


def test_false_says_what_silence_says() -> None:
    assert not half("fcos", half_size=False).half_size
