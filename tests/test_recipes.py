"""Recipes: how three files become one config, who set what, and the line that every mistake gets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import ssod
from ssod import cli
from ssod.commands.init.write import write_recipe
from ssod.config import Config, load, load_recipe, load_words
from ssod.experiments.sweep.sweep import read_sweep
from ssod.utils import recipes
from ssod.utils.errors import Exit, SsodError
from tests.recipes_resolved import DATA, DETECTORS, FILE, METHODS, offered, resolved


def refused(*words: str, **named: object) -> str:
    with pytest.raises(SsodError) as caught:
        load_words(words, named)
    assert caught.value.code == Exit.USAGE
    return caught.value.line()


# ---- what the files of configs resolve to ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_combination_resolves_to_what_it_did(method: str) -> None:
    """If a change is wanted: ``python -m tests.recipes_resolved``, and look at the difference."""
    assert resolved(method) == json.loads(FILE.read_text("utf-8"))[method]


def test_the_digests_are_of_every_combination() -> None:
    kept = json.loads(FILE.read_text("utf-8"))
    assert set(kept) == set(METHODS)
    assert all(set(kept[method]) == set(offered(method)) for method in METHODS)
    assert all(len(row) == len(DATA) for method in METHODS for row in kept[method].values())


def test_what_is_not_offered_is_refused_in_one_line() -> None:
    """Everything else is loaded by the test before."""
    refused_ = {(method, name) for method in METHODS for name in set(DETECTORS) - set(offered(method))}
    dense = {("dense_teacher", name) for name in DETECTORS if "faster_rcnn" in name}
    sides = {("unbiased_teacher_v2", name) for name in DETECTORS if name.startswith(("d2_", "dense_"))}
    no_quality = {("efficient_teacher", name) for name in DETECTORS if "retinanet" in name or "faster_rcnn" in name}
    maps = ("dense_teacher", "humble_teacher", "csd", "mean_teacher_consistency")
    objects = {(method, name) for method in maps for name in DETECTORS if name.startswith("dense_")}
    levels = {("dsl", name) for name in DETECTORS if "faster_rcnn" in name or name.startswith("dense_")}
    assert refused_ == dense | levels | sides | no_quality | objects
    why = dict.fromkeys(dense, ("faster_rcnn/d2_faster_rcnn", "a detector with proposals has none"))
    why |= dict.fromkeys(levels, ("faster_rcnn/d2_faster_rcnn/dense_detector", "dense_detector speak of objects alone"))
    why |= dict.fromkeys(sides, ("d2_retinanet/d2_fcos/d2_faster_rcnn/dense_detector", "heads do not say"))
    why |= dict.fromkeys(no_quality, ("retinanet/d2_retinanet/faster_rcnn/d2_faster_rcnn", "has no branch for that"))
    why |= dict.fromkeys(objects, ("dense_detector", "those of this detector speak of objects alone"))
    for method, detector in refused_:
        family, reason = why[method, detector]
        line = refused(method=method, detector=detector, data="voc")
        assert line.startswith(f"configs/methods/{method}.yaml: for family {family}: not offered")
        assert reason in line


def values(cfg: Config) -> tuple:
    t = cfg.train
    return (cfg.stem, cfg.method.weight, t.batch.labeled, t.batch.unlabeled, t.steps, t.lr, t.clip, t.precision)


def test_a_few_of_them_in_words() -> None:
    wanted = [
        ("mean_teacher_retinanet_r50_fpn_coco_1p", 2.0, 8, 32, 180_000, 0.01, 20, "fp16"),
        ("unbiased_teacher_faster_rcnn_r50_fpn_voc", 2.0, 16, 16, 180_000, 0.01, 0, "fp32"),
        ("instant_teaching_fcos_r50_fpn_coco_10p", 1.0, 8, 8, 177_360, 0.01, 35, "fp32"),
        ("consistent_teacher_retinanet_tiny_fpn_neu_det_10p", 1.0, 8, 8, 4000, 0.003, 10, "fp32"),
    ]
    found = [
        ssod.load_recipe(method="mean_teacher", detector="retinanet_r50_fpn", data="coco", percent=1),
        ssod.load_recipe(method="unbiased_teacher", detector="faster_rcnn_r50_fpn", data="voc"),
        ssod.load_recipe(method="instant_teaching", detector="fcos_r50_fpn", data="coco"),
        ssod.load_recipe(method="consistent_teacher", detector="retinanet_tiny_fpn", data="neu_det", fold=3),
    ]
    assert [values(cfg) for cfg in found] == wanted
    assert found[3].data.split.fold == 3


@pytest.mark.parametrize("factor", recipes.FACTORS)
def test_conditions_name_what_there_is(factor: str) -> None:
    """A condition that no combination meets would say nothing."""
    known = {key: set(recipes.names(key)) for key in recipes.FACTORS}
    trees = [recipes.compose(recipes.Recipe(detector=name))[0]["detector"] for name in known["detector"]]
    known |= {"family": {tree["name"] for tree in trees}, "backbone": {tree.get("backbone") for tree in trees}}
    known |= {"protocol": {"paper", "small", "own"}, "percent": {1, 2, 5, 10}}
    for name in known[factor]:
        for page in recipes.pages(factor, name):
            for entry in page.entries:
                for key, value in entry.when.items():
                    assert set(value if isinstance(value, list) else [value]) <= known[key], (page.file, entry.when)
            assert (page.protocol is None) == (factor != "data")


# ---- how they compose --------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes of one's own."""
    pages = {
        "data/d": {"protocol": "small", "data": {"split": {"percent": 10, "fold": 1}}, "train": {"lr": 1, "steps": 9}},
        "data/whole": {"protocol": "paper", "train": {"lr": 1}},
        "detectors/small": {"detector": {"name": "fcos", "backbone": "tiny"}, "train": {"clip": 5}},
        "detectors/big": {"base": "small", "detector": {"backbone": "resnet18"}},
        "methods/m": {
            "method": {"name": "x", "weight": 4},
            "for": [
                {"when": {"protocol": "small"}, "then": {"method": {"weight": 1}, "train": {"lr": 2}}},
                {"when": {"data": ["d", "e"], "percent": 5}, "then": {"train": {"lr": 3}}},
                {"when": {"backbone": "resnet18", "family": "fcos"}, "then": {"train": {"clip": 7}}},
                {"when": {"data": "whole", "detector": "big"}, "refuse": "it would not fit"},
            ],
        },
    }
    for name, tree in pages.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(tree))
    recipes._page.cache_clear()
    monkeypatch.setattr(recipes, "folder", lambda: tmp_path)
    yield tmp_path
    recipes._page.cache_clear()


def composed(**named: object) -> dict:
    return recipes.compose(recipes.read_recipe(named, "test"))


def test_data_then_detector_then_method_then_what_differs(shelf: Path) -> None:
    tree, origins = composed(method="m", detector="small", data="d")
    assert tree["method"] == {"name": "x", "weight": 1}
    assert tree["train"] == {"lr": 2, "steps": 9, "clip": 5}
    assert origins["train.steps"] == "configs/data/d.yaml"
    assert origins["train.clip"] == "configs/detectors/small.yaml"
    assert origins["method.name"] == "configs/methods/m.yaml"
    assert origins["method.weight"] == origins["train.lr"] == "configs/methods/m.yaml (for protocol small)"


def test_a_percentage_is_a_condition_and_a_later_entry_wins(shelf: Path) -> None:
    tree, origins = composed(method="m", detector="small", data="d", percent=5)
    assert tree["train"]["lr"] == 3
    assert origins["train.lr"] == "configs/methods/m.yaml (for data d/e, percent 5)"


def test_a_file_may_have_a_base_in_its_folder(shelf: Path) -> None:
    tree, _ = composed(method="m", detector="big", data="d")
    assert (tree["detector"], tree["train"]["clip"]) == ({"name": "fcos", "backbone": "resnet18"}, 7)


def test_a_combination_that_is_not_offered_says_why(shelf: Path) -> None:
    with pytest.raises(SsodError, match="for data whole, detector big: not offered: it would not fit"):
        composed(method="m", detector="big", data="whole")
    assert composed(method="m", detector="small", data="whole")[0]["train"]["lr"] == 1


def test_an_unknown_condition_is_reported(shelf: Path) -> None:
    (shelf / "methods" / "odd.yaml").write_text("for: [{when: {familly: fcos}, then: {}}]\n")
    with pytest.raises(SsodError, match="no condition 'familly'; did you mean 'family'"):
        composed(method="odd")


def test_what_is_composed_is_nobody_else_s(shelf: Path) -> None:
    composed(method="m", detector="small", data="d")[0]["train"]["lr"] = 100
    assert composed(method="m", detector="small", data="d")[0]["train"]["lr"] == 2


# ---- a user's own file -------------------------------------------------------------------------------------------

OWN = "data: {labeled: {format: coco, ann: a.json, images: i}, split: {percent: 10}}\n"


def own(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text)
    return path


def test_a_file_names_a_recipe_and_changes_it(tmp_path: Path) -> None:
    recipe = "recipe: {method: mean_teacher, detector: fcos_tiny_fpn, data: neu_det, fold: 2}\n"
    path = own(tmp_path, f"{recipe}train: {{lr: 7}}")
    cfg = load(path, ["train.clip=1"])
    assert (cfg.stem, cfg.train.lr, cfg.train.clip, cfg.data.split.fold) == ("my", 7, 1, 2)
    assert (cfg.origins["train.lr"], cfg.origins["data.split.fold"]) == (str(path), str(path))
    assert load(path, recipe={"method": "supervised", "percent": 5}).method.name == "supervised"
    assert load(path, recipe={"percent": 5}).origins["data.split.percent"] == "command line"


@pytest.mark.parametrize(("method", "detector"), [(m, name) for m in METHODS for name in offered(m)])
def test_data_of_one_s_own(tmp_path: Path, method: str, detector: str) -> None:
    cfg = load(own(tmp_path, f"recipe: {{method: {method}, detector: {detector}, data: own}}\n{OWN}"))
    assert cfg.origins["views.val"] == "configs/data/own.yaml"
    assert getattr(cfg.method, "burn_in", 1) < cfg.train.steps


def test_a_part_that_is_left_out_is_the_file_s_own(tmp_path: Path) -> None:
    path = own(tmp_path, "recipe: {detector: fcos_tiny_fpn, data: own}\nmethod: {name: supervised}\n" + OWN)
    assert load(path).method.ema.decay == 0.999
    child = tmp_path / "child.yaml"
    child.write_text("base: my.yaml\nrecipe: {detector: retinanet_tiny_fpn}\n")
    assert load(child).detector.name == "retinanet"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recipe: 3\n", "recipe: 3 is no section"),
        ("recipe: {methd: x}\n", "recipe.methd: unknown key; did you mean 'method'?"),
        ("recipe: {method: x}\n", "recipe: method: 'x' unknown"),
        ("recipe: {method: ../methods/supervised}\n", "'../methods/supervised' unknown"),
        ("recipe: {detector: fcos_tiny_fpn, data: voc, fold: 2}\n", "2, but voc has no data.split"),
        ("recipe: {detector: fcos_tiny_fpn, percent: 2}\n", "2, but the file has no data.split"),
        (
            "base: ../mean_teacher/supervised_fcos_r50_fpn_coco_2p.yaml\n",
            "write 'recipe: {method: supervised, detector: fcos_r50_fpn, data: coco, percent: 2}' in place of it",
        ),
        ("base: ../_base_/voc_fcos.yaml\n", "write 'recipe: {detector: fcos_r50_fpn, data: voc}' in place of it"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(str(own(tmp_path, text)))


# ---- the command line --------------------------------------------------------------------------------------------


def test_the_options_are_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"method": "mean_teacher", "detector": "fcos_r50_fpn", "data": "coco", "percent": 5.0, "fold": None}
    cfg = load_words(["train.lr=0.3"], named)
    assert (cfg.stem, cfg.train.lr) == ("mean_teacher_fcos_r50_fpn_coco_5p", 0.3)
    options = ["--method", "supervised", "--detector", "fcos_tiny", "--data", "bccd", "--fold", "4", "eval.batch=3"]
    monkeypatch.setattr("sys.argv", ["ssod", "config", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    told = capsys.readouterr().out
    assert re.search(r"fold: 4 +# command line", told)
    assert re.search(r"decay: 0.996 +# configs/methods/supervised.yaml \(for protocol small\)", told)


def test_mistakes_in_the_options(tmp_path: Path) -> None:
    assert refused() == "command line: CONFIG: missing; name a config file, or --method, --detector and --data"
    assert refused(method="supervised", data="voc").startswith("command line: --detector: missing")
    assert refused("train.lr=3", percent=5).startswith("command line: --method: missing")
    known = {"method": "supervised", "detector": "fcos_r50_fpn", "data": "voc"}
    assert "did you mean 'supervised'?" in refused(**{**known, "method": "superviced"})
    assert "did you mean 'fcos_r50_fpn'?" in refused(**{**known, "detector": "fcos_r50"})
    assert "--data: own: that of a config file" in refused(**{**known, "data": "own"})
    assert "5, but voc has no data.split" in refused(**known, percent=5)
    assert "recipe.percent: 500" in refused(**known, percent=500)
    plain = own(tmp_path, OWN)
    assert "recipe: missing; write e.g. 'recipe: {method: mean_teacher}', or drop --fold" in refused(str(plain), fold=2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("supervised_retinanet_r50_fpn_coco_10p", "supervised --detector retinanet_r50_fpn --data coco --percent 10"),
        ("instant_teaching_rectify_fcos_r50_fpn_voc", "instant_teaching_rectify --detector fcos_r50_fpn --data voc"),
        (
            "mean_teacher_fcos_tiny_fpn_bccd_10p_consistency",
            "mean_teacher_consistency --detector fcos_tiny_fpn --data bccd --percent 10",
        ),
    ],
)
def test_a_file_of_before_is_reported_as_its_recipe(name: str, options: str) -> None:
    line = refused(f"configs/x/{name}.yaml")
    assert line.endswith(f"not found; each method has one file now; give --method {options}")
    assert "check the path" in refused(f"configs/x/my_{name[:-1]}.yaml")


def test_init_writes_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    named = {"method": "mean_teacher", "detector": "fcos_r50_fpn", "percent": 5.0}
    write_recipe(path, "coco", {}, **named)
    assert load(path).dump() == load_recipe(data="coco", **named).dump()
    with pytest.raises(SsodError, match="cannot be written"):
        write_recipe(path, "coco", {}, **named)
    with pytest.raises(SsodError, match="--val-images: --data coco names all images"):
        write_recipe(tmp_path / "b.yaml", "coco", {"val_images": "x"}, **named)


# ---- sweeps ------------------------------------------------------------------------------------------------------


def sweep(folder: Path, **keys: object) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"out": str(folder / "runs"), **keys}))
    return path


def test_a_cell_of_a_sweep_is_a_recipe(tmp_path: Path) -> None:
    section = {"method": ["supervised", "mean_teacher"], "detector": "fcos_r50_fpn", "data": "coco", "percent": [1, 10]}
    cells = read_sweep(sweep(tmp_path, configs=[{"recipe": section, "overrides": ["train.lr=1"]}], folds=[1, 2])).cells
    rows = [f"{m}_fcos_r50_fpn_coco_{p}p" for m in ("supervised", "mean_teacher") for p in (1, 10)]
    assert [cell.name for cell in cells] == [f"{row}/fold{fold}-seed0" for row in rows for fold in (1, 2)]
    cfg = cells[-1].load()
    assert (cfg.method.name, cfg.data.split.percent, cfg.data.split.fold, cfg.train.lr) == ("mean_teacher", 10, 2, 1)
    words = cells[-1].command()
    named = {"method": "mean_teacher", "detector": "fcos_r50_fpn", "data": "coco", "percent": "10.0"}
    assert words[:8] == [word for key, value in named.items() for word in (f"--{key}", value)]
    assert load_words(words[8:], named | {"percent": 10.0}).dump() == cfg.dump()


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"overrides": []}, "neither or both of config and recipe"),
        ({"recipe": {"method": "supervised"}}, "configs.recipe.detector: missing"),
        ({"recipe": {"method": "supervised", "fold": 2}}, "configs.recipe.fold: every run has a fold of the sweep"),
        ({"recipe": {"method": "supervist", "detector": "fcos_r50_fpn", "data": "voc"}}, "did you mean 'supervised'"),
        ("../supervised_fcos_r50_fpn_voc.yaml", "give {recipe: ...} for --method supervised --detector fcos_r50_fpn"),
    ],
)
def test_mistakes_in_a_sweep(tmp_path: Path, entry: object, says: str) -> None:
    with pytest.raises(SsodError) as error:
        read_sweep(sweep(tmp_path, configs=[entry]))
    assert says in error.value.line()
