"""What ``predict`` and ``label`` write is new: no file of the user's is replaced, and it is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from ssod import cli
from ssod.data import datasets
from ssod.data.datasets import DataConfig
from ssod.inference import predict as predicting
from ssod.inference.label import label_files
from ssod.inference.output_dir import staged
from ssod.inference.predict import predict_files
from ssod.utils.errors import Exit, SsodError
from tests.patience import LONG
from tests.trained import model_file, photos

FORMATS = ("coco", "yolo", "voc")
SCORE = 0.3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("weights") / "best.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def source_in(message: str) -> dict:
    """Return what the printed line says under ``data.labeled``, as a config would read it."""
    return yaml.safe_load(message[message.index("data.labeled: ") :].split(" and data.")[0])["data.labeled"]


# ---- nothing is replaced -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "images", "out"),
    [
        (["a.jpg", "sub/a.jpg"], ".", "sub"),
        (["a.jpg", "test/a.jpg"], "test", "."),
        (["a.jpg", "test/b.jpg"], "test", "."),
        (["a.jpg"], "a.jpg", "."),
    ],
)
def test_no_picture_takes_the_place_of_an_image(
    weights: Path, tmp_path: Path, names: list[str], images: str, out: str
) -> None:
    photos(tmp_path / "photos", names)
    before = contents(tmp_path)
    with pytest.raises(SsodError, match=r"nothing is written over|lies in the image folder"):
        predict_files(weights, tmp_path / "photos" / images, tmp_path / "photos" / out)
    assert contents(tmp_path) == before


def test_no_image_is_changed_through_another_name_of_it(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos", ["a.jpg", "b.jpg"])
    label_files(weights, tmp_path / "photos", tmp_path / "labels", format="yolo", score=SCORE)
    before = contents(tmp_path)
    with pytest.raises(SsodError, match="nothing is written over"):
        predict_files(weights, tmp_path / "photos", tmp_path / "labels" / "images" / "train")
    assert contents(tmp_path) == before


def test_results_of_another_are_kept(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos", ["a.jpg"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("mine")
    with pytest.raises(SsodError, match="nothing is written over"):
        predict_files(weights, tmp_path / "photos", tmp_path / "out")
    assert contents(tmp_path / "out") == {"results.json": b"mine"}


def test_an_empty_folder_is_filled(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos", ["a.jpg"])
    (tmp_path / "out").mkdir()
    predict_files(weights, tmp_path / "photos", tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["a.jpg", "results.json"]


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="exists"), staged(tmp_path / "out") as stage:  # noqa: PT012
        (stage / "first").write_text("ours")
        (stage / "labels.json").write_text("ours")
        (tmp_path / "out" / "labels.json").write_text("mine")
    assert contents(tmp_path) == {"out/labels.json": b"mine"}


@pytest.mark.parametrize("images", [".", "**/*.jpg", "*/*.jpg"])
def test_what_is_written_is_not_what_the_next_run_reads(weights: Path, tmp_path: Path, images: str) -> None:
    photos(tmp_path / "photos", ["sub/a.jpg"])
    asked = str(tmp_path / "photos") if images == "." else str(tmp_path / "photos" / images)
    with pytest.raises(SsodError, match="lies in the image folder"):
        predict_files(weights, asked, tmp_path / "photos" / "out")
    for format in ("yolo", "voc"):
        with pytest.raises(SsodError, match="lies in the image folder"):
            label_files(weights, asked, tmp_path / "photos" / "labels", format=format)
    assert sorted(contents(tmp_path)) == ["photos/sub/a.jpg"]


def test_a_place_below_the_images_that_is_never_searched_is_as_good_as_any(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path, ["a.jpg", "b.jpg"])
    predict_files(weights, str(tmp_path / "*.jpg"), tmp_path / "out")
    predict_files(weights, tmp_path / "a.jpg", tmp_path / "one")
    label_files(weights, tmp_path, tmp_path / "pseudo.json", score=SCORE)  # no image is written
    assert sorted(contents(tmp_path / "out")) == ["a.jpg", "b.jpg", "results.json"]


def test_two_images_never_share_a_picture(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "in", ["a.bmp", "a.bmp.png"])
    with pytest.raises(SsodError, match=r"'a\.bmp' and 'a\.bmp\.png' would share one picture"):
        predict_files(weights, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- whole or not there ------------------------------------------------------------------------------------------


def _predict(weights: Path, images: Path, out: Path) -> None:
    predict_files(weights, images, out)


def _label(format: str) -> Callable[[Path, Path, Path], None]:
    return lambda weights, images, out: label_files(weights, images, out, format=format, score=SCORE) and None


@pytest.mark.parametrize("command", [_predict, *map(_label, FORMATS)], ids=["predict", *FORMATS])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_after_an_interruption_the_same_command_works(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[Path, Path, Path], None],
    count: int,
) -> None:
    """Ctrl-C at the first or a later image, or (the third time) at the last file that is written."""
    photos(tmp_path / "in", ["a.jpg", "b.jpg"])
    look, met = predicting.look_through, []

    def interrupted(*args: object) -> object:
        for item in look(*args):
            met.append(item)
            if len(met) == count:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "look_through", interrupted)
        if count == 3:
            patch.setattr("ssod.utils.atomic.write_text", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SsodError, match="out: interrupted, nothing was written; run it again") as caught:
            command(weights, tmp_path / "in", tmp_path / "out")
    assert caught.value.code == Exit.INTERRUPTED
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    command(weights, tmp_path / "in", tmp_path / "out")
    assert not [name for name in contents(tmp_path) if ".tmp-" in name]


def test_the_command_line_says_that_it_was_interrupted(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predicting, "predict_files", stop)
    monkeypatch.setattr("sys.argv", ["ssod", "predict", str(weights), "in", "-o", "out"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == Exit.INTERRUPTED
    assert capsys.readouterr().err == "ssod: interrupted\n"


def test_a_real_interrupt(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "in", [f"{i:03d}.jpg" for i in range(200)])
    command = [sys.executable, "-m", "ssod", "predict", str(weights), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job starts deaf to it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while not list(tmp_path.glob("out/.tmp-*/*.jpg")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=LONG)[1]
    assert process.returncode == Exit.INTERRUPTED
    assert message.splitlines() == [f"ssod: error: {tmp_path / 'out'}: interrupted, nothing was written; run it again"]
    assert not (tmp_path / "out").exists()


def test_a_disk_that_refuses_is_one_line(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "in", ["a.jpg"])
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SsodError, match=r"cannot be written|nothing is written over"):
            predict_files(weights, tmp_path / "in", out)
        for format in FORMATS:
            with pytest.raises(SsodError, match=r"cannot be written|nothing is written over"):
                label_files(weights, tmp_path / "in", out, format=format)


# ---- what is printed, and what can be read back ------------------------------------------------------------------


@pytest.mark.parametrize("command", [_predict, _label("coco")], ids=["predict", "label"])
def test_files_whose_names_are_never_opened_are_reported(
    weights: Path, tmp_path: Path, capsys, command: Callable
) -> None:
    (path,) = photos(tmp_path / "in", ["a.jpg"])
    (tmp_path / "in" / "c\\d.jpg").write_bytes(path.read_bytes())
    command(weights, tmp_path / "in", tmp_path / "out")
    message = capsys.readouterr().out
    assert "c\\\\d.jpg" in message
    assert "1 left out" in message


@pytest.mark.parametrize("score", [50, -0.1, float("nan")])
def test_a_score_is_a_number_from_0_to_1(weights: Path, tmp_path: Path, score: float) -> None:
    photos(tmp_path / "in", ["a.jpg"])
    with pytest.raises(SsodError, match="score"):
        predict_files(weights, tmp_path / "in", tmp_path / "out", score=score)
    with pytest.raises(SsodError, match="score"):
        label_files(weights, tmp_path / "in", tmp_path / "out", score=score)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("in", ["20240101123045123456789.jpg", "20240101123045123456790.jpg"]),
        ("in", ["a\x01b.png", "a\x1fb.png", "c#, d.png", "e: f.png", "nl\nx.png"]),
        ("a, b #c: {d}", ["a.png"]),
    ],
)
def test_our_own_reader_takes_what_is_printed(
    weights: Path, tmp_path: Path, capsys, format: str, folder: str, names: list[str]
) -> None:
    if format == "voc":
        names = [name for name in names if name != "a\x1fb.png"]  # would share a name with the first
    photos(tmp_path / folder / "in", names)
    written = label_files(weights, tmp_path / folder / "in", tmp_path / folder / "out", format=format, score=0.2).labels
    source = source_in(capsys.readouterr().out)
    read = datasets.load(DataConfig.model_validate({"labeled": source, "classes": ["cat", "dog", "bird"]})).labeled
    assert len(read) == len(names)
    assert len(read.boxes) == len(written.boxes) > 0


def test_links_are_named_with_the_key_that_allows_them(weights: Path, tmp_path: Path, capsys) -> None:
    photos(tmp_path / "real", ["a.jpg", "b.jpg"])
    (tmp_path / "links").mkdir()
    for name in ("a.jpg", "b.jpg"):
        os.symlink(tmp_path / "real" / name, tmp_path / "links" / name)
    label_files(weights, tmp_path / "real", tmp_path / "plain", score=SCORE)
    assert "allow_symlinks" not in capsys.readouterr().out
    label_files(weights, tmp_path / "links", tmp_path / "out", score=SCORE)
    message = capsys.readouterr().out
    assert "data.allow_symlinks: true" in message
    table = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [image["file_name"] for image in table["images"]] == ["a.jpg", "b.jpg"]
    label_files(weights, tmp_path / "links", tmp_path / "yolo", format="yolo", score=SCORE)
    assert "allow_symlinks" not in capsys.readouterr().out  # there the images are files


def test_too_many_unreadable_images_are_reported_in_words_that_fit(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcdef":
        (tmp_path / "in" / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(SsodError) as caught:
        predict_files(weights, tmp_path / "in", tmp_path / "out")
    assert "of 6 images cannot be read" in caught.value.line()
    assert "unlabelled" not in caught.value.line()
    assert "ssod check" not in caught.value.line()
