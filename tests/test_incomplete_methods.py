"""What becomes of incomplete labels in views, in mixtures, in what is counted, and in methods."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ssod import run
from ssod.commands.check import check
from ssod.config import load
from ssod.data.cutting import cut
from ssod.data.label_statistics import label_statistics
from ssod.losses.weighting.counts import Frequency
from ssod.pseudo_labels.best_f1 import BestF1
from ssod.pseudo_labels.fill_open import fill_open
from ssod.pseudo_labels.image_veto import presence_loss
from ssod.structures import LabelStatistics, Targets
from ssod.transforms.mix import mix
from ssod.transforms.views import ViewsConfig
from ssod.utils.errors import SsodError
from tests.small import small_config
from tests.test_incomplete import K, net_of, no_targets, opened, some_targets
from tests.test_methods import batch_for, method
from tests.transforms.common import RESIZE, loaded, make_labeled
from tests.transforms.test_mix import both, recipe


def test_views_carry_it_and_a_mosaic_adds_it_up(tmp_path: Path) -> None:
    data = make_labeled(tmp_path, 4)
    data = replace(data, incomplete=np.array([[False] * 3, [True, False, False], [False, True, False], [False] * 3]))
    ops = {"weak": [RESIZE, "flip"], "big": [{"mosaic": {"size": 64}}]}
    views = ViewsConfig.model_validate({"labeled": ops, "val": [RESIZE]})
    seen = 0
    for batch in loaded(data, None, views, unlabeled_batch=0, steps=2):
        pairs = list(zip(batch.labeled.ids, batch.labeled.to("cpu").truth()))
        for (id, plain), (_, joined) in zip(pairs[::2], pairs[1::2]):
            own = torch.from_numpy(data.incomplete[data.images.ids.index(id)])
            closed = torch.zeros(3, dtype=torch.bool)
            assert torch.equal(closed if plain.open is None else plain.open, own)
            all_parts = closed if joined.open is None else joined.open
            assert (all_parts >= own).all()
            seen += int((all_parts != own).any())
    assert seen, "some mosaic had a part of another image"


def test_a_mixed_picture_is_open_where_a_part_is() -> None:
    view, pseudo, labeled = both()
    labeled.targets = opened(labeled.truth(), 1)
    what = recipe(3, share=0.5, cut=10)
    what.mixup, what.mosaic = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    what.share = torch.tensor([0.5, 1.0, 1.0])
    _, labels = mix(view, pseudo, labeled, [[0, 1, 2]], what, K)
    assert [t.open.tolist() for t in labels.cls] == [[False, True, False]] * 2 + [[False] * 3]


def test_what_is_counted_leaves_out_what_nobody_knows() -> None:
    boxes, dog = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]]), torch.tensor([1, 1])
    found, truth = [Targets(boxes, dog, torch.tensor([0.9, 0.8]))], [Targets(boxes[:1], dog[:1])]
    best = BestF1(2, start=0.5, overlap=0.5)
    best.count(found, truth)
    assert [best.found[1, 0], best.right[1, 0], best.wanted[1]] == [2, 1, 1]
    best.count(found, [replace(truth[0], open=torch.tensor([False, True]))])
    assert [best.found[1, 0], best.right[1, 0], best.wanted[1]] == [2, 1, 1]
    count = Frequency(2)
    count.count([truth[0], replace(truth[0], labels=dog[:1] - 1)])
    count.count([Targets(boxes[:0], dog[:0], open=torch.tensor([True, False]))])
    torch.testing.assert_close(count.share(), torch.tensor([0.5, 1 / 3]))
    logits, present = torch.zeros(1, 2, requires_grad=True), torch.tensor([[0.0, 1.0]])
    presence_loss(logits, present, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert logits.grad.tolist() == [[0.0, -0.25]]


def test_the_statistics_are_those_of_complete_images(tmp_path: Path) -> None:
    data = make_labeled(tmp_path, 6)  # 0, 1, 2, 0, 1, 2 boxes, of the classes a, bc, -, a, bc
    plain = label_statistics(replace(data, crowd=np.zeros(6, bool)))
    assert plain.boxes.tolist() == [2, 2, 2]
    assert plain.complete is None
    gaps = np.zeros((6, 3), bool)
    gaps[3:, 0] = gaps[:, 2] = True
    found = label_statistics(replace(data, crowd=np.zeros(6, bool), incomplete=gaps))
    assert found.boxes.tolist() == [2, 2, 2], "a: 1 box in 3 images are 2 in 6; c: nowhere complete"
    assert label_statistics(replace(data, crowd=np.zeros(6, bool), incomplete=~gaps)).boxes.tolist() == [2, 2, 2]
    gaps[1] = True
    assert label_statistics(replace(data, crowd=np.zeros(6, bool), incomplete=gaps)).boxes.tolist()[0] == 0
    assert found.complete.tolist() == [3, 6, 0, 0]
    assert not set(cut(replace(data, incomplete=gaps[:, [1, 1, 1]]), 0.9).tolist()) & {1}


def test_labels_that_teach_no_background_are_refused() -> None:
    def known(*complete: int) -> LabelStatistics:
        return LabelStatistics(4, torch.ones(3), torch.ones(3), torch.tensor(complete))

    supervised = method("supervised", net_of("retinanet"))
    supervised.see_labels(known(2, 2, 2, 0))
    with pytest.raises(SsodError, match="labels of 1 of 3 classes are complete in no image"):
        supervised.see_labels(known(2, 2, 0, 0))
    two_stages = method("mean_teacher", net_of("faster_rcnn"))
    two_stages.see_labels(known(2, 2, 2, 0))  # unlabelled images teach from the first step on
    with pytest.raises(SsodError, match=r"detector\.name: no image has complete labels of all classes"):
        method("mean_teacher", net_of("faster_rcnn"), burn_in=5).see_labels(known(2, 2, 2, 0))


@pytest.mark.parametrize(
    ("name", "net", "changes"),
    [
        ("acrst", "faster_rcnn", {"paste": {"most": 0}}),
        ("instant_teaching", "faster_rcnn", {"mix": {"mixup": 1, "mosaic": 0}}),
        ("s4od", "fcos", {}),
        ("csd", "retinanet", {}),
        ("mean_teacher", "retinanet", {"loss": {"sup": {"weighting": "uncertainty"}}}),
    ],
)
def test_methods_that_read_labelled_images_otherwise(name: str, net: str, changes: dict) -> None:
    """All classes open: labelled images without a box cost nothing, in no loss of this side."""
    m = method(name, net_of(net), **changes)
    losses = m(batch_for(m, opened(no_targets(), *range(K))), 50)
    assert all(loss.isfinite() for loss in losses.values())
    assert {key: loss.item() for key, loss in losses.items() if key.startswith("sup/")} == {
        key: 0.0 for key in losses if key.startswith("sup/")
    }
    assert m(batch_for(m, opened(some_targets(), 0)), 50)["sup/cls"] > 0


def test_the_teacher_fills_what_may_be_missing() -> None:
    """Boxes of an open class, sure enough, and where no label is, are labels from the end of burn-in on."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [40, 40, 60, 60], [70, 70, 90, 90], [20, 70, 40, 90]])
    found = Targets(boxes, torch.tensor([1, 1, 1, 0, 1]), torch.tensor([0.9, 0.9, 0.8, 0.9, 0.3]))
    truth = Targets(boxes[:1], torch.tensor([0]), open=torch.tensor([False, True]))
    closed = replace(truth, open=None)
    filled = fill_open([truth, closed], [found, found], 0.5, 2)
    assert filled[0].boxes.tolist() == [[0.0, 0, 10, 10], [40, 40, 60, 60]]
    assert filled[0].labels.tolist() == [0, 1]
    assert torch.equal(filled[0].open, truth.open)
    assert filled[0].scores is None
    assert len(filled[1]) == 1
    m = method("mean_teacher", net_of("fcos"), fill=0.01, burn_in=2)
    data = batch_for(m, opened(no_targets(), *range(K)))
    assert "sup/box" not in {key for key, loss in m(data, 1).items() if loss > 0}
    assert m(data, 2)["sup/box"] > 0
    assert m.stats["labeled/filled_per_image"] > 0
    with pytest.raises(ValidationError, match="asks a teacher about labelled images, and 'csd' has none"):
        method("csd", net_of("fcos"), fill=0.5)


def test_a_run_labels_again_what_is_labelled_in_part(tmp_path: Path) -> None:
    """Half of the images lack circles, and are unlabelled, too; a step has two parts, and the teacher looks once."""
    source = {"format": "coco", "ann": "annotations/train.json", "images": "train"}
    small_config(tmp_path)
    names = sorted(path.name for path in (tmp_path / "data" / "train").iterdir())
    (tmp_path / "data" / "half.txt").write_text("\n".join(names[::2]))
    part = {"incomplete": {"images": "half.txt", "classes": ["circle"]}}
    train = {"steps": 3, "accumulate": 2, "eval_every": 3, "save_every": 3}
    keys = {"data__split": None, "data__labeled": source | part, "data__unlabeled": source, "method__burn_in": 1}
    keys |= {f"train__{key}": value for key, value in train.items()} | {"method__fill": 0.01}
    cfg = load(small_config(tmp_path / "again", **keys, data__root=str(tmp_path / "data")), [])
    report = check(cfg.data)
    assert report.counts["labeled"]["incomplete_images"] == len(names[::2])
    assert report.counts["labeled"]["incomplete_images_per_class"] == {"circle": len(names[::2])}
    assert "D36" in {finding.id for finding in report.findings}
    assert not report.findings.errors()
    run.train(cfg, out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(row.get("labeled/filled_per_image", 0) > 0 for row in rows)
