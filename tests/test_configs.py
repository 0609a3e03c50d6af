"""Every file in configs/ loads, builds its detector, and does what its name and its header say."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from ssod.assign.iou import IoUConfig
from ssod.config import Config, load
from ssod.data.views import Pipeline
from ssod.detectors.build import build
from ssod.methods.find import find, names

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
DEMO = CONFIGS / "demo" / "mean_teacher_fcos_tiny_shapes.yaml"
FILES = sorted(path for path in CONFIGS.glob("[!_]*/*.yaml") if path != DEMO)
BASES = sorted((CONFIGS / "_base_").glob("*.yaml"))
BACKBONES = {"r18": "resnet18", "r50": "resnet50", "r101": "resnet101", "tiny": "tiny"}
NAME = re.compile(
    r"(?P<method>\w+?)_(?P<detector>retinanet|fcos|faster_rcnn)_(?P<backbone>r18|r50|r101|tiny)_fpn"
    r"_(?P<data>coco_additional|coco|voc|neu_det|bccd)(_(?P<percent>\d+)p)?(_(?P<form>consistency))?"
)


def ids(path: Path) -> str:
    return path.stem


def published(method: str) -> list[Path]:
    """The configs of a method that follow a paper's protocol; NEU-DET's numbers are the project's own."""
    return [path for path in FILES if path.parent.name == method and "_r50_" in path.name and not form(path)]


def form(path: Path) -> str:
    """What a method's file has besides data and detector: a form that is not the method's usual one."""
    return NAME.fullmatch(path.stem)["form"] or ""


@cache
def config(path: Path) -> Config:
    return load(path)


@cache
def header(path: Path) -> str:
    """The comment at the top, as one line."""
    lines = path.read_text("utf-8").splitlines()
    comment = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(" ".join(line.strip("# \\") for line in comment).split())


@cache
def builds(section: str) -> int:
    """Build a detector section without memory for its weights; return its number of parameters."""
    cfg = load(CONFIGS / "supervised" / "supervised_fcos_r50_fpn_coco_1p.yaml", [f"detector={section}"]).detector
    with torch.device("meta"):
        return sum(p.numel() for p in build(cfg, 20, pretrained=False).parameters())


def test_the_published_protocols_are_all_there() -> None:
    for method in (
        "supervised",
        "mean_teacher",
        "consistent_teacher",
        "unbiased_teacher",
        "humble_teacher",
        "instant_teaching",
        "instant_teaching_rectify",
    ):
        for detector in ("retinanet", "fcos", "faster_rcnn"):
            data = ["coco_1p", "coco_2p", "coco_5p", "coco_10p", "coco_additional", "voc"]
            wanted = [f"{method}_{detector}_r50_fpn_{d}" for d in data]
            assert {CONFIGS / method / f"{name}.yaml" for name in wanted} <= set(FILES)
            assert list((CONFIGS / method).glob(f"{method}_{detector}_*_neu_det_10p.yaml"))


def test_additional_data_has_all_labels_and_other_images() -> None:
    for path in BASES:
        if "additional" in path.name:
            data = yaml.safe_load(path.read_text("utf-8"))["data"]
            assert data.keys() == {"labeled", "unlabeled", "val"}
            assert data["unlabeled"]["path"] not in data["labeled"].values()


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_the_name_says_what_is_inside(path: Path) -> None:
    cfg, parts = config(path), NAME.fullmatch(path.stem)
    assert parts is not None, "see configs/README.md for the pattern"
    assert parts["method"] == path.parent.name == cfg.method.name
    assert not parts["form"] or parts["form"] == cfg.method.form
    assert parts["detector"] == cfg.detector.name
    assert BACKBONES[parts["backbone"]] == cfg.detector.backbone
    folder = {"coco_additional": "coco/", "coco": "coco/", "voc": "voc/", "neu_det": "neu-det", "bccd": "bccd"}
    assert folder[parts["data"]] in str(cfg.data.labeled)
    assert (cfg.data.split.percent if cfg.data.split else None) == (
        float(parts["percent"]) if parts["percent"] else None
    )


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_the_header_is_a_claim_and_a_recipe(path: Path) -> None:
    cfg, text = config(path), header(path)
    assert f"ssod train {path.relative_to(ROOT)}" in text
    assert "not run here" in text.lower() or re.search(r"here: AP \d", text), "say what it gave, or that it was not run"
    assert re.search(r"Published: AP(50)? \d|no published", text)
    accumulate = re.search(r"train\.accumulate=(\d+)", text)
    if accumulate:
        for parts in (int(accumulate[1]), 8):
            assert cfg.train.batch.labeled % parts == cfg.train.batch.unlabeled % parts == 0
        assert f"torchrun --nproc-per-node 8 -m ssod train {path.relative_to(ROOT)}" in text


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_the_detector_builds(path: Path) -> None:
    section = yaml.safe_dump(config(path).dump()["detector"], default_flow_style=True, width=10_000).strip()
    assert builds(section) > 100_000


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_a_config_has_one_base_and_is_short(path: Path) -> None:
    tree = yaml.safe_load(path.read_text("utf-8"))
    assert (path.parent / tree["base"]).resolve() in BASES
    assert len(path.read_text("utf-8").splitlines()) <= 30


@pytest.mark.parametrize("path", BASES, ids=ids)
def test_a_base_has_no_base_and_no_method_and_is_used(path: Path) -> None:
    tree = yaml.safe_load(path.read_text("utf-8"))
    assert set(tree) <= {"data", "views", "detector", "train", "eval"}
    assert path.stem.endswith(tree["detector"]["name"])
    assert any(f"base: ../_base_/{path.name}\n" in file.read_text("utf-8") for file in FILES)
    assert path.read_text("utf-8").startswith("# ")


def test_every_method_has_configs() -> None:
    assert {path.parent.name for path in FILES} <= set(names())
    table = (CONFIGS / "README.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert rows == {path.parent.name for path in FILES}


# ---- published constants -----------------------------------------------------------------------------------------


def of(method: str, detector: str, data: str) -> Config:
    return config(CONFIGS / method / f"{method}_{detector}_r50_fpn_{data}.yaml")


def names_of(pipeline: Pipeline) -> list[str]:
    return [next(iter(op)) if isinstance(op, dict) else op for op in pipeline.model_dump(mode="json")]


@pytest.mark.parametrize("percent", [1, 2, 5, 10])
def test_unbiased_teacher_as_published(percent: int) -> None:
    cfg = of("unbiased_teacher", "faster_rcnn", f"coco_{percent}p")
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


@pytest.mark.parametrize("path", published("unbiased_teacher"), ids=ids)
def test_the_views_of_unbiased_teacher_are_pixel_aligned(path: Path) -> None:
    views = config(path).views
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


def test_unbiased_teacher_on_voc_as_published() -> None:
    cfg = of("unbiased_teacher", "faster_rcnn", "voc")
    m = cfg.method
    assert (m.score, m.weight, m.burn_in, m.ema.decay) == (0.7, 2.0, 30_000, 0.999)
    assert (cfg.train.batch.labeled, cfg.train.batch.unlabeled, cfg.train.steps) == (16, 16, 180_000)


@pytest.mark.parametrize(("data", "steps"), [("coco_10p", 180_000), ("voc", 72_000)])
def test_mean_teacher_as_released(data: str, steps: int) -> None:
    cfg = of("mean_teacher", "retinanet", data)
    m, d, t = cfg.method, cfg.detector, cfg.train
    assert (m.score, m.weight, m.damping, m.burn_in, m.ramp) == (0.5, 2.0, 0.01, 0, 0)
    assert (m.ema.decay, m.ema.warm_up) == (0.9995, True)
    assert (d.head_norm, d.level_scale, d.normalizer, d.norm, d.decode.nms) == ("group", True, "batch", "affine", 0.6)
    assert (d.loss.box.name, d.loss.box.weight) == ("giou", 2.0)
    assert (d.anchors.spacing, d.anchors.rounding, d.delta_std) == ("stride", "none", (0.1, 0.2))
    assert d.assigner == IoUConfig(high=0.5, low=0.4, claim=True, divisor=32)
    assert (t.batch.labeled, t.batch.unlabeled, t.steps, t.lr, t.clip, t.precision) == (8, 32, steps, 0.01, 20, "fp16")
    assert (t.warm_up.steps, t.warm_up.factor, t.schedule.name) == (500, 0.001, "constant")


@pytest.mark.parametrize(
    ("data", "steps", "start", "decay", "iou_weight", "norm"),
    [
        ("coco_1p", 180_000, 10_000, 0.9995, 2.0, "affine"),
        ("coco_10p", 180_000, 10_000, 0.9995, 2.0, "affine"),
        ("coco_additional", 720_000, 10_000, 0.9998, 3.0, "frozen"),
        ("voc", 72_000, 1_000, 0.9995, 2.0, "frozen"),
    ],
)
def test_consistent_teacher_as_released(
    data: str, steps: int, start: int, decay: float, iou_weight: float, norm: str
) -> None:
    cfg = of("consistent_teacher", "retinanet", data)
    m, d, t = cfg.method, cfg.detector, cfg.train
    assert (m.weight, m.burn_in, m.start, m.ramp, m.damping) == (2.0, 0, start, 0, 0.01)
    assert (m.as_released, m.count_ratio) == (True, 1.0)
    assert m.threshold.model_dump(exclude={"backend"}) == {"name": "gmm", "size": 100, "policy": "high", "fallback": 0}
    assert (m.ema.decay, m.ema.warm_up) == (decay, True)
    anchors = {"scale": 8, "octaves": 1, "ratios": (1.0,), "spacing": "stride", "rounding": "none"}
    assert (d.anchors.model_dump(exclude_none=True), d.delta_std, d.align.name) == (anchors, (0.1, 0.2), "3d")
    assert (d.assigner.name, d.assigner.topk, d.assigner.iou_weight) == ("adaptive", 13, iou_weight)
    assert (d.head_norm, d.level_scale, d.norm, d.decode.nms) == ("group", True, norm, 0.6)
    assert (t.batch.labeled, t.batch.unlabeled, t.steps, t.lr, t.clip, t.precision) == (8, 32, steps, 0.01, 20, "fp32")
    assert t.schedule.name == ("multistep" if data == "coco_additional" else "constant")
    assert names_of(cfg.views.unlabeled["strong"])[-2:] == ["shuffle", "cutout"]


@pytest.mark.parametrize("path", published("mean_teacher"), ids=ids)
def test_the_views_of_mean_teacher_are_drawn_apart(path: Path) -> None:
    views = config(path).views
    assert set(views.unlabeled) == {"weak", "strong"}
    assert all(p.start is None for p in views.unlabeled.values())
    assert names_of(views.unlabeled["strong"])[-2:] == ["shuffle", "cutout"]


@pytest.mark.parametrize(
    ("data", "burn_in", "batch", "steps"),
    [("coco_1p", 18_000, 32, 180_000), ("coco_additional", 90_000, 32, 360_000), ("voc", 30_000, 16, 180_000)],
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


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "humble_teacher" or form(p)], ids=ids)
def test_what_compares_rows_compares_pixels(path: Path) -> None:
    """Loading has refused views that are not aligned; here the student's view differs at all."""
    cfg = config(path)
    assert cfg.method.taught_by != "boxes"
    assert (cfg.method.norm == "rows") == (cfg.method.name == "humble_teacher" and cfg.detector.name == "faster_rcnn")
    assert len(cfg.views.unlabeled["strong"].ops) >= 5


@pytest.mark.parametrize("change", ["method.ema.rule=never", "method.ema={rule: copy, every: 10000}"])
def test_table_5_of_humble_teacher_is_one_switch(change: str) -> None:
    path = CONFIGS / "humble_teacher" / "humble_teacher_faster_rcnn_r50_fpn_coco_10p.yaml"
    ema = load(path, [change]).method.ema
    assert (ema.rule, ema.decay) in (("never", 0.999), ("copy", 0.999))


@pytest.mark.parametrize("two", [False, True])
def test_instant_teaching_as_released(two: bool) -> None:
    cfg = of("instant_teaching_rectify" if two else "instant_teaching", "faster_rcnn", "coco_10p")
    m, t = cfg.method, cfg.train
    assert (m.score, m.weight, m.burn_in, m.as_released, m.ema.decay, m.ema.warm_up) == (0.9, 1, 0, True, 0, False)
    assert (m.mix.mixup, m.mix.mosaic, m.mix.alpha, m.mix.tiles) == (0.25, 0.25, 1, 2)
    assert (cfg.detector.roi.rows, cfg.detector.rpn.rows, cfg.detector.decode.nms) == (64, 256, 0.5)
    assert (t.batch.labeled, t.batch.unlabeled, t.lr, t.clip, t.steps) == (8, 8, 0.01, 35, 177_360)
    assert [round(step / t.steps * 120) for step in t.schedule.milestones] == [80, 110]
    assert set(cfg.views.unlabeled) == {"weak", "strong"} | ({"strong2"} if two else set())
    assert all(p.start is None for p in cfg.views.unlabeled.values())  # each with its own size and flip
    assert names_of(cfg.views.unlabeled["strong"])[2:] == ["maybe"] * 6


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "instant_teaching_rectify"], ids=ids)
def test_the_peer_s_view_has_the_student_s_operations_drawn_apart(path: Path) -> None:
    views = config(path).views.unlabeled
    assert views["strong2"] == views["strong"]
    assert views["strong2"].start is None


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
    path = CONFIGS / "instant_teaching" / "instant_teaching_faster_rcnn_r50_fpn_coco_5p.yaml"
    changes = [f"views.unlabeled.strong=[{{resize: {{short: 600}}}}, flip, {strong}]"]
    cfg = load(path, [*changes, f"method.mix.mixup={mixup}", f"method.mix.mosaic={mosaic}"])
    assert (cfg.method.mix.mixup, cfg.method.mix.mosaic) == (mixup, mosaic)
    geometry = {"shuffle", "cutout_squares"} <= set(names_of(cfg.views.unlabeled["strong"]))
    assert geometry == (row == "geometry")


@pytest.mark.parametrize("method", ["mean_teacher", "unbiased_teacher", "consistent_teacher"])
def test_mixing_is_one_override(method: str) -> None:
    path = CONFIGS / method / f"{method}_retinanet_tiny_fpn_neu_det_10p.yaml"
    assert config(path).method.mix is None
    mix = load(path, ["method.mix={mixup: 0.5, mosaic: 0}"]).method.mix
    assert (mix.mixup, mix.mosaic, mix.alpha, mix.tiles) == (0.5, 0, 1, 2)


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "supervised"], ids=ids)
def test_the_supervised_twin_sees_no_unlabelled_image(path: Path) -> None:
    cfg = config(path)
    assert not find(cfg.method.name).uses_unlabeled
    assert [names_of(p)[0] for p in cfg.views.labeled.values()] == ["resize"]


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_twins_share_data_and_detector(path: Path) -> None:
    """What differs between a method and its supervised twin is the method, its views and its schedule."""
    cfg, parts = config(path), NAME.fullmatch(path.stem)
    same = path.stem.removeprefix(parts["method"]).removesuffix(f"_{form(path)}")
    twin = config(CONFIGS / "supervised" / f"supervised{same}.yaml")
    assert cfg.data.split == twin.data.split
    assert (cfg.data.labeled, cfg.data.val, cfg.data.classes) == (twin.data.labeled, twin.data.val, twin.data.classes)
    assert cfg.detector.decode == twin.detector.decode
    assert cfg.views.val == twin.views.val


def test_voc_has_its_twenty_classes() -> None:
    classes = of("supervised", "fcos", "voc").data.classes
    assert len(classes) == 20
    assert classes == sorted(classes)
    assert (classes[0], classes[14], classes[-1]) == ("aeroplane", "person", "tvmonitor")


def test_the_demo_s_config_is_the_demo() -> None:
    demo = load(ROOT / "ssod" / "demo.yaml")
    assert config(DEMO).dump() == demo.dump()
    assert demo.method.name == "mean_teacher"
    assert 0 < demo.method.burn_in < demo.train.steps
