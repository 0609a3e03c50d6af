"""Images that lie elsewhere: as those of a local folder, copied once, and bad in the same ways."""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import ssod
from ssod.data import datasets
from ssod.data.checks.samefile import common_content
from ssod.data.data_config import DataConfig
from ssod.data.formats import remote
from ssod.data.formats.findings import Context, Rules
from ssod.data.formats.folder import read_folder
from ssod.data.formats.image import open_image
from ssod.data.formats.infer import data_section
from ssod.data.formats.paths import safe_join
from ssod.data.formats.presence import check_files
from ssod.data.formats.records import Images
from ssod.data.loading.reader import Reader
from ssod.inference import labelled
from ssod.inference.label import label_files
from ssod.inference.predict import find_images, predict_files
from ssod.utils.address import is_url, plain_url, refuse_url
from ssod.utils.errors import Exit, SsodError
from tests.engine.crash import difference, final_state
from tests.small import small_config
from tests.small_sets import coco
from tests.trained import model_file, photos

fsspec = pytest.importorskip("fsspec")
NAMES = ["a.jpg", "b.png", "deep/c.jpg", "deep/d.jpg", ".thumbs/e.jpg"]
SEEN = NAMES[:4]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Five images, of which one is hidden, and what is none."""
    photos(tmp_path / "photos", NAMES)
    (tmp_path / "photos/film.mov").write_bytes(b"film")
    (tmp_path / "photos/notes.txt").write_bytes(b"# images\ndeep/d.jpg\na.jpg\na.jpg\n")
    return tmp_path / "photos"


@pytest.fixture
def bucket(local: Path) -> Iterator[str]:
    """The same in the memory of this process."""
    files = fsspec.filesystem("memory")
    files.put(str(local), "/bucket/photos", recursive=True)
    yield "memory://bucket/photos"
    files.rm("/bucket", recursive=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files; the first request for each of ``failing`` fails, and ``asked`` has all."""

    failing: set[str] = set()
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if name in self.failing:
            self.failing.remove(name)
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of ``tmp_path``."""
    pytest.importorskip("aiohttp")
    Quiet.failing, Quiet.asked = set(), []
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read(path: str, images: str | None = None, **rules: object) -> tuple[Images, list[tuple[str, str]]]:
    """Read a folder; return it, and the levels and kinds of what was recorded."""
    ctx = Context("/nowhere", "data.unlabeled", Rules(**rules))
    found = read_folder(path, images, ctx)
    return found, sorted((finding.level, finding.id) for finding in ctx.findings.kept)


@pytest.mark.parametrize("end", ["", "/", "/deep", "/*.jpg", "/**/*.jpg", "/deep/[d-z].*", "/notes.txt"])
def test_a_folder_a_glob_and_a_list_are_read_as_on_the_disk(bucket: str, local: Path, end: str) -> None:
    here, there = read(str(local) + end), read(bucket + end)
    assert list(there[0].paths) == list(here[0].paths)
    assert list(there[0].ids) == list(here[0].ids)
    assert there[1] == here[1]
    assert there[0].paths
    for i in range(len(there[0])):
        assert Reader()(there[0], i).tobytes() == Reader()(here[0], i).tobytes()


def test_a_list_here_of_images_there(bucket: str, local: Path) -> None:
    found, _ = read(str(local / "notes.txt"), bucket)
    assert list(found.paths) == ["deep/d.jpg", "a.jpg"]
    assert open_image(safe_join(found.root, "a.jpg")).size == (150, 120)


def test_an_image_is_copied_when_it_is_opened_and_once(bucket: str, local: Path, cache: Path) -> None:
    found, _ = read(bucket)
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == [remote.LIST]
    path = Path(Reader()._path(found, 0))
    assert path.read_bytes() == (local / "a.jpg").read_bytes()
    fsspec.filesystem("memory").rm("/bucket/photos/a.jpg")
    assert Path(Reader()._path(found, 0)).read_bytes() == path.read_bytes()
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 3  # list, copy, and its second name
    assert not list(cache.rglob(".tmp-*"))


def test_a_replaced_image_is_copied_anew_and_the_others_are_not(bucket: str, local: Path) -> None:
    before, _ = read(bucket)
    old = [Path(Reader()._path(before, i)) for i in range(len(before))]
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/photos/a.jpg", (local / "deep/c.jpg").read_bytes())
    after, _ = read(bucket)
    assert after.root != before.root
    new = [Path(Reader()._path(after, i)) for i in range(len(after))]
    assert new[0].read_bytes() == (local / "deep/c.jpg").read_bytes()
    assert old[0].read_bytes() == (local / "a.jpg").read_bytes()  # a run that began before goes on with what it saw
    assert [a.stat().st_ino == b.stat().st_ino for a, b in zip(old, new)] == [False, True, True, True]
    assert read(bucket)[0].root == after.root


def test_where_a_disk_has_no_second_names_copies_are_written(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_names(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(remote.os, "link", no_names)
    found, _ = read(bucket)
    assert open_image(safe_join(found.root, "deep/c.jpg")).size == (150, 120)


def test_images_that_cannot_be_had_are_borne_as_broken_ones_are(
    bucket: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is gone, one is empty, one is too large by what the other side says, one by what comes."""
    files = fsspec.filesystem("memory")
    files.rm("/bucket/photos/a.jpg")
    files.pipe("/bucket/photos/b.png", b"")
    found, _ = read(str(local / "notes.txt"), bucket)
    ctx = Context(section="data.unlabeled")
    assert check_files(found, "notes.txt", ctx, needed=False) == [1]
    assert f"not found under '{bucket}'" in ctx.findings.lines()[0]
    everything = Images(found.root, SEEN, SEEN)
    bad: list[SsodError] = []
    monkeypatch.setattr(remote, "MAX_BYTES", (local / "deep/c.jpg").stat().st_size - 1)
    monkeypatch.setattr(remote, "MAX_BYTES", max((local / "deep" / n).stat().st_size for n in ("c.jpg", "d.jpg")) - 1)
    larger = max(("deep/c.jpg", "deep/d.jpg"), key=lambda name: (local / name).stat().st_size)
    other = ({"deep/c.jpg", "deep/d.jpg"} - {larger}).pop()
    row, _ = Reader().or_next(Images(found.root, ["a.jpg", "b.png", larger, other], SEEN), 0, bad)
    assert row == 3
    assert [error.problem.split(";")[0].split(" MB")[0] for error in bad[:2]] == ["not found", "empty file"]
    assert "refused" in bad[2].problem
    assert [error.file for error in bad] == [f"{bucket}/{name}" for name in ("a.jpg", "b.png", larger)]
    assert {error.code for error in bad} == {Exit.DATA}
    with pytest.raises(SsodError, match="3 of 3 unlabelled images cannot be read"):
        Reader().or_next(Images(found.root, ["a.jpg", "b.png", larger], SEEN[:3]), 0, [])
    assert len(everything) == 4


def test_a_file_that_is_larger_than_it_was_said_to_be_is_not_read_whole(
    bucket: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 1000)
    monkeypatch.setattr(remote, "_told", lambda info: (None, "x"))
    monkeypatch.setattr(remote, "PIECE", 600)
    found, _ = read(bucket)
    with pytest.raises(SsodError, match="refused"):
        Reader()(found, 0)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.name != remote.LIST]


def test_names_that_are_never_opened_are_left_out(bucket: str, local: Path) -> None:
    fsspec.filesystem("memory").pipe("/bucket/photos/odd\\name.jpg", (local / "a.jpg").read_bytes())
    found, told = read(bucket)
    assert list(found.paths) == SEEN
    assert ("skipped", "S07") in told
    with pytest.raises(SsodError, match="leaves root") as refused:
        safe_join(found.root, "../a.jpg")
    assert refused.value.code == Exit.UNSAFE


def test_a_passing_fault_is_no_broken_image(served: str, local: Path) -> None:
    Quiet.failing = {"a.jpg"}
    found, _ = read(f"{served}/photos")
    assert list(found.paths) == SEEN
    assert Reader()(found, 0).size == (150, 120)
    assert Quiet.failing == set()
    (local / "b.png").unlink()
    with pytest.raises(SsodError, match=r"b\.png: not found"):
        Reader()(found, 1)


@pytest.mark.parametrize("folder", ["my photos", "my%20photos"])
def test_names_of_a_web_server_are_those_of_its_files(served: str, tmp_path: Path, folder: str) -> None:
    names = ["100%.jpg", "a b#1.jpg", "deep er/\u00e9 (2).jpg"]
    photos(tmp_path / "my photos", names)
    (tmp_path / "my photos/a list.txt").write_text("a b#1.jpg\n")
    found, _ = read(f"{served}/{folder}")
    assert list(found.paths) == names
    assert [Reader()(found, row).size for row in range(3)] == [(150, 120)] * 3
    assert list(read(f"{served}/{folder}/*.jpg")[0].paths) == names[:2]
    assert list(read(f"{served}/{folder}/deep er/* (2).jpg")[0].paths) == ["deep er/\u00e9 (2).jpg"[8:]]
    for name in ("a b#1.jpg", "a list.txt", "a%20list.txt"):
        listed, _ = read(f"{served}/{folder}/{name}")
        assert list(listed.paths) == names[1:2]
        assert Reader()(listed, 0).size == (150, 120)


@pytest.mark.parametrize("place", ["memory://bucket/none", "memory://bucket/none/*.jpg", "memory://bucket/none.txt"])
def test_what_is_not_there_is_refused(bucket: str, place: str) -> None:
    with pytest.raises(SsodError) as refused:
        read(place)
    assert refused.value.code == Exit.DATA
    assert place.removesuffix("/*.jpg") in refused.value.line()


@pytest.mark.parametrize(
    "changes",
    [
        {"root": "s3://bucket/all"},
        {"labeled": {"format": "coco", "ann": "s3://bucket/a.json", "images": "x"}},
        {"labeled": [{"format": "voc", "root": "gs://bucket/voc", "split": "train"}]},
        {"val": {"format": "yolo", "root": "memory://yolo", "split": "val"}},
    ],
)
def test_images_with_labels_lie_on_this_machine(changes: dict[str, Any]) -> None:
    labeled = {"format": "voc", "root": "voc", "split": "train"}
    with pytest.raises(ValidationError, match="is an address; only unlabelled images may lie at one"):
        DataConfig(**({"labeled": labeled} | changes))


def test_what_is_not_installed_or_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SsodError, match="Protocol not known: teapot"):
        read("teapot://bucket/photos")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SsodError, match="ssod\\[remote\\]"):
        read("memory://bucket/photos")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("s3:/bucket/photos", "s3://bucket/photos"),
        ("s3://bucket/a b/*.jpg", "s3://bucket/a b/*.jpg"),
        ("file:/data/photos", "file:///data/photos"),
        ("C:/photos", None),
        ("photos/s3:/x", None),
        ("photos", None),
    ],
)
def test_what_is_an_address(text: str, plain: str | None) -> None:
    assert is_url(text) == (plain is not None)
    assert plain is None or plain_url(Path(text)) == plain


def _fetch(place: tuple[str, str]) -> bytes:
    return Path(safe_join(*place)).read_bytes()


def test_several_processes_and_threads_want_one_image_at_once(local: Path, cache: Path) -> None:
    found, _ = read(f"file://{local}")
    place = (found.root, "deep/c.jpg")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        got = pool.map(_fetch, [place] * 8)
    threads = [threading.Thread(target=lambda: got.append(_fetch((found.root, "a.jpg")))) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert {*got} == {(local / "deep/c.jpg").read_bytes(), (local / "a.jpg").read_bytes()}
    assert len(got) == 16
    assert len([path for path in (cache / "copies").rglob("*") if path.is_file()]) == 2


def test_a_training_from_elsewhere_is_the_training_from_here(tmp_path: Path, served: str) -> None:
    """With data workers and a broken image; it is stopped half way and goes on with another, empty cache."""
    schedule = {"train__steps": 6, "train__eval_every": 3, "train__save_every": 3, "train__log_every": 1}
    method = {"name": "mean_teacher", "burn_in": 1, "score": 0.05, "ema": {"decay": 0.9}}
    config = small_config(tmp_path, method=method, train__workers=2, **schedule)
    shutil.copytree(tmp_path / "data/val", tmp_path / "frames")
    (tmp_path / "frames/broken.jpg").write_bytes((tmp_path / "frames/000001.jpg").read_bytes()[:-300])
    place = f"data.unlabeled={served}/frames"
    for out, *changes in (
        ("here", f"data.unlabeled={tmp_path}/frames"),
        ("there", place, f"data.cache={tmp_path}/mine", "train.steps=3"),
        ("there", place, f"data.cache={tmp_path}/other"),
    ):
        ssod.train(ssod.load_config(config, ["data.split=null", *changes]), out=tmp_path / out)
    first, second = (final_state(tmp_path / name) for name in ("here", "there"))
    assert first["checkpoint"]["step"] == 6
    differ = difference(first, second)
    assert [where for where in differ if "/data/unlabeled" not in where and "/config/data" not in where] == []
    assert list((tmp_path / "mine").rglob("*.jpg"))
    assert list((tmp_path / "other").rglob("*.jpg"))


def test_a_set_elsewhere_is_compared_with_the_others_by_its_bytes(bucket: str, local: Path, cache: Path) -> None:
    """Those of equal length alone are fetched for it."""
    photos(local.parent / "labelled", ["x.jpg", "y.png"])
    shutil.copy(local / "deep/c.jpg", local.parent / "labelled/y.jpg")
    (local.parent / "labelled/x.jpg").write_bytes((local.parent / "labelled/x.jpg").read_bytes() + b"12345")
    labelled, (found, _) = read_folder(str(local.parent / "labelled/*.jpg"), None, Context()), read(bucket)
    assert common_content(labelled, found) == [("y.jpg", "deep/c.jpg")]
    assert common_content(found, labelled) == [("deep/c.jpg", "y.jpg")]
    assert len([path for path in (cache / "copies").rglob("*") if path.is_file()]) == 1


def test_labels_and_pictures_of_images_elsewhere(tmp_path: Path, bucket: str, local: Path) -> None:
    weights = model_file(tmp_path / "m.safetensors")
    here = label_files(weights, local, tmp_path / "here.json", score=0.3)
    there = label_files(weights, Path(bucket), tmp_path / "there.json", score=0.3)
    assert list(there.labels.images.paths) == SEEN
    assert np.array_equal(here.labels.boxes, there.labels.boxes)
    assert there.boxes > 0
    label_files(weights, bucket, tmp_path / "yolo", format="yolo", score=0.3)
    assert (tmp_path / "yolo/images/train/a.jpg").read_bytes() == (local / "a.jpg").read_bytes()
    rows = [predict_files(weights, place, tmp_path / str(i)) for i, place in enumerate((local, bucket))]
    assert list(rows[0]) == list(rows[1])
    assert list(find_images(f"{bucket}/deep/c.jpg").paths) == ["c.jpg"]


@pytest.mark.parametrize("end", ["", "/*.jpg"])
def test_init_takes_unlabelled_images_that_lie_elsewhere(tmp_path: Path, bucket: str, end: str) -> None:
    coco(tmp_path / "set" / "a.json", tmp_path / "set" / "images", ["x.jpg", "y.jpg"])
    section = data_section(str(tmp_path / "set" / "a.json"), bucket + end, None, None)
    assert section["unlabeled"] == {"format": "folder", "path": bucket + end}
    found = datasets.load(DataConfig.model_validate(section))
    assert list(found.unlabeled.paths) == (SEEN if not end else ["a.jpg"])
    assert list(labelled._named(bucket + end).paths) == list(found.unlabeled.paths)


@pytest.mark.parametrize("place", ["s3://bucket/run", Path("s3://bucket/run")])
def test_an_address_to_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path | str) -> None:
    monkeypatch.chdir(tmp_path)
    small = small_config(tmp_path)
    weights = model_file(tmp_path / "m.safetensors")
    photos(tmp_path / "photos", ["a.png", "b.png"])
    before = sorted(os.listdir(tmp_path))
    for write in (
        lambda: refuse_url(place),
        lambda: ssod.train(ssod.load_config(small), out=place),
        lambda: label_files(weights, tmp_path / "photos", place),
        lambda: predict_files(weights, tmp_path / "photos", place),
        lambda: ssod.export(weights, out=f"{place}.onnx"),
        lambda: ssod.compare([tmp_path], out=[f"{place}.html"]),
        lambda: ssod.split(tmp_path / "absent.json", place, percent=[10]),
        lambda: ssod.check(ssod.load_config(small), out=f"{place}.html"),
        lambda: ssod.merge([tmp_path, tmp_path], f"{place}.json"),
        lambda: ssod.demo(place),
        lambda: ssod.write_report(tmp_path, out=f"{place}.html"),
        lambda: ssod.utils.atomic.write_text(Path(place) / "x", "x"),
    ):
        with pytest.raises(SsodError, match=r"s3://bucket/run.*locks, renames") as refused:
            write()
        assert refused.value.code == Exit.USAGE
    assert sorted(os.listdir(tmp_path)) == before
