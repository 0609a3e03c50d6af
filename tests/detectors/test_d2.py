"""Our losses and detections on detectron2's detectors are detectron2's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from ssod.assign.sample import balanced, mask
from ssod.detectors.build import build
from ssod.structures import Targets
from ssod.utils.errors import Exit, SsodError
from ssod.utils.seeding import uniform
from tests.detectors.d2 import NAMES, K, detect, images, inputs, pair, section, view
from tests.detectors.reference import targets
from tests.losses.rows import logits_of
from tests.rows import losses_of

THEIRS = {
    "d2_retinanet": {"loss_cls": "cls", "loss_box_reg": "box"},
    "d2_fcos": {"loss_fcos_cls": "cls", "loss_fcos_loc": "box", "loss_fcos_ctr": "quality"},
    "d2_faster_rcnn": {"loss_cls": "cls", "loss_box_reg": "box", "loss_rpn_cls": "rpn_cls", "loss_rpn_loc": "rpn_box"},
}


def same_rows(theirs: nn.Module, ours: nn.Module, out, wanted: list[Targets]) -> None:
    """Make detectron2's two samplers choose the rows that ours chose, image by image."""
    rpn = ours.assign_rpn(out.stages["rpn"], out.keys, wanted)
    chosen = iter((rpn.cls_weight > 0).view(len(wanted), -1))

    def anchors(label: torch.Tensor) -> torch.Tensor:
        return label.masked_fill_(~next(chosen), -1)

    theirs.proposal_generator._subsample_labels = anchors
    _, matches = ours.candidates(out, wanted)
    keys = out.keys[:, None], torch.arange(matches.shape[1])
    cfg = ours.roi_cfg
    picked = mask(*balanced(matches >= 0, matches == -1, uniform(*keys), cfg.rows, cfg.fraction), matches.shape[1])
    padded = out.found.scores.shape[1]  # ours pads the proposals before the labelled boxes, theirs does not
    rows = zip(picked, out.proposals, wanted)
    picked = iter([torch.cat([x[: len(b)], x[padded : padded + len(t)]]) for x, b, t in rows])

    def proposals(index, labels, classes):
        found = classes[index] if len(classes) else torch.zeros_like(index) + K
        found[labels == 0] = K
        kept = next(picked).nonzero().squeeze(1)
        return kept, found[kept]

    theirs.roi_heads._sample_proposals = proposals


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_makes_the_class_logits(name: str) -> None:
    ours = pair(name, lively=True)[1].train()
    out = ours.predict(view(images()))
    assigned = ours.assign(out, targets())
    assert assigned.keys() == ours.cls_layers.keys()
    for stage, (p, _) in assigned.items():
        torch.testing.assert_close(p.logits, logits_of(ours.cls_layers[stage], p))


@pytest.mark.parametrize("name", NAMES)
def test_losses(name: str) -> None:
    from detectron2.utils.events import EventStorage

    theirs, ours = pair(name, lively=True)  # an untrained head's scores are nearly equal: their order is rounding's
    theirs.train()
    ours.train()
    wanted = targets()
    for step in range(2):  # the normalizer of the one-stage detectors moves
        pictures = images(seed=step)
        for model in (theirs, ours):
            model.zero_grad()
        out = ours.predict(view(pictures))
        if name == "d2_faster_rcnn":
            same_rows(theirs, ours, out, wanted)
        got = losses_of(ours, out, wanted)
        with EventStorage(0):
            expected = theirs(inputs(pictures, wanted))
        assert set(expected) == set(THEIRS[name])
        assert set(got) == set(THEIRS[name].values())
        worst = max(abs(float(expected[a].detach() - got[b].detach())) for a, b in THEIRS[name].items())
        print(f"\nparity of {name} losses: {worst:.1e}")
        assert worst < 1e-5
        assert all(v.detach() > 1e-3 for v in got.values())
        sum(got.values()).backward()
        sum(expected.values()).backward()
        reference = dict(theirs.named_parameters())
        for key, value in ours.named_parameters():
            wanted_grad = reference[key].grad
            assert (value.grad - wanted_grad).norm() <= 1e-3 * wanted_grad.norm() + 1e-5, key
    assert ours.backbone.bottom_up.stem.conv1.weight.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_detections(name: str) -> None:
    theirs, ours = pair(name, lively=True)
    ours.eval()
    expected = detect(theirs, images())
    with torch.no_grad():
        got = ours.predict(view(images())).detections()
    worst = 0.0
    for a, b in zip(expected, got):
        assert len(a) == len(b) > 10
        assert len(set(b.labels.tolist())) > 1
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=1e-4)
        assert torch.equal(a.labels, b.labels)
        worst = max(worst, float((a.boxes - b.boxes).abs().max()))
    print(f"\nparity of {name} boxes: {worst:.1e}")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_of_bytes_is_that_image(name: str) -> None:
    _, ours = pair(name)
    batch = view([torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0)) / 255.0])
    bytes_ = copy.copy(batch)
    bytes_.images = (batch.images * 255).round().to(torch.uint8)
    stage = "rpn" if name == "d2_faster_rcnn" else "dense"
    with torch.no_grad():
        a, b = (ours.eval().predict(v).stages[stage].logits for v in (batch, bytes_))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_boxes_at_all(name: str) -> None:
    _, ours = pair(name)
    batch = view(images())
    empty = [Targets.empty(torch.zeros(1)) for _ in range(3)]
    losses = losses_of(ours.train(), ours.predict(batch), empty)
    assert all(v.isfinite() for v in losses.values())
    sum(losses.values()).backward()


def test_regions_keep_their_place_under_autocast() -> None:
    """A ramp of features tells where it was read: in bfloat16 the regions themselves must not be rounded."""
    _, ours = pair("d2_faster_rcnn")
    ramp = torch.arange(-128.0, 128).expand(1, 1, 8, -1)  # 0 at 512 pixels; bfloat16 knows small numbers well
    features = [ramp[..., :: 2**i] for i in range(4)]
    boxes, image = torch.tensor([[513.9, 4, 537.9, 28]]), torch.zeros(1, dtype=torch.long)  # as bfloat16, 512 and 536
    exact = ours.pool(features, boxes, image)
    with torch.autocast("cpu", torch.bfloat16):
        got = ours.pool([x.bfloat16() for x in features], boxes, image)
    torch.testing.assert_close(got.float(), exact, rtol=1 / 128, atol=1e-3)  # two pixels would be 0.5 of a cell


def test_the_running_normalizer_is_kept_with_the_weights() -> None:
    _, ours = pair("d2_retinanet")
    losses_of(ours.train(), ours.predict(view(images())), targets())
    value = ours.state_dict()["normalizer.value"]
    assert 80 < float(value) < 120
    assert float(value) != 100
    losses_of(ours.eval(), ours.predict(view(images())), targets())
    assert torch.equal(ours.state_dict()["normalizer.value"], value)


@pytest.mark.parametrize("some", [True, False])
def test_pseudo_labels_are_divided_by_the_running_normalizer_and_leave_it_alone(some: bool) -> None:
    """A teacher that finds nothing would halve it, and so double what labelled images weigh."""
    _, ours = pair("d2_retinanet")
    wanted = targets() if some else [Targets.empty(torch.zeros(1)) for _ in range(3)]
    pseudo = [Targets(t.boxes, t.labels, torch.ones(len(t))) for t in wanted]
    out = ours.train().predict(view(images()))
    before = ours.normalizer.value.clone()
    got = losses_of(ours, out, pseudo)
    assert torch.equal(ours.normalizer.value, before)
    ours.eval()  # takes nothing in
    expected = losses_of(ours, out, wanted)
    assert all(torch.equal(got[name], expected[name]) for name in got)
    assert float(got["cls"].detach()) > 0


def test_frozen_layers_without_weights_are_refused() -> None:
    with pytest.raises(SsodError, match="stay random"):
        build(section("d2_retinanet", opts={"MODEL.BACKBONE.FREEZE_AT": 2}), K)


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("d2_faster_rcnn", {"config": "COCO-Detection/retinanet_R_50_FPN_1x.yaml"}, "is of a RetinaNet"),
        ("d2_retinanet", {"config": "COCO-Detection/none.yaml"}, "no config"),
        ("d2_retinanet", {"opts": {"MODEL.NONE": 1}}, "detectron2 refuses it"),
        ("d2_fcos", {"opts": {"model.head.none": 1}}, "no such key"),
        ("d2_faster_rcnn", {"opts": {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"}}, "CascadeROIHeads|CLS_AGNOSTIC"),
        ("d2_retinanet", {"opts": {"MODEL.RETINANET.BBOX_REG_WEIGHTS": [1.0, 2.0, 1.0, 1.0]}}, "x and y differ"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, changes: dict, problem: str) -> None:
    with pytest.raises(SsodError, match=problem) as error:
        build(section(name, **changes), K)
    assert error.value.code == Exit.USAGE
