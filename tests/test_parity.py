"""Our losses and detections are torchvision's, on the same weights and images."""

import pytest
import torch

from ssod.assign.sample import balanced, mask
from ssod.structures import Targets
from ssod.utils.seeding import uniform
from tests.detectors.reference import NAMES, detect, images, pair, targets, view
from tests.rows import losses_of

K = 5
THEIRS = {
    "retinanet": {"classification": "cls", "bbox_regression": "box"},
    "fcos": {"classification": "cls", "bbox_regression": "box", "bbox_ctrness": "quality"},
    "faster_rcnn": {
        "loss_classifier": "cls",
        "loss_box_reg": "box",
        "loss_objectness": "rpn_cls",
        "loss_rpn_box_reg": "rpn_box",
    },
}


def columns(name: str) -> int:
    return K + 1 if name == "faster_rcnn" else K


def same_rows(theirs, ours, out, wanted: list[Targets]) -> None:
    """Make torchvision's two samplers choose the rows that ours chose."""
    p = out.stages["rpn"]
    rpn = ours.assign_rpn(p, out.keys, wanted)
    chosen = (rpn.cls_weight > 0).view(len(wanted), -1)
    theirs.rpn.fg_bg_sampler = lambda labels: (
        [c & (label >= 1) for c, label in zip(chosen, labels)],
        [c & (label == 0) for c, label in zip(chosen, labels)],
    )
    _, matches = ours.candidates(out, wanted)
    keys = out.keys[:, None], torch.arange(matches.shape[1])
    picked = mask(*balanced(matches >= 0, matches == -1, uniform(*keys), 512, 0.25), matches.shape[1])
    padded = out.found.scores.shape[1]  # ours pads the proposals before the labelled boxes, theirs does not
    rows = zip(picked, out.proposals, wanted)
    picked = [torch.cat([x[: len(b)], x[padded : padded + len(t)]]) for x, b, t in rows]
    theirs.roi_heads.fg_bg_sampler = lambda labels: (
        [c & (label >= 1) for c, label in zip(picked, labels)],
        [c & (label == 0) for c, label in zip(picked, labels)],
    )


@pytest.mark.parametrize("name", NAMES)
def test_losses(name: str, tmp_path) -> None:
    theirs, ours = pair(name, tmp_path, columns(name), K)
    theirs.train()
    ours.train()
    pictures, wanted = images(), targets()
    out = ours.predict(view(pictures))
    if name == "faster_rcnn":
        same_rows(theirs, ours, out, wanted)
    got = losses_of(ours, out, wanted)
    shift = 1 if name == "faster_rcnn" else 0
    expected = theirs(pictures, [{"boxes": t.boxes, "labels": t.labels + shift} for t in wanted])
    assert set(got) == set(THEIRS[name].values())
    worst = max(abs(float(expected[a].detach() - got[b].detach())) for a, b in THEIRS[name].items())
    print(f"\nparity of {name} losses: {worst:.1e}")
    assert worst < 1e-5
    assert all(float(v) > 1e-3 for v in got.values())

    sum(got.values()).backward()
    sum(expected.values()).backward()
    reference = dict(theirs.named_parameters())
    for key, value in ours.named_parameters():
        torch.testing.assert_close(value.grad, reference[key].grad, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_detections(name: str, tmp_path) -> None:
    theirs, ours = pair(name, tmp_path, columns(name), K, lively=True)
    ours.eval()
    pictures = images()
    expected = detect(theirs, pictures)
    with torch.no_grad():
        got = ours.predict(view(pictures)).detections()
    shift = 1 if name == "faster_rcnn" else 0
    worst = 0.0
    for a, b in zip(expected, got):
        assert len(a["boxes"]) == len(b) > 20
        assert len(set(b.labels.tolist())) > 1
        torch.testing.assert_close(a["scores"], b.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(a["boxes"], b.boxes, rtol=0, atol=1e-4)
        assert torch.equal(a["labels"] - shift, b.labels)
        worst = max(worst, float((a["boxes"] - b.boxes).abs().max()))
    print(f"\nparity of {name} boxes: {worst:.1e}")
