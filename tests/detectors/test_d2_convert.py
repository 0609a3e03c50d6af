"""Weights of detectron2's detectors in ours and back: the same bits, the same detections, or a refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from ssod.detectors.build import build
from ssod.inference.export_parity import differences, pictures
from ssod.utils.errors import Exit, SsodError
from tests.detectors.d2 import NAMES, K, detect, images, pair, section, view
from tests.detectors.reference import CONFIG
from tools.convert_weights import compare, take_settings
from tools.d2_convert import ours_of, theirs_of, to_theirs
from tools.d2_same import same

# FCOS's configs are Python and say the widths of its pyramid in many places; the others are as narrow as in `OPTS`.
CHANGES: dict[str, dict[str, Any]] = {
    "d2_retinanet": {},
    "d2_fcos": {"opts": {"model.head.conv_dims": [256] * 4}},
    "d2_faster_rcnn": {},
}
OURS = {"d2_retinanet": "retinanet", "d2_fcos": "fcos", "d2_faster_rcnn": "faster_rcnn"}
UNEVEN = [[x, 2 * x, 3 * x] for x in (32, 64, 128, 256, 512)]
ZOO = {"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.BACKBONE.FREEZE_AT": 2, "MODEL.RESNETS.DEPTH": 50}
BACKGROUND = "roi_heads.box_predictor.bbox_pred."


def stir(model: nn.Module) -> nn.Module:
    """Give every layer of batch-norm statistics of its own, and every bias a value, so that none can be left out."""
    draw = torch.Generator().manual_seed(7)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("running_var"):
            value.data.uniform_(0.8, 1.2, generator=draw)
        elif name.endswith(("running_mean", "bias")) and "head" not in name and "predictor" not in name:
            value.data.uniform_(-0.1, 0.1, generator=draw)
    return model


@pytest.fixture(scope="module", params=NAMES)
def both(request: pytest.FixtureRequest) -> tuple[str, nn.Module, nn.Module, nn.Module, dict[str, Any]]:
    """Name, detectron2's model, our wrapping of it, our own detector, and its section."""
    name = request.param
    theirs, wrapped = pair(name, lively=True, **CHANGES[name])
    wrapped.load_state_dict(stir(theirs).state_dict(), strict=False)
    return name, theirs.eval(), wrapped.eval(), *ours_of(wrapped)


def test_the_section_is_one_of_our_own_detectors(both: Any) -> None:
    name, _, _, _, found = both
    assert found["name"] == OURS[name]
    cfg = CONFIG.validate_python(found)
    assert cfg.backbone == ("resnet50" if name == "d2_fcos" else "resnet18")
    assert cfg.trainable_layers == 5


def test_our_detector_finds_what_detectron2_finds(both: Any) -> None:
    name, theirs, _, ours, _ = both
    expected = detect(theirs, images())
    with torch.no_grad():
        got = ours.predict(view(images())).detections()
    worst = box = 0.0
    for a, b in zip(expected, got):
        assert len(a) == len(b) > 10
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-4)
        box, _, problem = differences(a, b, ours.decode)  # of two scores that are equal to seven digits either is first
        assert problem == ""
        worst = max(worst, box)
    print(f"\n{name} in {OURS[name]}: boxes differ by {worst:.1e} px at most")
    assert worst < 1e-3


def test_there_and_back_is_bit_identical(both: Any) -> None:
    _, theirs, wrapped, ours, found = both
    back = theirs_of(ours, CONFIG.validate_python(found), wrapped)
    state = theirs.state_dict()
    assert set(back) == set(state)
    assert all(
        torch.equal(back[key].view(torch.uint8), state[key].view(torch.uint8)) for key in state if state[key].ndim
    )
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_ours_there_and_back(both: Any) -> None:
    """All bits but the box outputs for background, which nothing reads: they come back as 0."""
    name, _, wrapped, _, found = both
    cfg = CONFIG.validate_python(found)
    torch.manual_seed(3)
    mine = build(cfg, K, pretrained=False).eval()
    wrapped.load_state_dict(theirs_of(mine, cfg, wrapped), strict=False)
    again, _ = ours_of(wrapped)
    state, returned = mine.state_dict(), again.state_dict()
    for key, value in state.items():
        if key.startswith(BACKGROUND):
            assert torch.equal(returned[key][4:], value[4:])
            assert not returned[key][:4].any()
        else:
            assert torch.equal(returned[key], value), key
    assert (BACKGROUND + "weight" in state) == (name == "d2_faster_rcnn")
    images, sizes = pictures(again)[0]
    batch = view(list(images))
    with torch.no_grad():
        a, b = (d.predict(batch).detections() for d in (mine, again))
    assert sizes.tolist() == batch.sizes.tolist()
    assert all(torch.equal(x.boxes, y.boxes) and torch.equal(x.scores, y.scores) for x, y in zip(a, b))


@pytest.mark.parametrize("name", ["d2_retinanet", "d2_faster_rcnn"])
def test_a_zoo_config_on_resnet50(name: str, tmp_path: Any) -> None:
    """MSRA's backbone as the zoo has it: stride in the first convolution, BGR in 0..255, frozen batch-norm."""
    theirs, wrapped = pair(name, lively=True, opts=ZOO | {"MODEL.RESNETS.RES2_OUT_CHANNELS": 256})
    wrapped.load_state_dict(stir(theirs).state_dict(), strict=False)
    ours, found = ours_of(wrapped.eval())
    assert {found[key] for key in ("backbone", "norm", "downsample", "trainable_layers")} == {
        "resnet50",
        "frozen",
        "1x1",
        3,
    }
    assert found["pixel_std"] == (1.0, 1.0, 1.0)
    assert found.get("level6") == ("c5" if name == "d2_retinanet" else None)
    result = compare(ours, theirs.eval(), True, tmp_path)
    print(f"\n{name}: {result.line()}")
    assert result.boxes > 20
    assert result.box < 0.01


def test_torchvisions_backbone_is_recognised() -> None:
    std = [57.375, 57.12, 58.395]
    opts = ZOO | {"MODEL.RESNETS.RES2_OUT_CHANNELS": 256, "MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.PIXEL_STD": std}
    found, layout = same(build(section("d2_retinanet", opts=opts), K, pretrained=False))
    assert "downsample" not in found
    assert "pixel_std" not in found
    assert layout.bgr


@pytest.mark.parametrize(
    ("name", "opts", "problem"),
    [
        ("d2_retinanet", {"MODEL.FPN.NORM": "GN"}, "averages or normalises"),
        ("d2_retinanet", {"MODEL.FPN.FUSE_TYPE": "avg"}, "averages or normalises"),
        ("d2_retinanet", {"MODEL.RETINANET.NUM_CONVS": 3}, "no counterpart of our head"),
        ("d2_retinanet", {"MODEL.RETINANET.NUM_CONVS": 5}, "we have nothing like its head"),
        ("d2_retinanet", {"MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0]}, "PIXEL_MEAN"),
        ("d2_retinanet", {"MODEL.ANCHOR_GENERATOR.OFFSET": 0.5}, "strides from the corner"),
        (
            "d2_retinanet",
            {"MODEL.ANCHOR_GENERATOR.SIZES": UNEVEN},
            "sizes",
        ),
        ("d2_retinanet", {"MODEL.RETINANET.NORM": "GN"}, "GroupNorm"),
        ("d2_faster_rcnn", {"MODEL.ROI_BOX_HEAD.NUM_FC": 1}, "two linear layers"),
        ("d2_faster_rcnn", {"MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2}, "pools with"),
        ("d2_faster_rcnn", {"MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0]}, "BBOX_REG_WEIGHTS"),
        ("d2_faster_rcnn", {"MODEL.RPN.CONV_DIMS": [32, 32]}, "no counterpart of our rpn"),
        ("d2_fcos", {"model.head.norm": "BN"}, "BatchNorm"),
    ],
)
def test_what_is_none_of_ours_is_refused(name: str, opts: dict[str, Any], problem: str) -> None:
    wrapped = build(section(name, **{"opts": CHANGES[name].get("opts", {}) | opts}), K, pretrained=False)
    with pytest.raises(SsodError, match=f"no detector of ours is like it: .*{problem}") as error:
        ours_of(wrapped)
    assert error.value.code == Exit.USAGE


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"anchors": {"rounding": None}}, "anchors"),
        ({"channels": 64}, "channels"),
        ({"norm": "group"}, "norm"),
        ({"roi": {"pooling": None}}, "roi.pooling"),
        ({"name": "retinanet", "rpn": ..., "roi": ...}, "name"),
    ],
)
def test_our_detector_must_be_the_same_function(change: dict[str, Any], field: str) -> None:
    wrapped = build(section("d2_faster_rcnn"), K)
    found, _ = same(wrapped)
    mine = {**found, "weights": "none"}
    for key, value in change.items():
        mine[key] = mine[key] | value if isinstance(value, dict) else value
    cfg = CONFIG.validate_python({key: value for key, value in mine.items() if value is not ...})
    with pytest.raises(SsodError) as error:
        theirs_of(build(cfg, K), cfg, wrapped)
    assert error.value.field == f"detector.{field}"


def test_thresholds_are_detectron2s_config() -> None:
    _, wrapped = pair("d2_faster_rcnn", lively=True)
    ours, _ = ours_of(wrapped)
    ours.decode = ours.decode.model_copy(update={"score": 0.9})
    ours.rpn_cfg = ours.rpn_cfg.model_copy(update={"after": (3, 3)})
    take_settings(ours, wrapped)
    with torch.no_grad():
        a, b = (d.eval().predict(view(images())).detections() for d in (wrapped, ours))
    assert all(len(x) == len(y) > 10 for x, y in zip(a, b))


def test_weights_of_another_layout_are_refused() -> None:
    """A change of names on either side is no silent loss."""
    wrapped = build(section("d2_retinanet"), K)
    ours, _ = ours_of(wrapped)
    _, layout = same(wrapped)
    state = wrapped.state_dict()
    with pytest.raises(SsodError, match="we have nothing like its mask"):
        to_theirs(ours.state_dict(), state | {"mask.weight": torch.zeros(1)}, layout)
    with pytest.raises(SsodError, match="no place for our level_scale"):
        to_theirs({**ours.state_dict(), "level_scale": torch.ones(5)}, state, layout)
