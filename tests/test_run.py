"""The composition root: what it passes on from the parts to the user."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import ssod.build
import ssod.run
from ssod.config import load
from ssod.data import datasets
from ssod.engine.checkpointing import checkpoint
from ssod.engine.trainer import Trainer
from ssod.evaluation.columns import Found
from ssod.utils import collective
from ssod.utils.errors import Exit, SsodError
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


def test_an_unreadable_unlabelled_image_is_reported_once(tmp_path, caplog):
    cfg = load(with_a_broken_image(tmp_path), ["train.eval_every=0"])
    ssod.run.train(cfg, out=tmp_path / "run")
    messages = [line for line in caplog.messages if "another image takes its place" in line]
    assert len(messages) == 1
    assert "broken.jpg" in messages[0]


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


@pytest.mark.parametrize(
    ("mix", "batch", "world", "refused"),
    [
        ({"tiles": 4}, 4, 1, "4 images for 2 micro-batches, method.mix needs 3 in each; raise it to 6, or"),
        ({"tiles": 4}, 6, 2, "6 images for 4 micro-batches"),
        ({"tiles": 4}, 6, 1, ""),
        ({"tiles": 4, "mosaic": 0.0}, 2, 1, ""),
        ({"tiles": 2}, 2, 1, ""),
    ],
)
def test_a_mosaic_of_four_needs_three_labelled_images_at_a_time(tmp_path, monkeypatch, mix, batch, world, refused):
    config = small_config(tmp_path, data__split__percent=60, train__accumulate=2, train__batch__labeled=batch)
    cfg = load(config, ["method.name=instant_teaching", *(f"method.mix.{key}={value}" for key, value in mix.items())])
    data = datasets.load(cfg.data)
    monkeypatch.setattr(collective, "world_size", lambda: world)
    if not refused:
        ssod.build.check_batch(cfg, data)
        return
    with pytest.raises(SsodError, match=refused) as caught:
        ssod.build.check_batch(cfg, data)
    assert (caught.value.field, caught.value.code) == ("train.batch.labeled", Exit.USAGE)


SHORT = ["train.steps=2", "train.eval_every=2", "train.log_every=1", "method.burn_in=1"]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of every file but the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_another_method_in_a_finished_run_is_refused_and_leaves_it_whole(tmp_path):
    config = small_config(tmp_path)
    run = tmp_path / "run"
    ssod.run.train(load(config, SHORT), out=run)
    before = contents(run)
    assert {"config.yaml", "origins.json", "exit.json"} <= {Path(name).name for name in before}
    with pytest.raises(SsodError, match=r"method\.name") as caught:
        ssod.run.train(load(config, [*SHORT[:3], "method={name: supervised, ema: {decay: 0.9}}"]), out=run)
    assert caught.value.code == Exit.CHECKPOINT
    assert contents(run) == before


def test_a_run_says_what_it_trains_and_on_what_and_a_finished_one_that_it_is(tmp_path, capsys):
    config = small_config(tmp_path)
    run = tmp_path / "run"
    ap = ssod.run.train(load(config, SHORT), out=run)["AP"]
    lines = capsys.readouterr().out.splitlines()
    data = datasets.load(load(config).data)
    counts = f"{len(data.labeled)} labelled, {len(data.unlabeled)} unlabelled, 6 val images"
    (line,) = [line for line in lines if line.startswith("mean_teacher, fcos on c")]
    assert line.endswith(f": {counts}, {len(data.classes)} classes")
    assert f"run folder: {run}" in lines
    assert lines[-1] == f"next: ssod report {run}, ssod export {run}"
    before = contents(run)
    ssod.run.train(load(config, [*SHORT, "train.log_every=2"]), out=run)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("warning[")]
    assert f"already finished at step 2, teacher AP {100 * ap:.1f}" in line
    assert contents(run) == before


def test_a_folder_of_pictures_is_no_run_folder(tmp_path):
    cfg = load(small_config(tmp_path), SHORT)
    few = tmp_path / "few"
    few.mkdir()
    Image.new("RGB", (8, 8)).save(few / "a.jpg")
    before = contents(few)
    with pytest.raises(SsodError, match=r"'a\.jpg' and is no run folder") as caught:
        ssod.run.train(cfg, out=few)
    assert caught.value.code == Exit.USAGE
    assert contents(few) == before
    assert [path.name for path in few.iterdir()] == ["a.jpg"]


def test_a_run_goes_on_without_the_weights_that_it_started_from(tmp_path):
    config = small_config(tmp_path, train__steps=2, method__burn_in=1)
    start = tmp_path / "start.safetensors"
    ssod.run.train(load(config), out=tmp_path / "first")
    (tmp_path / "first" / "best.safetensors").rename(start)
    changes = [f"detector.weights={start}", "train.steps=4"]
    ssod.run.train(load(config, changes), out=tmp_path / "whole")
    ssod.run.train(load(config, [*changes, "train.steps=2"]), out=tmp_path / "parts")
    start.unlink()
    with pytest.raises(SsodError, match=r"start\.safetensors"):
        ssod.run.train(load(config, changes), out=tmp_path / "new")
    ssod.run.train(load(config, changes), out=tmp_path / "parts")
    whole, parts = (checkpoint.load(tmp_path / name / "checkpoints/last.pt")["method"] for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_what_is_found_in_an_image_does_not_depend_on_eval_batch(tmp_path):
    """Wide, high and square images, in turn: padded together, half of what some show to the detector is padding."""
    config = small_config(tmp_path, detector__head_norm="group", detector__decode={"score": 0.0})
    ann = tmp_path / "data/annotations/val.json"
    tree = json.loads(ann.read_text())
    for i, image in enumerate(tree["images"]):
        image["width"], image["height"] = ((128, 64), (64, 128), (64, 64))[i % 3]
        path = tmp_path / "data/val" / image["file_name"]
        Image.open(path).resize((image["width"], image["height"])).save(path)
    tree["annotations"] = [a | {"bbox": [1, 1, 9, 9], "area": 81} for a in tree["annotations"]]
    ann.write_text(json.dumps(tree))

    def found(batch: int) -> dict[int, list[tuple[float, ...]]]:
        cfg = load(config, [f"eval.batch={batch}"])
        data = datasets.load(cfg.data)
        seen = {}

        def keep(truth: dict, rows: Found) -> None:
            for image, score, box in zip(rows.image.tolist(), rows.scores.tolist(), rows.boxes.tolist()):
                seen.setdefault(rows.ids[image], []).append((score, *box))

        teacher = ssod.build.build_method(cfg, data).teacher.model
        ssod.build.evaluator(cfg, data.val, keep=keep)(teacher)
        return seen

    alone, together = found(1), found(6)
    assert len(alone) == 6
    for image, rows in alone.items():
        torch.testing.assert_close(torch.tensor(together[image]), torch.tensor(rows), rtol=0, atol=1e-4)
