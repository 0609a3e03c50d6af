"""Batches: the same images at the same step, however they are read."""

import itertools

import torch

from ssod.data.loader import eval_views, train_batches
from ssod.data.views import ViewsConfig
from tests.views.common import RESIZE, make_images, make_labeled

VIEWS = {
    "labeled": {"weak": [RESIZE, "flip"], "other": [RESIZE, "flip"]},
    "unlabeled": {"weak": [RESIZE, "flip"], "strong": {"start": "weak", "ops": ["flip"]}},
    "val": [{"resize": {"short": 64, "long": 100}}],
}


def same_view(a, b):
    assert a.ids == b.ids
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.sizes, b.sizes)
    assert torch.equal(a.matrix, b.matrix)
    assert torch.equal(a.keys, b.keys)
    assert (a.targets is None) == (b.targets is None)
    for x, y in zip(a.targets or [], b.targets or []):
        assert torch.equal(x.boxes, y.boxes)
        assert torch.equal(x.labels, y.labels)
        assert (x.weight is None) == (y.weight is None)
        assert x.weight is None or torch.equal(x.weight, y.weight)


def same_batches(first, second):
    count = 0
    for a, b in itertools.zip_longest(first, second):
        same_view(a.labeled, b.labeled)
        assert list(a.views) == list(b.views)
        for name in a.views:
            same_view(a.views[name], b.views[name])
        count += 1
    assert count


def batches(tmp_path, **changes):
    args = {
        "labeled_batch": 4,
        "unlabeled_batch": 4,
        "seed": 3,
        "start": 0,
        "steps": 5,
        "unlabeled_from": 1,
        "workers": 0,
    }
    views = ViewsConfig.model_validate(changes.pop("views", VIEWS))
    labeled = make_labeled(tmp_path / "l", 7)
    unlabeled = make_images(tmp_path / "u", 9, name="un")
    return train_batches(labeled, unlabeled, views, **(args | changes))


def test_shapes_and_burn_in(tmp_path):
    got = list(batches(tmp_path))
    assert len(got) == 5
    assert got[0].views == {}
    view = got[1].labeled
    assert view.images.dtype == torch.uint8
    assert len(view) == 8
    assert view.ids[0] == view.ids[1]
    assert view.images.shape[2] % 32 == 0
    assert view.images.shape[3] % 32 == 0
    assert len(view.targets) == 8
    assert list(got[1].views) == ["weak", "strong"]
    assert got[1].weak.targets is None
    assert got[1].strong.targets is None
    assert len(got[1].weak) == 4


def test_workers_do_not_matter(tmp_path):
    same_batches(batches(tmp_path), batches(tmp_path, workers=2))


def test_start_does_not_matter(tmp_path):
    whole = list(batches(tmp_path))
    same_batches(whole[2:], batches(tmp_path, start=2))
    same_batches(whole[3:], batches(tmp_path, start=3, workers=1))


def test_evaluation_sees_every_image_once(tmp_path):
    images = make_images(tmp_path, 7)
    pipeline = ViewsConfig.model_validate(VIEWS).val
    ids = []
    for rank in range(3):
        for view in eval_views(images, pipeline, batch=2, workers=0, rank=rank, world=3):
            assert view.targets is None
            ids += view.ids
    assert ids == images.ids
