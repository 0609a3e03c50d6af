"""`ssod init`: a config that loads, from whatever format the data has, or one line that says what was not found."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssod.commands.init import text as init_text
from ssod.commands.init.write import write_config
from ssod.config import load, load_recipe
from ssod.data import datasets
from ssod.detectors.build import build
from ssod.methods.registry import names
from ssod.utils import recipes
from ssod.utils.errors import Exit, SsodError
from ssod.utils.recipes import Recipe
from tests.small_sets import coco, pictures, voc, yolo


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one set of each kind, and the current one."""
    five = [f"{i}.jpg" for i in range(5)]
    coco(tmp_path / "coco/annotations/instances_train2017.json", tmp_path / "coco/train2017", five)
    coco(tmp_path / "coco/annotations/instances_val2017.json", tmp_path / "coco/val2017", five[:2])
    voc(tmp_path / "voc", {"trainval": 9, "test": 3})
    yolo(tmp_path / "yolo", {"train": 6, "valid": 2})
    pictures(tmp_path / "free", [f"u{i}.png" for i in range(4)])
    (tmp_path / "list.txt").write_text("free/u0.png\nfree/u2.png\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(out: str, *args: str | None, code: Exit = Exit.USAGE, **kwargs: Any) -> str:
    with pytest.raises(SsodError) as caught:
        write_config(out, *args, **kwargs)
    assert caught.value.code == code
    assert not Path(out).exists()
    return caught.value.line()


KINDS = {
    "coco": ("coco/annotations/instances_train2017.json", "coco/annotations/instances_val2017.json", 5, 2),
    "voc": ("voc", "voc", 9, 3),
    "yolo": ("yolo", "yolo/data.yaml", 6, 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("unlabeled", "count"), [("free", 4), ("free/*.png", 4), ("list.txt", 2)])
def test_the_config_loads_and_names_the_data(here: Path, kind: str, unlabeled: str, count: int) -> None:
    labeled, val, n, m = KINDS[kind]
    message = write_config("my.yaml", labeled, unlabeled, val)
    cfg = load("my.yaml")
    data = datasets.load(cfg.data)
    assert (len(data.labeled), len(data.unlabeled), len(data.val)) == (n, count, m)
    assert data.classes.names == ("cat", "dog")
    assert cfg.data.labeled.format == kind
    assert f"{n} images" in message
    assert "ssod train my.yaml" in message


def test_the_config_works_from_anywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config("my.yaml", "voc", "free", "voc")
    monkeypatch.setenv("SSOD_DATASETS", "/nowhere")
    monkeypatch.chdir("/")
    cfg = load(here / "my.yaml")
    assert cfg.data.root == str(here)
    assert len(datasets.load(cfg.data).labeled) == 9


@pytest.mark.parametrize("kind", KINDS)
def test_a_percentage_hides_labels_of_the_labelled_set(here: Path, kind: str) -> None:
    labeled, val, n, m = KINDS[kind]
    message = write_config("my.yaml", labeled, None, val, percent=40)
    cfg = load("my.yaml")
    assert cfg.data.unlabeled is None
    assert cfg.data.split.model_dump() == {
        "percent": 40,
        "fold": 1,
        "family": "without_replacement",
        "file": None,
    }
    assert (
        "split: {percent: 40, fold: 1, family: without_replacement} # the other images" in Path("my.yaml").read_text()
    )
    data = datasets.load(cfg.data)
    keeps = int(0.4 * n)
    assert (len(data.labeled), len(data.unlabeled), len(data.val)) == (keeps, n - keeps, m)
    assert data.classes.names == ("cat", "dog")  # those of the whole set, whichever images keep their labels
    assert f"labelled   {keeps} images" in message
    assert "40 %" in message
    assert f"unlabelled {n - keeps} images (the others of the labelled set)" in message


def test_the_numbers_follow_from_the_images_that_keep_their_labels(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voc(here / "big", {"trainval": 60, "test": 2}, size=(32, 32))
    write_config("tenth.yaml", "big", None, "big", percent=5)
    cfg = load("tenth.yaml")
    assert (cfg.train.batch.labeled, cfg.train.batch.unlabeled) == (2, 8)
    assert cfg.train.lr == pytest.approx(0.0025)
    seen = []
    monkeypatch.setattr(init_text, "numbers", lambda data, *_, **__: seen.append(len(data.labeled)) or NUMBERS)
    write_config("again.yaml", "big", None, "big", percent=12.5)
    assert seen == [7]
    assert load("again.yaml").data.split.percent == 12.5


NUMBERS = init_text.Numbers(labeled=2, unlabeled=2, steps=3000, fewest=3000, lr=0.01)


def test_a_percentage_and_other_unlabelled_images(here: Path) -> None:
    message = write_config("my.yaml", "voc", "free", "voc", percent=50)
    data = datasets.load(load("my.yaml").data)
    assert (len(data.labeled), len(data.unlabeled)) == (4, 4)
    assert data.hidden is None
    assert "the labelled set's other images are left out" in message


def test_a_percentage_or_unlabelled_images_are_needed(here: Path) -> None:
    line = refused("my.yaml", "voc", None, "voc")
    assert line.startswith("command line: --unlabeled: missing; ")
    assert "--percent 10" in line
    assert "drop --unlabeled and give --percent 10" in refused("my.yaml", "voc", "voc", "voc")


@pytest.mark.parametrize("percent", [0, -1, 100, 101, float("nan")])
def test_a_percentage_is_between_0_and_100(here: Path, percent: float) -> None:
    assert "command line: --percent: " in refused("my.yaml", "voc", None, "voc", percent=percent)


def test_a_percentage_that_keeps_nothing(here: Path) -> None:
    line = refused("my.yaml", "voc", None, "voc", percent=0.01, code=Exit.DATA)
    assert line == "command line: --percent: 0.01 % of 9 = 0 images; use ≥ 12"


def test_letters_stay_letters(here: Path) -> None:
    (here / "voc").rename(here / "Jérôme 猫")
    write_config("my.yaml", "Jérôme 猫", "free", "Jérôme 猫")
    assert "root: Jérôme 猫, split" in Path("my.yaml").read_text("utf-8")


def test_unlabelled_images_may_have_labels(here: Path) -> None:
    write_config("a.yaml", "voc", "coco/annotations/instances_train2017.json", "voc")
    write_config("b.yaml", "voc", "yolo", "voc")
    assert load("a.yaml").data.unlabeled.format == "coco"
    assert load("b.yaml").data.unlabeled.model_dump()["split"] == "train"


def test_a_list_named_unlabeled_is_taken(here: Path) -> None:
    voc(here / "mine", {"train": 4, "unlabeled": 5, "val": 2})
    write_config("my.yaml", "mine", "mine", "mine")
    cfg = load("my.yaml").data
    assert (cfg.labeled.split, cfg.unlabeled.split, cfg.val.split) == ("train", "unlabeled", "val")


def test_measuring_on_val_does_not_train_on_trainval(here: Path) -> None:
    voc(here / "mine", {"train": 4, "val": 2, "trainval": 6})
    write_config("my.yaml", "mine", "free", "mine")
    assert load("my.yaml").data.labeled.split == "train"


def test_the_image_folder_of_a_coco_file(here: Path) -> None:
    coco(here / "odd.json", here / "somewhere/else", ["a.jpg", "b.jpg"])
    line = refused("my.yaml", "odd.json", "free", "voc")
    assert line == (
        "command line: --images: cannot find 'a.jpg' of odd.json; name the folder that its file names are relative to"
    )
    write_config("my.yaml", "odd.json", "free", KINDS["coco"][1], images="somewhere/else")
    assert load("my.yaml").data.labeled.images == "somewhere/else"
    assert load("my.yaml").data.val.images == "coco/val2017"


def test_every_detector(here: Path) -> None:
    for detector in (name for name in recipes.names("detector") if not name.startswith("d2_")):
        write_config(f"{detector}.yaml", "voc", "free", "voc", detector=detector, method="supervised")
        cfg = load(f"{detector}.yaml")
        assert detector.startswith(cfg.detector.name)
        with torch.device("meta"):
            build(cfg.detector, 2, pretrained=False)


def test_every_method(here: Path) -> None:
    for method in names():
        detector = "fcos_r50_fpn" if method == "efficient_teacher" else "retinanet_r50_fpn"
        write_config(f"{method}.yaml", "voc", "free", "voc", method=method, detector=detector)
        cfg = load(f"{method}.yaml")
        assert cfg.method.name == method
        assert getattr(cfg.method, "burn_in", cfg.train.steps // 2) == cfg.train.steps // 2
        baseline = load(f"{method}.yaml", ["method.name=supervised"])
        # From the end of burn-in on, and over all of a baseline's steps, the one average is the other.
        assert (cfg.method.ema.decay, cfg.method.ema.warm_up) == (
            baseline.method.ema.decay,
            baseline.method.ema.warm_up,
        )
        assert baseline.method.ema.warm_up, "else its average would begin with the weights before training"


def test_labelled_views_have_the_recipe_s_colours(here: Path) -> None:
    """ACRST changes colours on the device after pasting, so that its views have geometry alone."""
    words = {
        "acrst": "the student's: moved or turned; colours and holes come on the device, method.colors",
        "mean_teacher": "the student's: moved or turned, colours changed, parts erased",
        "dense_teacher": "the student's: the same pixels, colours changed, parts erased",
        "mix_pl": "the student's: moved or turned, colours changed, parts erased",
    }
    for method, text in words.items():
        write_config(f"{method}.yaml", "voc", "free", "voc", method=method)
        written = Path(f"{method}.yaml").read_text()
        assert text in written
        views, (recipe, _) = yaml.safe_load(written)["views"], recipes.compose(Recipe(method=method, data="own"))
        assert views["labeled"]["weak"][1:] == recipe["views"]["labeled"]["weak"][1:]
        assert ("unbiased_color" in views["labeled"]["weak"]) == (method != "acrst")


def test_the_numbers_follow_the_rule(here: Path) -> None:
    voc(here / "big", {"trainval": 40, "test": 2}, size=(500, 400))
    write_config("my.yaml", "big", "free", "big")
    cfg = load("my.yaml")
    assert (cfg.train.batch.labeled, cfg.train.batch.unlabeled) == (8, 4)
    assert cfg.train.steps == 3000
    assert cfg.train.lr == pytest.approx(0.01)
    assert cfg.views.val.model_dump(mode="json") == [{"resize": {"short": [384, 384], "long": 640}}]
    data = datasets.load(cfg.data)
    train = {"lr": 0.02, "batch": {"labeled": 16}}
    many = [init_text.numbers(_Sized(data, n), train) for n in (3, 1000, 100_000)]
    assert [n.steps for n in many] == [3000, 12_500, 30_000]
    small = [init_text.numbers(_Sized(data, n), train, small=True) for n in (3, 100, 1000)]
    assert [(n.steps, n.fewest) for n in small] == [(1500, 750), (2500, 1120), (25_000, 1500)]
    assert [n.lr for n in many] == [pytest.approx(0.0025), pytest.approx(0.01), pytest.approx(0.01)]


@pytest.mark.parametrize("method", [name for name in recipes.names("method") if name != "efficient_teacher"])
def test_a_small_detector_has_the_constants_of_the_small_sets(here: Path, method: str) -> None:
    """A net without pretrained weights learns next to nothing at the rate of one that has them."""
    write_config("my.yaml", "voc", "free", "voc", method=method, detector="retinanet_tiny_fpn")
    small = load_recipe(method=method, detector="retinanet_tiny_fpn", data="bccd")
    cfg = load("my.yaml", [f"train.steps={small.train.steps}"])
    assert cfg.train.optimizer == small.train.optimizer
    assert cfg.train.schedule == small.train.schedule
    assert cfg.train.lr / cfg.train.batch.labeled == pytest.approx(small.train.lr / small.train.batch.labeled)
    fitted = {"mosaic_size", "cache", "threshold", "ema"}
    own, theirs = (c.method.model_dump(exclude=fitted) for c in (cfg, small))
    assert own == theirs
    assert (cfg.method.ema.decay, cfg.method.ema.warm_up) == (0.996, True)
    assert not unlike_sizes(cfg.views.labeled["weak"].model_dump(mode="json"))


def test_steps_are_brought_down_for_larger_images(here: Path) -> None:
    voc(here / "big", {"trainval": 100, "test": 2}, size=(500, 400))
    common = {"labeled": "big", "unlabeled": "free", "val": "big", "detector": "retinanet_tiny_fpn"}
    write_config("long.yaml", **common, budget="1000h")
    write_config("short.yaml", **common, budget="60m")
    write_config("mine.yaml", **common, budget="60m", overrides=["train.steps=2500"])
    write_config("burnt.yaml", **common, budget="60m", overrides=["method.burn_in=2000"])
    names = ["long.yaml", "short.yaml", "mine.yaml", "burnt.yaml"]
    assert [load(name).train.steps for name in names] == [2500, 1200, 2500, 2500]
    assert (
        "; brought down from 2500, for larger images in the same time; here 96 passes" in Path("short.yaml").read_text()
    )
    assert "brought down" not in Path("mine.yaml").read_text() + Path("long.yaml").read_text()


def unlike_sizes(view: list) -> list:
    """Return the resizes of a view that draw a size."""
    sides = [op["resize"]["short"] for op in view if "resize" in op]
    return [(low, high) for low, high in sides if low != high]


def test_a_detector_with_pretrained_weights_has_other_constants(here: Path) -> None:
    write_config("large.yaml", "voc", "free", "voc")
    cfg = load("large.yaml")
    assert cfg.train.optimizer.name == "sgd"
    assert unlike_sizes(cfg.views.labeled["weak"].model_dump(mode="json"))


@pytest.mark.parametrize("data", recipes.OWNS)
def test_views_are_written_for_one_size(data: str) -> None:
    """Those that init writes are in proportion to them."""
    val = recipes.compose(Recipe(data=data))[0]["views"]["val"]
    assert [op["resize"]["short"] for op in val] == [init_text.WRITTEN]


def test_mosaics_have_the_size_of_the_views(here: Path) -> None:
    write_config("my.yaml", "voc", "free", "voc", method="mix_pl", detector="retinanet_tiny_fpn")
    cfg = load("my.yaml")
    (view,) = [op for op in cfg.views.labeled["weak"].model_dump(mode="json") if "resize" in op]
    assert cfg.method.cache.side == view["resize"]["long"]
    assert max(cfg.method.mosaic_size) < cfg.method.cache.side


class _Sized:
    """A data set that claims to have so many labelled images."""

    def __init__(self, data: datasets.DataSets, n: int) -> None:
        self.labeled = data.labeled.subset([i % len(data.labeled) for i in range(n)])
        self.unlabeled = data.unlabeled


def test_strange_names_survive(here: Path) -> None:
    voc(here / "my set: #1", {"trainval": 3, "test": 2})
    write_config("a b.yaml", "my set: #1", "free", "my set: #1")
    assert len(datasets.load(load("a b.yaml").data).labeled) == 3


def test_nothing_is_overwritten(here: Path) -> None:
    Path("my.yaml").write_text("mine")
    with pytest.raises(SsodError, match="exists"):
        write_config("my.yaml", "voc", "free", "voc")
    assert Path("my.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("vco", "free", "voc"), "--labeled: 'vco' not found; nearest match 'voc'"),
        (("voc", "fere", "voc"), "--unlabeled: 'fere' not found; nearest match 'free'"),
        (("voc", "free", "free"), "--val: 'free' holds 4 images, and no labels that are read"),
        (("coco/train2017", "free", "voc"), "holds 5 images, and no labels that are read; give a JSON of COCO or"),
        (("list.txt", "free", "voc"), "--labeled: 'list.txt' is a file, but no COCO JSON"),
        (("voc", "free/u0.png", "voc"), "--unlabeled: 'free/u0.png' is neither a COCO JSON nor a .txt list"),
        (("voc", "voc", "voc"), "--unlabeled: 'voc' holds the labelled images themselves"),
        (("coco/annotations/instances_train2017.json",) * 3, "--val"),
    ],
)
def test_what_is_not_recognised_is_named(here: Path, args: tuple[str, str, str], says: str) -> None:
    line = refused("my.yaml", *args)
    assert line.startswith("command line: --")
    assert says in line


def test_a_json_that_is_no_coco_file(here: Path) -> None:
    Path("results.json").write_text('{"images": []}')
    assert "has no list 'annotations'" in refused("my.yaml", "results.json", "free", "voc")
    Path("broken.json").write_text('{"images": [')
    assert "broken.json" in refused("my.yaml", "broken.json", "free", "voc", code=Exit.DATA)


def test_names_that_do_not_exist(here: Path) -> None:
    line = refused("my.yaml", "voc", "free", "voc", detector="retinanet_r5_fpn")
    assert "--detector: 'retinanet_r5_fpn' unknown; did you mean 'retinanet_r50_fpn'?" in line
    assert "did you mean 'mean_teacher'?" in refused("my.yaml", "voc", "free", "voc", method="meen_teacher")


def test_a_split_that_is_not_there(here: Path) -> None:
    voc(here / "mine", {"a": 2, "b": 2})
    assert "has none of the parts trainval, train; it has a, b" in refused("my.yaml", "mine", "free", "voc")


def test_an_error_in_the_data_leaves_a_config_and_all_findings(here: Path, capsys: pytest.CaptureFixture) -> None:
    for i in (0, 1):
        (here / f"voc/Annotations/trainval{i}.xml").write_text("<annotation>")
    for val in ("voc", None):  # what is not fitted is written anew
        with pytest.raises(SsodError) as caught:
            write_config("my.yaml", "voc", "free", val, overrides=["train.steps=77"])
        assert caught.value.code == Exit.DATA
        out = capsys.readouterr().out
        assert "trainval0.xml" in out
        assert "trainval1.xml" in out
        assert "my.yaml, which is not fitted to the data" in out
        cfg = load("my.yaml")
        assert (cfg.train.steps, cfg.data.labeled.format, cfg.data.val is None) == (77, "voc", val is None)
        assert not list(here.glob("*.val.txt"))
    voc(here / "voc", {"trainval": 9, "test": 3})
    write_config("my.yaml", "voc", "free", "voc")
    assert "not fitted" not in Path("my.yaml").read_text()


def test_a_config_that_somebody_edited_stays(here: Path) -> None:
    (here / "voc/Annotations/trainval0.xml").write_text("<annotation>")
    with pytest.raises(SsodError):
        write_config("my.yaml", "voc", "free", "voc")
    text = Path("my.yaml").read_text().replace("format: voc", "format:  voc")
    Path("my.yaml").write_text(text)
    with pytest.raises(SsodError, match="exists"):
        write_config("my.yaml", "voc", "free", "voc")
    assert Path("my.yaml").read_text() == text


# ---- images to measure on, cut from the labelled ones ------------------------------------------------------------


@pytest.mark.parametrize(("val", "count"), [(None, 2), ("20%", 2), ("40%", 4)])
def test_val_is_cut_from_the_labelled_images(here: Path, val: str | None, count: int) -> None:
    message = write_config("my.yaml", "voc", "free", val)
    cfg = load("my.yaml")
    data = datasets.load(cfg.data)
    assert (len(data.labeled), len(data.val)) == (9 - count, count)
    assert not {*data.labeled.images.ids} & {*data.val.images.ids}
    assert cfg.data.held_out == "my.val.txt"
    assert (here / "my.val.txt").read_text().count(".jpg\n") == count
    assert f"val        {count} of the labelled images, not learnt from: my.val.txt; --val " in message
    assert "/voc measures on its part 'test'\n" in message
    write_config("again.yaml", "voc", "free", val)
    assert (here / "again.val.txt").read_text() == (here / "my.val.txt").read_text()


def test_no_other_part_to_measure_on(here: Path) -> None:
    voc(here / "mine", {"trainval": 9})
    message = write_config("my.yaml", "mine", "free", None)
    assert "2 of the labelled images, not learnt from: my.val.txt\n" in message


def test_a_cut_and_a_percentage(here: Path) -> None:
    write_config("my.yaml", "voc", None, "20%", percent=50)
    data = datasets.load(load("my.yaml").data)
    assert (len(data.labeled), len(data.unlabeled), len(data.val)) == (3, 4, 2)


def test_a_list_elsewhere_is_named_in_full(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("configs") / "my.yaml"
    write_config(out, KINDS["coco"][0], "free", None)
    assert load(out).data.held_out == str(out.with_name("my.val.txt"))


def test_a_cut_that_is_none(here: Path) -> None:
    for val in ("0%", "100%", "x%"):
        assert "--val" in refused("my.yaml", "voc", "free", val)
    assert "--group: 'name' is unknown" in refused("my.yaml", "voc", "free", "20%", group="name")
    assert "--group: nothing is cut" in refused("my.yaml", "voc", "free", "voc", group="prefix")
    line = refused("my.yaml", "voc", "free", "20%", group="folder", code=Exit.DATA)
    assert "groups by folder stay whole" in line
    assert not list(here.glob("*.val.txt"))
