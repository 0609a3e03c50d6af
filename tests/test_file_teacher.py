"""A file of boxes labels: from the file to a loss, and on after an interruption."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssod import build, run
from ssod.config import Config, load
from ssod.data.datasets import DataSets
from ssod.data.datasets import load as load_data
from ssod.data.formats.coco import to_coco
from ssod.data.stored import AMBIGUOUS, places
from ssod.engine.checkpointing import checkpoint
from ssod.experiments.runs import read_run
from ssod.labelers import from_config as labelers
from ssod.methods.base import Method
from ssod.methods.teachers import FileOutput, FromFile
from ssod.report import pictures
from ssod.structures import Batch, Pseudo, Targets, View, move_targets
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config
from tests.test_methods import DETECTORS, batch, detector, method, some_targets, view
from tools import bench_step


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("file_teacher"))


@pytest.fixture(scope="module")
def data(config: Path) -> DataSets:
    return load_data(load(config).data)


def truth(data: DataSets) -> dict:
    """The hidden truth as an annotation file would have it."""
    return to_coco(data.hidden)


def results(data: DataSets) -> list[dict]:
    """The hidden truth as a detector would have found it, some of it surer than the rest."""
    keys = ("image_id", "category_id", "bbox")
    return [{key: row[key] for key in keys} | {"score": 0.9 - row["id"] / 1000} for row in truth(data)["annotations"]]


def written(folder: Path, content: object) -> Path:
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def taught(config: Path, file: Path, *changes: str) -> Config:
    return load(config, [f"method.teacher={{name: file, results: {file}}}", *changes])


def first_batch(cfg: Config, data: DataSets) -> Batch:
    return next(iter(build.batches(cfg, data, cfg.method.burn_in)))


# ---- what is read -----------------------------------------------------------------------------------------------


def by_image(data: DataSets) -> dict[int, list[tuple]]:
    """Corners and labels of a file's boxes by image."""
    stored = data.stored
    rows = [[*box, label] for box, label in zip(stored.boxes.round(2).tolist(), stored.labels.tolist())]
    return {id: sorted(rows[a:b]) for id, a, b in zip(stored.ids, stored.starts, stored.starts[1:])}


def hidden(data: DataSets) -> dict[int, list[tuple]]:
    rows = [[*box, label] for box, label in zip(data.hidden.boxes.round(2).tolist(), data.hidden.labels.tolist())]
    starts = data.hidden.starts
    return {id: sorted(rows[a:b]) for id, a, b in zip(data.hidden.images.ids, starts, starts[1:])}


def test_an_annotation_file_goes_by_names_whatever_its_ids(config: Path, data: DataSets, tmp_path: Path) -> None:
    tree = truth(data)
    other = {row["id"]: 1000 - i for i, row in enumerate(tree["images"])}
    tree["images"] = [row | {"id": other[row["id"]]} for row in reversed(tree["images"])]
    classes = {row["id"]: 70 - row["id"] for row in tree["categories"]}
    tree["categories"] = [row | {"id": classes[row["id"]]} for row in tree["categories"]]
    for row in tree["annotations"]:
        row |= {"image_id": other[row["image_id"]], "category_id": classes[row["category_id"]]}
    read = build.load_data(taught(config, written(tmp_path, tree)))
    assert by_image(read) == hidden(data)
    assert read.stored.scores.tolist() == [1.0] * len(data.hidden.boxes)


@pytest.mark.parametrize("how", ["id", "path", "name", "stem"])
def test_results_go_by_id_or_name(config: Path, data: DataSets, tmp_path: Path, how: str) -> None:
    images = data.hidden.images
    path = dict(zip(images.ids, images.paths))
    name = {
        "id": lambda id: id,
        "path": lambda id: path[id],
        "name": lambda id: Path(path[id]).name,
        "stem": lambda id: Path(path[id]).stem,
    }[how]
    rows = [row | {"image_id": name(row["image_id"])} for row in results(data)]
    read = build.load_data(taught(config, written(tmp_path, rows)))
    assert by_image(read) == {id: rows for id, rows in hidden(data).items() if rows}
    for a, b in zip(read.stored.starts, read.stored.starts[1:]):
        assert (np.diff(read.stored.scores[a:b]) <= 0).all()  # the best first


def test_boxes_of_other_images_are_left_out_and_images_without_an_entry_are_reported(
    config: Path, data: DataSets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = results(data)[0]["image_id"]
    rows = [row for row in results(data) if row["image_id"] != gone] + [results(data)[0] | {"image_id": 12345}]
    cfg = taught(config, written(tmp_path, rows), "train.steps=7", "train.eval_every=0")
    run.train(cfg, out=tmp_path / "run")
    entries, lost = len({row["image_id"] for row in rows}) - 1, len(data.unlabeled)
    lost -= entries
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("labels")]
    assert line == (
        f"labels: {len(rows) - 1} boxes for {entries} of {len(data.unlabeled)} unlabelled images in "
        f"{tmp_path / 'boxes.json'}; {lost} without an entry, and so without a label"
    )


def test_pictures_of_several_images_want_an_entry_for_each(config: Path, data: DataSets, tmp_path: Path) -> None:
    def method(file: Path) -> Config:
        return load(config, [f"method={{name: mix_pl, teacher: {{name: file, results: {file}}}}}"])

    tree = truth(data)
    assert len(build.load_data(method(written(tmp_path, tree))).stored) == len(data.unlabeled)
    gone = tree["images"].pop()["id"]
    tree["annotations"] = [row for row in tree["annotations"] if row["image_id"] != gone]
    with pytest.raises(SsodError, match="1 unlabelled images have no entry, and 'mix_pl' puts several") as error:
        build.load_data(method(written(tmp_path, tree)))
    assert error.value.code == Exit.DATA


def test_the_boxes_are_data_that_a_run_is_reported_by(config: Path, data: DataSets, tmp_path: Path) -> None:
    first = build.load_data(taught(config, written(tmp_path, results(data)))).fingerprint
    assert first == build.load_data(taught(config, written(tmp_path, results(data)))).fingerprint
    assert first not in (data.fingerprint, build.load_data(taught(config, written(tmp_path, truth(data)))).fingerprint)


# ---- what is refused --------------------------------------------------------------------------------------------


def change(**row: object) -> Callable[[list], list]:
    return lambda rows: [*rows[:2], rows[2] | row, *rows[3:]]


def without(key: str) -> Callable[[dict], dict]:
    return lambda tree: {name: value for name, value in tree.items() if name != key}


def renamed(tree: dict) -> dict:
    return tree | {"categories": [*tree["categories"][:-1], tree["categories"][-1] | {"name": "lorry"}]}


def twice(**row: object) -> Callable[[dict], dict]:
    return lambda tree: tree | {"images": [*tree["images"], tree["images"][0] | row]}


RESULTS = [
    (change(bbox=[1, 1, 0, 5]), "results[2].bbox", "no area: width 0, height 5; write [x, y, width, height]"),
    (change(bbox=[9, 9, 5, -3]), "results[2].bbox", "no area: width 5, height -3"),
    (change(bbox=[1, 1, float("nan"), 5]), "results[2].bbox[2]", "nan"),
    (change(bbox=[1, 1, float("inf"), 5]), "results[2].bbox[2]", "inf"),
    (change(bbox=[1, 1, 1e300, 5]), "results[2].bbox", "1e+300 is in no image"),
    (change(bbox=[1, 1, 5]), "results[2].bbox", "3 values, expected 4 numbers"),
    (change(bbox=None), "results[2].bbox", "missing"),
    (change(score=1.2), "results[2].score", "1.2 is outside 0..1"),
    (change(score=-0.1), "results[2].score", "-0.1 is outside 0..1"),
    (change(score=float("nan")), "results[2].score", "nan is outside 0..1"),
    (change(score="high"), "results[2].score", "string 'high', expected a number"),
    (change(category_id=77), "results[2].category_id", "77 not in categories {1..6}"),
    (change(image_id=None), "results[2].image_id", "missing"),
    (change(image_id=True), "results[2].image_id", "boolean True, expected an id or a file name"),
    (lambda rows: [r | {"image_id": 10**6 + r["image_id"]} for r in rows], "results[].image_id", "none of the 8 unl"),
    (lambda rows: [], "results[].image_id", "none of the 8 unlabelled images is in it; it is empty"),
    (lambda rows: [r | {"bbox": [v / 64 for v in r["bbox"]]} for r in rows], "results[].bbox", "normalised to 0..1"),
    (
        lambda rows: [r | {"bbox": [40, 40, 60, 60]} for r in rows],
        "results[].bbox",
        "have room as xyxy: up to 36 px; write [x, y, width, height] in pixels",
    ),
    (lambda rows: [3], "results[0]", "integer, expected an object"),
    (lambda rows: 3, "method.teacher.results", "top level is integer, expected COCO results or a COCO file"),
    (
        lambda rows: rows * 400,
        "method.teacher.results",
        "> max_boxes_per_image 1000; set data.max_boxes_per_image=1600",
    ),
]
ANNOTATIONS = [
    (renamed, "categories", "categories differ: only in file: 'lorry'; only in the run: 'cross'"),
    (without("categories"), "categories", "key 'categories' missing"),
    (without("images"), "images", "key 'images' missing"),
    (without("annotations"), "annotations", "key 'annotations' missing"),
    (lambda tree: tree | {"annotations": []}, "method.teacher.results", "no box of an unlabelled image"),
    (twice(), "images[8].id", "is in images[0], too; keep one entry an image"),
    (twice(file_name="else.png"), "images[8].id", "is in images[0], too"),
    (twice(id=999), "images[8].file_name", "is in images[0], too; keep one entry an image"),
    (twice(id=999, file_name="../else.png"), "images[8].file_name", "refused"),
    (
        lambda tree: tree | {"images": [row | {"file_name": f"x{row['id']}.png"} for row in tree["images"]]},
        "images[].file_name",
        "none of the 8 unlabelled images is in it; it begins with 'x",
    ),
]


def refused(config: Path, folder: Path, content: object) -> SsodError:
    """What training says, before there is a run folder."""
    file = written(folder, content)
    with pytest.raises(SsodError) as caught:
        run.train(taught(config, file), out=folder / "run")
    assert not (folder / "run").exists()
    assert caught.value.file == str(file)
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(("spoil", "field", "problem"), RESULTS)
def test_results_that_are_refused(
    config: Path, data: DataSets, tmp_path: Path, spoil: Callable[[list], object], field: str, problem: str
) -> None:
    error = refused(config, tmp_path, spoil(results(data)))
    assert (error.field, error.code) == (field, Exit.DATA)
    assert problem in str(error)


@pytest.mark.parametrize(("spoil", "field", "problem"), ANNOTATIONS)
def test_annotation_files_that_are_refused(
    config: Path, data: DataSets, tmp_path: Path, spoil: Callable[[dict], dict], field: str, problem: str
) -> None:
    error = refused(config, tmp_path, spoil(truth(data)))
    assert (error.field, error.code) == (field, Exit.UNSAFE if problem == "refused" else Exit.DATA)
    assert problem in str(error)


def test_a_name_of_several_images_is_refused(config: Path, data: DataSets) -> None:
    images = replace(data.unlabeled, ids=["a/x.png", "b/x.png"], paths=["a/x.png", "b/x.png"], sizes=None)
    assert places(images) == {"a/x.png": 0, "b/x.png": 1, "x.png": AMBIGUOUS, "a/x": 0, "b/x": 1, "x": AMBIGUOUS}


def test_a_file_that_is_not_there_is_named(config: Path, tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="not found") as caught:
        run.train(taught(config, tmp_path / "none.json"), out=tmp_path / "run")
    assert (caught.value.field, caught.value.code) == ("method.teacher.results", Exit.DATA)


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        (["method.name=soft_teacher"], "method.teacher", "'soft_teacher' asks its teacher for more than boxes"),
        (["method.name=pseco"], "method.teacher", "'pseco' asks its teacher for more than boxes"),
        (["method.name=instant_teaching"], "method.teacher", "asks its teacher for more than boxes"),
        (["method.name=instant_teaching_rectify"], "method.teacher", "two models that label for each other"),
        (["method.name=label_match"], "method.teacher", "'label_match' asks its teacher for more than boxes"),
        (["method.name=dense_teacher"], "method.teacher", "'dense_teacher' asks its teacher"),
        (["method.name=s4od", "method.look=2"], "method.teacher", "'s4od' asks its teacher for more than boxes"),
        (
            ["method.name=efficient_teacher"],
            "method.teacher",
            "'efficient_teacher' asks its teacher for more",
        ),
        (["method.name=humble_teacher"], "method.teacher", "asks its teacher for more than boxes; write {name: frozen"),
        (["method.score=0.5", "method.form=consistency"], "method.teacher", "'mean_teacher' asks its teacher for more"),
        (["method.loss={unsup: {weighting: background_reliability}}"], "method.teacher", "'background_reliability'"),
        (["method.teacher.until=6"], "method.teacher.until", "no label is made before burn-in ends at step 6"),
        (["method.teacher.until=5%"], "method.teacher.until", "no label is made before burn-in"),
        (["method.name=supervised"], "method.teacher", "unknown key"),
    ],
)
def test_who_cannot_be_taught_by_a_file(config: Path, changes: list[str], field: str, problem: str) -> None:
    changes = [*changes, "method.burn_in=6"] if "supervised" not in changes[0] else changes
    with pytest.raises(SsodError) as caught:
        load(config, [*changes, "method.teacher.name=file", "method.teacher.results=b.json"])
    assert (caught.value.field, caught.value.code) == (field, Exit.USAGE)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_does_not_know_the_other_images_of_a_mosaic(config: Path) -> None:
    ops = ["views.unlabeled.weak=[{mosaic: {size: 32}}]", "method.teacher.name=file", "method.teacher.results=b.json"]
    with pytest.raises(SsodError, match="'mosaic' puts other images into the view, and a file says what") as caught:
        build.load_data(load(config, ops))
    assert caught.value.field == "views.unlabeled.weak"


# ---- what it says -----------------------------------------------------------------------------------------------


def teacher_of(targets: list[Targets], until: int | None = None, ids: tuple = (0, 1)) -> FromFile:
    scored = [replace(t, scores=torch.linspace(0.9, 0.6, len(t))) for t in targets]
    starts = np.cumsum([0, *map(len, targets)]).tolist()
    table = Targets(*(torch.cat([getattr(t, name) for t in scored]) for name in ("boxes", "labels", "scores")))
    return FromFile(ids, table, starts, until)


def test_boxes_are_reported_in_the_pixels_of_the_view_and_clipped_to_it() -> None:
    edge = Targets(torch.tensor([[-5.0, 10, 20, 30], [95.5, 0, 200, 50], [2, 2, 2.5, 60]]), torch.tensor([0, 1, 2]))
    inside = some_targets()[1]
    out = teacher_of([edge, inside]).predict(view(0, flip=True))
    first, second = out.detections()
    assert first.boxes.tolist() == [[76, 10, 96, 30]]
    assert first.labels.tolist() == [0]
    assert first.scores.tolist() == pytest.approx([0.9])
    assert second.boxes.tolist() == [[46, 8, 83, 60]]  # the image is 83 pixels wide: 88 is clipped
    assert (out.stages, out.proposals) == ({}, None)
    assert [len(t) for t in teacher_of(some_targets()).predict(view(0)).detections(0.7)] == [1, 1]
    for ask in (lambda: out.score([first.boxes, second.boxes]), lambda: out.detections(rank=lambda p: p.probs())):
        with pytest.raises(TypeError, match="needs_maps"):
            ask()


def test_a_crowd_stays_an_ignore_region(config: Path, data: DataSets, tmp_path: Path) -> None:
    tree = truth(data)
    tree["annotations"][0]["iscrowd"] = 1
    teacher = labelers.build_labeler(*loaded(config, written(tmp_path, tree)))
    assert teacher.weight.tolist().count(0) == 1


def loaded(config: Path, file: Path, *changes: str) -> tuple[Config, DataSets]:
    cfg = taught(config, file, *changes)
    return cfg, build.load_data(cfg)


def test_the_hidden_truth_teaches_as_the_same_boxes_do(config: Path, data: DataSets, tmp_path: Path) -> None:
    cfg, read = loaded(config, written(tmp_path, truth(data)))
    shown = first_batch(cfg, read)
    by_file = build.build_method(cfg, read)
    plain = build.build_method(load(config), data)
    own = {id: data.hidden.targets(i) for i, id in enumerate(data.hidden.images.ids)}

    def label(teacher: object, batch: Batch) -> Pseudo:
        boxes = [replace(own[id], scores=torch.ones(len(own[id]))) for id in batch.weak.ids]
        return Pseudo(move_targets(boxes, batch.weak.matrix, batch.weak.sizes))

    plain.label = label
    got, expected = by_file(shown, 6), plain(shown, 6)
    assert by_file.stats["pseudo/boxes_per_image"] > 0
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])
    assert not torch.equal(got["unsup/cls"], build.build_method(load(config), data)(shown, 6)["unsup/cls"])


def test_thresholds_apply_as_to_any_teacher() -> None:
    m = method("mean_teacher", detector("fcos"), score=0.7)
    m.use_labeler(teacher_of(some_targets()))
    m(batch(), 50)
    assert m.stats["pseudo/boxes_per_image"] == 1  # of the two boxes of one image, 0.9 and 0.6, the first


@pytest.mark.parametrize("net", DETECTORS)
@pytest.mark.parametrize("mix", [None, {"mixup": 0.5, "mosaic": 0.5}])
def test_an_image_without_an_entry_teaches_nothing(net: str, mix: dict | None) -> None:
    """Neither objects nor background: whatever its pixels are, no gradient comes from its rows. Another one's stay."""

    def asked(ids: tuple, boxes: list[Targets]) -> dict[str, tuple]:
        m = method("mean_teacher", detector(net), score=0.5, mix=mix)
        m.use_labeler(teacher_of(boxes, ids=ids))
        seen: dict[str, tuple] = {}
        reduce = m.student.reduce
        m.student.reduce = lambda assigned, *more: seen.update(assigned) or reduce(assigned, *more)
        losses = m(batch(flip=False), 50)
        assert all(loss.isfinite() for loss in losses.values())
        return seen

    both = asked((0, 1), some_targets())
    half = asked((0,), some_targets()[:1])
    for stage, (p, a) in half.items():
        lost = p.image == 1
        assert lost.any()
        assert not a.cls_weight[lost].any()
        assert not a.fg[lost].any()
        assert torch.equal(a.cls_weight[~lost], both[stage][1].cls_weight[both[stage][0].image == 0])
    empty = asked((0, 1), [some_targets()[0], some_targets()[1][:0]])
    for p, a in empty.values():  # an entry without boxes is background
        assert a.cls_weight[p.image == 1].any()


def test_until_its_step_the_file_labels_and_then_the_average() -> None:
    m = method("mean_teacher", detector("fcos"))
    assert m.labeler(0) is m.teacher
    file = teacher_of(some_targets(), until=51)
    m.use_labeler(file)
    assert [m.labeler(step) for step in (0, 50, 51, 99)] == [file, file, m.teacher, m.teacher]
    plain = method("mean_teacher", detector("fcos"))
    before, after, expected = m(batch(), 50), m(batch(), 51), plain(batch(), 51)
    assert not torch.equal(before["unsup/cls"], expected["unsup/cls"])
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert isinstance(file.predict(view(0)), FileOutput)


def test_its_boxes_are_in_no_checkpoint_and_the_average_still_follows() -> None:
    m: Method = method("mean_teacher", detector("fcos"))
    keys = m.state_dict().keys()
    m.use_labeler(teacher_of(some_targets()))
    assert m.state_dict().keys() == keys
    before = [p.clone() for p in m.teacher.parameters()]
    for p in m.student.parameters():
        p.data += 1
    m.after_step(50)
    assert not any(torch.equal(a, b) for a, b in zip(before, m.teacher.parameters()))


def test_looking_at_a_view_of_no_known_image() -> None:
    teacher = teacher_of(some_targets(), ids=("a", "b"))
    shown: View = view(0)
    out = teacher.predict(shown)
    assert out.known == [False, False]
    assert [len(t) for t in out.detections(0.5)] == [0, 0]


# ---- a run ------------------------------------------------------------------------------------------------------


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints/last.pt")["method"]


def test_a_run_goes_on_with_the_same_bits_and_not_with_other_boxes(
    config: Path, data: DataSets, tmp_path: Path
) -> None:
    file = written(tmp_path, results(data))
    changes = ["method.burn_in=2", "method.teacher.until=9", "train.eval_every=4"]
    cfg = taught(config, file, *changes, "train.steps=12")
    run.train(cfg, out=tmp_path / "whole")
    run.train(taught(config, file, *changes, "train.steps=6"), out=tmp_path / "parts")
    written(tmp_path, results(data)[1:])
    with pytest.raises(SsodError, match="the data set changed") as caught:
        run.train(cfg, out=tmp_path / "parts")
    assert caught.value.code == Exit.CHECKPOINT
    written(tmp_path, results(data))
    run.train(cfg, out=tmp_path / "parts")
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    looks = [row for row in rows if row["kind"] == "eval"]
    assert looks[0]["pseudo/precision"] == 1  # at step 4 the truth labels
    assert looks[-1]["pseudo/precision"] < 1  # at step 12 the average does
    kept = pictured(tmp_path / "whole", cfg)
    assert 0 < kept[8] <= len(results(data)) < kept[12]


def pictured(folder: Path, cfg: Config) -> dict[int, int]:
    """The boxes that a report shows as kept at two steps of a run."""
    data = build.load_data(cfg)
    method, step = pictures.trained_method(read_run(folder), cfg, data)
    assert step == 12
    blocks = {n: "".join(pictures.gallery(cfg, data, method, n).blocks) for n in (8, step)}
    return {n: sum(map(int, re.findall(r"weak: (\d+) kept", text))) for n, text in blocks.items()}


def test_the_benchmark_of_a_step_looks_at_the_file(config: Path, data: DataSets, tmp_path: Path) -> None:
    teacher = f"method.teacher={{name: file, results: {written(tmp_path, truth(data))}}}"
    found = bench_step.main(["--config", str(config), "--steps", "1", "--device", "cpu", teacher])
    assert found.boxes > 0
    assert found.phases["teacher forward"] > 0
