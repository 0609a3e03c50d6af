"""A model file of a stranger is a model, or one line: whatever its card says, and in little memory."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

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


@pytest.mark.parametrize("view", [{"short": 10**6}, {"short": 800, "ratio": 1e6}, {"long": 1 << 40}])
def test_a_view_of_any_size_is_refused_by_name(tmp_path: Path, view: dict) -> None:
    path = written(tmp_path / "m.safetensors", val_view=[{"resize": view}])
    with memory(), pytest.raises(SsodError, match="views: a picture of 32 x 24 would become"):
        load(path)(IMAGE)
