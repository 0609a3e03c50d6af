"""`ssod init` chooses sizes, anchors and levels that reach the boxes, within a budget that is estimated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from ssod.commands.coverage import coverage, reach_of
from ssod.commands.init import budget as budgets
from ssod.commands.init.budget import GB, Budget, Load, cost_in_words, load_of, parts_within, read_budget, taught_share
from ssod.commands.init.fit import said
from ssod.commands.init.sizes import Sizes, Wanted, choose, read_detector, sample_of, sides
from ssod.commands.init.start import coco_fits, line_of
from ssod.commands.init.write import write_config
from ssod.config import load, load_recipe
from ssod.data import datasets
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.detectors.build import build
from ssod.detectors.faster_rcnn import FasterRcnnConfig
from ssod.detectors.fcos import FcosConfig
from ssod.detectors.retinanet import RetinaNetConfig
from ssod.detectors.weights import TORCHVISION
from ssod.utils import recipes
from ssod.utils.errors import Exit, SsodError
from ssod.utils.merging import merge
from ssod.utils.recipes import Recipe
from tests.small_sets import voc

ENDLESS = Budget("1000h", seconds=3.6e6)


def labeled(side: float, image: tuple[int, int] = (640, 480), n: int = 200, ratio: float = 1.0) -> Labeled:
    """One box of about this side in each image, anywhere; ``ratio``: height over width."""
    rng = np.random.default_rng(0)
    wide = side * np.exp(rng.uniform(-0.2, 0.2, (n, 2))) * np.array([ratio**-0.5, ratio**0.5])
    corner = rng.uniform(0, 1, (n, 2)) * (np.array(image) - wide)
    names = [f"{i}.png" for i in range(n)]
    return Labeled(
        images=Images("", names, names, np.tile(np.array(image[::-1], dtype=np.int32), (n, 1))),
        classes=Classes(("a",), (0,)),
        boxes=np.concatenate([corner, corner + wide], 1).astype(np.float32),
        labels=np.zeros(n, dtype=np.int64),
        crowd=np.zeros(n, dtype=bool),
        difficult=np.zeros(n, dtype=bool),
        starts=np.arange(n + 1),
    )


def wanted(
    detector: str, budget: Budget = ENDLESS, *, fixed: bool = False, fewest: int = 3000, **changes: Any
) -> Wanted:
    section = recipes.compose(Recipe(method="mean_teacher", detector=detector, data="own"))[0]["detector"] | changes
    return Wanted(section, fixed, (8, 8), most_parts=8, steps=3000, fewest=fewest, taught=0.5, budget=budget)


@pytest.mark.parametrize("detector", ["retinanet_tiny_fpn", "fcos_tiny_fpn", "faster_rcnn_tiny_fpn"])
@pytest.mark.parametrize("side", [16, 300])
def test_boxes_of_most_sides_are_within_reach(detector: str, side: int) -> None:
    data, want = labeled(side), wanted(detector)
    found = choose(data, want)
    merge(want.detector, found.detector, {}, "")
    reach = reach_of(read_detector(want.detector))
    assert reach is not None
    assert reach.within(sample_of(data).at(found.short)).mean() >= 0.98


def test_recipes_stay_where_they_reach_the_boxes() -> None:
    found = choose(labeled(100), wanted("fcos_tiny_fpn"))
    assert found == Sizes(480, 3000, cost=found.cost)


def test_the_largest_size_that_the_budget_allows() -> None:
    found = [choose(labeled(100), wanted("fcos_tiny_fpn", Budget(f"{h}h", seconds=3600 * h))) for h in (1, 4, 1000)]
    shorts = [sizes.short for sizes in found]
    assert shorts[0] < shorts[1] < shorts[2] == 480
    assert all(sizes.fits for sizes in found)
    load = load_of(RetinaNetConfig(backbone="tiny", channels=64), (8, 8), 3000, 0.5, 4 / 3)
    assert load.seconds(shorts[0], 1) <= 3600 * 1.05


def test_tiny_objects_get_finer_levels_or_larger_images() -> None:
    small, large = (choose(labeled(side, (640, 480)), wanted("fcos_tiny_fpn")) for side in (6, 60))
    assert (small.detector.get("levels", [3])[0], -small.short) < (3, -large.short)


def test_long_boxes_get_long_anchors() -> None:
    found = choose(labeled(80, ratio=0.1), wanted("retinanet_tiny_fpn"))
    assert min(found.detector["anchors"]["ratios"]) < 0.2


def test_what_a_user_fixes_stays() -> None:
    found = choose(labeled(6), wanted("retinanet_tiny_fpn", fixed=True))
    assert found.detector == {}


def test_a_budget_that_nothing_fits() -> None:
    found = choose(labeled(100), wanted("fcos_tiny_fpn", Budget("1m", seconds=60)))
    assert not found.fits
    assert found.short == 96
    assert found.accumulate == 1, "parts save memory, not time"
    short = choose(labeled(100), wanted("fcos_r50_fpn", Budget("1GB", memory=1 * GB)))
    assert (short.fits, short.short, short.accumulate) == (False, 224, 8)


def test_anchors_are_chosen_where_nothing_fits_the_budget() -> None:
    """A Faster R-CNN of the least size had the anchors of its recipe, which reached a fifth of the boxes."""
    found = choose(labeled(60), wanted("faster_rcnn_tiny_fpn", Budget("1m", seconds=60)))
    assert not found.fits
    assert found.detector["anchors"]["scale"] < 8
    assert found.share > 0.9


def test_a_time_is_spent_on_larger_images_before_more_steps() -> None:
    """A RetinaNet of 3000 steps at 96 pixels had 17.5 AP where 1500 at 160 pixels, as dear, had 25.5."""
    data, budget = labeled(40), Budget("30m", seconds=1800)
    fixed, free = (choose(data, wanted("retinanet_tiny_fpn", budget, fewest=count)) for count in (3000, 1500))
    assert (fixed.steps, free.steps) == (3000, 1500)
    assert free.short > fixed.short
    assert free.share >= fixed.share
    assert choose(data, wanted("retinanet_tiny_fpn", fewest=1500)).steps == 3000, "nothing is short"
    memory = Budget("", memory=6 * GB)
    assert choose(data, wanted("retinanet_r50_fpn", memory, fewest=1500)).steps == 3000, "steps take no memory"


def test_a_short_time_has_fewer_steps_still() -> None:
    want = wanted("fcos_tiny_fpn", Budget("10m", seconds=600), fewest=1500)
    found = choose(labeled(100), replace(want, steps=24_000))
    assert found.fits
    assert str(found.steps) == "1500", "a whole number, as it is written"
    longer = choose(labeled(100), replace(want, steps=24_000, budget=Budget("20m", seconds=1200)))
    assert str(longer.steps) == "3000"


def test_where_nothing_fits_boxes_are_not_reached_at_any_price() -> None:
    """A budget of 8 minutes brought a training of 25, which reached some more boxes than one of 9."""
    want = wanted("retinanet_tiny_fpn", Budget("1m", seconds=60))
    found = choose(labeled(40), want)
    assert not found.fits
    merge(want.detector, found.detector, {}, "")
    plain, chosen = (
        load_of(read_detector(section), want.images, want.steps, want.taught, 4 / 3).seconds(96, 1)
        for section in (wanted("retinanet_tiny_fpn").detector, want.detector)
    )
    assert chosen <= 1.25 * plain


def test_memory_cuts_a_step_before_it_shrinks_images() -> None:
    large, small = (choose(labeled(100), wanted("fcos_r50_fpn", Budget("", memory=m * GB))) for m in (60, 6))
    assert (large.short, large.accumulate) == (480, 1)
    assert small.short == 480
    assert small.accumulate > 1
    assert choose(labeled(100), wanted("fcos_r50_fpn", Budget("", memory=1.5 * GB))).short < 480


def test_sides_are_tried_in_order() -> None:
    assert sides(480, 96) == [480, 608, 704, 832, 960, 416, 352, 288, 224, 192, 160, 128, 96]


def test_cost_grows_with_what_is_looked_at() -> None:
    one, two = RetinaNetConfig(), FasterRcnnConfig()
    base = load_of(one, (8, 8), 1000, 0.5, 1.5)
    assert base.seconds(400, 1) == pytest.approx(4 * base.seconds(200, 1))
    assert base.seconds(400, 3) == pytest.approx(base.seconds(400, 1) / 2)
    finer = load_of(RetinaNetConfig(levels=(2, 6)), (8, 8), 1000, 0.5, 1.5)
    assert finer.memory(400) > base.memory(400) > base.memory(400, 2)
    assert finer.seconds(400, 1) > 2 * base.seconds(400, 1)
    assert load_of(one, (8, 0), 1000, 0.5, 1.5).seconds(400, 1) < base.seconds(400, 1)
    assert load_of(two, (8, 8), 1000, 0.5, 1.5).roi[0] > 0
    assert parts_within(Budget("", memory=1.1 * GB), base, 400, 8) is None


@pytest.mark.parametrize(("steps", "words"), [(3, "less than a minute"), (3000, "about 13 min")])
def test_a_short_training_takes_less_than_a_minute(steps: int, words: str) -> None:
    load = Load("tiny", 64, 3, two_stages=False, roi=(0, 0), images=(8, 8), steps=steps, taught=0.5, aspect=1.0)
    told = cost_in_words(Budget("60m", seconds=3600, cores=2), load, 128, 1)
    assert told == f"{words} of learning on 2 CPUs"


def test_budgets_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(budgets, "usable_cpus", lambda: 4)
    assert read_budget("30m", "tiny") == Budget("30m", seconds=1800, cores=4)
    assert read_budget("1.5 h", "tiny").seconds == 5400
    assert read_budget("8GB", "tiny").memory == 8 * GB
    assert read_budget(None, "tiny").text == "15m"
    assert read_budget(None, "resnet50").text == "8GB"
    for text in ("", "30", "0m", "8TB", "m", "-3h"):
        with pytest.raises(SsodError, match="--budget") as caught:
            read_budget(text, "tiny")
        assert caught.value.code == Exit.USAGE
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SsodError, match="plan measures"):
        read_budget("30m", "tiny")


def test_the_share_of_steps_that_unlabelled_images_teach() -> None:
    found = [taught_share(method, 1000) for method in ({"burn_in": "60%"}, {"burn_in": 250}, {"start": "50%"}, {})]
    assert found == [pytest.approx(0.4), 0.75, 0.5, 1]


def test_init_writes_what_it_chose_and_says_what_it_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    voc(tmp_path / "set", {"trainval": 9, "test": 3}, size=(640, 480))
    options = {"detector": "retinanet_tiny_fpn", "budget": "1000h", "percent": 50}
    message = write_config("my.yaml", "set", None, "set", **options)
    cfg = load("my.yaml")
    found = coverage(cfg, datasets.load(cfg.data).labeled)
    assert found is not None
    assert found.out == 0
    written = Path("my.yaml").read_text()
    for text in (message, written):
        assert f"reach      {found.within()} within reach of the detector" in text
    again = write_config(
        "own.yaml", "set", None, "set", overrides=["detector.levels=[5, 6]", "views.tiles=null"], **options
    )
    assert "           out of reach: 4, median side " in again
    assert "fewer than 98%" in Path("own.yaml").read_text()
    assert load("own.yaml").detector.levels == (5, 6)


FAR = "detector.anchors.scale=40"
NOTHING = "no size within the budget, and no anchors or levels that may change, reach more"
FCOS = "an FCOS, which has no anchors, has 100 % of 200 boxes within reach: --detector fcos_..."
TILES = "tiles are too small for the objects: a larger --budget, or whole images, views.tiles=null"


@pytest.mark.parametrize(
    ("side", "ratio", "change", "remedy"),
    [
        (10, 1.0, FAR, "a larger --budget may help"),
        (60, 1.0, FAR, FCOS),
        (30, 0.004, "train.clip=10", NOTHING),  # 474 x 2 pixels: no point lies in them either
        (60, 1.0, "views.tiles={size: 32, overlap: 0.1}", TILES),
    ],
)
def test_what_may_help_is_what_was_tried(side: float, ratio: float, change: str, remedy: str) -> None:
    changes = ["views.val=[]", change]
    cfg = load_recipe(method="mean_teacher", detector="retinanet_tiny_fpn", data="shapes", overrides=changes)
    lines = said(Sizes(64, 1500, tiles=cfg.views.tiles), cfg, labeled(side, ratio=ratio), None)
    assert lines[-1] == f"           fewer than 98%: {remedy}"


# ---- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detector", "change", "weights", "why"),
    [
        ("fcos_r50_fpn", [], "coco", "a whole detector that learnt COCO"),
        ("faster_rcnn_r50_fpn", [], "coco", "a whole detector that learnt COCO"),
        ("fcos_r50_fpn", ["detector.levels=[2, 6]"], "imagenet", None),
        ("retinanet_r50_fpn", [], "imagenet", "COCO weights are of a detector of another form"),
    ],
)
def test_weights_of_coco_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detector: str, change: list[str], weights: str, why: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    voc(tmp_path / "set", {"trainval": 4, "test": 2}, size=(320, 240))
    write_config("my.yaml", "set", None, "set", percent=50, detector=detector, overrides=change, budget="8GB")
    cfg = load("my.yaml")
    assert cfg.detector.weights == weights
    text = Path("my.yaml").read_text()
    assert why is None or why in text
    if weights == "coco":
        plain = type(cfg.detector)()
        assert cfg.detector.levels == plain.levels
        assert getattr(cfg.detector, "anchors", None) == getattr(plain, "anchors", None)
        has_the_form_of_coco(cfg.detector)


def test_the_reason_for_the_weights() -> None:
    assert "no COCO weights with resnet18" in line_of({"weights": "imagenet", "backbone": "resnet18"})
    assert line_of({"weights": "none"}) == "weights: none # or a file of your own"
    assert not coco_fits(FcosConfig(backbone="resnet18"))
    assert not coco_fits(FasterRcnnConfig(anchors={"octaves": 3}))
    assert not coco_fits(RetinaNetConfig())
    assert coco_fits(FasterRcnnConfig())


def has_the_form_of_coco(cfg: Any) -> None:
    """Compare names and shapes with those of torchvision's own detector of 91 classes, whose COCO weights these are."""
    with torch.device("meta"):
        theirs = get_model(TORCHVISION[cfg.name], weights=None, weights_backbone=None, num_classes=91).state_dict()
        ours = build(cfg, 2, pretrained=False).state_dict()
    theirs, ours = ({k: v.shape for k, v in part.items() if "num_batches" not in k} for part in (theirs, ours))
    assert theirs.keys() == ours.keys()
    unlike = [name for name in ours if ours[name] != theirs[name]]
    assert all("cls" in name or "bbox_pred" in name for name in unlike)
