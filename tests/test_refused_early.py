"""A run that is refused before its first step leaves nothing, and the line names what is at fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssod.config import load
from ssod.data.datasets import align
from ssod.data.formats.findings import Context
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.data.formats.registry import CocoSource
from ssod.detectors.weights import read
from ssod.engine.checkpointing import resume_check
from ssod.run import opened
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config


@pytest.mark.parametrize("there", [[], ["empty"], ["run/train.log"]])
def test_a_refusal_after_the_data_is_read_leaves_no_folder(tmp_path: Path, there: list[str]) -> None:
    """A run is no new one where a lock is; what was in the folder stays."""
    out = tmp_path / "out" / ("empty" if there == ["empty"] else "run")
    for name in there:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    if there == ["empty"]:
        out.mkdir(parents=True)
    if there == ["run/train.log"]:
        (out / ".lock").write_text("")
        (out / "train.log").write_text("before")
    cfg = load(small_config(tmp_path), [f"detector.weights={tmp_path / 'absent.pt'}"])
    with pytest.raises(SsodError, match="absent"), opened(cfg, out=out):
        pass
    assert out.exists() == (there == ["run/train.log"])


def test_start_weights_that_are_not_finite_are_refused_by_their_own_name(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}, tmp_path / "w.pt")
    with pytest.raises(SsodError, match=r"w\.pt: b: 1 non-finite") as caught:
        read(tmp_path / "w.pt")
    assert caught.value.code == Exit.CHECKPOINT


def test_another_detector_is_told_by_its_name() -> None:
    saved = {"detector": {"name": "fcos", "bins": 3}, "train": {"seed": 1}}
    now = {"detector": {"anchors": {"octaves": 3}, "name": "retinanet"}, "train": {"seed": 2}}
    with pytest.raises(SsodError, match=r"last.pt: detector.name: detector.name 'fcos' -> 'retinanet', ") as caught:
        resume_check.check(Path("last.pt"), {"config": saved}, {"config": now})
    assert "--allow-change detector.name" in str(caught.value)


def test_many_classes_take_no_minutes() -> None:
    """In one pass: 50 000 names in another order took half a minute where each was sought in a list."""
    import numpy as np

    names = tuple(map(str, range(2_000)))
    none = np.zeros(0, bool)
    data = Labeled(Images("", [], []), Classes(names[::-1], tuple(range(2_000))), np.zeros((0, 4), np.float32),
                   np.zeros(0, np.int64), none, none, np.zeros(1, np.int64))  # fmt: skip
    source = CocoSource.model_construct(ann="a.json")
    sought = []

    class Names(tuple):
        def index(self, *args) -> int:
            sought.append(args)
            return super().index(*args)

    found = align(data, Classes(Names(names), tuple(range(2_000))), source, Context())
    assert found.classes.ids[0] == 1_999
    assert sought == []
