"""Pictures are drawn and written beside the loop: the same bytes, a bounded queue, and the first error ends it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from ssod.inference import picture_files, predict
from ssod.inference.label import label_files
from ssod.inference.predict import predict_files
from ssod.utils.errors import Exit, SsodError
from ssod.utils.threads import beside
from tests.patience import LONG
from tests.trained import model_file, photos

NAMES = [f"{letter}.jpg" for letter in "abcdefgh"] + ["sub/i.png", "j.bmp"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("weights") / "best.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_threads_write_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "in", NAMES)
    written = {}
    for workers in (0, 3):
        predict_files(weights, tmp_path / "in", tmp_path / f"p{workers}", workers=workers)
        label_files(weights, tmp_path / "in", tmp_path / f"l{workers}", next=4, workers=workers)
        written[workers] = contents(tmp_path / f"p{workers}"), contents(tmp_path / f"l{workers}")
    assert written[0] == written[3]
    assert set(written[0][0]) == {*NAMES[:-1], "j.bmp.png", "results.json"}
    assert len([name for name in written[0][1] if name.startswith("next/pictures/")]) == 4


def test_the_loop_goes_on_while_a_picture_is_drawn(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture is finished only when the detector has looked at the second image."""
    photos(tmp_path / "in", NAMES[:2])
    second, look, draw = threading.Event(), predict.look_through, picture_files.draw

    def told(*args: object) -> object:
        for number, item in enumerate(look(*args)):
            if number == 1:
                second.set()
            yield item

    def waiting(*args: object) -> Image.Image:
        assert second.wait(LONG), "the loop waits for the picture"
        return draw(*args)

    monkeypatch.setattr(predict, "look_through", told)
    monkeypatch.setattr(picture_files, "draw", waiting)
    predict_files(weights, tmp_path / "in", tmp_path / "out", workers=1, batch=1)
    assert sorted(contents(tmp_path / "out")) == ["a.jpg", "b.jpg", "results.json"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_is_full_ends_it_at_once(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    photos(tmp_path / "in", [f"{i:02}.jpg" for i in range(40)])
    look, seen = predict.look_through, []

    def counted(*args: object) -> object:
        for item in look(*args):
            seen.append(item[0])
            yield item

    def full(self: Image.Image, target: Path, **how: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(predict, "look_through", counted)
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SsodError, match=r"out: cannot be written: No space .*make room there") as caught:
        predict_files(weights, tmp_path / "in", tmp_path / "out", workers=workers)
    assert caught.value.code == Exit.IO
    assert not (tmp_path / "out").exists()
    assert len(seen) <= 2 * picture_files.AHEAD + 1


def test_only_so_many_calls_are_open() -> None:
    """Two threads are held; the fourth call waits until one of three is over."""
    gate, begun, accepted, done = threading.Event(), threading.Semaphore(0), [], []

    def work(number: int) -> None:
        begun.release()
        assert gate.wait(LONG)
        done.append(number)

    def feed() -> None:
        with beside(work, 2, 3) as call:
            for number in range(20):
                call(number)
                accepted.append(number)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert begun.acquire(timeout=LONG)
    assert begun.acquire(timeout=LONG)
    feeder.join(0.2)
    assert len(accepted) <= 3
    assert done == []
    gate.set()
    feeder.join(LONG)
    assert sorted(done) == accepted == list(range(20))


def test_what_one_call_raises_gives_up_those_that_wait() -> None:
    called: list[int] = []

    def work(number: int) -> None:
        called.append(number)
        raise ValueError("no")

    def feed(many: int) -> None:
        with beside(work, 1, 2) as call:
            for number in range(many):
                call(number)

    for many in (50, 1):  # at a later call, and at the end of the block
        called.clear()
        with pytest.raises(ValueError, match="no"):
            feed(many)
        assert 1 <= len(called) <= 3


def test_an_interruption_does_not_wait_for_pictures_that_had_not_begun() -> None:
    gate, called = threading.Event(), []

    def work(number: int) -> None:
        called.append(number)
        assert gate.wait(LONG)

    def interrupted() -> None:
        with beside(work, 1, 9) as call:
            for number in range(9):
                call(number)
            threading.Timer(0.05, gate.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(called) <= 2
