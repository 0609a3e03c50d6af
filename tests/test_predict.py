"""Prediction from Python and from the command line, and pseudo-labels that our own readers read back."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ssod
from ssod.data.formats.findings import Context
from ssod.data.formats.registry import CocoSource, VocSource, YoloSource, read_labeled
from ssod.inference.draw_boxes import as_picture, color, draw
from ssod.inference.label import label_files
from ssod.inference.model import Model, load
from ssod.inference.predict import predict_files
from ssod.structures import Targets, View
from ssod.transforms import raster
from ssod.utils.errors import Exit, SsodError
from tests.trained import model_file, photos, pixels, trained

NAMES = ["a.png", "b.png", "c.png", "d.png", "sub/e.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with ``best.safetensors``, and five pictures under ``images``."""
    path = tmp_path_factory.mktemp("predict")
    model_file(path / "best.safetensors")
    photos(path / "images", NAMES)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return ssod.load(folder)


# ---- from Python -------------------------------------------------------------------------------------------------


def test_every_kind_of_image_gives_the_same_answer(folder: Path, model: Model) -> None:
    path = folder / "images" / "a.png"
    tensor = pixels(path)
    expected = model(path)
    assert len(expected) > 3
    assert expected.names == [("cat", "dog", "bird")[k] for k in expected.labels.tolist()]
    assert (expected.scores.diff() <= 0).all()
    kinds = [str(path), Image.open(path), tensor.permute(1, 2, 0).numpy(), tensor, tensor.float() / 255]
    for found in [model(kind) for kind in kinds]:
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.labels, expected.labels)
    grey = np.asarray(Image.open(path).convert("L"))
    assert torch.equal(model(grey).boxes, model(torch.from_numpy(grey.copy())[None]).boxes)


def test_a_list_gives_a_list_and_neighbours_do_not_matter(folder: Path, model: Model, tmp_path: Path) -> None:
    paths = sorted((folder / "images").rglob("*.png"))
    Image.open(paths[0]).resize((64, 200)).save(tmp_path / "tall.png")  # another canvas in the same batch
    paths += [tmp_path / "tall.png"] * 5
    together = model(paths)
    assert [len(t) for t in together] == [len(model(path)) for path in paths]
    for found, path in zip(together, paths):
        torch.testing.assert_close(found.boxes, model(path).boxes, rtol=0, atol=1e-3)
    assert model([]) == []


def test_boxes_are_in_the_pixels_of_the_original(folder: Path, model: Model) -> None:
    picture = Image.open(folder / "images" / "b.png")  # 150 x 120, seen as 120 x 96
    seen = torch.from_numpy(raster.ops.resized(np.array(picture.convert("RGB")), (120, 96))).permute(2, 0, 1)
    canvas = torch.zeros(1, 3, 96, 128, dtype=torch.uint8)
    canvas[0, :, :, :120] = seen
    view = View(canvas, torch.tensor([[96, 120]]), torch.eye(3)[None], torch.zeros(1, dtype=torch.long))
    with torch.no_grad():
        (expected,) = model.detector.predict(view).detections()
    found = model(picture)
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.boxes, expected.boxes * 150 / 120, rtol=0, atol=1e-3)


def test_a_rotated_file_is_seen_upright(folder: Path, model: Model, tmp_path: Path) -> None:
    upright = Image.open(folder / "images" / "a.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(model(tmp_path / "turned.png").boxes, model(upright).boxes)


def test_the_score_threshold(folder: Path, model: Model) -> None:
    path = folder / "images" / "a.png"
    few, all_of_them = model(path, score=0.4), model(path, score=0.0)
    assert len(few) < len(model(path)) < len(all_of_them)
    assert (few.scores > 0.4).all()
    for score in (30, -0.1, float("nan")):
        with pytest.raises(SsodError, match="not between 0 and 1"):
            model(path, score=score)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8, 3)), "float64"),
        (np.zeros((3, 8, 8), np.uint8), "[3, 8, 8]"),
        (torch.zeros(2, 3, 8, 8), "give a list"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (torch.full((3, 8, 8), 255.0), "outside 0..1"),
        (torch.full((3, 8, 8), torch.nan), "outside 0..1"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (torch.zeros(3, 0, 5), "no pixels"),
        (torch.zeros(3, 5, 0, dtype=torch.uint8), "no pixels"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (Image.new("F", (64, 64)), "floating-point"),
        (Image.new("I", (64, 64)), "32-bit integer"),
        (42, "int"),
        ("no/such.jpg", "not found"),
    ],
)
def test_wrong_images_are_one_line(model: Model, image: object, words: str) -> None:
    with pytest.raises(SsodError) as caught:
        model([image])
    assert words in caught.value.line()


# ---- loading -----------------------------------------------------------------------------------------------------


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    good = model_file(tmp_path / "good.safetensors")
    assert load(good).classes.ids == (3, 7, 11)
    with pytest.raises(SsodError, match="not found") as caught:
        load(tmp_path / "absent.safetensors")
    assert caught.value.code == Exit.CHECKPOINT
    with pytest.raises(SsodError, match=r"no best\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("device", ["cuda:99", "foo", "mps"])
def test_a_device_that_is_not_there_is_not_the_fault_of_the_weights(tmp_path: Path, device: str) -> None:
    weights = model_file(tmp_path / "m.safetensors")
    with pytest.raises(SsodError, match="cannot be used") as caught:
        load(weights, device)
    assert caught.value.code == Exit.USAGE
    assert str(weights) not in caught.value.line()
    assert device in caught.value.line()


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"detector": {"name": "fcos", "backbone": "tiny", "weights": "none"}}, "do not fit fcos"),
        ({"detector": {"name": "yolo"}}, "card."),
        ({"detector": {"name": "fcos", "colour": 1}}, "colour"),
        ({"classes": {"names": ["a", "b"], "ids": [1, 2]}}, "do not fit"),
        ({"classes": {}}, "card"),
        ({"val_view": [{"resize": {"shorter": 3}}]}, "card"),
        ({"tiles": {"size": 8}}, "card.tiles.size"),
    ],
)
def test_a_card_that_does_not_fit_is_one_line(tmp_path: Path, card: dict, words: str) -> None:
    with pytest.raises(SsodError) as caught:
        load(model_file(tmp_path / "m.safetensors", **card))
    assert caught.value.code == Exit.CHECKPOINT
    assert words in caught.value.line()


class _Evil:
    def __reduce__(self) -> tuple:
        return open, (_Evil.canary, "w")


@pytest.mark.parametrize("name", ["model.pt", "zoo.pkl", "best.safetensors"])
def test_a_pickle_is_refused_and_does_nothing(tmp_path: Path, name: str) -> None:
    import pickle

    _Evil.canary = str(tmp_path / "canary")
    if name.endswith(".pt"):
        torch.save({"w": _Evil()}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(SsodError) as caught:
        load(tmp_path / name)
    assert caught.value.code == Exit.UNSAFE
    assert not (tmp_path / "canary").exists()


def test_an_absurd_header_and_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{" * 20)
    with pytest.raises(SsodError, match="limit") as caught:
        load(tmp_path / "huge.safetensors")
    assert caught.value.code == Exit.UNSAFE
    content = bytearray(model_file(tmp_path / "nan.safetensors").read_bytes())
    content[-4:] = struct.pack("<f", float("nan"))
    (tmp_path / "nan.safetensors").write_bytes(content)
    with pytest.raises(SsodError, match="non-finite") as caught:
        load(tmp_path / "nan.safetensors")
    assert caught.value.code == Exit.CHECKPOINT


# ---- pictures and results ----------------------------------------------------------------------------------------


def test_predict_files(folder: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = predict_files(folder, folder / "images", tmp_path / "out", score=0.35)
    assert rows == json.loads((tmp_path / "out" / "results.json").read_text())
    per_image = {name: [r for r in rows if r["file_name"] == name] for name in NAMES}
    for name in NAMES:
        found = model(folder / "images" / name)
        assert len(per_image[name]) == len(found)
        for row, box, label, score in zip(per_image[name], found.boxes, found.labels, found.scores):
            x, y, w, h = row["bbox"]
            torch.testing.assert_close(torch.tensor([x, y, x + w, y + h]), box, rtol=0, atol=3e-3)
            assert row["category_id"] == (3, 7, 11)[label]
            assert row["score"] == pytest.approx(float(score), abs=1e-6)
            assert row["image_id"] == name  # which no file of annotations has
        drawn, plain = pixels(tmp_path / "out" / name), pixels(folder / "images" / name)
        assert drawn.shape == plain.shape
        assert torch.equal(drawn, plain) == (not (found.scores > 0.35).any())
    message = capsys.readouterr().out
    assert message.count("\n") == 1
    assert f"5 images, {sum(r['score'] > 0.35 for r in rows)} boxes above 0.35" in message


def test_image_ids_are_the_numbers_in_the_names(folder: Path, tmp_path: Path) -> None:
    photos(tmp_path / "in", ["000000000139.jpg", "000000000285.jpg"])
    rows = predict_files(folder, tmp_path / "in" / "*.jpg", tmp_path / "out", score=0.0)
    assert {(r["image_id"], r["file_name"]) for r in rows} == {(139, "000000000139.jpg"), (285, "000000000285.jpg")}
    assert predict_files(folder, tmp_path / "in" / "000000000285.jpg", tmp_path / "one", 0.0)[0]["image_id"] == 285


def test_an_unreadable_image_among_many_is_left_out_and_reported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "in", ["a.png", "c.bmp"])
    (tmp_path / "in" / "b.png").write_bytes(b"no image at all")
    rows = predict_files(folder, tmp_path / "in", tmp_path / "out", score=0.0)
    assert {r["file_name"] for r in rows} == {"a.png", "c.bmp"}
    assert {r["image_id"] for r in rows} == {"a.png", "c.bmp"}
    assert "1 unreadable left out" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.bmp.png", "results.json"]
    with pytest.raises(SsodError, match="not an image"):
        predict_files(folder, tmp_path / "in" / "b.png", tmp_path / "one")


def test_images_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="not found"):
        predict_files(folder, tmp_path / "inn", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SsodError, match="0 images"):
        predict_files(folder, tmp_path / "empty", tmp_path / "out")


def test_drawing() -> None:
    image = Image.new("RGB", (200, 100))
    boxes = torch.tensor([[20.0, 30.0, 120.0, 90.0], [0.0, 0.0, 199.0, 99.0], [150.0, 50.0, 150.0, 50.0]])
    drawn = draw(image, Targets(boxes, torch.tensor([0, 1, 2]), torch.tensor([0.9, 0.5, 0.4])), ["a", "b", "c" * 60])
    assert drawn.getpixel((20, 60)) == color(0)
    assert drawn.getpixel((199, 60)) == color(1)
    assert image.getextrema() == ((0, 0),) * 3
    assert len({color(k) for k in range(80)}) == 80
    assert draw(image, Targets.empty(boxes), []).tobytes() == image.tobytes()


def test_modes_become_rgb() -> None:
    assert as_picture(Image.new("RGBA", (9, 9), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


# ---- labels ------------------------------------------------------------------------------------------------------

SCORE = 0.3


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_labels_read_back_as_they_were(
    folder: Path, model: Model, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels"
    written = label_files(folder, folder / "images", out, format=format, score=SCORE).labels
    message = capsys.readouterr().out
    root = str(out.resolve())
    source = {
        "coco": CocoSource(format="coco", ann=f"{root}/instances.json", images=str(folder / "images")),
        "yolo": YoloSource(format="yolo", root=root, split="train"),
        "voc": VocSource(format="voc", root=root, split="train"),
    }[format]
    assert message.count("\n") == 1
    assert root in message
    ctx = Context()
    read = read_labeled(source, ctx, classes=["cat", "dog", "bird"])
    assert not [f for f in ctx.findings if f.level == "error"]
    assert len(read) == len(written) == len(NAMES)
    assert len(written.boxes) > 5
    assert (np.diff(read.starts) == 0).any()  # an image without boxes stays in the list
    for i, name in enumerate(NAMES):
        found = model(folder / "images" / name, score=SCORE)
        side = (found.boxes[:, 2:] - found.boxes[:, :2]).amin(1)
        found = found[side > 1.01]
        back = read.targets(i)
        assert len(back) == len(found)
        torch.testing.assert_close(back.boxes, found.boxes, rtol=0, atol=2e-3)
        assert [read.classes.names[k] for k in back.labels.tolist()] == found.names
        picture = Image.open(Path(read.images.root) / read.images.paths[i])
        assert picture.size == (150, 120)
    if format == "coco":
        assert read.classes.ids == (3, 7, 11)
        annotations = json.loads((out / "instances.json").read_text())["annotations"]
        assert all(a["score"] > SCORE for a in annotations)


def test_labels_are_never_written_over(folder: Path, tmp_path: Path) -> None:
    label_files(folder, folder / "images", tmp_path / "pseudo.json", score=SCORE)
    before = (tmp_path / "pseudo.json").read_bytes()
    with pytest.raises(SsodError, match="exists"):
        label_files(folder, folder / "images", tmp_path / "pseudo.json")
    assert (tmp_path / "pseudo.json").read_bytes() == before
    with pytest.raises(SsodError, match="exists"):
        label_files(folder, folder / "images", tmp_path, format="yolo")
    with pytest.raises(SsodError, match="unknown"):
        label_files(folder, folder / "images", tmp_path / "x", format="kitti")


@pytest.mark.parametrize(("format", "names"), [("yolo", ["a.png", "a.jpg"]), ("voc", ["a b.png", "a/b.png"])])
def test_images_that_would_share_a_label_file(folder: Path, tmp_path: Path, format: str, names: list[str]) -> None:
    photos(tmp_path / "in", names)
    with pytest.raises(SsodError, match="share one label file"):
        label_files(folder, tmp_path / "in", tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_the_detector_on_disk_is_the_detector(folder: Path, model: Model) -> None:
    expected = trained("retinanet").detector.state_dict()
    found = model.detector.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not any(p.requires_grad for p in model.detector.parameters())
