"""The coverage of `ssod check` and `ssod plan`: the anchors are the detector's, boxes lie where views put them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssod.commands.coverage import coverage, cut_by_tiles, doubt, lines, reach_of, seen_in, sides_of
from ssod.commands.plan_facts import amounts, facts
from ssod.config import load
from ssod.data import datasets
from ssod.data.checks.reach import Anchored, Points, Seen, Shapes
from ssod.detectors.anchors import AnchorConfig
from ssod.detectors.build import DetectorConfig
from ssod.detectors.d2.config import D2RetinaNetConfig
from ssod.detectors.dense_detector import DenseDetectorConfig
from ssod.detectors.faster_rcnn import FasterRcnnConfig
from ssod.detectors.fcos import FcosConfig
from ssod.detectors.retinanet import RetinaNetConfig
from ssod.run import check
from ssod.structures.boxes import iou
from ssod.transforms.views import Pipeline
from ssod.utils.given import given
from tests.small import small_config

CANVAS = (96, 128)  # height, width


def random_boxes(n: int = 100) -> np.ndarray:
    rng = np.random.default_rng(0)
    side = np.exp(rng.uniform(np.log(3), np.log(90), (n, 2)))
    corner = rng.uniform(0, 1, (n, 2)) * (np.array(CANVAS[::-1]) - side)
    return np.concatenate([corner, corner + side], 1)


@pytest.mark.parametrize(
    "cfg",
    [
        AnchorConfig(),
        AnchorConfig(scale=3.3, ratios=(0.3, 1.0, 3.0)),
        AnchorConfig(spacing="stride", rounding="none"),
        AnchorConfig(scale=8, octaves=1, ratios=(1.0,), spacing="stride"),
    ],
)
def test_the_anchors_are_those_of_the_detector(cfg: AnchorConfig) -> None:
    strides = (8, 16, 32)
    grids = [(CANVAS[0] // s, CANVAS[1] // s) for s in strides]
    anchors = cfg.build(strides)(CANVAS, grids)
    boxes = random_boxes()
    best = iou(torch.from_numpy(boxes).float(), anchors).amax(1).numpy()
    canvas = np.tile(np.array(CANVAS[::-1], dtype=np.float64), (len(boxes), 1))
    found = Anchored(strides, sides_of(cfg, strides)).overlap(Seen(boxes, canvas, np.zeros(len(boxes), np.int64)))
    np.testing.assert_allclose(found, best, atol=1e-5)


@pytest.mark.parametrize(
    ("cfg", "kind"),
    [
        (RetinaNetConfig(), Anchored),
        (RetinaNetConfig(assigner="centre"), Points),
        (RetinaNetConfig(assigner="adaptive"), Points),
        (RetinaNetConfig(assigner="ratio"), Shapes),
        (FasterRcnnConfig(), Anchored),
        (FcosConfig(), Points),
        (FcosConfig(assigner="iou"), Anchored),
        (DenseDetectorConfig(), Shapes),
    ],
)
def test_each_assigner_has_its_rule(cfg: DetectorConfig, kind: type) -> None:
    assert isinstance(reach_of(cfg), kind)


def test_what_is_not_known_is_not_said() -> None:
    cfg = D2RetinaNetConfig(config="COCO-Detection/retinanet_R_50_FPN_1x.yaml", weights="none")
    assert reach_of(cfg) is None
    assert lines(None) == []


def test_a_range_that_is_a_key_counts() -> None:
    high = reach_of(RetinaNetConfig(assigner={"name": "iou", "high": 0.7}))
    assert isinstance(high, Anchored)
    assert high.least == 0.7
    middle = reach_of(FcosConfig(points="middle", assigner={"name": "centre", "radius": "box"}))
    assert middle == Points((8, 16, 32, 64, 128), float("inf"), offset=0.5)


def test_boxes_follow_the_view(tmp_path: Path) -> None:
    data = datasets.load(load(small_config(tmp_path)).data).labeled
    plain = seen_in(Pipeline(ops=()), data)
    np.testing.assert_allclose(plain.boxes, data.boxes)
    half = seen_in(Pipeline(ops=({"resize": {"short": 32}},)), data)
    np.testing.assert_allclose(half.boxes, data.boxes / 2)
    assert (half.canvas == 32).all()
    crop = seen_in(Pipeline(ops=("flip_vertical",)), data)  # drawn: either as it is or upside down
    np.testing.assert_allclose(crop.sides, plain.sides)


def test_check_and_plan_name_what_is_out_of_reach(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = small_config(tmp_path)
    tiny = load(file, ["views.val=[{resize: {short: 8}}]"])
    found = coverage(tiny, (data := datasets.load(tiny.data)).labeled)
    assert found is not None
    assert found.out > 0
    check(tiny)
    out = capsys.readouterr().out
    assert f"within reach of the detector: {found.within()}\n  out of reach: {found.out}, median side " in out
    rows, warnings = facts(tiny, data, amounts(tiny, data))
    assert ("within reach", found.within()) in rows
    assert [text for text in warnings if text.startswith(f"out of reach of the detector: {found.out}, ")]
    (warned,) = [line for line in out.splitlines() if line.startswith("warning[D50] ")]
    words = next(text for text in warnings if text.startswith("out of reach"))
    assert f": data.labeled: {words[:60]}" in warned  # which is cut to 300 letters
    assert warned.endswith(words.rpartition("; ")[2])
    assert "no findings" not in out
    good = load(file)
    assert not [text for text in facts(good, data, amounts(good, data))[1] if text.startswith("out of reach")]
    check(good)
    out = capsys.readouterr().out
    assert "within reach of the detector: 100 % of" in out
    assert "D50" not in out


def test_what_tiles_cut_is_told_apart(tmp_path: Path) -> None:
    """Objects larger than a tile are no matter of anchors."""
    cfg = load(small_config(tmp_path), ["views.tiles={size: 32, overlap: 0.1}"])
    data = datasets.load(cfg.data).labeled
    large = replace(data, boxes=np.tile(np.array([2, 2, 60, 60], data.boxes.dtype), (len(data.boxes), 1)))
    found = given(coverage(cfg, large), "an FCOS has points")
    assert found.cut == found.out == len(large.boxes)
    assert f", {found.cut} of them in no tile as a whole; " in found.beyond()
    assert cut_by_tiles(found)
    problem, fix = given(doubt(found), "tiles of 32 pixels are too small")
    assert fix == "larger views.tiles, or whole images: views.tiles=null"
    assert problem.startswith("out of reach of the detector: ")
