"""Config files: what a base gives, what an override changes, and the one line that every mistake gets."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ssod.commands.config_text import describe
from ssod.config import SECTIONS, Config, load, load_recipe, validate
from ssod.detectors.dense_detector import DenseDetectorConfig
from ssod.detectors.faster_rcnn import FasterRcnnConfig
from ssod.detectors.fcos import FcosConfig
from ssod.detectors.retinanet import RetinaNetConfig
from ssod.engine.checkpointing.resume_check import KINDS
from ssod.methods.registry import find, names
from ssod.utils.errors import Exit, SsodError
from ssod.utils.schema import Section

BASE = """
data:
  labeled: {format: coco, ann: a.json, images: images}
  split: {percent: 10}
views:
  labeled: {weak: [flip]}
  unlabeled: {weak: [flip], strong: {start: weak, ops: [color_op]}}
  val: []
detector: {name: retinanet, backbone: tiny, channels: 32, head_norm: group}
train:
  steps: 1000
  lr: 1e-3
  optimizer: {name: sgd, momentum: 0.8, weight_decay: 5e-4}
"""
CHILD = """
base: base.yaml
method: {name: mean_teacher, burn_in: 25%}
train: {batch: {labeled: 4}}
"""


@pytest.fixture
def child(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "child.yaml").write_text(CHILD)
    return tmp_path / "child.yaml"


def refused(path: Path, *overrides: str, code: Exit = Exit.USAGE) -> str:
    with pytest.raises(SsodError) as caught:
        load(path, overrides)
    assert caught.value.code == code
    line = caught.value.line()
    assert "\n" not in line
    return line


# ---- merging -----------------------------------------------------------------------------------------------------


def test_a_file_is_merged_over_its_base_key_by_key(child: Path) -> None:
    cfg = load(child)
    assert cfg.stem == "child"
    assert (cfg.train.lr, cfg.train.batch.labeled, cfg.train.batch.unlabeled) == (1e-3, 4, 8)
    assert cfg.detector.channels == 32
    assert cfg.method.burn_in == 250


def test_a_changed_name_starts_the_section_afresh(child: Path) -> None:
    cfg = load(child, ["train.optimizer.name=adamw", "detector.name=fcos", "detector.backbone=tiny"])
    assert cfg.train.optimizer.weight_decay == 0.05  # AdamW's own, not the base's
    assert cfg.detector.channels == 256


def test_another_method_by_name_is_measured_by_the_same_average(child: Path) -> None:
    child.write_text(CHILD.replace("burn_in: 25%", "burn_in: 25%, ema: {decay: 0.9, start: 10}"))
    cfg = load(child, ["method.ema.warm_up=false", "method.name=supervised"])
    assert cfg.method.model_dump(exclude_none=True) == {
        "name": "supervised",
        "ema": {"rule": "ema", "decay": 0.9, "warm_up": False, "start": 10},
    }
    assert {key: value for key, value in cfg.origins.items() if key.startswith("method.")} == {
        "method.name": "command line",
        "method.ema.decay": str(child),
        "method.ema.start": str(child),
        "method.ema.warm_up": "command line",
    }
    assert load(child, ["method.name=supervised", "method.ema.decay=0.5"]).method.ema.decay == 0.5
    assert load(child, ["method={name: supervised}"]).method.ema.decay == 0.999
    assert load(child, ["method={name: supervised, ema: {start: 1}}"]).method.ema.decay == 0.999
    child.write_text(CHILD)
    assert load(child, ["method.name=unbiased_teacher", "method.burn_in=5"]).method.ema.decay == 0.9996


def test_an_average_that_a_method_cannot_have_is_reported(child: Path) -> None:
    child.write_text(CHILD.replace("burn_in: 25%", "burn_in: 25%, ema: {rule: never}"))
    assert "'rule: never' holds after burn-in, which this method has not" in refused(child, "method.name=supervised")


def test_a_repeated_name_keeps_the_section(child: Path) -> None:
    cfg = load(child, ["train.optimizer={name: sgd, momentum: 0.7}"])
    assert (cfg.train.optimizer.momentum, cfg.train.optimizer.weight_decay) == (0.7, 5e-4)


def test_a_name_where_there_was_none_keeps_the_section(child: Path) -> None:
    child.write_text("base: base.yaml\nmethod: {score: 0.4}\n")
    assert load(child, ["method.name=mean_teacher"]).method.score == 0.4


def test_a_changed_format_starts_the_section_afresh(child: Path) -> None:
    cfg = load(child, ["data.labeled={format: voc, root: voc, split: trainval}"])
    plain = cfg.data.labeled.model_dump(exclude_none=True)
    assert plain == {"format": "voc", "root": "voc", "split": "trainval"}


def own_defaults() -> list[tuple[str, type[Section], str]]:
    """Every field of a detector or method that is a section, or a table, with values of its own."""
    kinds = {"retinanet": RetinaNetConfig, "fcos": FcosConfig, "faster_rcnn": FasterRcnnConfig}
    kinds["dense_detector"] = DenseDetectorConfig
    kinds |= {name: find(name).Config for name in names()}
    fields = [
        (name, kind, field, info.default) for name, kind in kinds.items() for field, info in kind.model_fields.items()
    ]
    return [tuple(where) for *where, default in fields if isinstance(default, Section | dict) and dict(default)]


@pytest.mark.parametrize(("name", "kind", "field"), own_defaults(), ids=lambda x: x if isinstance(x, str) else "")
def test_naming_one_key_keeps_the_others_of_the_same_default(name: str, kind: type[Section], field: str) -> None:
    default = kind.model_fields[field].default
    for key, value in dict(default).items():
        # A part with a name is one of several kinds: its keys need the name beside them.
        part = {key: value} | ({"name": default.name} if hasattr(default, "name") else {})
        made = kind.model_validate({"name": name, field: part}, context={"steps": 1_000_000})
        assert getattr(made, field) == default, key


def test_a_key_is_changed_inside_the_default_that_it_belongs_to() -> None:
    assert FasterRcnnConfig(decode={"score": 0.1}).decode.model_dump(include={"score", "per_level"}) == {
        "score": 0.1,
        "per_level": 10_000,
    }
    assert FasterRcnnConfig(anchors={"scale": 4}).anchors.octaves == 1
    assert FcosConfig(decode={"score": 0.1}).decode.nms == 0.6
    weights = find("unbiased_teacher").Config(name="unbiased_teacher", loss_weights={"rpn_cls": 0.5}).loss_weights
    assert weights == {"box": 0, "rpn_box": 0, "rpn_cls": 0.5}


def test_lists_are_replaced_and_null_takes_away(child: Path) -> None:
    cfg = load(child, ["views.labeled.weak=[]", "data.split=null", "data.unlabeled={format: folder, path: x}"])
    assert cfg.views.labeled["weak"].ops == ()
    assert cfg.data.split is None


def test_what_an_alias_repeats_is_merged_into_once(child: Path) -> None:
    weak = "&x {weak: [flip], strong: [flip]}"
    child.with_name("base.yaml").write_text(
        BASE.replace("{weak: [flip]}", weak).replace("{weak: [flip], strong: {start: weak, ops: [color_op]}}", "*x")
    )
    cfg = load(child, ["views.labeled.weak=[]"])
    assert cfg.views.labeled["weak"].ops == ()
    assert len(cfg.views.unlabeled["weak"].ops) == 1


def test_a_null_that_is_not_the_default_is_reported(child: Path) -> None:
    """``ema.start`` is 0 where it is not given; null is another moment."""
    cfg = load(child, ["method.ema.start=null", "data.classes=['08', '1e3']"])
    assert cfg.method.ema.start is None
    child.write_text(describe(cfg))
    again = load(child)
    assert again.method.ema.start is None
    assert again.data.classes == cfg.data.classes
    assert again.dump() == cfg.dump()
    assert describe(cfg).count(": null ") == 1, "what is null by default goes without saying"


def test_bases_of_bases_and_circles(child: Path) -> None:
    grandchild = child.with_name("grandchild.yaml")
    grandchild.write_text("base: child.yaml\ntrain: {lr: 0.5}\n")
    assert load(grandchild).train.lr == 0.5
    child.with_name("base.yaml").write_text("base: grandchild.yaml\n")
    assert "circle" in refused(grandchild)


def test_a_base_that_is_not_there(child: Path) -> None:
    child.write_text("base: bsae.yaml\n")
    assert refused(child) == f"{child}: base: 'bsae.yaml' not found; did you mean 'base.yaml'?"
    child.write_text("base: [base.yaml]\n")
    assert "is not one path" in refused(child)


def test_overrides_are_yaml(child: Path) -> None:
    cfg = load(child, ["train.lr=2e-2", "train.batch={labeled: 2}", "views.val=[{resize: {short: 64}}]"])
    assert (cfg.train.lr, cfg.train.batch.labeled) == (0.02, 2)
    assert len(cfg.views.val.ops) == 1


def test_shares_follow_the_steps_wherever_they_come_from(child: Path) -> None:
    cfg = load(child, ["train.steps=40", "train.schedule={name: multistep, milestones: [50%, '90%']}"])
    assert cfg.method.burn_in == 10
    assert cfg.train.schedule.milestones == [20, 36]


def test_origins_name_the_file_of_every_value(child: Path) -> None:
    cfg = load(child, ["train.seed=7"])
    lines = {line.split(":")[0].strip(): line.rpartition("# ")[2] for line in describe(cfg).splitlines()}
    base = str(child.with_name("base.yaml"))
    assert lines["lr"] == base
    assert lines["burn_in"] == str(child)
    assert lines["seed"] == "command line"
    assert lines["accumulate"] == "default"


def test_the_description_is_the_config(child: Path) -> None:
    cfg = load(child, ["train.optimizer.name=adamw"])
    again = validate(yaml.safe_load(describe(cfg)), "described")
    assert all(getattr(again, name) == getattr(cfg, name) for name in SECTIONS)


def test_the_dump_is_plain_and_reads_back(child: Path) -> None:
    cfg = load(child)
    again = validate(yaml.safe_load(yaml.safe_dump(cfg.dump())), "dump")
    assert all(getattr(again, name) == getattr(cfg, name) for name in SECTIONS)


def test_a_config_is_frozen(child: Path) -> None:
    cfg: Any = load(child)
    assert isinstance(cfg, Config)
    with pytest.raises(Exception, match="frozen"):
        cfg.train.lr = 1.0


# ---- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "line"),
    [
        # C01: unknown keys, at any depth, with the nearest name
        ("method.ema.decai=0.9", "method.ema.decai: unknown key; did you mean 'decay'?"),
        ("train.bach.labeled=3", "train.bach: unknown key; did you mean 'batch'?"),
        ("data.labeled.anm=x", "data.labeled.anm: unknown key; did you mean 'ann'?"),
        ("detector.anchors.scael=x", "detector.anchors.scael: unknown key; did you mean 'scale'?"),
        ("tarin.lr=1", "tarin: unknown section; did you mean 'train'?"),
        ("method.name=meen_teacher", "method.name: 'meen_teacher' unknown; did you mean 'mean_teacher'?"),
        (
            "method.name=mine.teacher",
            "no module 'mine.teacher' on Python's path; if it lies in this folder, set PYTHONPATH=.",
        ),
        ("detector.name=retina", "detector.name: unknown 'retina'; did you mean 'retinanet'?"),
        ("detector.backbone=resnet51", "'resnet50'"),
        ("train.schedule.name=cosin", "train.schedule.name: unknown 'cosin'; did you mean 'cosine'?"),
        ("views.labeled.weak=[flop]", "unknown operation 'flop'; did you mean 'flip'?"),
        ("views.unlabeled.strong={start: weeak}", "view 'strong' starts from unknown view 'weeak'"),
        (
            "detector={name: faster_rcnn, decode: {clip: last}}",
            "'clip: last' is for detectors of one stage; remove it",
        ),
        ("method.loss_weights.bx=0", "method.loss_weights.bx: 'bx': should be 'cls', 'box'"),
        # C02: numbers that YAML 1.1 reads as text are numbers here; what is no number is named
        ("train.lr=fast", "train.lr: 'fast': should be a valid number"),
        ("train.lr=$(rm -rf ~)", "train.lr: '$(rm -rf ~)': should be a valid number"),  # S21
        ("train.seed=__import__('os')", "train.seed"),
        # C03: class names that are no text
        ("data.classes=[a, true]", "data.classes.1: True is no text; put it in quotes"),
        ("data.classes=[a, 7]", "data.classes.1: 7 is no text; put it in quotes"),
        # C05: out of range
        ("train.optimizer.momentum=1.5", "train.optimizer.momentum: 1.5: should be less than 1"),
        ("method.ema.decay=1.5", "method.ema.decay: 1.5: should be less than 1"),
        ("train.lr=.nan", "train.lr: nan: should be a finite number"),
        ("train.lr=1e999", "train.lr: inf: should be a finite number"),
        ("train.batch.labeled=-1", "train.batch.labeled: -1: should be greater than or equal to 1"),
        ("train.steps=0", "train.steps: 0: should be greater than or equal to 1"),
        ("train.steps=5.5", "train.steps: 5.5: should be a valid integer"),
        # C06: the data says how many classes there are
        ("detector.num_classes=80", "detector.num_classes: unknown key; remove it"),
        # C07: no semi-supervised phase
        ("method.burn_in=1000", "method.burn_in: 1000 >= train.steps 1000: no semi-supervised phase; lower it"),
        ("method.burn_in=120%", "method.burn_in: 1200 >= train.steps 1000"),
        # durations
        ("method.burn_in=5%%", "method.burn_in: '5%%' is neither a number of steps nor a percentage"),
        ("method.burn_in=inf%", "method.burn_in: 'inf%' is neither"),
        ("method.burn_in=nan%", "method.burn_in: 'nan%' is neither"),
        ("method.burn_in=-5%", "method.burn_in: -50: should be greater than or equal to 0"),
        # what makes no sense together
        ("train.batch.unlabeled=0", "train.batch.unlabeled: 0, but 'mean_teacher' learns from them"),
        ("data.split=null", "data.unlabeled: no unlabelled images"),
        # shapes
        ("train=3", "train: 3 is no section; write 'train:' and keys below it"),
        ("train.batch=4", "train.batch: 4 where keys are due; write 'batch:' and keys below"),
        ("data.labeled=a.json", "data.labeled: 'a.json' where keys are due"),
        (
            "data.unlabeled.path=x",
            "data.unlabeled.format: missing; known here: coco, folder, labelme, labelstudio, voc, yolo",
        ),
        ("data.labeled.format=voc", "data.labeled.root: missing (and 1 more); add it"),
        # names that are no names
        ("method.name=../x", "method.name: '../x' is no name"),
        ("method.name=.x", "method.name: '.x' is no name"),
        ("method.name=3", "method.name: 3 is no name"),
        ("method.name=os.system", "method.name: no module 'os.system' on Python's path"),
        ("method.name=base", "has no METHOD"),
        # a part that is chosen by name, and keys that are also such a name
        ("detector.assigner=adaptve", "detector.assigner.name: unknown 'adaptve'; did you mean 'adaptive'?"),
        ("detector.assigner={name: adaptive, topkk: 9}", "detector.assigner.topkk: unknown key; did you mean 'topk'?"),
        ("detector.assigner={name: iou, low: 0.7}", "low 0.7 is above high 0.5"),
        ("detector={name: faster_rcnn, roi: {iou: 7}}", "detector.roi.iou: 7: should be less than or equal to 1"),
        ("detector.align=4d", "detector.align.name: '4d': should be '2d' or '3d'"),
        # overrides themselves
        ("train.lr", "train.lr: not of the form key=value; write e.g. train.lr=0.01"),
        ("=3", "=3: not of the form key=value"),
        ("train..lr=1", "train..lr=1: has an empty key"),
        ("train.lr=[1", "not valid YAML"),
        ("train.steps=" + "9" * 5000, "too long"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(child: Path, override: str, line: str) -> None:
    found = refused(child, override)
    assert line in found
    assert len(found) <= 300
    assert found.startswith(("command line", str(child)))


def test_the_line_names_the_file_that_is_wrong(child: Path) -> None:
    base = child.with_name("base.yaml")
    base.write_text(BASE.replace("lr: 1e-3", "lr: -1"))
    assert refused(child).startswith(f"{base}: train.lr: -1")
    assert refused(child, "train.lr=0.1", "method.score=2").startswith("command line: method.score: 2")
    base.write_text(BASE)
    child.write_text(CHILD.replace("labeled: 4", "labeled: 0"))
    assert refused(child).startswith(f"{child}: train.batch.labeled: 0")


def test_a_wrong_number_of_steps_is_reported_before_the_shares_of_it(child: Path) -> None:
    child.write_text(CHILD.replace("train: {", "train: {steps: many, "))
    assert refused(child).startswith(f"{child}: train.steps: 'many'")
    child.with_name("base.yaml").write_text(BASE.replace("  steps: 1000\n", ""))
    child.write_text(CHILD)
    assert "train.steps: missing; add it" in refused(child)


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != "eval"])
def test_every_section_but_eval_is_needed(child: Path, section: str) -> None:
    tree = yaml.safe_load(BASE) | {"method": {"name": "mean_teacher"}}
    tree.pop(section)
    with pytest.raises(SsodError, match=f"x.yaml: {section}: section missing; add '{section}:'"):
        validate(tree, "x.yaml")


def test_views_that_a_method_needs(child: Path) -> None:
    base = child.with_name("base.yaml")
    base.write_text(BASE.replace(", strong: {start: weak, ops: [color_op]}", ""))
    assert "views.unlabeled.strong: missing" in refused(child)
    child.write_text("base: base.yaml\nmethod: {name: supervised}\n")
    assert load(child).method.name == "supervised"


def test_supervised_takes_no_burn_in(child: Path) -> None:
    assert "method.burn_in: unknown key" in refused(child, "method.name=supervised", "method.burn_in=3")


def test_a_loss_has_open_parameters_and_everything_else_has_not(child: Path) -> None:
    assert load(child, ["detector.loss.cls={name: focal, gamma: 1.0}"]).detector.loss.cls.model_extra == {"gamma": 1.0}
    assert "detector.loss.clss: unknown key; did you mean 'cls'?" in refused(child, "detector.loss.clss=focal")


@pytest.mark.parametrize(
    "text",
    ["a: !!python/object/apply:os.system ['true']", "a: &a [x]\n" + "b: &b [*b]"],
)
def test_a_file_that_wants_more_than_values_is_refused_as_unsafe(child: Path, text: str) -> None:
    child.write_text(text)
    assert refused(child, code=Exit.UNSAFE).startswith(f"{child}: line")


def test_a_file_that_is_no_mapping(child: Path) -> None:
    child.write_text("- 1")
    assert "is a list, expected sections" in refused(child)
    child.write_text("")
    assert "expected sections" in refused(child)


def test_a_duplicate_key_names_its_line(child: Path) -> None:  # C04
    child.write_text(CHILD + "train: {lr: 1}\n")
    assert refused(child) == f"{child}: line 5: duplicate key 'train'; keep one"


def test_every_key_of_a_checkpoint_s_identity_exists() -> None:
    """``engine.checkpointing.resume_check`` says by dotted key what a checkpoint survives; a key that no config has
    would say nothing."""
    found: set[str] = set()
    for detector in ("retinanet", "fcos", "faster_rcnn"):
        # A null that is the default is not said.
        changes = ["method.teacher={name: file, results: x.json, until: 10}", "data.held_out=x.txt", "data.cache=x"]
        changes += ["data.val={ann: coco/annotations/instances_train2017.json, images: coco/train2017}"]
        recipe = {"method": "mean_teacher", "detector": f"{detector}_r50_fpn", "data": "coco"}
        queue = [("", load_recipe(**recipe, overrides=changes).dump())]
        while queue:
            prefix, branch = queue.pop()
            found |= {f"{prefix}{key}" for key in branch}
            queue += [(f"{prefix}{key}.", value) for key, value in branch.items() if isinstance(value, dict)]
    assert set(KINDS) <= found
