"""The composition root: what it passes on from the parts to the user."""

from pathlib import Path

import pytest
from PIL import Image

import ssod.run
from ssod.config import load
from ssod.engine.trainer import Trainer
from ssod.errors import Exit, SsodError
from tests.small import small_config


def with_a_broken_image(folder: Path) -> Path:
    config = small_config(
        folder, train__steps=3, method__burn_in=0, data__unlabeled={"format": "folder", "path": "more"}
    )
    more = folder / "data" / "more"
    more.mkdir()
    for i in range(3):
        Image.new("RGB", (64, 64), (i, 9, 9)).save(more / f"{i}.jpg")
    (more / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    return config


def test_an_unreadable_unlabelled_image_is_told_once(tmp_path, capsys):
    cfg = load(with_a_broken_image(tmp_path), ["train.eval_every=0"])
    ssod.run.train(cfg, out=tmp_path / "run")
    told = [line for line in capsys.readouterr().out.splitlines() if "another image takes its place" in line]
    assert len(told) == 1
    assert "broken.jpg" in told[0]


def test_a_dead_worker_is_named_wherever_torch_reports_it(tmp_path, monkeypatch):
    cfg = load(small_config(tmp_path))

    def fit(self: Trainer) -> None:
        raise RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. ")

    monkeypatch.setattr(Trainer, "fit", fit)
    with pytest.raises(SsodError, match="DataLoader worker") as caught:
        ssod.run.train(cfg, out=tmp_path / "run")
    assert caught.value.code == Exit.IO


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    cfg = load(small_config(tmp_path))
    monkeypatch.setattr(Trainer, "fit", lambda self: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        ssod.run.train(cfg, out=tmp_path / "run")
