"""``views.tiles`` from training to labels: one key, and every command looks at large images in parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssod import build, run
from ssod.commands.coverage import coverage, seen_in
from ssod.commands.evaluate import evaluate
from ssod.commands.init.budget import Budget, load_of
from ssod.commands.init.sizes import choose, read_detector
from ssod.commands.init.tiles import or_tiles
from ssod.commands.init.write import write_config
from ssod.config import Config, load
from ssod.data import datasets
from ssod.data.checks.reach import Seen, Whole
from ssod.data.label_statistics import label_statistics
from ssod.data.loading.loader import Loading
from ssod.data.loading.sampling import Place
from ssod.data.loading.tiled import val_views
from ssod.diagnostics.tile_truth import within
from ssod.evaluation.columns import Found
from ssod.inference import predict
from ssod.inference.model import load as load_model
from ssod.structures import Tiles
from ssod.structures.tiles import shown_share
from ssod.transforms.views import Pipeline
from ssod.utils.errors import SsodError
from tests.small import small_config
from tests.small_sets import voc
from tests.test_init_sizes import labeled, wanted


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("tiles"))


def tiled(config: Path, size: int = 32, *changes: str) -> Config:
    return load(config, [f"views.tiles={{size: {size}, overlap: 0.25}}", *changes])


def found_by(cfg: Config, data: Any) -> tuple[dict[str, float], Found]:
    tables: list[Found] = []
    detector = build.build_method(cfg, data).teacher.model
    measured = build.evaluator(cfg, data.val, score=0.0, keep=lambda truth, rows: tables.append(rows))(detector)
    return measured, tables[0]


def test_images_no_larger_than_a_tile_are_measured_bit_for_bit_as_without(config: Path) -> None:
    data = build.load_data(load(config))
    (plain, first), (parts, second) = (found_by(cfg, data) for cfg in (load(config), tiled(config, 64)))
    assert first.ids == second.ids
    for name in ("image", "label", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert plain == parts
    _, third = found_by(tiled(config), data)
    assert third.boxes.shape != first.boxes.shape or (third.boxes != first.boxes).any()


@pytest.mark.parametrize(("workers", "batch"), [(0, 2), (0, 7), (2, 5)])
def test_tiles_of_several_images_share_a_view_and_no_pixel_is_lost(config: Path, workers: int, batch: int) -> None:
    cfg = tiled(config)
    val = datasets.load(cfg.data).val
    images, ids = {}, []
    for rank in range(2):
        for view in val_views(val.images, cfg.views, batch, Loading(workers, cfg.data.reader()), Place(rank, 2)):
            assert len(view) <= batch
            assert view.tiles == [9] * len(view)
            ids += view.ids
            for image, matrix, pixels in zip(view.ids, view.matrix, view.images):
                left, top = (-matrix[:2, 2]).long().tolist()
                canvas = images.setdefault(image, torch.zeros(3, 64, 64, dtype=torch.uint8))
                canvas[:, top : top + 32, left : left + 32] = pixels
    assert ids == [id for id in val.images.ids for _ in range(9)]
    whole = val_views(val.images, load(config).views, 1, Loading(0, cfg.data.reader()), Place())
    for view in whole:
        assert torch.equal(images[view.ids[0]], view.images[0])


def test_a_training_and_its_model_look_at_tiles(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AP in training, `ssod eval`, `ssod.load` and what `label` looks through find the same."""
    changes = ["train.steps=4", "train.eval_every=4", "method.burn_in=2", "detector.decode.score=0.0"]
    cfg, folder = tiled(config, 32, *changes), tmp_path / "run"
    out = run.train(cfg, out=folder)
    model = load_model(folder)
    assert model.tiles == cfg.views.tiles
    again = evaluate(folder)
    assert again == pytest.approx({key: out[key] for key in again}, nan_ok=True)
    val = datasets.load(cfg.data).val
    tables: list[Found] = []
    build.evaluator(cfg, val, keep=lambda truth, rows: tables.append(rows))(model.detector)
    paths = [str(Path(val.images.root) / path) for path in val.images.paths]
    found = model(paths)
    for number, image in enumerate(val.images.ids):
        rows = tables[0].image == tables[0].ids.index(image)
        corners = found[number].boxes.numpy()
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        assert rows.sum() == len(xywh) > 0
        np.testing.assert_allclose(np.sort(tables[0].boxes[rows], 0), np.sort(xywh, 0), atol=1e-3)
        assert found[number].boxes.max() > 34, "beyond one tile"
    for number, _, detected in predict.look_through(model, val.images, None, []):
        assert torch.equal(detected.boxes, found[number].boxes)
    asked: list[Tiles | None] = []
    instead = lambda cfg, *rest, **more: asked.append(cfg.views.tiles) or (lambda detector: {})  # noqa: E731
    monkeypatch.setattr("ssod.commands.evaluate.evaluator", instead)
    for overrides in ([], ["views.tiles.overlap=0.5"], ["views.tiles=null"]):
        evaluate(folder, overrides=overrides)
    assert asked == [Tiles(size=32, overlap=0.25), Tiles(size=32, overlap=0.5), None]
    model.tiles = None
    assert not torch.equal(model(paths[0]).boxes, found[0].boxes)


def test_what_makes_no_sense_is_refused_in_one_line(config: Path) -> None:
    with pytest.raises(SsodError, match="'stac' labels an image once, and its views show another tile"):
        tiled(config, 32, "method={name: stac, burn_in: 6}", "views.unlabeled.weak=[]")
    with pytest.raises(SsodError, match=r"views\.tiles\.size"):
        tiled(config, 8)
    cfg = tiled(config, 32, "method.teacher={name: file, results: nothing.json}")
    with pytest.raises(SsodError, match=r"views\.tiles: parts of a file's boxes"):
        build.load_data(cfg)


def test_labels_are_counted_in_tiles(config: Path) -> None:
    data = datasets.load(load(config).data).labeled
    plain, tiles = label_statistics(data), Tiles(size=32, overlap=0.25)
    found = label_statistics(data, tiles)
    assert found.images == 9 * plain.images
    counts = np.zeros(len(data.classes), int)
    for i in range(len(data)):
        own = data.targets(i)
        for rect in tiles.grid((64, 64)):
            seen = shown_share(own.boxes.numpy(), np.array(rect)) >= 0.5
            counts += np.bincount(own.labels.numpy()[seen & (own.trust() > 0).numpy()], minlength=len(counts))
    assert found.boxes.tolist() == counts.tolist()
    assert label_statistics(data, Tiles(size=64)).boxes.tolist() == plain.boxes.tolist()


def test_the_truth_of_a_tile_is_cut_to_it() -> None:
    data = labeled(16, n=3)
    low, high = data.boxes[:, :2] - 40, data.boxes[:, :2] + [8, 100]
    parts = dict(zip(data.images.ids, np.concatenate([low, high], 1)))
    parts["2.png"] = np.array([0, 0, 1, 1])
    found = within(data, parts)
    assert np.diff(found.starts).tolist() == [1, 1, 0]
    assert (found.boxes[:, 2] - found.boxes[:, 0]) == pytest.approx([8, 8])
    wide = data.boxes[:2, 2] - data.boxes[:2, 0]
    assert found.crowd.tolist() == (wide > 16).tolist()


def test_a_box_is_within_reach_where_a_tile_shows_it_whole(config: Path) -> None:
    data = labeled(8, (1600, 1200))
    small = seen_in(Pipeline(ops=({"resize": {"ratio": 2}},)), data, tiles := Tiles(size=160))
    np.testing.assert_allclose(small.sides, 2 * (data.boxes[:, 2:] - data.boxes[:, :2]), atol=1e-3)
    assert (small.canvas == 320).all()
    assert Whole(Everything()).within(small).all()
    large = seen_in(Pipeline(), labeled(100, (1600, 1200)), tiles)
    assert 0 < Whole(Everything()).within(large).mean() < 1
    assert coverage(tiled(config), datasets.load(load(config).data).labeled).out > 0, "objects larger than a tile"


class Everything:
    def within(self, seen: Seen) -> np.ndarray:
        return np.ones(len(seen.boxes), bool)


# ---- init --------------------------------------------------------------------------------------------------------


def test_init_cuts_large_images_with_tiny_objects_into_tiles() -> None:
    data, hour = labeled(8, (1600, 1200)), Budget("1h", seconds=3600)
    want = wanted("retinanet_tiny_fpn", hour)
    whole = choose(data, want)
    assert whole.share < 0.95
    found = or_tiles(data, want, whole)
    assert found.tiles is not None
    assert found.share >= 0.98
    assert found.whole == whole.share
    load = load_of(read_detector(want.detector | found.detector), want.images, want.steps, want.taught, 1.0)
    assert load.seconds(found.short, 1) <= 3600
    assert or_tiles(labeled(80, (640, 480)), want, choose(labeled(80, (640, 480)), want)).tiles is None
    named = or_tiles(data, want, whole, Tiles(size=128))
    assert named.tiles == Tiles(size=128)


def test_init_writes_tiles_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    voc(tmp_path / "set", {"trainval": 6, "test": 2}, size=(1600, 1200))
    options = {"detector": "retinanet_tiny_fpn", "budget": "10m", "percent": 50}
    text = write_config("my.yaml", "set", None, "set", overrides=["views.tiles={size: 96}"], **options)
    cfg = load("my.yaml")
    assert cfg.views.tiles == Tiles(size=96)
    written = Path("my.yaml").read_text()
    for said in (text, written):
        assert re.search(r"input      tiles of 96 x 96 pixels", said)
        assert re.search(r"whole images that fit have \d+ % of the boxes within reach", said)
