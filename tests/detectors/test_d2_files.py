"""What users give us for detectron2's detectors, read without detectron2: configs, weights, and what is refused."""

from __future__ import annotations

import importlib.util
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssod.detectors.build import build
from ssod.detectors.d2.config import read_config
from ssod.detectors.d2.weights import fit, initialise, read_file, read_pickle
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.detectors.reference import CONFIG


def section(**keys: Any):
    return CONFIG.validate_python({"name": "d2_retinanet", **keys})


def refused(code: Exit, problem: str | None, **keys: Any) -> None:
    with pytest.raises(SsodError, match=problem) as error:
        section(**keys)
    assert error.value.code == code


# ---- without detectron2 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d2_retinanet", "d2_fcos", "d2_faster_rcnn"])
def test_one_line_says_that_detectron2_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "detectron2" else found(n, *a))
    with pytest.raises(SsodError, match="needs detectron2, which is not installed; see https://") as error:
        build(CONFIG.validate_python({"name": name}), 3)
    assert error.value.code == Exit.USAGE


# ---- configs ----------------------------------------------------------------------------------------------------


def test_a_yaml_file_and_its_bases_are_kept_in_the_section(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("MODEL: {FPN: {OUT_CHANNELS: 64, NORM: GN}, META_ARCHITECTURE: RetinaNet}\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: base.yaml\nMODEL: {FPN: {OUT_CHANNELS: 32}}\nINPUT: {FORMAT: RGB}\n")
    cfg = section(config=str(tmp_path / "mine.yaml"))
    assert cfg.config == {
        "MODEL": {"FPN": {"OUT_CHANNELS": 32, "NORM": "GN"}, "META_ARCHITECTURE": "RetinaNet"},
        "INPUT": {"FORMAT": "RGB"},
    }
    assert section(**cfg.model_dump(mode="json", exclude_none=True)) == cfg


def test_a_base_inside_the_package_stays_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("_BASE_: COCO-Detection/retinanet_R_50_FPN_1x.yaml\nINPUT: {FORMAT: RGB}\n")
    assert read_config(tmp_path / "mine.yaml")["_BASE_"] == "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


def test_bases_in_a_circle_or_absent(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\n")
    (tmp_path / "c.yaml").write_text("_BASE_: ../../none.yaml\n")
    refused(Exit.USAGE, "circle", config=str(tmp_path / "a.yaml"))
    refused(Exit.USAGE, "not found", config=str(tmp_path / "c.yaml"))


def test_options_may_be_nested_or_dotted() -> None:
    nested = section(opts={"MODEL": {"FPN": {"OUT_CHANNELS": 64}}, "INPUT.FORMAT": "RGB"})
    assert nested.opts == {"MODEL.FPN.OUT_CHANNELS": 64, "INPUT.FORMAT": "RGB"}


def test_python_of_a_stranger_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    refused(Exit.UNSAFE, "Python file outside detectron2", config=str(tmp_path / "evil.py"))
    refused(Exit.UNSAFE, "Python file outside detectron2", config="../evil.py")
    assert not mark.exists()


def test_python_beside_the_working_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path that looks like the name of one of detectron2's own."""
    (tmp_path / "COCO-Detection").mkdir()
    (tmp_path / "COCO-Detection" / "fcos_R_50_FPN_1x.py").write_text("raise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    refused(Exit.UNSAFE, "Python file outside detectron2", config="COCO-Detection/fcos_R_50_FPN_1x.py")


@pytest.mark.parametrize(
    "text",
    [
        "X: !!python/object/apply:os.system ['touch ran']\n",
        "X: !!python/object/apply:eval ['1']\n",
        "X: !!python/name:os.system\n",
    ],
)
def test_yaml_that_wants_to_run_code(text: str, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(text)
    refused(Exit.UNSAFE, None, config=str(tmp_path / "evil.yaml"))
    (tmp_path / "below.yaml").write_text("_BASE_: evil.yaml\n")
    refused(Exit.UNSAFE, None, config=str(tmp_path / "below.yaml"))


@pytest.mark.parametrize(
    "opts",
    [
        {"model._target_": "os.system"},
        {"model": {"head": {"_target_": "os.system"}}},
        {"model.head.norm": "${oc.env:HOME}"},
        {"model.head.conv_dims": ["${oc.env:HOME}"]},
    ],
)
def test_options_that_would_call_something(opts: dict[str, Any]) -> None:
    refused(Exit.UNSAFE, "is no setting", opts=opts)


@pytest.mark.parametrize("config", ["none/at/all.json", "/none.yaml", "../none.yaml"])
def test_files_that_are_not_there(config: str) -> None:
    refused(Exit.USAGE, "no .yaml|no file", config=config)


# ---- pickles ----------------------------------------------------------------------------------------------------


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "c": np.array(3, dtype=np.int64),
    "d": np.zeros((0, 4), dtype=np.float16),
    "e": np.array([True, False]),
    "f": np.arange(3, dtype=">f4"),
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_back_bit_by_bit(protocol: int, tmp_path: Path) -> None:
    tree = {"model": OrderedDict(ARRAYS), "__author__": "x", "n": np.float32(2.5), "list": [1, (None, "t", 0.5)]}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(tree, protocol=protocol))
    back = read_pickle(tmp_path / "w.pkl")
    for name, array in ARRAYS.items():
        assert back["model"][name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back["model"][name], array)
    assert back["n"] == 2.5
    assert back["list"] == [1, (None, "t", 0.5)]


def test_older_numpy_has_another_name(tmp_path: Path) -> None:
    text = pickle.dumps({"model": ARRAYS, "__author__": "x"}, protocol=2)
    (tmp_path / "w.pkl").write_bytes(text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(read_pickle(tmp_path / "w.pkl")["model"]["a"], ARRAYS["a"])


def test_which_file_has_caffe2_names(tmp_path: Path) -> None:
    for number, (tree, caffe) in enumerate(
        [
            ({"model": {"x": ARRAYS["a"]}, "__author__": "zoo"}, False),
            ({"model": {"x": ARRAYS["a"]}, "__author__": "x", "matching_heuristics": True}, True),
            ({"blobs": {"x": ARRAYS["a"]}, "cfg": "text"}, True),
            ({"x": ARRAYS["a"]}, True),
        ]
    ):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(tree))
        state, found = read_file(path)
        assert list(state) == ["x"]
        assert torch.equal(state["x"], torch.from_numpy(ARRAYS["a"]))
        assert found == caffe


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("thing", "wants"),
    [
        (Call(os.system, "touch ran"), "system"),
        (Call(eval, "1"), "eval"),
        (Call(np.load, "x"), "load"),
        (Call(getattr, 1, "real"), "getattr"),
        (torch.zeros(2), "torch"),
        (np.array([Call(print)], dtype=object), "print"),
        (np.array([None], dtype=object), "O8|object"),
        (np.array(["text"]), "U4"),
        (np.zeros(1, dtype=[("a", "f4")]), "V4"),
        (Call(b"".decode, "utf-16"), ""),
    ],
)
def test_pickles_that_want_more_than_arrays(thing: Any, wants: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pkl").write_bytes(pickle.dumps({"model": {"a": thing}, "__author__": "x"}))
    with pytest.raises(SsodError, match=f"is not unpickled: it wants .*({wants})") as error:
        read_file(Path("w.pkl"))
    assert error.value.code == Exit.UNSAFE
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        pickle.dumps({"model": ARRAYS})[:-40],
        pickle.dumps([1]),
        pickle.dumps({"model": {}, "__author__": ""}),
    ],
)
def test_damaged_pickles(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(SsodError) as error:
        read_file(tmp_path / "w.pkl")
    assert error.value.code == Exit.CHECKPOINT


def test_a_pth_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "x": Call(os.system, "true")}, tmp_path / "w.pth")
    with pytest.raises(SsodError) as error:
        read_file(tmp_path / "w.pth")
    assert error.value.code == Exit.UNSAFE
    assert zipfile.is_zipfile(tmp_path / "w.pth")


def test_what_training_saves_is_read(tmp_path: Path) -> None:
    state = {"model": {"a": torch.ones(2)}, "optimizer": {"state": {}, "param_groups": []}, "iteration": 5}
    torch.save(state, tmp_path / "model_final.pth")
    found, caffe = read_file(tmp_path / "model_final.pth")
    assert torch.equal(found["a"], torch.ones(2))
    assert not caffe


# ---- fitting ----------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Two layers under detectron2's names."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": nn.Conv2d(3, 4, 1)})
        self.head = nn.ModuleDict({"cls_score": nn.Conv2d(4, classes, 1), "bbox_pred": nn.Conv2d(4, 4, 1)})


def test_another_number_of_classes_starts_afresh(caplog: pytest.LogCaptureFixture) -> None:
    net, file = Net(3), Net(80).state_dict()
    before = net.head["cls_score"].weight.clone()
    loaded = fit(net, file | {"pixel_mean": torch.zeros(3)}, "file")
    assert loaded.fresh == ("head.cls_score.weight", "head.cls_score.bias")
    assert torch.equal(net.head["cls_score"].weight, before)
    assert torch.equal(net.head["bbox_pred"].weight, file["head.bbox_pred.weight"])
    assert "start afresh" in caplog.text


@pytest.mark.parametrize(("ours", "fresh"), [(["cat", "dog"], False), (["dog", "cat"], True), (["cow", "dog"], True)])
def test_as_many_classes_of_other_names_start_afresh(ours: list[str], fresh: bool, tmp_path: Path) -> None:
    card = {"detector": {}, "classes": {"names": ["cat", "dog"], "ids": [1, 2]}, "val_view": []}
    model_file.save(tmp_path / "best.safetensors", Net(2).state_dict(), card)
    loaded = initialise(Net(2), section(weights=str(tmp_path / "best.safetensors")), ours)
    assert loaded.fresh == (("head.cls_score.weight", "head.cls_score.bias") if fresh else ())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s.pop("head.bbox_pred.bias"), "1 of 4 weights are not in it, first head.bbox_pred.bias"),
        (lambda s: s.update({"mask.weight": torch.zeros(1)}), "have no place, first mask.weight"),
        (lambda s: s.update({"head.bbox_pred.bias": torch.zeros(5)}), r"is \[5\], needed \[4\]"),
    ],
)
def test_what_does_not_fit(change: Any, problem: str) -> None:
    net = Net(3)
    state = dict(net.state_dict())
    change(state)
    with pytest.raises(SsodError, match=problem) as error:
        fit(net, state, "file")
    assert error.value.code == Exit.CHECKPOINT


def test_a_backbone_alone() -> None:
    net, file = Net(3), Net(3).state_dict()
    loaded = fit(net, {n: v for n, v in file.items() if n.startswith("backbone.")}, "file", backbone_only=True)
    assert loaded.taken == 2
    assert torch.equal(net.backbone["bottom_up"].weight, file["backbone.bottom_up.weight"])
