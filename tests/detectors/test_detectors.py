"""What every detector must do, whatever is in the images."""

from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ssod.detectors import nearest
from ssod.detectors.build import DetectorConfig, build
from ssod.detectors.registry import SECTIONS, describe
from ssod.structures import Assignment, Targets, View
from ssod.structures.boxes import iou
from tests.detectors.reference import ALL, NAMES, config, enliven, images, targets, view
from tests.parts import together
from tests.rows import losses_of
from tests.waits import Waits

K = 5
SMALL = {
    "retinanet": {},
    "fcos": {},
    "dense_detector": {"decode": {"detections": 100}},
    "faster_rcnn": {"roi": {"hidden": 64, "rows": 64}, "rpn": {"before": [200, 100], "after": [200, 100]}},
}
LOSSES = {
    "retinanet": {"cls", "box"},
    "fcos": {"cls", "box", "quality"},
    "dense_detector": {"cls", "box", "quality"},
    "faster_rcnn": {"cls", "box", "rpn_cls", "rpn_box"},
}


def detector(name: str, num_classes: int = K, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    return build(config(name, **SMALL[name], **changes), num_classes)


def lively(name: str, **changes: object) -> nn.Module:
    """A detector whose scores and boxes differ from row to row."""
    model = detector(name, **changes).eval()
    enliven(model, lambda: model.predict(view(images())).detections(0.0))
    return model


def gradients(model: nn.Module, losses: dict[str, Tensor]) -> None:
    """Every trainable parameter must get a finite gradient, every loss be finite."""
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for key, value in model.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, key
            assert value.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ALL)
def test_no_box_in_any_image(name: str) -> None:
    model = detector(name)
    out = model.predict(view(images()))
    losses = losses_of(model, out, [Targets.empty(torch.zeros(1))] * 3)
    assert set(losses) == LOSSES[name]
    gradients(model, losses)
    background = {"quality"} if name == "dense_detector" else {"cls", "rpn_cls"} & LOSSES[name]
    assert all(losses[k] > 0 for k in background)
    assert all(losses[k] == 0 for k in LOSSES[name] - background)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sizes", [((128, 160), (96, 150), (128, 128)), ((97, 61), (33, 130), (70, 70))])
def test_one_class_and_odd_sizes(name: str, sizes: tuple) -> None:
    model = detector(name, num_classes=1)
    wanted = [Targets(torch.tensor([[3.5, 4, 27, 30.25]]), torch.tensor([0])) for _ in sizes]
    gradients(model, losses_of(model, model.predict(view(images(sizes))), wanted))
    model.eval()
    with torch.no_grad():
        found = model.predict(view(images(sizes))).detections(score=0.0)
    for t, (h, w) in zip(found, sizes):
        assert len(t) > 0
        assert (t.labels == 0).all()
        assert (t.boxes >= 0).all()
        assert (t.boxes <= torch.tensor([w, h, w, h])).all()
        assert (t.scores[1:] <= t.scores[:-1]).all()


@pytest.mark.parametrize("name", ALL)
def test_a_canvas_that_no_stride_divides(name: str) -> None:
    model = detector(name).eval()
    with torch.no_grad():
        out = model.predict(view(images(((70, 90),)), divisor=1))
    assert len(out.detections(0.0)[0]) > 0


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_autocast(name: str) -> None:
    model = detector(name)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.predict(view(images()))
        losses = losses_of(model, out, targets())
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        found = out.detections(0.0)
    gradients(model, losses)
    assert all(t.boxes.dtype == t.scores.dtype == torch.float32 for t in found)
    for p in out.stages.values():
        assert p.priors.dtype == torch.float32
        assert p.logits.dtype == torch.bfloat16
    exact = losses_of(model, model.predict(view(images())), targets())
    for key, loss in losses.items():
        assert abs(float(loss.detach() - exact[key].detach())) < 0.05 * float(exact[key].detach()) + 0.02, key


@pytest.mark.parametrize("name", ALL)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    model = lively(name)
    whole = view(images())
    with torch.no_grad():
        together = model.predict(whole).detections()
        for i, found in enumerate(together):
            alone = View(*(getattr(whole, f)[i : i + 1] for f in ("images", "sizes", "matrix", "keys")))
            single = model.predict(alone).detections()[0]
            assert len(single) > 20
            assert torch.equal(single.labels, found.labels)
            torch.testing.assert_close(single.boxes, found.boxes, rtol=0, atol=1e-3)
            torch.testing.assert_close(single.scores, found.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_what_is_in_the_padding_does_not_matter(name: str) -> None:
    model = lively(name)
    a, b = view(images()), view(images())
    for picture, (h, w) in zip(b.images, b.sizes.tolist()):
        picture[:, h:], picture[:, :, w:] = 0.9, 0.1
    with torch.no_grad():
        for x, y in zip(model.predict(a).detections(), model.predict(b).detections()):
            assert torch.equal(x.boxes, y.boxes)


@pytest.mark.parametrize("name", ALL)
def test_bytes_and_floats_are_the_same_picture(name: str) -> None:
    model = lively(name)
    small = view([torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)])
    whole = replace(small, images=small.images.to(torch.uint8))
    with torch.no_grad():
        a = model.predict(whole).detections()[0]
        b = model.predict(replace(whole, images=whole.images.float() / 255)).detections()[0]
    torch.testing.assert_close(a.boxes, b.boxes)


@pytest.mark.parametrize("name", ALL)
def test_channels_last_gives_the_same(name: str) -> None:
    model = lively(name)
    batch = view(images())
    with torch.no_grad():
        a = model.predict(batch).detections()
        model.to(memory_format=torch.channels_last)
        b = model.predict(replace(batch, images=batch.images.to(memory_format=torch.channels_last))).detections()
    for x, y in zip(a, b):
        torch.testing.assert_close(x.scores, y.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_an_ignore_region_teaches_nothing(name: str) -> None:
    model = detector(name)
    box = torch.tensor([[20.0, 20, 90, 90]])
    out = model.predict(view(images(((128, 128),))))
    ignored = [Targets(box, torch.tensor([2]), weight=torch.zeros(1))]
    known = [Targets(box, torch.tensor([2]))]
    for stage, (_, a) in model.assign(out, ignored).items():
        assert not a.fg.any(), stage
        assert (a.cls_weight[a.matched == -2] == 0).all()
        assert (a.matched < 0).all()
    if name != "faster_rcnn":
        there = model.assign(out, known)["dense"][1].matched == 0
        gone = model.assign(out, ignored)["dense"][1].matched == -2
        assert there.any()
        assert (gone[there]).all()
    gradients(model, losses_of(model, out, ignored))


@pytest.mark.parametrize("name", ALL)
def test_weights_scale_both_losses_of_a_box(name: str) -> None:
    model = detector(name)
    out = model.predict(view(images(((128, 128),))))
    box = torch.tensor([[20.0, 20, 90, 90]])
    full = model.assign(out, [Targets(box, torch.tensor([2]))])
    half = model.assign(out, [Targets(box, torch.tensor([2]), weight=torch.tensor([0.5]))])
    for stage, (_, a) in full.items():
        b = half[stage][1]
        assert a.fg.any()
        torch.testing.assert_close(b.box_weight, a.box_weight / 2)
        torch.testing.assert_close(b.cls_weight[a.fg], a.cls_weight[a.fg] / 2)
        torch.testing.assert_close(b.cls_weight[~a.fg], a.cls_weight[~a.fg])


@pytest.mark.parametrize("name", ALL)
def test_soft_labels(name: str) -> None:
    model = detector(name)
    out = model.predict(view(images(((128, 128),))))
    probs = torch.tensor([[0.0, 0.2, 0.5, 0, 0]])
    wanted = [Targets(torch.tensor([[20.0, 20, 90, 90]]), torch.tensor([2]), probs=probs)]
    for stage, (_, a) in model.assign(out, wanted).items():
        expected = probs.sum(1, keepdim=True) if stage == "rpn" else probs
        torch.testing.assert_close(a.cls[a.fg], expected.expand(int(a.fg.sum()), -1))
        assert (a.cls[~a.fg & (a.matched == -1)] == 0).all()
    gradients(model, losses_of(model, out, wanted))


@pytest.mark.parametrize("name", ALL)
def test_reduce_takes_other_rows_and_a_normalizer(name: str) -> None:
    model = detector(name)
    out = model.predict(view(images()))
    assigned = model.assign(out, targets())
    own = model.reduce(assigned)
    rows = {key: (lambda loss: lambda p, a: 2 * loss(p, a))(model.rows[key]) for key in LOSSES[name]}
    twice = model.reduce(assigned, rows)
    for key, loss in own.items():
        torch.testing.assert_close(twice[key], 2 * loss)
    only = model.reduce(assigned, {"cls": rows["cls"]})
    torch.testing.assert_close(only["box"], own["box"])

    all_by = partial(dict.fromkeys, ("cls", "box", "quality"))
    one = {s: (p, replace(a, normalizer=all_by(torch.tensor(1.0)))) for s, (p, a) in assigned.items()}
    each = {s: (p, replace(a, normalizer=all_by(torch.full((len(p),), 4.0)))) for s, (p, a) in assigned.items()}
    for key, loss in model.reduce(one).items():
        torch.testing.assert_close(model.reduce(each)[key], loss / 4)


@pytest.mark.parametrize("name", ALL)
def test_weight_of_a_loss(name: str) -> None:
    one = detector(name)
    two = detector(name, loss={"box": {"name": "giou", "weight": 2}})
    same = detector(name, loss={"box": "giou"})
    out = one.predict(view(images()))
    got, expected = two.reduce(one.assign(out, targets())), same.reduce(one.assign(out, targets()))
    torch.testing.assert_close(got["box"], 2 * expected["box"])
    torch.testing.assert_close(got["cls"], expected["cls"])


@pytest.mark.parametrize("name", ALL)
def test_score_answers_for_any_boxes(name: str) -> None:
    model = lively(name)
    with torch.no_grad():
        out = model.predict(view(images()))
        found = out.detections()
        boxes = [found[0].boxes[:4], found[1].boxes[:0], found[2].boxes[:2]]
        p = out.score(boxes)
        assert p.image.tolist() == [0] * 4 + [2] * 2
        assert p.num_classes == K
        assert p.probs().shape == (6, K)
        nobody = out.score([b[:0] for b in boxes])
        assert len(nobody) == 0
        assert nobody.probs().shape == (0, K)
        assert nobody.boxes().shape == (0, 4)
    if name != "faster_rcnn":  # a dense head answers with the row that decodes to the detection itself
        limit = torch.tensor([160.0, 128, 160, 128])
        best = torch.minimum(p.boxes().clamp(min=0), limit)
        inside = (p.boxes()[:4] >= 0).all(1) & (p.boxes()[:4] <= limit).all(1)
        torch.testing.assert_close(best[:4][inside], boxes[0][inside])
        far = out.score([torch.tensor([[900.0, 900, 910, 910]]), boxes[1], boxes[1]])
        assert len(far) == 1


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_many_boxes_are_looked_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where [rows, boxes, 2] would not fit, the answer is the same."""
    g = torch.Generator().manual_seed(0)
    start = torch.rand(120, 2, generator=g) * 100
    decoded, boxes = torch.cat([start, start + 20 * torch.rand(120, 2, generator=g)], 1).split([80, 40])
    overlap, centers = iou(decoded, boxes), [(b[:, :2] + b[:, 2:]) / 2 for b in (decoded, boxes)]
    found = overlap.amax(0) > 0
    expected = torch.where(found, overlap.argmax(0), torch.cdist(*centers).argmin(0))
    assert 0 < found.sum() < len(boxes)
    assert torch.equal(nearest.nearest_row(decoded, boxes), expected)
    monkeypatch.setattr(nearest, "CPU_PART", 600)
    with Largest() as made:
        assert torch.equal(nearest.nearest_row(decoded, boxes), expected)
    assert made.elements <= 2 * 600
    assert len(nearest.nearest_row(decoded, boxes[:0])) == 0


def test_score_of_faster_rcnn_keeps_gradients() -> None:
    model = detector("faster_rcnn")
    out = model.predict(view(images()))
    p = out.score([torch.tensor([[4.0, 4, 60, 60]])] * 3)
    p.logits.sum().backward()
    assert model.backbone.body.stem[0].weight.grad.abs().sum() > 0
    assert model.roi_heads["box_head"].fc6.weight.grad.abs().sum() > 0


def test_proposals_follow_the_mode() -> None:
    changed = {**SMALL["faster_rcnn"], "rpn": {"before": [300, 50], "after": [120, 30]}}
    model = build(config("faster_rcnn", **changed), K)
    batch = view(images())
    with torch.no_grad():
        assert [len(b) for b in model.predict(batch).proposals] == [120] * 3
        model.eval()
        assert [len(b) for b in model.predict(batch).proposals] == [30] * 3


def test_sampling_depends_on_the_images_key_alone() -> None:
    model = detector("faster_rcnn")
    batch = view(images())
    out = model.predict(batch)
    a, b = model.assign(out, targets()), model.assign(out, targets())
    other = model.predict(replace(batch, keys=batch.keys + 1))
    c = model.assign(other, targets())
    for stage in ("rpn", "roi"):
        assert torch.equal(a[stage][1].cls_weight, b[stage][1].cls_weight)
    assert torch.equal(a["roi"][0].priors, b["roi"][0].priors)
    assert not torch.equal(a["roi"][0].priors, c["roi"][0].priors)
    assert not torch.equal(a["rpn"][1].cls_weight, c["rpn"][1].cls_weight)
    assert (a["rpn"][1].cls_weight.view(3, -1).sum(1) == 256).all()


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_options_of_the_dense_heads(name: str) -> None:
    for norm in ("none", "group"):
        model = detector(name, head_norm=norm, level_scale=True)
        has = any(isinstance(m, nn.GroupNorm) for m in model.head.modules())
        assert has == (norm == "group")
        gradients(model, losses_of(model, model.predict(view(images())), targets()))
        assert model.level_scale.grad.abs().sum() > 0
    other = {"retinanet": "center", "fcos": "iou"}[name]
    model = detector(name, assigner=other)
    gradients(model, losses_of(model, model.predict(view(images())), targets()))


@pytest.mark.parametrize("name", NAMES)
def test_anchors_and_levels(name: str) -> None:
    changes = {} if name == "fcos" else {"anchors": {"scale": 2, "octaves": 2, "ratios": [1.0, 2.0]}}
    model = detector(name, levels=[3, 5], **changes)
    out = model.predict(view(images(((64, 96),))))
    p = next(iter(out.stages.values()))
    assert p.strides == (8, 16, 32)
    per_cell = 1 if name == "fcos" else 4
    assert p.levels == tuple(per_cell * (64 // s) * (96 // s) for s in p.strides)
    if name != "fcos":
        side = (p.priors[:, 2] - p.priors[:, 0])[: p.levels[0]]
        assert set(side.tolist()) == {16.0, 22.0, 12.0}
    gradients(model, losses_of(model, out, targets()[:1]))


@pytest.mark.parametrize("name", ALL)
def test_rows_are_image_major_and_level_major(name: str) -> None:
    model = lively(name)
    with torch.no_grad():
        p = next(iter(model.predict(view(images())).stages.values()))
    n = sum(p.levels)
    assert len(p) == 3 * n
    assert p.image.tolist() == [0] * n + [1] * n + [2] * n
    assert torch.equal(p.priors[:n], p.priors[n : 2 * n])
    if name == "fcos":
        side = p.priors[:n, 2] - p.priors[:n, 0]
        assert torch.equal(side, torch.cat([torch.full((c,), float(s)) for c, s in zip(p.levels, p.strides)]))


@pytest.mark.parametrize("name", ALL)
def test_state_dict_restores_the_detector(name: str) -> None:
    a, b = lively(name), detector(name)
    b.load_state_dict(a.state_dict())
    b.eval()
    with torch.no_grad():
        x, y = (m.predict(view(images())).detections() for m in (a, b))
    assert all(torch.equal(i.boxes, j.boxes) for i, j in zip(x, y))
    assert not any("cell" in key or "mean" in key for key in a.state_dict() if "running" not in key)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("empty", [False, True])
def test_ranks_together_are_one_process(name: str, empty: bool) -> None:
    """The mean over two ranks of their losses is the loss of the whole batch, though one rank has no box, or both."""
    model = detector(name).eval()
    whole = view([*images(), *images(seed=1)[:1]])
    boxes = [Targets.empty(torch.zeros(1))] * 4 if empty else [*targets(), Targets.empty(torch.zeros(1))]
    order = [0, 2, 1, 3]  # the first rank has every box

    def share(rows: list[int]) -> dict[str, Tensor]:
        part = View(*(getattr(whole, f)[rows] for f in ("images", "sizes", "matrix", "keys")))
        return losses_of(model, model.predict(part), [boxes[i] for i in rows])

    expected = share(order)
    losses, means = together([partial(share, order[:2]), partial(share, order[2:])])
    total = {key: (losses[0][key] + losses[1][key]) / 2 for key in losses[0]}
    assert bool(means) == (name != "retinanet")  # which divides by the positives of each image alone
    for key, loss in expected.items():
        torch.testing.assert_close(total[key], loss, rtol=1e-4, atol=1e-6)


def test_normalizers_by_hand() -> None:
    """Three images with 2, 0 and 1 positives: torchvision's mean of means, and the batch's count."""
    image, batch = detector("retinanet"), detector("retinanet", normalizer="batch")
    out = image.predict(view(images()))
    p = out.stages["dense"]
    n = len(p) // 3
    cls = torch.full((len(p),), K)
    cls[[0, 5, 2 * n]] = 1
    box = p.priors + 1
    a = Assignment(cls, torch.ones(len(p)), box, (cls < K).float())
    ones = {"cls": lambda p, a: (a.cls < K).float(), "box": lambda p, a: a.box_weight[a.fg]}
    assert {k: float(v) for k, v in image.reduce({"dense": (p, a)}, ones).items()} == pytest.approx(
        {"cls": 2 / 3, "box": 2 / 3}
    )
    assert {k: float(v) for k, v in batch.reduce({"dense": (p, a)}, ones).items()} == {"cls": 1, "box": 1}


@pytest.mark.parametrize("name", ALL)
def test_losses_wait_for_the_device_as_often_whatever_the_batch(name: str) -> None:
    """Two-stage: foreground of both stages, proposals, and one look per pyramid level that boxes are pooled from."""
    model = detector(name)
    whole, boxes = view(images()), targets()
    for n in (1, 3):
        part = View(*(getattr(whole, f)[:n] for f in ("images", "sizes", "matrix", "keys")))
        with Waits() as waits:
            losses_of(model, model.predict(part), boxes[:n])
        assert waits.masks == (7 if name == "faster_rcnn" else 1)


@pytest.mark.parametrize("head_norm", ["group", "none"])
def test_every_box_of_a_new_fcos_has_an_area_and_a_slope(head_norm: str) -> None:
    """Distances end in a ReLU. Where one starts at 0 or below, nothing moves it."""
    model = detector("fcos", head_norm=head_norm)
    p = model.predict(view(images())).stages["dense"]
    torch.testing.assert_close(p.deltas, torch.ones_like(p.deltas), rtol=0, atol=0.5)
    bias = model.head.regression_head.bbox_reg.bias
    assert torch.autograd.grad(p.deltas.sum(), bias)[0].tolist() == [len(p)] * 4


def test_describe_names_all() -> None:
    assert [name for name, _ in describe()] == [*ALL, *(f"d2_{name}" for name in NAMES)]
    sections = {kind.model_fields["name"].default: kind for kind in get_args(get_args(DetectorConfig)[0])}
    assert {name: (kind.__module__, kind.__name__) for name, kind in sections.items()} == SECTIONS
    assert {name: (kind.__doc__ or "").splitlines()[0] for name, kind in sections.items()} == dict(describe())
