from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ssod.detectors import weights
from ssod.detectors.build import build
from ssod.detectors.weights import class_columns, coco_ids, read
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.detectors.reference import ALL, NAMES, config, detect, enliven, images, pair, torchvision_detector, view


def section(name: str, path: object, **changes: object):
    base = {"backbone": "resnet18", "weights": str(path), "norm": "frozen", "channels": 256}
    return config(name, **{**base, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """torchvision's detectors with 91 columns, as its COCO weights have."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in NAMES:
        torch.save(torchvision_detector(name, 91).state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in NAMES}


def test_coco_columns() -> None:
    ids = coco_ids()
    assert len(ids) == 80
    assert ids[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert ids[-1] == 90
    assert class_columns(91, 80, dense=True) == ids
    assert class_columns(91, 81, dense=False) == [0, *ids]
    assert class_columns(4, 3, dense=True) == [1, 2, 3]
    assert class_columns(4, 3, dense=False) is None
    assert class_columns(4, 4, dense=False) == [0, 1, 2, 3]
    assert class_columns(91, 20, dense=True) is None


@pytest.mark.parametrize("name", NAMES)
def test_coco_weights_speak_of_the_right_classes(name: str, saved: dict[str, Path]) -> None:
    """The logit of label l is the logit that torchvision gives to category id coco_ids()[l]."""
    ours = build(section(name, saved[name]), 80).eval()
    every = build(section(name, saved[name]), 91 if name != "faster_rcnn" else 90).eval()
    batch = view(images(((64, 96),)))
    boxes = [torch.tensor([[4.0, 4, 60, 50]])]
    with torch.no_grad():
        a, b = (m.predict(batch).score(boxes) for m in (ours, every))
    ids = torch.tensor(coco_ids())
    columns = ids - 1 if name == "faster_rcnn" else ids
    torch.testing.assert_close(a.logits[:, :80], b.logits[:, columns])
    if name == "faster_rcnn":
        torch.testing.assert_close(a.logits[:, 80], b.logits[:, 90])  # background
        torch.testing.assert_close(a.deltas, b.deltas[:, columns])


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_dense_heads_trained_with_a_column_for_background(name: str, tmp_path: Path) -> None:
    theirs, ours = pair(name, tmp_path, 6, 5, lively=True)
    ours.eval()
    expected = detect(theirs, images())
    with torch.no_grad():
        got = ours.predict(view(images())).detections()
    for a, b in zip(expected, got):
        mine = {(round(s, 4), label) for s, label in zip(b.scores.tolist(), (b.labels + 1).tolist())}
        theirs_ = {(round(s, 4), label) for s, label in zip(a["scores"].tolist(), a["labels"].tolist()) if label > 0}
        assert len(theirs_ & mine) > 0.9 * len(theirs_) > 0


def answers(detector: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """What a detector says of one box: its logits by class, and its deltas, of a two-stage one by class."""
    with torch.no_grad():
        p = detector.eval().predict(view(images(((64, 96),)))).score([torch.tensor([[4.0, 4, 60, 50]])])
    return p.logits[0], p.deltas[0]


def own_model(name: str, folder: Path, classes: list[str]) -> nn.Module:
    """A small detector of three classes that say different things, saved as ssod saves its teachers."""
    torch.manual_seed(0)
    trained = build(config(name, backbone="tiny", channels=32), 3)
    with torch.no_grad():
        enliven(trained, lambda: trained.predict(view(images(((64, 96),)))).score([torch.tensor([[4.0, 4, 60, 50]])]))
    card = {"detector": {}, "classes": {"names": classes, "ids": [1, 2, 3]}, "val_view": []}
    model_file.save(folder / "best.safetensors", trained.state_dict(), card)
    return trained


@pytest.mark.parametrize("name", ALL)
def test_classes_of_our_own_models_are_found_by_name(name: str, tmp_path: Path, caplog) -> None:
    trained = own_model(name, tmp_path, ["cat", "dog", "owl"])
    cfg = config(name, backbone="tiny", channels=32, weights=str(tmp_path / "best.safetensors"))
    other = build(cfg, 3, classes=["owl", "cat", "dog"])
    assert not caplog.records
    (logits, deltas), (moved, moved_deltas) = answers(trained), answers(other)
    assert logits[:3].std() > 0.1
    order = [2, 0, 1, *range(3, len(logits))]  # a two-stage head says background last
    torch.testing.assert_close(moved, logits[order])
    torch.testing.assert_close(moved_deltas, deltas[[2, 0, 1]] if name == "faster_rcnn" else deltas)


@pytest.mark.parametrize("name", ALL)
def test_a_class_of_another_name_starts_afresh(name: str, tmp_path: Path, caplog) -> None:
    """As many classes, so that the shapes alone would not tell."""
    trained = own_model(name, tmp_path, ["cat", "dog", "owl"])
    plain = config(name, backbone="tiny", channels=32)
    cfg = config(name, backbone="tiny", channels=32, weights=str(tmp_path / "best.safetensors"))
    torch.manual_seed(7)
    fresh = build(plain, 4).state_dict()
    torch.manual_seed(7)
    other = build(cfg, 4, classes=["cow", "dog", "elk", "cat"])
    assert "start afresh: cow, elk" in caplog.text
    logits, moved = answers(trained)[0], answers(other)[0]
    torch.testing.assert_close(moved[[3, 1, *range(4, len(moved))]], logits[[0, 1, *range(3, len(logits))]])
    level = "1." if name == "dense_detector" else ""
    last = f"head.{level}classification_head.cls_logits.weight"
    if name == "faster_rcnn":
        last, cow, cat = "roi_heads.box_predictor.cls_score.weight", slice(1, 2), slice(4, 5)
    else:
        cow, cat = slice(None, None, 4), slice(3, None, 4)  # anchors are the outer dimension
    assert torch.equal(other.state_dict()[last][cow], fresh[last][cow])
    assert not torch.equal(other.state_dict()[last][cat], fresh[last][cat])


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_start_afresh_and_that_is_reported(name: str, saved: dict[str, Path], caplog) -> None:
    cfg = section(name, saved[name])
    detector = build(cfg, 20, pretrained=False)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    loaded = weights.initialise(detector, cfg)
    assert "class layers start afresh" in caplog.text
    changed = {k for k, v in detector.state_dict().items() if not torch.equal(v, before[k])}
    assert loaded.fresh
    assert all(any(part in key for part in ("cls_logits", "cls_score", "bbox_pred")) for key in loaded.fresh)
    assert not changed & set(loaded.fresh)
    assert "backbone.body.conv1.weight" in changed


def to_v1(state: dict) -> dict:
    """Names of torchvision's files of 2020: the ones behind its COCO weights of RetinaNet and Faster R-CNN."""
    out = {}
    for key, value in state.items():
        parts = key.split(".")
        if "fpn" in parts and parts[3].isdigit() and parts[2] in ("inner_blocks", "layer_blocks"):
            parts.pop(4)
        elif parts[0] == "head" and parts[2] == "conv":
            parts[3:5] = [str(2 * int(parts[3]))]
        elif parts[:3] == ["rpn", "head", "conv"]:
            parts[3:5] = []
        out[".".join(parts)] = value
    return out


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_files_with_older_names(name: str, saved: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(saved[name])
    old = to_v1(state)
    assert set(old) != set(state)
    torch.save(old, tmp_path / "old.pth")
    a, b = (build(section(name, p), 80) for p in (saved[name], tmp_path / "old.pth"))
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
def test_backbone_file_fills_the_backbone(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = torchvision.models.get_model(backbone, weights=None)
    torch.save(model.state_dict(), tmp_path / "b.pth")
    name = "dense_detector" if backbone == "resnet18" else "fcos"
    detector = build(section(name, tmp_path / "b.pth", backbone=backbone, norm="batch", channels=32), 3)
    x = torch.rand(1, 3, 64, 64)
    body = model.features if backbone == "mobilenet_v3_large" else nn.Sequential(*list(model.children())[:-2])
    model.eval()
    detector.eval()
    with torch.no_grad():
        torch.testing.assert_close(list(detector.backbone.body(x).values())[-1], body(x))


def test_wrapped_and_safetensors(saved: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(saved["fcos"])
    torch.save({"model": state, "epoch": 3}, tmp_path / "a.pth")
    save_file({k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "a.safetensors")
    a, b = (build(section("fcos", tmp_path / f"a.{s}"), 80).state_dict() for s in ("pth", "safetensors"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_names_of_several_gpus(tmp_path: Path) -> None:
    """`module.` is before all names or before none: a net may have a part of this name."""
    value = torch.ones(1)
    torch.save({"state_dict": {"module.conv1.weight": value, "module.module.bias": value}}, tmp_path / "all.pth")
    save_file({"module.conv1.weight": value}, tmp_path / "all.safetensors")
    torch.save({"module.weight": value, "fc.weight": value}, tmp_path / "one.pth")
    assert read(tmp_path / "all.pth").keys() == {"conv1.weight", "module.bias"}
    assert read(tmp_path / "all.safetensors").keys() == {"conv1.weight"}
    assert read(tmp_path / "one.pth").keys() == {"module.weight", "fc.weight"}


def test_frozen_layers_do_not_learn(saved: dict[str, Path]) -> None:
    for count, learning in ((0, set()), (2, {"layer3", "layer4"}), (None, {"layer2", "layer3", "layer4"})):
        detector = build(section("retinanet", saved["retinanet"], trainable_layers=count), 80)
        got = {n.split(".")[0] for n, p in detector.backbone.body.named_parameters() if p.requires_grad}
        assert got == learning


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster_rcnn"])
def test_a_small_detector_goes_on_from_its_own_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = build(config(name, backbone="tiny", channels=32), 3)
    save_file(trained.state_dict(), tmp_path / "best.safetensors")
    detector = build(config(name, backbone="tiny", channels=32, weights=str(tmp_path / "best.safetensors")), 3)
    assert all(torch.equal(w, detector.state_dict()[key]) for key, w in trained.state_dict().items())
    assert all(p.requires_grad for p in detector.parameters())


def test_epsilon_of_torchvisions_coco_weights() -> None:
    for name, eps in (("retinanet", 0.0), ("faster_rcnn", 0.0), ("fcos", 1e-5)):
        detector = build(config(name, backbone="resnet50", weights="coco", channels=256), 80, pretrained=False)
        assert {m.eps for m in detector.modules() if isinstance(m, FrozenBatchNorm2d)} == {eps}


@pytest.mark.parametrize(("name", "word"), [("retinanet", "coco"), ("fcos", "imagenet")])
def test_offline_says_what_to_do(name: str, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SsodError) as error:
        build(config(name, backbone="resnet50", weights=word, channels=256), 80)
    assert error.value.code == Exit.IO
    for needle in ("detector.weights", "https://download.pytorch.org/models/", str(tmp_path), "weights: <path>"):
        assert needle in str(error.value)


def test_a_file_in_torchs_cache_is_taken(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg = config("fcos", backbone="resnet18", weights="imagenet", channels=32)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = torchvision.models.resnet18(weights=None)
    file = Path(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), tmp_path / "hub/checkpoints" / file)
    detector = build(cfg, 3)
    assert torch.equal(detector.backbone.body.conv1.weight, model.conv1.weight)


def expect(code: Exit, *needles: str, **changes: object) -> None:
    with pytest.raises(SsodError) as error:
        build(config("fcos", **{"backbone": "resnet18", "channels": 32, "norm": "batch", **changes}), 5)
    assert error.value.code == code
    for needle in needles:
        assert needle in str(error.value)


class Trap:
    def __reduce__(self) -> tuple:
        return (print, ("code ran",))


def test_bad_files(saved: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    expect(Exit.USAGE, "no file 'imagnet'", "imagenet, coco, none", weights="imagnet")
    trap = tmp_path / "trap.pth"
    torch.save({"x": Trap()}, trap)
    expect(Exit.UNSAFE, str(trap), weights=str(trap))
    assert "code ran" not in capsys.readouterr().out
    for suffix, code in (("pth", Exit.CHECKPOINT), ("safetensors", Exit.UNSAFE)):  # where no .pt file should be
        broken = tmp_path / f"broken.{suffix}"
        broken.write_bytes(saved["fcos"].read_bytes()[:1000])
        expect(code, str(broken), weights=str(broken))
    torch.save([1, 2], tmp_path / "list.pth")
    expect(Exit.CHECKPOINT, "no state_dict", weights=str(tmp_path / "list.pth"))


def test_files_of_other_detectors(saved: dict[str, Path], tmp_path: Path) -> None:
    expect(Exit.CHECKPOINT, "does not fit", weights=str(saved["retinanet"]), norm="frozen", channels=256)
    expect(Exit.CHECKPOINT, "does not fit", "size mismatch", weights=str(saved["fcos"]), norm="frozen", channels=32)
    torch.save(torchvision.models.mobilenet_v3_large().state_dict(), tmp_path / "m.pth")
    expect(Exit.CHECKPOINT, "does not fit", weights=str(tmp_path / "m.pth"))


def test_what_does_not_go_together() -> None:
    none = {"weights": "none"}
    expect(Exit.USAGE, "detector.norm", "group or batch", **none, norm="frozen")
    expect(Exit.USAGE, "detector.norm", "group or batch", **none, norm="affine")
    expect(Exit.USAGE, "detector.norm", "imagenet", weights="imagenet", norm="group")
    expect(Exit.USAGE, "detector.weights", "tiny", weights="imagenet", backbone="tiny", norm="group")
    expect(Exit.USAGE, "detector.weights", "resnet50", weights="coco")
    expect(Exit.USAGE, "detector.trainable_layers", "0..5", **none, trainable_layers=6)
