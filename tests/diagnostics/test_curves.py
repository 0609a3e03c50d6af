"""Trackers are shown what the report shows, from the same files, and showing changes nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssod.diagnostics import curves, gallery, plots
from ssod.diagnostics.pseudo_quality import Diagnose, previous
from ssod.diagnostics.pseudofile import read_pseudo
from ssod.engine.trainer import Trainer
from ssod.evaluation.matching import average_precision, match, read
from ssod.structures import Batch, Pseudo, Targets, View
from tests.diagnostics.test_pseudo_quality import same_weights, trained
from tests.small import small_config

CHARTS = {"precision_recall", "scores/all", "scores/sure", "confidence_iou"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def tracked(config: Path) -> Trainer:
    pytest.importorskip("tensorboard", reason="no tensorboard")
    return trained(config, config.parent / "tracked", "train.tensorboard=true")


def images(out: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Read all pictures of a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(out / "tb"), {"images": 0, "scalars": 0}).Reload()
    return {
        name: [(e.step, np.array(Image.open(io.BytesIO(e.encoded_image_string)))) for e in board.Images(name)]
        for name in board.Tags()["images"]
    }


def test_the_pictures_are_drawn_from_what_the_report_reads(config: Path, tracked: Trainer) -> None:
    found = images(tracked.folder.path)
    shown = [name for name in found if name.startswith("gallery/")]
    assert {name.removeprefix("figures/") for name in found} - set(shown) == CHARTS
    assert 0 < len(shown) <= gallery.SHOWN
    folder = tracked.folder.eval
    for name, events in found.items():
        assert [step for step, _ in events] == [4, 8], name
        for step, image in events:
            if name not in shown:
                charts = plots.charts(
                    read(folder / f"step_{step}.npz"), read_pseudo(folder / f"step_{step}.pseudo.npz")
                )
                assert np.array_equal(image, plots.render(charts[name.removeprefix("figures/")])), name
    assert not np.array_equal(*(image for _, image in found["figures/confidence_iou"]))


def test_showing_changes_nothing(config: Path, tracked: Trainer) -> None:
    assert same_weights(tracked, trained(config, config.parent / "plain"))


def test_the_gallery_has_the_boxes_of_the_look(config: Path, tracked: Trainer) -> None:
    look = previous(tracked.folder.eval, 9)
    diagnose: Diagnose = tracked.parts.diagnosis
    assert [shown.id for shown in diagnose._shown] == [i for i in look.ids if i in gallery.spread(look.ids)]
    # the file leaves out what is a pixel wide or less, as the way to the student does
    kept = {s.id: int(((s.kept.boxes[:, 2:] - s.kept.boxes[:, :2]).amin(1) > 1).sum()) for s in diagnose._shown}
    assert kept == {i: sum(row["image_id"] == i for row in look.boxes) for i in kept}
    assert sum(kept.values()) > 0
    assert any(len(shown.truth) for shown in diagnose._shown)


def test_without_a_tracker_no_view_is_kept(config: Path) -> None:
    diagnose = trained(config, config.parent / "untracked").parts.diagnosis
    assert diagnose._gallery == set()
    assert diagnose._shown == []


# ---- the numbers ---------------------------------------------------------------------------------------------------


def table(classes: int = 3, detections: int = 60):
    """Random detections around random boxes of four images, 7 boxes a class at most."""
    random = np.random.default_rng(3)
    boxes = [
        {"id": i, "image_id": i % 4, "category_id": i % classes, "bbox": [*(random.random(2) * 50), 20.0, 20.0]}
        for i in range(6 * classes)
    ]
    truth = {
        "images": [{"id": i} for i in range(4)],
        "annotations": [{**box, "area": 400.0, "iscrowd": 0} for box in boxes],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(classes)],
    }
    found = [
        {**boxes[i % len(boxes)], "bbox": [*(np.array(boxes[i % len(boxes)]["bbox"]) + random.normal(0, 2, 4))]}
        | {"score": float(random.random())}
        for i in range(detections)
    ]
    return match(truth, found, "coco")


def test_precision_and_recall_are_those_of_the_average_precision() -> None:
    """COCO's 101 points, read off the curve that is drawn, give AP50 back."""
    matches = table()
    for k, ap in enumerate(average_precision(matches)[0, :, 0]):
        recall, precision = (np.array(values) for values in curves.precision_recall(matches, k))
        at = [precision[recall >= r].max(initial=0.0) for r in np.linspace(0, 1, 101)]
        assert np.mean(at) == pytest.approx(ap, abs=1e-9)
    assert 0 < ap < 1


def test_what_is_drawn_is_what_was_counted() -> None:
    matches = table()
    boxes = curves.scored(matches, None)
    assert boxes.where == "val images"
    assert boxes.right.sum() > 0 < boxes.wrong.sum()
    charts = plots.charts(matches, None)
    lines = charts["precision_recall"].axes[0].lines
    assert {line.get_label() for line in lines} == {"class 0", "class 1", "class 2"}
    for line, k in zip(lines, curves.ranked(matches)):
        assert (list(line.get_xdata()), list(line.get_ydata())) == curves.precision_recall(matches, k)
    bars = [bar.get_height() for bar in charts["scores/all"].axes[0].patches]
    assert bars[: curves.BINS] == np.histogram(matches.score[matches.right[:, 0]], curves.BINS, (0, 1))[0].tolist()
    assert sum(bars) == boxes.right.sum() + boxes.wrong.sum()
    sure = sum(bar.get_height() for bar in charts["scores/sure"].axes[0].patches)
    assert sure == (matches.score >= curves.SURE).sum()
    cells = np.square(charts["confidence_iou"].axes[0].images[0].get_array())
    assert cells.sum() == pytest.approx(len(matches.score))
    assert cells[:, -1].sum() == pytest.approx((matches.score >= 0.9).sum()), "columns go by score"


def test_of_many_classes_the_best_and_the_weakest_are_drawn() -> None:
    matches = table(classes=10, detections=150)
    order = curves.ranked(matches)
    charts = plots.charts(matches, None)
    assert "precision_recall" not in charts
    for name, classes in (("best", order[::-1][:8]), ("weakest", order[:8])):
        lines = charts[f"precision_recall/{name}"].axes[0].lines
        assert [line.get_label() for line in lines] == [f"class {k}" for k in classes]


def test_an_evaluation_without_detections_can_be_drawn() -> None:
    charts = plots.charts(table(detections=0), None)
    assert charts.keys() == CHARTS
    assert all(plots.render(chart).shape == (400, 600, 3) for chart in charts.values())
    assert plots.charts(None, None) == {}


# ---- the gallery ---------------------------------------------------------------------------------------------------


def view(shift: float) -> View:
    """Two images of 40 by 60 pixels, padded to 64; what lies at x is moved to the right by ``shift``."""
    matrix = torch.eye(3).repeat(2, 1, 1)
    matrix[:, 0, 2] = shift
    pixels = torch.full((2, 3, 64, 64), 0.5)
    return View(pixels, torch.tensor([[40, 60], [40, 60]]), matrix, torch.arange(2), ["a", "b"], None)


@pytest.mark.parametrize("chooses", [True, False])
def test_kept_boxes_are_moved_and_the_others_rejected(chooses: bool) -> None:
    boxes = torch.tensor([[4.0, 6, 24, 26], [30, 10, 50, 30], [10, 10, 20, 20]])
    found = Targets(boxes, torch.tensor([0, 1, 1]), torch.tensor([0.9, 0.6, 0.1]))
    batch = Batch(view(0), {"weak": view(0), "strong": view(35)})
    chosen = Pseudo([found[:2], found[:0]]) if chooses else None
    one, two = gallery.show(batch, [found, found[:0]], chosen, None)
    assert one.weak.shape == one.strong.shape == (40, 60, 3)
    assert torch.equal(one.kept.boxes, boxes[:2])
    assert torch.equal(one.rejected.boxes, boxes[2:])
    assert one.moved.boxes.tolist() == [[39, 6, 59, 26]], "the second left the view"
    assert (len(two.kept), len(two.rejected), two.id) == (0, 0, "b")
    image = gallery.draw(one)
    assert image.shape == (20 + 320, 480 + 4 + 480, 3)
    scale, blue = 8, gallery.COLORS["kept"]
    assert tuple(image[20 + 16 * scale, 4 * scale]) == blue, "left edge of the first, weak view"
    assert tuple(image[20 + 16 * scale, 484 + 39 * scale]) == blue, "left edge of the first, strong view"
    assert tuple(image[20 + 12 * scale, 10 * scale]) == gallery.COLORS["rejected"]


def test_an_unsure_box_is_shown_as_what_it_is() -> None:
    boxes = torch.tensor([[4.0, 6, 24, 26], [30, 10, 50, 30], [10, 10, 20, 20]])
    found = Targets(boxes, torch.tensor([0, 1, 1]), torch.tensor([0.9, 0.6, 0.1]))
    batch = Batch(view(0), {"weak": view(0), "strong": view(0)})
    chosen = Pseudo([found[:1], found[:0]], unsure=[found[1:2], found[:0]])
    one, _ = gallery.show(batch, [found, found[:0]], chosen, None)
    assert torch.equal(one.unsure.boxes, boxes[1:2])
    assert torch.equal(one.rejected.boxes, boxes[2:])
    assert tuple(gallery.draw(one)[20 + 20 * 8, 30 * 8]) == gallery.COLORS["unsure"]
