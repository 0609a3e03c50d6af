"""A model file of a stranger is a model, or one line: whatever its card says, and in little memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from torch import nn

from ssod.detectors.d2 import card as d2_card
from ssod.inference.model import load
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.strange import ended, memory, spoilt
from tests.trained import model_file as written
from tests.trained import trained

CODES = {Exit.DATA, Exit.CHECKPOINT, Exit.UNSAFE}
IMAGE = np.zeros((24, 32, 3), np.uint8)


def with_card(path: Path, name: str, card: Any) -> Path:
    save_file(trained(name).detector.state_dict(), path, {"ssod": json.dumps(card)})
    return path


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster_rcnn"])
def test_a_card_that_is_spoilt_anywhere_is_one_line_or_a_model(tmp_path: Path, name: str) -> None:
    card = {**model_file.read_card(written(tmp_path / "good.safetensors", name)), "step": 3, "metrics": {"AP": 0.5}}
    path, found = tmp_path / "m.safetensors", Counter()
    with memory():
        for said, strange in spoilt(card, 1, seed=len(name)):
            with_card(path, name, strange)
            found[ended(lambda: load(path)(IMAGE), said, CODES, "")] += 1
    assert min(found["good"], found["refused"]) > 1, found


SECTION = trained("retinanet").card["detector"]
LARGE = {
    "27 GB": ({"detector": {**SECTION, "channels": 1 << 16}}, "the card asks for"),
    "anchors": ({"detector": {**SECTION, "anchors": {**SECTION["anchors"], "octaves": 10**9}}}, "octaves"),
    "detections": ({"detector": {**SECTION, "decode": {**SECTION["decode"], "detections": 10**9}}}, "detections"),
    "a million classes": ({"classes": {"names": [f"c{i}" for i in range(10**6)], "ids": [1]}}, "names"),
    "more classes": ({"classes": {"names": list("abcd"), "ids": [1, 2, 3, 4]}}, "the card asks for"),
    "names in a text": ({"classes": {"names": "abc", "ids": [1, 2, 3]}}, "names: cannot be 'abc'"),
    "names in lists": ({"classes": {"names": [["a"], ["b"], ["c"]], "ids": [1, 2, 3]}}, r"names\[0\]"),
    "a name twice": ({"classes": {"names": ["a", "b", "a"], "ids": [1, 2, 3]}}, "2 different ones of 3"),
    "fewer ids": ({"classes": {"names": ["a", "b", "c"], "ids": [1, 2]}}, "ids: 2 different ones of 3"),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_card_that_asks_for_too_much_is_refused_before_memory_is_taken(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, words = LARGE[case]
    card = model_file.read_card(written(tmp_path / "good.safetensors"))
    path = with_card(tmp_path / "m.safetensors", "retinanet", {**card, **changes})
    monkeypatch.setattr(model_file, "load_file", lambda path: pytest.fail("weights were read"))
    with memory(300), pytest.raises(SsodError, match=words) as caught:
        load(path)
    assert caught.value.code == Exit.CHECKPOINT


D2 = {"name": "d2_retinanet", "opts": {}}
HOSTILE = {
    "gigabytes": ({**D2, "config": {"MODEL": {"FPN": {"OUT_CHANNELS": 1 << 30}}}}, "FPN.OUT_CHANNELS: 1073741824"),
    "opts": ({**D2, "opts": {"MODEL.RETINANET.NUM_CONVS": 10**9}}, "opts.MODEL.RETINANET.NUM_CONVS: 1000000000"),
    "a list": ({**D2, "config": {"MODEL": {"ANCHOR_GENERATOR": {"SIZES": [[1] * 10_001]}}}}, "SIZES: 10001 values"),
    "many keys": ({**D2, "config": {"MODEL": {f"K{i}": 1 for i in range(10_001)}}}, "10001 values"),
    "a type": ({**D2, "config": 3}, "card.detector.*config"),
    "code": ({**D2, "opts": {"_target_": "os.system"}}, "_target_"),
    "a file": ({**D2, "config": "/etc/x.yaml"}, "names the file '/etc/x.yaml'"),
    "too large a number": ({**D2, "config": {"SOLVER": {"STEPS": [1 << 62, 1e300]}}}, "STEPS: 1e.300 is beyond"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_card_of_detectron2_is_judged_before_it_is_built_or_missed(tmp_path: Path, case: str) -> None:
    section, words = HOSTILE[case]
    card = {**model_file.read_card(written(tmp_path / "good.safetensors")), "detector": section}
    with memory(300), pytest.raises(SsodError, match=words) as caught:
        load(with_card(tmp_path / "m.safetensors", "retinanet", card))
    assert caught.value.code in (Exit.CHECKPOINT, Exit.UNSAFE)


@pytest.mark.parametrize("how", [str, lambda path: {"_BASE_": str(path)}], ids=["named", "base"])
def test_a_card_of_detectron2_opens_no_file_of_the_reader(
    tmp_path: Path, how: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("MODEL: {FPN: {OUT_CHANNELS: 8}}")
    monkeypatch.setattr("ssod.detectors.d2.config.read_yaml", lambda path: pytest.fail("it was read"))
    card = {**model_file.read_card(written(tmp_path / "good.safetensors")), "detector": {**D2, "config": how(own)}}
    with pytest.raises(SsodError, match="a card holds what stands in it") as caught:
        load(with_card(tmp_path / "m.safetensors", "retinanet", card))
    assert caught.value.code == Exit.UNSAFE


def test_a_builder_makes_no_more_than_the_file_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """What detectron2 does with a config that passes: each layer is small enough, and there are too many."""
    monkeypatch.setattr(d2_card, "SPARE", 1000)
    with d2_card.Bounded([(64, 64), (64,)]):
        kept = nn.Linear(64, 64)
        assert kept.weight.device.type == "cpu"
        with pytest.raises(SsodError, match="asks for more than the file's weights"):
            [nn.Linear(64, 64) for _ in range(4)]
    with d2_card.Bounded([(3,)]), memory(300), pytest.raises(SsodError, match="asks for more"):
        nn.Linear(1 << 20, 1 << 20)


@pytest.mark.parametrize("view", [{"short": 10**6}, {"short": 800, "ratio": 1e6}, {"long": 1 << 40}])
def test_a_view_of_any_size_is_refused_by_name(tmp_path: Path, view: dict) -> None:
    path = written(tmp_path / "m.safetensors", val_view=[{"resize": view}])
    with memory(), pytest.raises(SsodError, match="views: a picture of 32 x 24 would become"):
        load(path)(IMAGE)
