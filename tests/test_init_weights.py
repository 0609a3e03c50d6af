"""``ssod init --weights RUN``: the config builds the run's detector, and fills it with the run's teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssod.commands.init.write import write_config
from ssod.config import load
from ssod.detectors.build import build
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.small_sets import coco
from tests.trained import model_file as write_model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    coco(tmp_path / "a.json", tmp_path / "photos", [f"{i}.jpg" for i in range(8)])
    coco(tmp_path / "b.json", tmp_path / "others", ["v.jpg", "w.jpg"])
    write_model(tmp_path / "run" / "best.safetensors", classes={"names": ["dog", "bird", "cat"], "ids": [1, 2, 3]})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(out: str, **more: str) -> str:
    places = {"images": "photos", "val_images": "others"}
    return write_config(out, "a.json", None, "b.json", percent=50, **places, weights="run", **more)


def test_training_begins_with_the_teacher(here: Path) -> None:
    told = write("my.yaml")
    cfg = load("my.yaml")
    state, card = model_file.read(here / "run" / "best.safetensors")
    assert cfg.detector.weights == str(here / "run" / "best.safetensors")
    assert cfg.detector.model_copy(update={"weights": "none"}).model_dump(mode="json") == card["detector"]
    assert "those of run, a retinanet_tiny_fpn" in told
    mine = build(cfg.detector, 2, pretrained=True, classes=("cat", "dog")).state_dict()
    assert all(torch.equal(mine[name], value) for name, value in state.items() if name.startswith("backbone"))


def test_what_a_user_says_counts(here: Path) -> None:
    write("my.yaml", overrides=["detector.decode.score=0.123"])
    assert load("my.yaml").detector.decode.score == 0.123


def test_another_detector_is_refused(here: Path) -> None:
    with pytest.raises(SsodError, match="is no retinanet on tiny, as the weights are"):
        write("my.yaml", detector="fcos_tiny_fpn")
    (here / "run" / "best.safetensors").unlink()
    with pytest.raises(SsodError, match=r"no best\.safetensors") as caught:
        write("my.yaml")
    assert caught.value.code == Exit.CHECKPOINT
    assert not Path("my.yaml").exists()
