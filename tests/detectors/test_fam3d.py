"""FAM-3D: the released code's numbers, and what must hold whatever the numbers."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssod.detectors.build import build
from ssod.detectors.heads.fam3d import Align, blend, sample, upright
from ssod.structures import Targets, View
from ssod.structures.boxes import IdentityCoder, paired_iou
from ssod.utils.errors import SsodError
from tests.detectors.reference import config, images, targets, view
from tests.detectors.test_detectors import gradients
from tests.paths import golden_path
from tests.rows import losses_of

ONE = {"scale": 8, "octaves": 1, "ratios": [1], "spacing": "stride"}
HEAD = {"head_norm": "group", "level_scale": True, "delta_std": [0.1, 0.2], "anchors": ONE, "loss": {"box": "giou"}}
# The head as it was submitted: distances instead of deltas.
DISTANCES = {**HEAD, "delta_std": None, "align": {"name": "3d", "decode": "distances"}}
GOLDEN = np.load(golden_path("consistent_teacher_fam3d.npz"), allow_pickle=False)
CASES = {case["name"]: case for case in json.loads(str(GOLDEN["cases_json"]))}
ALONE = [name for name, case in CASES.items() if case["kind"] == "align_only"]
TYPES = {
    torch.float64: ({"rtol": 1e-6, "atol": 1e-8}, {"rtol": 1e-5, "atol": 1e-8}),
    torch.float32: ({"rtol": 1e-4, "atol": 1e-5}, {"rtol": 1e-3, "atol": 1e-5}),
}


def golden(case: dict, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(GOLDEN[f"{case['id']}.{name}"]).to(dtype)


def aligned(name: object = "3d", **changes: object) -> nn.Module:
    torch.manual_seed(0)
    return build(config("retinanet", **{**HEAD, "align": name, "assigner": "adaptive", **changes}), 5)


@torch.no_grad()
def bend(model: nn.Module, std: float = 0.3) -> nn.Module:
    """Give the offsets a standard deviation of ``std`` cells and levels, and the boxes different sizes."""
    nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.1)
    nn.init.normal_(model.align.mapping.weight, std=0.1)
    towers = model.head(model.predict(view(images())).features)["towers"]
    for number, layer in enumerate((model.align.scale_offset, model.align.space_offset)):
        if layer is not None:
            nn.init.normal_(layer.weight)
            layer.weight /= torch.cat([m.flatten() for m in model.align.offsets(towers)[number]]).std() / std
    return model


# ---- the released code's numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", ALONE)
def test_blending_and_sampling_are_the_released_ones(name: str, dtype: torch.dtype) -> None:
    case, (near, near_gradient) = CASES[name], TYPES[dtype]
    levels = range(case["levels"])
    boxes, scale, space = (
        [golden(case, f"l{i}.{key}", dtype).requires_grad_() for i in levels]
        for key in ("boxes_in", "scale_offset_raw", "space_offset")
    )
    out = [sample(b, o) for b, o in zip(blend(boxes, scale, tuple(case["strides"])), space)]
    for i in levels:
        torch.testing.assert_close(out[i], golden(case, f"l{i}.boxes_out", dtype), **near)
    sum((out[i] * golden(case, f"l{i}.cotangent", dtype)).sum() for i in levels).backward()
    for key, tensors in (("boxes_in", boxes), ("scale_offset", scale), ("space_offset", space)):
        for i in levels:
            torch.testing.assert_close(tensors[i].grad, golden(case, f"l{i}.grad_{key}", dtype), **near_gradient)


def released_head(case: dict) -> nn.Module:
    """Our detector with the towers' length and the weights of the golden head; its pyramid is fed directly."""
    width, hidden = case["channels"], len(golden(case, "weight.mapping.weight"))
    head = DISTANCES if case["box_mode"] == "anchor_free" else HEAD
    align = {"name": "3d", **head.get("align", {}), "hidden": hidden}
    cfg = config("retinanet", **{**head, "channels": width, "align": align})
    model = build(cfg, case["num_classes"])
    count = case["stacked_convs"]
    branches = {"cls": model.head.classification_head, "reg": model.head.regression_head}
    final = {"cls": branches["cls"].cls_logits, "reg": branches["reg"].bbox_reg}
    model.align = Align(2 * count * width, hidden, model.strides)
    pairs = [("mapping", model.align.mapping), ("scale_offset_conv", model.align.scale_offset)]
    pairs += [("space_offset_conv", model.align.space_offset)]
    for name, branch in branches.items():
        branch.conv = branch.conv[:count]
        for i, block in enumerate(branch.conv):
            assert block[0].bias is None
            assert block[1].num_groups == case["gn_groups"]
            pairs += [(f"{name}_tower.{i}.conv", block[0]), (f"{name}_tower.{i}.gn", block[1])]
        pairs += [(f"{name}_pred", final[name])]
    for name, layer in pairs:
        for key, value in layer.named_parameters():
            value.data = golden(case, f"weight.{name}.{key}").reshape(value.shape)
    model.level_scale.data = torch.stack([golden(case, f"weight.scales.{i}.value") for i in range(case["levels"])])
    return model.double()


@pytest.mark.parametrize("name", ["anchor_based", "anchor_free_old_variant"])
def test_the_whole_head_is_the_released_one(name: str) -> None:
    """Float64 weights and features; boxes are decoded in float32, as every detector here does."""
    case = CASES[name]
    model = released_head(case)
    features = [golden(case, f"l{i}.feature") for i in range(case["levels"])]
    n, (h, w) = case["batch"], case["sizes"][0]
    blank = view([torch.zeros(3, 8 * h, 8 * w)] * n, canvas=(8 * h, 8 * w))
    with torch.no_grad():
        p = model.rows_of(features, blank)
        seen = model.head(features)
        scale, space = model.align.offsets(seen["towers"])
    assert isinstance(p.coder, IdentityCoder)
    level = torch.cat([torch.full((c,), float(s)) for c, s in zip(p.levels, p.strides)]).repeat(n)
    probs = p.logits.sigmoid().view(n, -1, case["num_classes"]).split(p.levels, 1)
    boxes = (p.boxes() / level[:, None]).view(n, -1, 4).split(p.levels, 1)
    for i, (rows, grid) in enumerate(zip(probs, boxes)):
        wanted = golden(case, f"l{i}.class_prob"), golden(case, f"l{i}.boxes_out", torch.float32)
        torch.testing.assert_close(rows, wanted[0].flatten(2).transpose(1, 2), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(grid, wanted[1].flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scale[i], golden(case, f"l{i}.scale_offset_raw"), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(space[i], golden(case, f"l{i}.space_offset"), rtol=1e-6, atol=1e-8)


# ---- what must hold ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_a_fresh_head_leaves_boxes_where_they_are(name: str) -> None:
    plain, moved = aligned(None), aligned(name)
    moved.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        a, b = (m.predict(view(images())).stages["dense"] for m in (plain, moved))
        torch.testing.assert_close(a.logits, b.logits)
        torch.testing.assert_close(a.boxes(), b.boxes(), rtol=0, atol=0.5)
        assert not torch.equal(a.boxes(), b.boxes())
        for layer in (moved.align.space_offset, moved.align.scale_offset):
            if layer is not None:
                assert float(layer.weight.std()) == pytest.approx(0.001, rel=0.1)
                assert not layer.bias.any()
                nn.init.zeros_(layer.weight)
        c = moved.predict(view(images())).stages["dense"]
    torch.testing.assert_close(a.boxes(), c.boxes(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_box_everywhere_stays_that_box_for_any_blend(seed: int) -> None:
    """Grid units of neighbouring levels differ by their strides."""
    g, strides = torch.Generator().manual_seed(seed), (8, 16, 32)
    pixels = torch.tensor([13.0, -4, 200, 77])
    boxes = [(pixels / s).view(1, 4, 1, 1).expand(1, 4, 12 * 8 // s, 8 * 8 // s) for s in strides]
    offsets = [torch.randn(b.shape, generator=g) * 2 for b in boxes]
    for b, s in zip(blend(boxes, offsets, strides), strides):
        torch.testing.assert_close(b * s, pixels.view(1, 4, 1, 1).expand_as(b))


def test_sampling_is_grid_sample_inside_and_out() -> None:
    g = torch.Generator().manual_seed(0)
    maps, offset = torch.randn(2, 3, 7, 9, generator=g), 4 * torch.randn(2, 6, 7, 9, generator=g)
    dy, dx = offset.view(6, 2, 7, 9).unbind(1)
    y, x = torch.arange(7.0)[:, None] + dy, torch.arange(9.0) + dx
    grid = torch.stack([2 * x / 8 - 1, 2 * y / 6 - 1], -1)
    wanted = nn.functional.grid_sample(maps.view(6, 1, 7, 9), grid, padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(sample(maps, offset), wanted.view(2, 3, 7, 9), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_an_offset_that_is_no_number_reaches_the_losses_and_not_memory(offset: float) -> None:
    """The guard judges losses and gradients; an index made of NaN would end the process, on a GPU for good."""
    maps = torch.rand(1, 2, 4, 5).requires_grad_()
    offsets = torch.zeros(1, 4, 4, 5)
    offsets[0, 1, 2, 3] = offset
    got = sample(maps, offsets)
    assert got[0, 0, 2, 3].isnan() if not math.isfinite(offset) else got[0, 0, 2, 3] == 0
    got[0, 0, 2, 3] = maps[0, 0, 2, 3]
    assert torch.equal(got, maps)  # nobody else is touched


def test_an_inverted_box_is_kept_as_released_or_taken_from_its_own_cell() -> None:
    new = torch.tensor([[5.0, 0, 2, 4], [1, 1, 3, 3], [0, 9, 4, 8]]).t()[None, :, None]
    old = torch.full_like(new, 7.0)
    assert upright(new, old)[0, :, 0].t().tolist() == [[7.0] * 4, [1, 1, 3, 3], [7.0] * 4]
    batch = view(images())
    with torch.no_grad():
        kept, mended = (
            bend(aligned({"name": "3d", "keep_inverted": keep}), std=3).predict(batch).stages["dense"].boxes()
            for keep in (True, False)
        )
    inverted = (kept[:, :2] > kept[:, 2:]).any(1)
    assert inverted.any()
    assert not torch.equal(kept[inverted], mended[inverted])
    assert torch.equal(kept[~inverted], mended[~inverted])


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_every_part_learns(name: str) -> None:
    model = bend(aligned(name))
    gradients(model, losses_of(model, model.predict(view(images())), targets()))
    layers = [model.align.mapping, model.align.space_offset]
    layers += [model.align.scale_offset] if name == "3d" else []
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers)
    assert (model.align.scale_offset is None) == (name == "2d")


@pytest.mark.parametrize("head", [HEAD, DISTANCES], ids=["deltas", "distances"])
def test_one_image_is_learnt(head: dict) -> None:
    """Boxes and classes of one image, by the head's own assignment: both losses fall.

    A box that overlaps nothing has weight 0 and stays where it is, and steps three times as long end there for some
    seeds. With these, the overlap is 0.88 to 0.98 for each of ten seeds, and the class loss a tenth at most.
    """
    torch.manual_seed(0)
    model = build(config("retinanet", **{"align": "3d", **head, "assigner": "adaptive", "levels": [3, 5]}), 5)
    batch, wanted = view(images(((96, 96),))), [Targets(torch.tensor([[12.0, 8, 44, 56]]), torch.tensor([2]))]
    optimizer, seen = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(75):
        losses = losses_of(model, model.predict(batch), wanted)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        seen.append([float(loss.detach()) for loss in losses.values()])
    out = model.eval().predict(batch)
    best = out.detections(0.0)[0]
    assert int(best.labels[0]) == 2
    assert float(paired_iou(best.boxes[:1], wanted[0].boxes)) > 0.6
    assert all(last < 0.5 * first for first, last in zip(seen[0], seen[-1]))


def test_distances_are_those_of_the_point_in_strides() -> None:
    """exp(0) = 1: a fresh head, with weights of 0, puts the four sides one stride from each point."""
    model = aligned(**{**DISTANCES, "name": DISTANCES["align"], "anchors": {**ONE, "scale": 4}})
    for layer in (model.head.regression_head.bbox_reg, model.align.space_offset, model.align.scale_offset):
        nn.init.zeros_(layer.weight)
    with torch.no_grad():
        p = model.predict(view(images())).stages["dense"]
    stride = torch.cat([torch.full((n,), float(s)) for n, s in zip(p.levels, p.strides)]).repeat(3)[:, None]
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    inner = ((p.priors[:, 2:] - p.priors[:, :2]) == 4 * stride).all()
    assert inner
    torch.testing.assert_close(p.boxes(), torch.cat([center - stride, center + stride], 1), rtol=0, atol=1e-3)


def test_distances_stay_finite_whatever_the_output() -> None:
    model = aligned(**{**DISTANCES, "name": DISTANCES["align"]})
    nn.init.constant_(model.head.regression_head.bbox_reg.bias, 200.0)
    assert model.predict(view(images())).stages["dense"].boxes().isfinite().all()


@pytest.mark.parametrize("box", ["giou", "diou", "ciou", "iou"])
def test_no_assigner_makes_an_inverted_box_pay(box: str) -> None:
    """Overlap of anchors asks rows to learn whatever they predict; torchvision's GIoU would go below 0."""
    model = aligned(assigner={"name": "iou", "high": 0.2, "low": 0.1}, loss={"box": box})
    with torch.no_grad():  # sides from cells so far apart that most boxes are inside out
        model.head.regression_head.bbox_reg.bias[2:] = -5.0
        model.align.space_offset.bias[[1, 2, 5, 6]] = torch.tensor([6.0, 6.0, -6.0, -6.0])
    wanted = Targets(torch.tensor([[40.0, 40, 60, 60]]), torch.tensor([1]))
    ((p, a),) = model.assign(model.predict(view(images())), [wanted] * 3).values()
    boxes = p.boxes()[a.fg]
    assert ((boxes[:, :2] > 60) & (boxes[:, 2:] < 40)).all(1).any()
    rows = model.rows["box"](p, a)
    assert ((rows >= 0) & (rows <= 4)).all()


def test_parameters_of_the_published_size() -> None:
    """Spec: 131 136 + 6 916 + 13 832 for 256 channels and four convolutions a tower."""
    with torch.device("meta"):
        parts = Align(2048, 64, (8, 16, 32, 64, 128))
    assert sum(p.numel() for p in parts.parameters()) == 151_884


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_boxes_in_float32(dtype: torch.dtype) -> None:
    model = bend(aligned())
    with torch.autocast("cpu", dtype):
        out = model.predict(view(images()))
        losses = losses_of(model, out, targets())
    p = out.stages["dense"]
    assert p.logits.dtype == dtype
    assert p.deltas.dtype == p.boxes().dtype == torch.float32
    gradients(model, losses)
    exact = model.predict(view(images())).stages["dense"].boxes().detach()
    assert (p.boxes().detach() - exact).abs().median() < 0.5


def test_one_class_and_maps_of_one_cell() -> None:
    model = bend(build(config("retinanet", **HEAD, align="3d", assigner="adaptive"), 1))
    batch = view(images(((33, 40), (17, 29))))
    wanted = [targets()[2], targets()[1]]
    wanted[0].labels[:] = 0
    gradients(model, losses_of(model, model.predict(batch), wanted))
    model.eval()
    assert all(t.boxes.isfinite().all() for t in model.predict(batch).detections(0.0))


def test_an_image_does_not_depend_on_its_batch() -> None:
    model = bend(aligned()).eval()
    whole = view(images())
    with torch.no_grad():
        together = model.predict(whole).stages["dense"].boxes().view(3, -1, 4)
        alone = model.predict(View(*(getattr(whole, f)[1:2] for f in ("images", "sizes", "matrix", "keys"))))
    torch.testing.assert_close(alone.stages["dense"].boxes(), together[1], rtol=0, atol=1e-3)


# ---- what a config may say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anchors": {"scale": 8, "octaves": 3, "ratios": [1]}}, "detector.align: 3d moves one box per cell"),
        ({"loss": {"box": "l1"}}, "detector.loss.box: .*l1.*decoded-box"),
        ({"levels": [3, 3]}, "detector.align: 3d moves boxes between levels"),
        ({**DISTANCES, "delta_std": [0.1, 0.2]}, "detector.delta_std: .*distances.*delta_std: null"),
        ({**DISTANCES, "anchors": {**ONE, "ratios": [2]}}, "detector.anchors: .*square.*ratios: "),
    ],
)
def test_what_makes_no_sense_is_reported(changes: dict, words: str) -> None:
    with pytest.raises(SsodError, match=words):
        build(config("retinanet", **{**HEAD, "align": "3d", **changes}), 5)


def test_2d_needs_one_level_only() -> None:
    model = aligned("2d", levels=[4, 4])
    gradients(model, losses_of(model, model.predict(view(images())), targets()))


def test_spelling_and_the_default() -> None:
    plain = config("retinanet")
    assert plain == config("retinanet", align="none") == config("retinanet", align=None)
    assert not any(key.startswith("align.") for key in build(plain, 5).state_dict())
    assert config("retinanet", align="3d") == config("retinanet", align={"name": "3d", "hidden": 64})
    written = {"name": "3d", "hidden": 64, "keep_inverted": True}  # as older checkpoints and model cards have it
    assert config("retinanet", align="3d").model_dump(mode="json", exclude_none=True)["align"] == written
    dumped = plain.model_dump(mode="json", exclude_none=True)
    assert dumped["assigner"] == "iou"  # as older checkpoints and model cards have it
    assert not {"align", "delta_std"} & set(dumped)
    assert "spacing" not in dumped["anchors"]


def test_anchors_on_whole_strides() -> None:
    """13 cells on 800 pixels: 61 apart as torchvision has them, or 64."""
    for spacing, step in ((None, 61), ("stride", 64)):
        anchors = config("retinanet", anchors={**ONE, "spacing": spacing}).anchors.build((64,))
        boxes = anchors((800, 832), [(13, 13)]).view(13, 13, 4)
        center = (boxes[..., :2] + boxes[..., 2:]) / 2
        assert center[:3, 0, 1].tolist() == [0, step, 2 * step]
        assert center[0, :3, 0].tolist() == [0, 64, 128]
        assert (boxes[..., 2:] - boxes[..., :2] == 512).all()
