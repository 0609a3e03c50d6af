"""Batches: the same images at the same step, however they are read."""

import contextlib
import errno
import itertools
import os
import pickle
import signal
import socket
import threading
import time
from dataclasses import replace
from multiprocessing import active_children, resource_sharer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssod.data.formats import image as image_module
from ssod.data.formats.header import read_header
from ssod.data.loading import reader, team, workers
from ssod.data.loading.reader import Reader
from ssod.data.loading.team import worker_failure
from ssod.structures import View
from ssod.transforms.views import ViewsConfig
from ssod.utils.errors import Exit, SsodError
from tests.patience import LONG
from tests.transforms.common import RESIZE, loaded, make_images, make_labeled, viewed

VIEWS = {
    "labeled": {"weak": [RESIZE, "flip"], "other": [RESIZE, "flip"]},
    "unlabeled": {"weak": [RESIZE, "flip"], "strong": {"start": "weak", "ops": ["flip"]}},
    "val": [{"resize": {"short": 64, "long": 100}}],
}


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch):
    """Let loaders start the workers that a test asks for, however few CPUs the tests may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))


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
    views = ViewsConfig.model_validate(changes.pop("views", VIEWS))
    labeled = changes.pop("labeled", None) or make_labeled(tmp_path / "l", 7)
    unlabeled = changes.pop("unlabeled", None) or make_images(tmp_path / "u", 9, name="un")
    return loaded(labeled, unlabeled, views, **{"unlabeled_from": 1, **changes})


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("asked", "cpus", "started"), [(3, 1, 1), (3, 2, 2), (1, 4, 1), (0, 4, 0)])
def test_no_more_workers_than_cpus_that_this_process_may_use(tmp_path, monkeypatch, asked, cpus, started):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    own = batches(tmp_path, workers=asked)
    with contextlib.closing(own):
        first = next(own)
        assert len(active_children()) == started
    same_batches([first], itertools.islice(batches(tmp_path), 1))


def test_start_does_not_matter(tmp_path):
    whole = list(batches(tmp_path))
    same_batches(whole[2:], batches(tmp_path, start=2))
    same_batches(whole[3:], batches(tmp_path, start=3, workers=1))


def test_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = list(batches(tmp_path, workers=1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(2)
    same_batches(first, batches(tmp_path))


def test_seed_matters(tmp_path):
    a, b = (next(batches(tmp_path, seed=s)).labeled for s in (0, 1))
    assert a.ids != b.ids
    assert not set(a.keys.tolist()) & set(b.keys.tolist())


def rows(view: View, keep) -> list:
    """What a view holds of each image, without the padding that depends on its neighbours."""
    return [
        (view.ids[i], view.keys[i].item(), view.matrix[i].tolist(), view.images[i, :, :h, :w].tolist())
        for i, (h, w) in enumerate(view.sizes.tolist())
        if keep(i)
    ]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_micro_batch_of_a_rank_is_what_a_rank_of_its_own_would_see(tmp_path, accumulate):
    """Part j of rank r is number r * accumulate + j of the parts of the whole batch."""
    kw = {"steps": 4, "unlabeled_from": 0}
    whole = list(batches(tmp_path, **kw))
    assert len(whole) == 4
    ranks = [list(batches(tmp_path, rank=r, world=2, accumulate=accumulate, **kw)) for r in range(2)]
    for step, batch in enumerate(whole):
        parts = [part for r in ranks for part in r[step * accumulate : (step + 1) * accumulate]]
        for pick in (lambda b: b.labeled, lambda b: b.weak, lambda b: b.strong):
            joined = [row for part in parts for row in rows(pick(part), lambda i: True)]
            assert joined == rows(pick(batch), lambda i: True)


def test_micro_batches_are_the_step(tmp_path):
    whole = list(batches(tmp_path, steps=3, unlabeled_from=0))
    parts = list(batches(tmp_path, steps=3, unlabeled_from=0, accumulate=4))
    for step, batch in enumerate(whole):
        joined = [row for part in parts[4 * step : 4 * step + 4] for row in rows(part.labeled, lambda i: True)]
        assert joined == rows(batch.labeled, lambda i: True)


def test_burn_in_does_not_change_what_a_step_sees(tmp_path):
    early, late = (list(batches(tmp_path, unlabeled_from=s)) for s in (0, 3))
    assert [bool(b.views) for b in late] == [False, False, False, True, True]
    same_batches(early[3:], late[3:])


def test_burn_in_opens_no_unlabeled_image(tmp_path, monkeypatch):
    opened = []
    real = reader.open_image
    monkeypatch.setattr(reader, "open_image", lambda path, **kw: opened.append(path) or real(path, **kw))
    list(batches(tmp_path, steps=2, unlabeled_from=2))
    assert opened
    assert not [path for path in opened if "/u/" in path]
    list(batches(tmp_path, steps=3, start=2, unlabeled_from=2))
    assert [path for path in opened if "/u/" in path]


def test_no_label_reaches_unlabeled_views(tmp_path):
    labeled = make_labeled(tmp_path / "l", 7)  # the same images, with boxes, as unlabelled ones
    for batch in batches(tmp_path, unlabeled=labeled.images, unlabeled_from=0):
        assert all(view.targets is None for view in batch.views.values())


def test_batch_larger_than_the_set(tmp_path):
    for batch in batches(tmp_path, labeled_batch=16, unlabeled_batch=20, unlabeled_from=0):
        assert len(batch.labeled) == 32
        assert len(set(batch.labeled.ids)) == 7
        assert len(batch.weak) == 20
        assert len(set(batch.weak.keys.tolist())) == 20  # the same image is drawn differently each time


def test_one_image_is_enough(tmp_path):
    one = make_labeled(tmp_path / "one", 1)
    got = list(batches(tmp_path, labeled=one, unlabeled=one.images, unlabeled_from=0, labeled_batch=1))
    assert [len(b.labeled) for b in got] == [2] * 5


def test_any_ratio(tmp_path):
    for batch in batches(tmp_path, labeled_batch=1, unlabeled_batch=7, unlabeled_from=0):
        assert len(batch.labeled) == 2
        assert len(batch.weak) == 7
    assert all(b.views == {} for b in batches(tmp_path, unlabeled_batch=0, unlabeled_from=0))


def test_aspect_groups(tmp_path):
    shapes = set()
    for batch in batches(tmp_path, group_by_aspect=True, steps=12, unlabeled_from=0):
        for view in (batch.labeled, batch.weak):
            wide = {w > h for h, w in view.sizes.tolist()}
            assert len(wide) == 1
            shapes |= wide
    assert shapes == {True, False}


def opened_headers(monkeypatch):
    """Return the list that gets the name of every file whose header is read, and forget what was read before."""
    seen = []

    def read(path):
        seen.append(Path(path).name)
        return read_header(path)

    monkeypatch.setattr(reader, "read_header", read)
    reader._header_sizes.cache_clear()
    return seen


def test_aspect_groups_of_images_without_stated_sizes_are_those_of_their_headers(tmp_path, monkeypatch):
    """A folder states no size: the headers do, the upright one; they are read when asked for, and once."""
    stated, seen = make_images(tmp_path / "u", 9, name="un"), opened_headers(monkeypatch)
    ids = [[b.weak.ids for b in batches(tmp_path, unlabeled=stated, group_by_aspect=True, steps=8, unlabeled_from=0)]]
    silent = replace(stated, sizes=None)
    next(batches(tmp_path, unlabeled=silent, unlabeled_from=0))
    assert not seen
    for _ in range(2):  # the second time as after a resume
        found = batches(tmp_path, unlabeled=silent, group_by_aspect=True, steps=8, unlabeled_from=0)
        ids.append([b.weak.ids for b in found])
    assert ids[0] == ids[1] == ids[2]
    assert sorted(seen) == sorted(Path(path).name for path in stated.paths)


@pytest.mark.parametrize("turn", [3, 6])
def test_the_size_of_a_header_is_that_of_the_upright_image(tmp_path, turn):
    images = make_images(tmp_path / "u", 2, name="un", sizes=False)
    exif = Image.Exif()
    exif[0x0112] = turn
    for path in images.paths:
        Image.new("RGB", (40, 24)).save(Path(images.root) / path, exif=exif)
    reader._header_sizes.cache_clear()
    found = [tuple(row) for row in Reader().sizes(images).tolist()]
    assert found == [Reader()(images, i).size[::-1] for i in range(2)]
    assert found == [(24, 40) if turn < 5 else (40, 24)] * 2


def test_headers_that_cannot_be_read_are_borne_like_images(tmp_path):
    images = make_images(tmp_path / "u", 9, name="un", sizes=False)
    for bad, path in enumerate(images.paths[:4], start=1):
        (Path(images.root) / path).write_bytes(b"no image")
        reader._header_sizes.cache_clear()
        if bad <= 3:
            assert (Reader().sizes(images).all(1).tolist()) == [False] * bad + [True] * (9 - bad)
            next(batches(tmp_path, unlabeled=images, group_by_aspect=True, unlabeled_from=0))
    with pytest.raises(SsodError, match="4 of 9 unlabelled images cannot be read") as caught:
        batches(tmp_path, unlabeled=images, group_by_aspect=True, unlabeled_from=0)
    assert caught.value.code == Exit.DATA


def test_padding_is_zero_and_the_matrix_is_right(tmp_path):
    batch = next(batches(tmp_path, divisor=64))
    view = batch.labeled
    assert view.images.shape[2] % 64 == 0
    assert view.images.shape[3] % 64 == 0
    for image, (h, w) in zip(view.images, view.sizes.tolist()):
        assert not image[:, h:].any()
        assert not image[:, :, w:].any()
        assert image[:, :h, :w].float().mean() > 20
    assert view.matrix.dtype == torch.float32
    assert view.sizes.dtype == torch.int64
    assert view.keys.dtype == torch.int64
    assert (view.keys >= 0).all()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"labeled_batch": 3, "world": 2}, "train.batch.labeled"),
        ({"unlabeled_batch": 6, "accumulate": 4}, "train.batch.unlabeled"),
        ({"labeled_batch": 0}, "train.batch.labeled"),
        ({"views": {"labeled": VIEWS["labeled"], "val": []}}, "views.unlabeled"),
    ],
)
def test_settings_that_cannot_work_fail_at_once(tmp_path, changes, field):
    with pytest.raises(SsodError) as caught:
        batches(tmp_path, **changes)
    assert caught.value.field == field
    assert caught.value.code == Exit.USAGE


def test_unlabeled_images_may_be_absent_in_a_supervised_run(tmp_path):
    labeled, views = make_labeled(tmp_path, 3), ViewsConfig.model_validate(VIEWS)
    kw = {"labeled_batch": 2, "seed": 0, "start": 0, "steps": 2}
    got = list(loaded(labeled, None, views, unlabeled_batch=0, unlabeled_from=0, **kw))
    assert [b.views for b in got] == [{}, {}]
    got = list(loaded(labeled, None, views, unlabeled_batch=4, unlabeled_from=2, **kw))
    assert [b.views for b in got] == [{}, {}]
    with pytest.raises(SsodError, match=r"data\.unlabeled: missing"):
        loaded(labeled, None, views, unlabeled_batch=4, unlabeled_from=1, **kw)


# ---- bad images --------------------------------------------------------------------------------------------------


def spoil(images, *numbers):
    for i in numbers:
        with open(os.path.join(images.root, images.paths[i]), "wb") as file:
            file.write(b"not an image")
    return images


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_labeled_image_is_an_error_that_names_it(tmp_path, workers):
    labeled = make_labeled(tmp_path / "l", 7)
    spoil(labeled.images, 3)
    with pytest.raises(SsodError) as caught:
        list(batches(tmp_path, labeled=labeled, workers=workers))
    assert caught.value.file.endswith("im3.png")
    assert "not an image" in caught.value.problem
    assert caught.value.code == Exit.DATA


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_unlabeled_image_is_replaced_and_counted(tmp_path, workers):
    clean = list(batches(tmp_path, unlabeled_from=0, unlabeled_batch=6))
    unlabeled = spoil(make_images(tmp_path / "u", 9, name="un"), 2, 5)
    (tmp_path / "u" / "un5.png").unlink()
    errors = []
    kw = {"unlabeled": unlabeled, "unlabeled_from": 0, "unlabeled_batch": 6}
    got = list(batches(tmp_path, workers=workers, on_bad=errors.append, **kw))
    same_batches(got, batches(tmp_path, **kw))
    for before, after in zip(clean, got):
        assert [{"un2": "un3", "un5": "un6"}.get(i, i) for i in before.weak.ids] == after.weak.ids
        assert after.weak.ids == after.strong.ids
    assert len(errors) == 2
    (gone,) = [error.line() for error in errors if "not found" in error.problem]
    (broken,) = [error.line() for error in errors if "not an image" in error.problem]
    assert "un5.png" in gone
    assert "un2.png" in broken


def test_too_many_unreadable_unlabeled_images_are_an_error(tmp_path):
    unlabeled = spoil(make_images(tmp_path / "u", 9, name="un"), 0, 2, 4, 6)
    with pytest.raises(SsodError, match="4 of 9 unlabelled images cannot be read") as caught:
        list(batches(tmp_path, unlabeled=unlabeled, unlabeled_from=0, steps=20))
    assert caught.value.code == Exit.DATA
    every = spoil(make_images(tmp_path / "v", 2, name="un"), 0, 1)
    with pytest.raises(SsodError, match="2 of 2 unlabelled"):
        list(batches(tmp_path, unlabeled=every, unlabeled_from=0))
    assert reader.allowed_bad(100_000) == 100
    assert reader.allowed_bad(1) == 0


def test_a_path_out_of_the_folder_is_never_skipped(tmp_path):
    for name in ("../l/im0.png", "/etc/passwd", "link.png"):
        unlabeled = make_images(tmp_path / "u", 9, name="un")
        unlabeled.paths[4] = name
        make_labeled(tmp_path / "l", 7)
        if name == "link.png":
            (tmp_path / "u" / name).symlink_to(tmp_path / "l" / "im0.png")
        with pytest.raises(SsodError) as caught:
            list(batches(tmp_path, unlabeled=unlabeled, unlabeled_from=0))
        assert caught.value.code == Exit.UNSAFE
    list(batches(tmp_path, unlabeled=unlabeled, unlabeled_from=0, allow_symlinks=True))


def test_pixel_limit_is_passed_on(tmp_path):
    with pytest.raises(SsodError, match="max_pixels"):
        list(batches(tmp_path, max_pixels=1000))
    with pytest.raises(SsodError, match="max_pixels"):
        list(viewed(make_images(tmp_path, 3), ViewsConfig.model_validate(VIEWS).val, batch=1, max_pixels=9))


def test_an_image_of_another_size_than_stated_is_an_error(tmp_path):
    labeled = make_labeled(tmp_path / "l", 7)
    path = tmp_path / "l" / "im2.png"
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    message = (
        r"l/im2\.png: size: the annotations say 78x68, the upright image is 68x78; if EXIF turns it, set data\.exif"
    )
    with pytest.raises(SsodError, match=message):
        list(batches(tmp_path, labeled=labeled))
    pipeline = ViewsConfig.model_validate(VIEWS).val
    with pytest.raises(SsodError, match=message):
        list(viewed(labeled.images, pipeline, batch=4))
    Image.open(path).resize((30, 30)).save(path)
    with pytest.raises(SsodError, match="the upright image is 30x30; mend the annotations or use the image"):
        list(viewed(labeled.images, pipeline, batch=4))
    unsized = replace(labeled.images, sizes=None)
    assert sum(map(len, viewed(unsized, pipeline, batch=4))) == 7


# ---- bad workers -------------------------------------------------------------------------------------------------


def misbehave(monkeypatch, name, act):
    real = image_module.open_image

    def open_image(path, **kw):
        if path.endswith(name):
            act()
        return real(path, **kw)

    monkeypatch.setattr(reader, "open_image", open_image)


def test_a_killed_worker_is_one_error(tmp_path, monkeypatch):
    misbehave(monkeypatch, "im3.png", lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(SsodError) as caught:
        list(batches(tmp_path, workers=2))
    assert caught.value.code == Exit.IO
    assert "worker (pid" in caught.value.problem
    assert "step " in caught.value.problem


def test_a_hung_worker_is_one_error_within_the_timeout(tmp_path, monkeypatch):
    misbehave(monkeypatch, "im3.png", lambda: time.sleep(3600))
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 100)  # torch waits as long for each
    begin, before = time.monotonic(), set(torch.multiprocessing.active_children())
    with pytest.raises(SsodError) as caught:
        list(batches(tmp_path, workers=2, timeout=1))
    assert time.monotonic() - begin < 100
    assert caught.value.code == Exit.IO
    assert "timed out after 1 seconds while making step" in caught.value.problem
    left = set(torch.multiprocessing.active_children()) - before
    for child in left:
        child.join(5)
    assert not [child for child in left if child.is_alive()]


def test_a_stopped_worker_is_one_error_within_the_timeout(tmp_path, monkeypatch):
    """Its message has come, and its pixels are still with it: torch itself would wait for them for ever."""
    detach, before = resource_sharer.DupFd.detach, set(torch.multiprocessing.active_children())

    def stopped(self):
        for child in set(torch.multiprocessing.active_children()) - before:
            os.kill(child.pid, signal.SIGSTOP)
        return detach(self)

    monkeypatch.setattr(resource_sharer.DupFd, "detach", stopped)
    with pytest.raises(SsodError, match="timed out after 1 seconds while making step") as caught:
        list(batches(tmp_path, workers=2, timeout=1))
    assert caught.value.code == Exit.IO
    assert set(torch.multiprocessing.active_children()) <= before


def test_a_worker_holds_no_socket_of_the_process_that_started_it(tmp_path):
    """Or another rank would see the death of this one when its workers are gone, too."""
    here, there = socket.socketpair()
    with here, contextlib.closing(batches(tmp_path, workers=1, steps=50)) as iterator:
        next(iterator)
        there.close()
        here.settimeout(LONG)
        assert here.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_outlive_a_signal_to_the_whole_job(tmp_path, number):
    before = set(torch.multiprocessing.active_children())
    whole = list(batches(tmp_path, steps=12))
    iterator = batches(tmp_path, steps=12, workers=2)
    got = [next(iterator)]
    for child in set(torch.multiprocessing.active_children()) - before:
        os.kill(child.pid, number)
    got += list(iterator)
    same_batches(whole, got)
    assert not [c for c in set(torch.multiprocessing.active_children()) - before if c.is_alive()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_a_worker_is_ready_does_not_end_it(tmp_path, monkeypatch, number):
    ready = workers.prepare
    monkeypatch.setattr(workers, "prepare", lambda n: (os.kill(os.getpid(), number), ready(n)))
    same_batches(list(batches(tmp_path, steps=4)), list(batches(tmp_path, steps=4, workers=2)))


def test_a_bug_in_a_worker_stays_a_bug(tmp_path, monkeypatch):
    misbehave(monkeypatch, "im3.png", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        list(batches(tmp_path, workers=1))
    assert worker_failure(RuntimeError("CUDA error: something")) is None
    assert worker_failure(KeyError("DataLoader worker (pid 3)")) is None


def test_stopping_early_leaves_no_process(tmp_path):
    before = set(torch.multiprocessing.active_children())
    iterator = batches(tmp_path, workers=2, steps=50)
    next(iterator)
    children = set(torch.multiprocessing.active_children()) - before
    assert len(children) == 2
    iterator.close()
    assert not [child for child in children if child.is_alive()]


def test_workers_that_hang_are_not_waited_for_one_by_one(tmp_path, monkeypatch):
    misbehave(monkeypatch, "im3.png", lambda: time.sleep(3600))
    monkeypatch.setattr(team, "PATIENCE", 0.2)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 100)  # torch waits as long for each
    before = set(torch.multiprocessing.active_children())
    iterator = batches(tmp_path, workers=2, steps=50)
    next(iterator)
    time.sleep(0.5)  # until they have come to the image
    begin = time.monotonic()
    iterator.close()
    assert time.monotonic() - begin < 90
    assert set(torch.multiprocessing.active_children()) <= before


@pytest.mark.parametrize("error", [ConnectionResetError, ConnectionRefusedError, FileNotFoundError, EOFError])
def test_a_worker_that_dies_while_its_tensor_is_fetched_is_one_error(tmp_path, monkeypatch, error):
    """Pixels come over a connection of their own, of which torch says nothing; here it breaks each time."""
    before = set(torch.multiprocessing.active_children())

    def broken(self):
        for child in set(torch.multiprocessing.active_children()) - before if dies else ():
            threading.Timer(0.2, child.kill).start()  # when torch has seen it alive
        raise error

    monkeypatch.setattr(resource_sharer.DupFd, "detach", broken)
    monkeypatch.setattr(team, "DYING", 60)
    dies = True
    with pytest.raises(SsodError, match=r"DataLoader worker \(pid") as caught:
        list(batches(tmp_path, workers=2))
    assert caught.value.code == Exit.IO
    monkeypatch.setattr(team, "DYING", 0.01)
    dies = False
    with pytest.raises(error):
        list(batches(tmp_path, workers=2))


def test_a_worker_that_cannot_be_started_is_one_error_and_the_others_end(tmp_path, monkeypatch):
    real, forks = os.fork, []

    def fork():
        forks.append(1)
        if len(forks) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real()

    monkeypatch.setattr(os, "fork", fork)
    before = set(torch.multiprocessing.active_children())
    with pytest.raises(SsodError, match="a data worker cannot be started: Resource") as caught:
        next(batches(tmp_path, workers=2))
    assert caught.value.code == Exit.IO
    assert len(forks) == 2
    assert set(torch.multiprocessing.active_children()) <= before


def test_a_worker_that_dies_while_its_batch_is_used_is_one_error(tmp_path):
    before = set(torch.multiprocessing.active_children())

    def use():
        with workers.reading(batches(tmp_path, workers=2)) as iterator:
            next(iterator)
            os.kill((set(torch.multiprocessing.active_children()) - before).pop().pid, signal.SIGKILL)
            time.sleep(60)  # ended by torch's signal handler

    with pytest.raises(SsodError, match="killed by signal") as caught:
        use()
    assert caught.value.code == Exit.IO
    assert set(torch.multiprocessing.active_children()) <= before


def test_the_data_set_pickles_for_spawned_workers(tmp_path, monkeypatch):
    sent = []
    import ssod.data.loading.loader as loader

    monkeypatch.setattr(loader, "run", lambda dataset, *args: sent.append(dataset) or iter(()))
    batches(tmp_path)
    (dataset,) = sent
    copy = pickle.loads(pickle.dumps(dataset))
    a, b = dataset[7], copy[7]
    same_batches([a[0]], [b[0]])


# ---- evaluation --------------------------------------------------------------------------------------------------


def test_evaluation_sees_every_image_once(tmp_path):
    images = make_images(tmp_path, 7)
    pipeline = ViewsConfig.model_validate(VIEWS).val
    ids = []
    for rank in range(3):
        for view in viewed(images, pipeline, batch=2, rank=rank, world=3):
            assert view.targets is None
            ids += view.ids
    assert ids == images.ids


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_the_same_for_any_batch_and_workers(tmp_path, workers):
    images, pipeline = make_images(tmp_path, 5), ViewsConfig.model_validate(VIEWS).val
    one = [row for v in viewed(images, pipeline, batch=1) for row in rows(v, lambda i: True)]
    many = [row for v in viewed(images, pipeline, batch=3, workers=workers) for row in rows(v, lambda i: True)]
    assert one == many
    assert list(viewed(images.subset([]), pipeline, batch=3, workers=workers)) == []


def test_evaluation_stops_at_an_unreadable_image(tmp_path):
    images = spoil(make_images(tmp_path, 5), 3)
    with pytest.raises(SsodError, match=r"im3\.png"):
        list(viewed(images, ViewsConfig.model_validate(VIEWS).val, batch=2))
