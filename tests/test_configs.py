"""Every recipe of configs/ loads and builds its detector, has the constants of its paper, and a header that says so."""

import re
from functools import cache

import pytest
import torch
import yaml

from ssod.assign.iou import IoUConfig
from ssod.commands.demo import CONFIG
from ssod.config import Config, load, load_recipe
from ssod.detectors.build import build
from ssod.engine.schedule import in_proportion
from ssod.experiments.published import published as published_figures
from ssod.methods.registry import find, names
from ssod.transforms.geometry import Resize
from ssod.transforms.views import Pipeline
from ssod.utils import recipes
from tests.recipes_resolved import DATA, DETECTORS, METHODS, combinations, offered

CONFIGS = recipes.folder()
OURS = [name for name in recipes.names("detector") if not name.startswith("d2_")]
# The percentage changes nothing that a test below looks at, but where it is named.
COMBINATIONS = [
    (method, detector, data)
    for method, detector, data, percent in combinations()
    if percent in (None, 10) and detector in OURS
]
PAPER = ("coco", "coco_additional", "voc", "voc_coco20")
R50 = ("retinanet_r50_fpn", "fcos_r50_fpn", "faster_rcnn_r50_fpn")


def ids(combination: object) -> str:
    return "-".join(combination) if isinstance(combination, tuple) else str(combination)


def usual(method: str) -> str:
    """The first of the detectors of papers that a method's recipe does not refuse."""
    return next(name for name in R50 if name in offered(method))


def published(*methods: str) -> list[tuple[str, str, str]]:
    """The combinations of methods that follow a paper's protocol."""
    return [c for c in COMBINATIONS if c[0] in methods and c[1] in R50 and c[2] in PAPER]


@cache
def config(method: str, detector: str, data: str, percent: int | None = None) -> Config:
    return load_recipe(method=method, detector=detector, data=data, percent=percent)


@cache
def header(method: str) -> str:
    """The comment at the top of a method's file, as one line."""
    lines = (CONFIGS / "methods" / f"{method}.yaml").read_text("utf-8").splitlines()
    comment = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(" ".join(line.strip("# ") for line in comment).split())


@cache
def builds(section: str) -> int:
    """Build a detector section without memory for its weights; return its number of parameters."""
    changes = [f"detector={section}"]
    cfg = load_recipe(method="supervised", detector="fcos_r50_fpn", data="voc", overrides=changes).detector
    with torch.device("meta"):
        return sum(p.numel() for p in build(cfg, 20, pretrained=False).parameters())


def test_every_method_and_the_published_protocols_are_there() -> None:
    assert set(names()) <= set(METHODS)
    assert {config(method, usual(method), "voc").method.name for method in METHODS} == set(names())
    assert set(R50) <= set(DETECTORS)
    assert {(name, percent) for name, percent in DATA if name in PAPER} == {
        *((name, None) for name in PAPER[1:]),
        *(("coco", percent) for percent in (1, 2, 5, 10)),
    }


def test_the_page_about_configs_names_every_file() -> None:
    text = (CONFIGS / "README.md").read_text("utf-8")
    for factor in recipes.FACTORS:
        for name in recipes.names(factor):
            assert f"`{name}`" in text


def test_additional_data_has_all_labels_and_other_images() -> None:
    data = yaml.safe_load((CONFIGS / "data" / "coco_additional.yaml").read_text("utf-8"))["data"]
    assert data.keys() == {"labeled", "unlabeled", "val"}
    assert data["unlabeled"]["path"] not in data["labeled"].values()


@pytest.mark.parametrize("combination", COMBINATIONS, ids=ids)
def test_what_is_asked_for_is_what_is_resolved(combination: tuple[str, str, str]) -> None:
    cfg, (method, detector, data) = config(*combination), combination
    assert cfg.method.name == method.removesuffix("_consistency")
    assert detector.startswith(cfg.detector.name)
    assert cfg.detector.backbone == ("tiny" if "tiny" in detector else "resnet50")
    folder = {"coco_additional": "coco/", "coco": "coco/", "neu_det": "neu-det", "bccd": "bccd"}
    folder |= {"voc": "voc/", "voc_coco20": "voc/"}
    assert folder.get(data, "annotations/") in str(cfg.data.labeled)
    share = {"coco": 10, "neu_det": 10, "bccd": 10, "shapes": 9.1}.get(data)
    assert (cfg.data.split.percent if cfg.data.split else None) == share
    assert cfg.stem == f"{method}_{detector}_{data}" + (f"_{share:g}p" if share else "")


@pytest.mark.parametrize("method", METHODS)
def test_the_header_is_a_claim(method: str) -> None:
    """Every figure of ``published.csv`` about the method as such is in its header, and what was run here or not."""
    text = header(method)
    assert re.search(r"(not|[Nn]one of (it|these) was) run here", text), "say 'not run here' of what was not"
    assert re.search(r"Published|[Nn]o published figure", text), "give the published figures, or 'no published figure'"
    figures = [row for row in published_figures() if row.method == method and "COCO20" not in row.protocol]
    known = [row for row in figures if re.fullmatch(r"(RetinaNet|FCOS|Faster R-CNN) R50-(FPN|RLA)", row.detector)]
    for row in known:
        assert f"{row.value:.2f}" in text, (row.detector, row.protocol)
        assert row.source.split("arXiv:")[1] in text
    assert known or re.search(r"[Nn]o published figure\b", text), "figures in published.csv, or 'no published figure'"
    accumulate = re.search(r"train\.accumulate=(\d+)", text)
    assert accumulate, "say with which train.accumulate one GPU makes the same batch"
    for data in PAPER:
        batch = config(method, usual(method), data).train.batch
        for parts in (int(accumulate[1]), 8):
            assert (batch.labeled % parts == batch.unlabeled % parts == 0) or f"({data.upper()}:" in text


@pytest.mark.parametrize("combination", COMBINATIONS, ids=ids)
def test_the_detector_builds(combination: tuple[str, str, str]) -> None:
    section = yaml.safe_dump(config(*combination).dump()["detector"], default_flow_style=True, width=10_000).strip()
    assert builds(section) > 100_000


@pytest.mark.parametrize("detector", OURS)
def test_every_detector_builds(detector: str) -> None:
    section = config("supervised", detector, "voc").dump()["detector"]
    assert builds(yaml.safe_dump(section, default_flow_style=True, width=10_000).strip()) > 100_000


@pytest.mark.parametrize("factor", recipes.FACTORS)
def test_a_file_is_short_begins_with_what_it_is_and_keeps_to_its_sections(factor: str) -> None:
    own = {
        "data": {"base", "protocol", "data", "views", "train", "eval"},
        "detector": {"base", "detector", "train"},
        "method": {"method", "views", "train"},
    }
    for name in recipes.names(factor):
        text = (CONFIGS / recipes.FOLDERS[factor] / f"{name}.yaml").read_text("utf-8")
        tree = yaml.safe_load(text)
        assert set(tree) <= own[factor] | {"for"}
        assert text.startswith("# ")
        assert len(text.splitlines()) <= 90
        if factor == "method":
            assert tree["method"]["name"] == name.removesuffix("_consistency")


# ---- published constants -----------------------------------------------------------------------------------------


def of(method: str, detector: str, data: str, percent: int | None = None) -> Config:
    return config(method, f"{detector}_r50_fpn", data, percent)


def names_of(pipeline: Pipeline) -> list[str]:
    return [next(iter(op)) if isinstance(op, dict) else op for op in pipeline.model_dump(mode="json")]


@pytest.mark.parametrize("percent", [1, 2, 5, 10])
def test_unbiased_teacher_as_published(percent: int) -> None:
    cfg = of("unbiased_teacher", "faster_rcnn", "coco", percent)
    m = cfg.method
    assert (m.score, m.weight, m.burn_in, m.ema.decay, m.ema.warm_up) == (0.7, 4.0, 2000, 0.9996, False)
    assert m.loss_weights == {"box": 0, "rpn_box": 0}
    assert cfg.detector.rpn.fraction == 0.25
    assert cfg.detector.loss.cls.name == "softmax_focal"
    assert cfg.detector.loss.cls.model_extra == {"gamma": 1.5}
    assert (cfg.train.batch.labeled, cfg.train.batch.unlabeled, cfg.train.steps, cfg.train.lr) == (
        32,
        32,
        180_000,
        0.01,
    )
    assert cfg.train.schedule.name == "constant"


@pytest.mark.parametrize("combination", published("unbiased_teacher"), ids=ids)
def test_the_views_of_unbiased_teacher_are_pixel_aligned(combination: tuple[str, str, str]) -> None:
    views = config(*combination).views
    for part in (views.labeled, views.unlabeled):
        assert set(part) == {"weak", "strong"}
        assert part["weak"].start is None
        assert part["strong"].start == "weak"
        dumped = part["strong"].model_dump(mode="json")["ops"]
        assert [op if isinstance(op, str) else next(iter(op)) for op in dumped] == [
            "color_jitter",
            "grayscale",
            "blur",
            "erase",
            "erase",
            "erase",
        ]


@pytest.mark.parametrize(("percent", "weight"), [(1, 4.0), (2, 3.0), (5, 2.0), (10, 4.0)])
def test_unbiased_teacher_v2_on_faster_rcnn_as_released(percent: int, weight: float) -> None:
    cfg = of("unbiased_teacher_v2", "faster_rcnn", "coco", percent)
    m, net, t = cfg.method, cfg.detector, cfg.train
    assert (m.score, m.box_score, m.certainty, m.margin) == (0.7, None, 0.5, 0.1)
    assert (m.weight, m.box_weight, m.normalize, m.burn_in, m.ema.decay) == (weight, 1.0, False, 2000, 0.9996)
    assert (net.code, net.agnostic, net.spread, net.rpn.fraction) == ("sides", True, True, 0.25)
    assert (net.loss.cls.name, net.loss.box.name) == ("softmax_focal", "l1")
    assert (net.loss.spread.name, net.loss.spread.weight) == ("nll", 0.05)
    assert net.loss.spread.model_extra == {"iou_slope": True}
    assert (t.batch.labeled, t.batch.unlabeled, t.steps, t.lr, t.precision) == (32, 32, 180_000, 0.01, "fp32")


@pytest.mark.parametrize(
    ("percent", "weight", "burn_in"), [(1, 3.0, 10_000), (2, 3.0, 15_000), (5, 2.0, 20_000), (10, 2.0, 30_000)]
)
def test_unbiased_teacher_v2_on_fcos_as_released(percent: int, weight: float, burn_in: int) -> None:
    cfg = of("unbiased_teacher_v2", "fcos", "coco", percent)
    m, net, t = cfg.method, cfg.detector, cfg.train
    assert (m.score, m.box_score, m.certainty, m.margin) == (0.5, 0.5, 0.8, 0.1)
    assert (m.weight, m.box_weight, m.normalize, m.burn_in, m.ema.decay) == (weight, 0.2, True, burn_in, 0.9999)
    assert (net.bins, net.spread, net.points, net.assigner.radius) == (17, True, "middle", "box")
    assert (net.box_weight, net.quality, net.decode.nms) == ("centerness", "centerness", 0.6)
    assert (net.loss.box.name, net.loss.box.model_extra) == ("giou", {"smooth": 1})
    assert (net.loss.spread.weight, net.loss.spread.model_extra) == (0.0025, {"smooth": 1})
    assert (t.batch.labeled, t.batch.unlabeled, t.steps, t.lr, t.precision) == (8, 8, 180_000, 0.01, "fp16")
    assert m == of("unbiased_teacher_v2", "retinanet", "coco", percent).method  # its rule, on anchors


def test_unbiased_teacher_on_voc_as_published() -> None:
    cfg = of("unbiased_teacher", "faster_rcnn", "voc")
    m = cfg.method
    assert (m.score, m.weight, m.burn_in, m.ema.decay) == (0.7, 2.0, 30_000, 0.999)
    assert (cfg.train.batch.labeled, cfg.train.batch.unlabeled, cfg.train.steps) == (16, 16, 180_000)


@pytest.mark.parametrize(("data", "steps"), [("coco", 180_000), ("voc", 72_000)])
def test_mean_teacher_as_released(data: str, steps: int) -> None:
    cfg = of("mean_teacher", "retinanet", data)
    m, d, t = cfg.method, cfg.detector, cfg.train
    assert (m.score, m.weight, m.damping, m.burn_in, m.ramp) == (0.5, 2.0, 0.01, 0, 0)
    assert (m.ema.decay, m.ema.warm_up) == (0.9995, True)
    assert (d.head_norm, d.level_scale, d.normalizer, d.norm, d.decode.nms) == ("group", True, "batch", "affine", 0.6)
    assert (d.loss.box.name, d.loss.box.weight) == ("giou", 2.0)
    assert (d.anchors.spacing, d.anchors.rounding, d.delta_std) == ("stride", "none", (0.1, 0.2))
    assert d.assigner == IoUConfig(high=0.5, low=0.4, claim="own", divisor=32)
    assert (d.decode.score, d.decode.clip, cfg.views.group_by_aspect) == (0.05, None, True)
    assert (t.batch.labeled, t.batch.unlabeled, t.steps, t.lr, t.clip, t.precision) == (8, 32, steps, 0.01, 20, "fp16")
    assert (t.warm_up.steps, t.warm_up.factor, t.schedule.name) == (500, 0.001, "constant")


@pytest.mark.parametrize(
    ("data", "percent", "steps", "start", "decay", "iou_weight", "norm"),
    [
        ("coco", 1, 180_000, 10_000, 0.9995, 2.0, "affine"),
        ("coco", 10, 180_000, 10_000, 0.9995, 2.0, "affine"),
        ("coco_additional", None, 720_000, 10_000, 0.9998, 3.0, "frozen"),
        ("voc", None, 72_000, 1_000, 0.9995, 2.0, "frozen"),
    ],
)
def test_consistent_teacher_as_released(
    data: str, percent: int | None, steps: int, start: int, decay: float, iou_weight: float, norm: str
) -> None:
    cfg = of("consistent_teacher", "retinanet", data, percent)
    m, d, t = cfg.method, cfg.detector, cfg.train
    assert (m.weight, m.burn_in, m.start, m.ramp, m.damping) == (2.0, 0, start, 0, 0.01)
    assert (m.as_released, m.count_ratio) == (True, 1.0)
    assert m.threshold.model_dump(exclude={"backend", "banks"}) == {
        "name": "gmm",
        "size": 100,
        "policy": "high",
        "fallback": 0,
    }
    assert (m.ema.decay, m.ema.warm_up) == (decay, True)
    anchors = {"scale": 8, "octaves": 1, "ratios": (1.0,), "spacing": "stride", "rounding": "none"}
    assert (d.anchors.model_dump(exclude_none=True), d.delta_std, d.align.name) == (anchors, (0.1, 0.2), "3d")
    assert (d.assigner.name, d.assigner.topk, d.assigner.iou_weight) == ("adaptive", 13, iou_weight)
    assert (d.head_norm, d.level_scale, d.norm) == ("group", True, norm)
    assert (d.decode.score, d.decode.nms, d.decode.clip) == (0.05, 0.6, "last")
    assert (t.batch.labeled, t.batch.unlabeled, t.steps, t.lr, t.clip, t.precision) == (8, 32, steps, 0.01, 20, "fp32")
    assert cfg.views.group_by_aspect
    assert t.schedule.name == ("multistep" if data == "coco_additional" else "constant")
    assert names_of(cfg.views.unlabeled["strong"])[-2:] == ["shuffle", "cutout"]


def test_boxes_are_cut_last_where_the_release_was_followed_alone() -> None:
    """Figures of small data sets were measured with boxes that are cut first; FCOS and two stages are ours."""
    for net, data in (("fcos", "coco"), ("faster_rcnn", "voc")):
        assert of("consistent_teacher", net, data).detector.decode.clip is None
    small = load_recipe(method="consistent_teacher", detector="retinanet_tiny_fpn", data="neu_det")
    assert small.detector.decode.clip is None


@pytest.mark.parametrize("combination", published("mean_teacher"), ids=ids)
def test_the_views_of_mean_teacher_are_drawn_apart(combination: tuple[str, str, str]) -> None:
    views = config(*combination).views
    assert set(views.unlabeled) == {"weak", "strong"}
    assert all(p.start is None for p in views.unlabeled.values())
    assert names_of(views.unlabeled["strong"])[-2:] == ["shuffle", "cutout"]


@pytest.mark.parametrize(
    ("data", "burn_in", "batch", "steps"),
    [("coco", 18_000, 32, 180_000), ("coco_additional", 90_000, 32, 360_000), ("voc", 30_000, 16, 180_000)],
)
def test_humble_teacher_as_published(data: str, burn_in: int, batch: int, steps: int) -> None:
    """Beta, decay, proposals and views are the paper's; what it leaves open is Unbiased Teacher's."""
    cfg = of("humble_teacher", "faster_rcnn", data)
    m, t = cfg.method, cfg.train
    assert (m.weight, m.per_labeled, m.labels, m.ensemble, m.proposals) == (0.5, True, "soft", True, 640)
    assert (m.norm, m.squared, m.loss_weights) == ("rows", False, {})
    assert (m.ema.rule, m.ema.decay, m.ema.warm_up) == ("ema", 0.999, False)
    assert (m.burn_in, t.batch.labeled, t.batch.unlabeled, t.steps, t.lr) == (burn_in, batch, batch, steps, 0.01)
    assert cfg.views.unlabeled["strong"].start == "weak"
    assert cfg.detector.rpn.after[1] >= m.proposals


@pytest.mark.parametrize(
    "combination", [c for c in COMBINATIONS if c[0] in ("humble_teacher", "mean_teacher_consistency")], ids=ids
)
def test_what_compares_rows_compares_pixels(combination: tuple[str, str, str]) -> None:
    """Loading has refused views that are not aligned; here the student's view differs at all."""
    cfg = config(*combination)
    assert cfg.method.taught_by != "boxes"
    assert (cfg.method.norm == "rows") == (cfg.method.name == "humble_teacher" and cfg.detector.name == "faster_rcnn")
    assert len(cfg.views.unlabeled["strong"].ops) >= 5


@pytest.mark.parametrize("change", ["method.ema.rule=never", "method.ema={rule: copy, every: 10000}"])
def test_table_5_of_humble_teacher_is_one_switch(change: str) -> None:
    recipe = {"method": "humble_teacher", "detector": "faster_rcnn_r50_fpn", "data": "coco"}
    ema = load_recipe(**recipe, overrides=[change]).method.ema
    assert (ema.rule, ema.decay) in (("never", 0.999), ("copy", 0.999))


@pytest.mark.parametrize(
    ("data", "percent", "batch", "steps", "weight", "drops"),
    [
        ("coco", 1, (8, 32), 180_000, 4.0, [120_000, 160_000]),
        ("coco", 10, (8, 32), 180_000, 4.0, [120_000, 160_000]),
        ("coco_additional", None, (32, 32), 720_000, 2.0, [480_000, 640_000]),
    ],
)
def test_soft_teacher_as_released(
    data: str, percent: int | None, batch: tuple[int, int], steps: int, weight: float, drops: list[int]
) -> None:
    cfg = of("soft_teacher", "faster_rcnn", data, percent)
    m, t = cfg.method, cfg.train
    assert (m.score, m.candidate_score, m.spread, m.jitter_times, m.jitter_scale) == (0.9, 0.5, 0.02, 10, 0.06)
    assert (m.weight, m.burn_in, m.ramp, m.ema.decay, m.ema.warm_up) == (weight, 0, 0, 0.999, True)
    assert ((t.batch.labeled, t.batch.unlabeled), t.steps, t.lr, t.clip, t.precision) == (batch, steps, 0.01, 0, "fp16")
    assert list(t.schedule.milestones) == drops
    assert all(p.start is None for p in cfg.views.unlabeled.values())
    assert names_of(cfg.views.unlabeled["strong"])[-2:] == ["shuffle", "cutout"]


@pytest.mark.parametrize(
    ("data", "percent", "batch", "steps", "weight", "drop"),
    [
        ("coco", 1, (8, 32), 90_000, 2.0, 60_000),
        ("coco", 2, (8, 32), 90_000, 2.0, 60_000),
        ("coco", 10, (8, 32), 180_000, 2.0, 120_000),
        ("coco_additional", None, (32, 32), 720_000, 1.0, 480_000),
    ],
)
def test_pseco_as_released(
    data: str, percent: int | None, batch: tuple[int, int], steps: int, weight: float, drop: int
) -> None:
    cfg = of("pseco", "faster_rcnn", data, percent)
    m, t, d = cfg.method, cfg.train, cfg.detector
    assert (m.score, m.overlap, m.top, m.half_size, m.as_released) == (0.5, 0.4, 12, None, True)
    assert (m.weight, m.burn_in, m.ramp, m.ema.decay, m.ema.warm_up) == (weight, 5000, 2000, 0.999, True)
    assert ((t.batch.labeled, t.batch.unlabeled), t.steps, t.lr, t.clip, t.precision) == (batch, steps, 0.01, 0, "fp16")
    assert list(t.schedule.milestones) == [drop]
    assert (d.levels, d.half_size, d.level6, d.anchors.scale, d.roi.scale) == ((3, 7), True, "c5", 4, 112)


@pytest.mark.parametrize(
    ("data", "percent", "batch", "steps", "classes", "burn_in", "start"),
    [
        ("coco", 1, 8, 180_000, 3.0, 5000, 3000),
        ("coco", 10, 16, 180_000, 4.0, 5000, 3000),
        ("coco_additional", None, 16, 540_000, 2.0, 20_000, 10_000),
        ("voc", None, 16, 72_000, 2.0, 5000, 3000),
    ],
)
def test_dense_teacher_as_released(
    data: str, percent: int | None, batch: int, steps: int, classes: float, burn_in: int, start: int
) -> None:
    cfg = of("dense_teacher", "fcos", data, percent)
    m, t = cfg.method, cfg.train
    assert (m.ratio, m.weight, m.loss_weights, m.burn_in, m.ramp) == (0.01, 1, {"cls": classes}, burn_in, burn_in)
    assert (m.ema.decay, m.ema.warm_up, m.ema.start) == (0.9996, False, start)
    assert (t.batch.labeled, t.batch.unlabeled, t.steps) == (batch, batch, steps)
    assert (t.lr, t.schedule.name) == (0.01, "constant")
    assert (cfg.detector.quality, m.loss.unsup.cls.name) == ("iou", "quality_focal")
    for part in (cfg.views.labeled, cfg.views.unlabeled):
        assert part["strong"].start == "weak"
        assert len(part["strong"].ops) == 6


@pytest.mark.parametrize("combination", [c for c in COMBINATIONS if c[0] == "dense_teacher"], ids=ids)
def test_dense_teacher_has_views_that_are_aligned_and_an_iou_where_there_is_a_branch(
    combination: tuple[str, str, str],
) -> None:
    cfg = config(*combination)
    assert cfg.detector.name in ("fcos", "retinanet")
    assert getattr(cfg.detector, "quality", "iou") == "iou"
    assert cfg.views.unlabeled["strong"].start == "weak"
    assert cfg.method.ema.start < cfg.method.burn_in < cfg.method.burn_in + cfg.method.ramp < cfg.train.steps


@pytest.mark.parametrize(
    ("data", "batch", "lr", "starts", "steps", "drops"),
    [
        ("coco", 16, 0.01, (16_000, 16_800), 176_000, []),
        ("coco_additional", 32, 0.004, (60_000, 60_400), 600_000, [420_000, 540_000]),
        ("voc", 16, 0.005, (16_000, 16_800), 176_000, []),
    ],
)
def test_label_match_as_released(
    data: str, batch: int, lr: float, starts: tuple[int, int], steps: int, drops: list[int]
) -> None:
    """Its steps begin where burn-in ends, and the queue is full when its labels begin."""
    cfg = of("label_match", "faster_rcnn", data, 10 if data == "coco" else None)
    m, t = cfg.method, cfg.train
    assert (m.queue, m.reliable, m.score, m.least, m.temperature) == (12_800, 0.2, 0.9, 0.05, 0.5)
    assert (m.mine_iou, m.mine_score, m.weight, m.ema.decay, m.ema.warm_up) == (0.8, 0.8, 2, 0.996, False)
    assert (t.batch.labeled, t.batch.unlabeled, t.lr, t.steps, t.clip) == (batch, batch, lr, steps, 0)
    assert ((m.burn_in, m.start), list(getattr(t.schedule, "milestones", []))) == (starts, drops)
    assert (m.start - m.burn_in) * batch == m.queue
    strong = cfg.views.unlabeled["strong"]
    assert strong.start is None
    assert (strong.ops[0].long, strong.ops[0].ratio) == (1024, (0.2, 1.8))
    assert len(strong.ops) == len(cfg.views.labeled["weak"].ops) + 3


@pytest.mark.parametrize(
    ("data", "lr", "stages", "drops", "gamma", "rows"),
    [
        ("coco", 0.01, (180_000, 180_000), [120_000, 160_000], 0.1, 64),
        ("coco_additional", 0.01, (540_000, 540_000), [420_000, 500_000], 0.1, 64),
        ("voc", 0.008, (10_000, 20_000), [7_500, 15_000], 0.3, 256),
    ],
)
def test_stac_as_released(
    data: str, lr: float, stages: tuple[int, int], drops: list[int], gamma: float, rows: int
) -> None:
    cfg = of("stac", "faster_rcnn", data)
    m, t = cfg.method, cfg.train
    assert (m.score, m.weight, m.as_released, m.box_affine, m.ramp) == (0.9, 2, True, True, 0)
    assert (m.ema.decay, m.restart_at, t.steps - m.burn_in) == (0, *stages)
    assert in_proportion(t.schedule, stages[1], t.steps).milestones == drops
    assert (t.batch.labeled, t.batch.unlabeled, t.lr, t.schedule.gamma) == (8, 8, lr, gamma)
    assert (t.warm_up.steps, t.warm_up.factor, cfg.detector.roi.rows) == (1000, 0.33, rows)
    assert (cfg.detector.loss.box.name, cfg.detector.loss.rpn_box.name) == ("l1", "smooth_l1")
    assert (t.optimizer.name, t.optimizer.decay_norm_and_bias) == ("sgd", False)
    assert not cfg.views.unlabeled["weak"].ops
    assert names_of(cfg.views.unlabeled["strong"]) == ["resize", "shuffle", "cutout_squares"]


@pytest.mark.parametrize(
    ("data", "percent", "burn_in", "steps"),
    [("coco", 1, 10_000, 180_000), ("coco", 10, 30_000, 180_000), ("voc", None, 12_000, 72_000)],
)
@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_s4od_as_we_read_it(family: str, data: str, percent: int | None, burn_in: int, steps: int) -> None:
    """A look is at 2000 labelled images, in a view without colours, whose pixels the student's has, too."""
    cfg = of("s4od", family, data, percent)
    m, t = cfg.method, cfg.train
    assert (m.score, m.every, m.look, m.iou, m.spread, m.members, m.soft) == (0.5, 1000, 250, 0.5, 0.05, 2, False)
    assert (m.weight, m.burn_in, m.ramp, m.damping, m.ema.warm_up) == (2.0, burn_in, 0, 1.0, False)
    assert m.ema.decay == (0.999 if data == "voc" else 0.9996)
    assert m.look * t.batch.labeled == 2000
    assert (t.batch.labeled, t.batch.unlabeled, t.steps) == (8, 8, steps)
    for part in (cfg.views.labeled, cfg.views.unlabeled):
        assert next(iter(part)) == "weak"
        assert names_of(part["weak"]) == ["resize", "flip"]
        assert part["strong"].start == "weak"
        assert len(part["strong"].ops) == 6
    assert (cfg.detector.decode.score, cfg.detector.decode.per_level) == (0.05, 1000)


@pytest.mark.parametrize(("family", "score"), [("retinanet", 0.4), ("fcos", 0.3), ("faster_rcnn", 0.7)])
def test_mix_pl_as_released(family: str, score: float) -> None:
    cfg = of("mix_pl", family, "coco", 10)
    m, t = cfg.method, cfg.train
    assert (m.score, m.weight, m.mosaic_weight, m.mosaic_size, m.burn_in, m.ramp) == (score, 2, 0.5, (400, 799), 0, 0)
    assert (m.erase.patches, m.erase.share, m.erase.hidden, m.interpolation) == ((1, 19), (0, 0.1), 0.7, "nearest")
    assert (m.ema.decay, m.ema.warm_up, m.ema.gamma, m.ema.every) == (0.9998, True, 4, 3)
    assert ((t.batch.labeled, t.batch.unlabeled), t.steps, t.lr, t.clip) == ((8, 32), 180_000, 0.01, 20)
    assert (t.warm_up.steps, t.warm_up.factor, t.schedule.name) == (500, 0.001, "constant")
    assert (m.cache.side, names_of(cfg.views.unlabeled["weak"])) == (1333, ["resize", "flip"])
    assert names_of(cfg.views.labeled["weak"]) == ["resize", "flip", "color_op_uniform"]
    assert names_of(cfg.views.unlabeled["strong"]) == ["resize", "flip", "shuffle"]


@pytest.mark.parametrize("data", ["neu_det", "bccd", "shapes", "voc"])
def test_no_view_of_mix_pl_is_erased_and_none_is_too_large_for_its_cache(data: str) -> None:
    """A patch of the view would take no box with it."""
    cfg = config("mix_pl", "fcos_r50_fpn" if data == "voc" else "fcos_tiny_fpn", data)
    strong = cfg.views.unlabeled["strong"]
    assert "cutout" not in names_of(strong)
    resize = next((op for op in strong.ops if isinstance(op, Resize)), None)
    largest = {"voc": 1000, "neu_det": 96, "bccd": 192, "shapes": 96}[data]  # BCCD is 4 to 3, the other two are square
    assert resize is None or max(resize.short) <= largest
    assert cfg.method.cache.side == largest
    assert [round(side / largest, 1) for side in cfg.method.mosaic_size] == [0.3, 0.6]


@pytest.mark.parametrize(
    ("data", "percent", "weight", "every", "passes", "slow", "clip"),
    [
        ("coco", 1, 3.0, 14_600, 28, 5000, 35),
        ("coco", 10, 3.0, 13_300, 28, 5000, 35),
        ("coco_additional", None, 1.0, 15_400, 34, 5000, 35),
        ("voc", None, 2.0, 1440, 28, 0, 10),
    ],
)
def test_dsl_as_released(
    data: str, percent: int | None, weight: float, every: int, passes: int, slow: int, clip: int
) -> None:
    """Passes over the unlabelled images; the teacher sees what is evaluated, and the student a picture that is cut.

    Scores of FCOS are the roots of the released ones, and so are the limits of its thresholds.
    """
    cfg, retinanet = (of("dsl", family, data, percent) for family in ("fcos", "retinanet"))
    m, t, views = cfg.method, cfg.train, cfg.views
    own = retinanet.method
    assert (own.score, own.rise, own.power, own.unsure, own.consistency) == (0.3, 0.05, 0.05, 0.1, 1.0)
    limits = [own.score, own.score + own.rise, own.unsure]
    assert [m.score**2, (m.score + m.rise) ** 2, m.unsure**2] == pytest.approx(limits, abs=1e-4)
    assert m.power == own.power / 2
    assert (m.weight, m.every, m.slow, m.ema.decay, m.ema.warm_up) == (weight, every, slow, 0.99, False)
    assert (t.batch.labeled, t.batch.unlabeled, t.clip, t.steps // every) == (8, 8, clip, passes)
    assert views.unlabeled["weak"] == views.val
    for ops in (views.labeled["weak"], views.unlabeled["strong"]):
        assert names_of(ops)[:3] == ["resize", "patch_shuffle", "flip"]
    assert (cfg.detector.rla, cfg.detector.points, cfg.detector.box_weight) == (True, "middle", "centerness")
    assert (cfg.detector.level_scale, cfg.detector.norm) == (True, "affine")
    assert (retinanet.detector.rla, retinanet.detector.norm) == (True, "affine")
    drops = [20, 32] if data == "coco_additional" else [20, 26]
    assert list(t.schedule.milestones) == [round(t.steps * drop / passes) for drop in drops]


def test_small_sets_leave_out_what_hardly_happens_there() -> None:
    """Flips count as moves of the whole image, and a sliver of a small image shows nothing."""
    for data in ("neu_det", "bccd", "shapes"):
        assert not config("stac", "retinanet_tiny_fpn", data).method.box_affine
        assert config("acrst", "retinanet_tiny_fpn", data).method.paste.inside == 0.3
    assert of("acrst", "faster_rcnn", "coco").method.paste.inside == 0


@pytest.mark.parametrize("combination", [c for c in COMBINATIONS if c[0] == "stac"], ids=ids)
def test_stacs_teacher_sees_an_image_as_an_evaluation_or_as_it_is(combination: tuple[str, str, str]) -> None:
    views = config(*combination).views
    assert views.unlabeled["weak"].ops in ((), views.val.ops)


@pytest.mark.parametrize("two", [False, True])
def test_instant_teaching_as_released(two: bool) -> None:
    cfg = of("instant_teaching_rectify" if two else "instant_teaching", "faster_rcnn", "coco", 10)
    m, t = cfg.method, cfg.train
    assert (m.score, m.weight, m.burn_in, m.as_released, m.ema.decay, m.ema.warm_up) == (0.9, 1, 0, True, 0, False)
    assert (m.mix.mixup, m.mix.mosaic, m.mix.alpha, m.mix.tiles) == (0.25, 0.25, 1, 2)
    assert (cfg.detector.roi.rows, cfg.detector.rpn.rows, cfg.detector.decode.nms) == (64, 256, 0.5)
    assert (t.batch.labeled, t.batch.unlabeled, t.lr, t.clip, t.steps) == (8, 8, 0.01, 35, 177_360)
    assert [round(step / t.steps * 120) for step in t.schedule.milestones] == [80, 110]
    assert set(cfg.views.unlabeled) == {"weak", "strong"} | ({"strong2"} if two else set())
    assert all(p.start is None for p in cfg.views.unlabeled.values())  # each with its own size and flip
    assert names_of(cfg.views.unlabeled["strong"])[2:] == ["maybe"] * 6


@pytest.mark.parametrize("combination", [c for c in COMBINATIONS if c[0] == "instant_teaching_rectify"], ids=ids)
def test_the_peer_s_view_has_the_student_s_operations_drawn_apart(combination: tuple[str, str, str]) -> None:
    views = config(*combination).views.unlabeled
    assert views.get("strong2", views["strong"]) == views["strong"]  # without its own the peer sees the student's
    assert ("strong2" in views) == (combination[2] != "shapes")


# Table 3 of the paper: which kind of strong augmentation gives what.
TABLE_3 = {
    "none": ("flip", 0.0, 0.0),
    "colour and cutout": ("instant_strong", 0.0, 0.0),
    "geometry": ("stac_strong", 0.0, 0.0),
    "mixup": ("instant_strong", 0.5, 0.0),
    "mosaic": ("instant_strong", 0.0, 0.5),
    "both": ("instant_strong", 0.25, 0.25),
}


@pytest.mark.parametrize("row", TABLE_3)
def test_each_kind_of_augmentation_is_a_switch(row: str) -> None:
    strong, mixup, mosaic = TABLE_3[row]
    recipe = {"method": "instant_teaching", "detector": "faster_rcnn_r50_fpn", "data": "coco", "percent": 5}
    changes = [f"views.unlabeled.strong=[{{resize: {{short: 600}}}}, flip, {strong}]"]
    cfg = load_recipe(**recipe, overrides=[*changes, f"method.mix.mixup={mixup}", f"method.mix.mosaic={mosaic}"])
    assert (cfg.method.mix.mixup, cfg.method.mix.mosaic) == (mixup, mosaic)
    geometry = {"shuffle", "cutout_squares"} <= set(names_of(cfg.views.unlabeled["strong"]))
    assert geometry == (row == "geometry")


@pytest.mark.parametrize("method", ["mean_teacher", "unbiased_teacher", "consistent_teacher"])
def test_mixing_is_one_override(method: str) -> None:
    recipe = {"method": method, "detector": "retinanet_tiny_fpn", "data": "neu_det"}
    assert config(**recipe).method.mix is None
    mix = load_recipe(**recipe, overrides=["method.mix={mixup: 0.5, mosaic: 0}"]).method.mix
    assert (mix.mixup, mix.mosaic, mix.alpha, mix.tiles) == (0.5, 0, 1, 2)


@pytest.mark.parametrize("combination", [c for c in COMBINATIONS if c[0] == "supervised"], ids=ids)
def test_the_supervised_baseline_sees_no_unlabelled_image(combination: tuple[str, str, str]) -> None:
    cfg = config(*combination)
    assert not find(cfg.method.name).uses_unlabeled
    first = "flip" if combination[2] == "shapes" else "resize"
    assert [names_of(p)[0] for p in cfg.views.labeled.values()] == [first]


@pytest.mark.parametrize("combination", COMBINATIONS, ids=ids)
def test_baselines_share_data_and_detector(combination: tuple[str, str, str]) -> None:
    """What differs between a method and its supervised baseline is the method, its views and its schedule.

    And, as released, when boxes are cut: Consistent-Teacher's head does not cut them before suppression. On the Dense
    Detector the baseline of the published protocols is Efficient Teacher's, with images of 640 pixels; other methods
    are measured there as on other detectors.
    """
    cfg, baseline = config(*combination), config("supervised", *combination[1:])
    assert cfg.data.split == baseline.data.split
    assert (cfg.data.labeled, cfg.data.val, cfg.data.classes) == (
        baseline.data.labeled,
        baseline.data.val,
        baseline.data.classes,
    )
    own = {} if cfg.method.name != "consistent_teacher" else {"clip": cfg.detector.decode.clip}
    assert cfg.detector.decode == baseline.detector.decode.model_copy(update=own)
    if cfg.detector.name == "dense_detector" and combination[2] in PAPER and cfg.method.name != "efficient_teacher":
        baseline = cfg if cfg.method.name == "supervised" else config(cfg.method.name, R50[0], combination[2])
    assert cfg.views.val == baseline.views.val


def test_efficient_teacher_as_released() -> None:
    """300 passes over unlabelled images; where labels are few, 80, after a burn-in of 220 over labelled ones."""
    images, size = 118_287, 64
    few = ((1, 4_070, 150_000), (2, 8_140, 153_000), (5, 20_240, 160_000))
    for percent, burn_in, steps in (*few, (10, 0, 500_000)):
        labeled, warm_up = images * percent / 100, 500 if burn_in else 5_000
        passes = (220 * labeled / size, 80) if burn_in else (0, 300)
        assert burn_in == pytest.approx(passes[0], rel=1e-2)
        assert steps == pytest.approx(passes[0] + passes[1] * (images - labeled) / size, rel=1e-2)
        cfg = of("efficient_teacher", "dense_detector", "coco", percent)
        m, t = cfg.method, cfg.train
        assert (m.weight, m.score, m.unsure_score, m.box_quality) == (3, 0.6, 0.1, 0.99)
        assert (m.thresholds, m.domain) == (None, 0)
        assert (m.burn_in, t.steps, t.batch.labeled, t.batch.unlabeled, t.lr) == (burn_in, steps, 64, 64, 0.01)
        assert (t.warm_up.steps, t.warm_up.factor) == (warm_up, 0.001)
        assert (t.optimizer.momentum, t.optimizer.nesterov, t.schedule.name) == (0.937, True, "constant")
        assert (m.ema.decay, m.ema.growth, m.ema.buffers, m.ema.start) == (0.9999, 2000, "average", 0)
        other = of("efficient_teacher", "fcos", "coco", percent)
        assert other.method.burn_in / other.train.steps == pytest.approx(burn_in / t.steps, abs=1e-3)
    assert names_of(cfg.views.labeled["weak"]) == ["mosaic", "affine", "hsv_gain", "flip"]
    assert names_of(cfg.views.unlabeled["weak"]) == ["mosaic", "stretch"]
    strong = cfg.views.unlabeled["strong"].model_dump(mode="json")
    kinds = [next(iter(op)) if isinstance(op, dict) else op for op in strong["ops"]]
    assert (strong["start"], kinds) == ("weak", ["affine", "hsv_gain", "cutout_scales", "maybe", "flip"])
    assert (cfg.detector.decode.nms, cfg.detector.decode.detections) == (0.65, 300)
    assert {cfg.detector.loss.cls.weight, cfg.detector.loss.box.weight, cfg.detector.loss.quality.weight} == {64}
    voc = of("efficient_teacher", "dense_detector", "voc")
    assert (voc.method.weight, voc.method.burn_in, voc.train.steps) == (1, 11_500, 36_000)
    assert voc.method.burn_in == pytest.approx(220 * 5_011 / voc.train.batch.labeled, rel=1e-2)
    other = of("efficient_teacher", "fcos", "voc")
    assert other.method.burn_in / other.train.steps == pytest.approx(11_500 / 36_000, abs=1e-3)
    loss = voc.detector.loss
    assert {loss.cls.weight, loss.box.weight, loss.quality.weight, voc.train.batch.labeled} == {96}
    assert (loss.cls.name, loss.box.name) == ("bce", "ciou")
    assert voc.train.optimizer.weight_decay == pytest.approx(5e-4 * 96 / 64)
    assert of("efficient_teacher", "dense_detector", "coco_additional").train.steps == 580_000


def test_voc_has_its_twenty_classes() -> None:
    classes = of("supervised", "fcos", "voc").data.classes
    assert len(classes) == 20
    assert classes == sorted(classes)
    assert (classes[0], classes[14], classes[-1]) == ("aeroplane", "person", "tvmonitor")


def test_the_demo_is_a_recipe() -> None:
    demo = load(CONFIG)
    assert demo.dump() == config("mean_teacher", "fcos_tiny_fpn", "shapes").dump()
    assert 0 < demo.method.burn_in < demo.train.steps
