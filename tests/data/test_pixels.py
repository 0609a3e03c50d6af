"""Depth and channels of pixels are told, asked about where they can mean two things, and read alike everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ssod
from ssod.commands.check import check
from ssod.commands.evaluate import evaluate
from ssod.config import load
from ssod.data.datasets import load as read
from ssod.data.formats.findings import Findings
from ssod.data.formats.image import Pixels, open_image
from ssod.inference.export import metadata
from ssod.inference.label import label_files
from ssod.inference.model import load as load_model
from ssod.inference.predict import predict_files
from ssod.run import check as print_check
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


def twelve(path: Path) -> None:
    """Make an image 12-bit grey in a 16-bit PNG."""
    Image.fromarray(grey(path).astype(np.uint16) * 16).save(path)


def sixteen(path: Path) -> None:
    Image.fromarray(grey(path).astype(np.uint16) * 257).save(path)


def warm(path: Path) -> None:
    """A thermal camera: a small part of the range, far from 0."""
    Image.fromarray(29_000 + grey(path).astype(np.uint16) * 4).save(path)


def depth_in_alpha(path: Path) -> None:
    picture = Image.open(path).convert("RGB")
    picture.putalpha(picture.convert("L"))
    picture.save(path)


def nothing_opaque(path: Path) -> None:
    picture = Image.open(path).convert("RGB")
    picture.putalpha(0)
    picture.save(path)


def opaque(path: Path) -> None:
    Image.open(path).convert("RGBA").save(path)


def spoilt(folder: Path, change: Any, parts: tuple[str, ...] = ("train", "val"), **keys: Any) -> Path:
    """Write a config whose images have been through ``change``, as PNG."""
    config = small_config(folder, train__steps=2, method__burn_in=1, **keys)
    for part in ("train", "val"):
        ann = folder / "data" / "annotations" / f"{part}.json"
        table = json.loads(ann.read_text())
        for image in table["images"]:
            old = folder / "data" / part / image["file_name"]
            new = old.with_suffix(".png")
            Image.open(old).save(new)
            if new != old:
                old.unlink()
            image["file_name"] = new.name
            if part in parts:
                change(new)
        ann.write_text(json.dumps(table))
    return config


ASKED = {
    twelve: (r"grey pixels use \d+ to \d+ of 0 to 65535.*set data\.levels=\[0,4095\]", "data.levels=[0,4095]"),
    warm: (r"set data\.levels=\[29\d\d\d,\d+\]", "data.levels=[29000,30020]"),
    depth_in_alpha: (r"alpha channel.*set data\.alpha=blend.*data\.alpha=ignore", "data.alpha=ignore"),
    nothing_opaque: (r"alpha channel.*set data\.alpha=blend", "data.alpha=ignore"),
}


@pytest.mark.parametrize("change", ASKED, ids=lambda change: change.__name__)
@pytest.mark.parametrize("parts", [("train", "val"), ("val",), ("train",)], ids="+".join)
def test_what_can_mean_two_things_is_asked_before_the_first_step(change: Any, parts: tuple, tmp_path: Path) -> None:
    config = spoilt(tmp_path, change, parts)
    words, key = ASKED[change]
    with pytest.raises(SsodError, match=words) as caught:
        read(load(config).data)
    assert caught.value.code == Exit.DATA
    assert any(f.id == "I20" and f.level == "error" for f in check(load(config).data).findings)
    findings = Findings()
    read(load(config, [key]).data, findings)
    told = [f for f in findings if f.id == "I20"]
    assert [f.level for f in told] == ["repaired"]  # said once, whatever the number of sets


@pytest.mark.parametrize("change", [sixteen, opaque], ids=lambda change: change.__name__)
def test_what_has_one_meaning_is_said_and_not_asked(change: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = spoilt(tmp_path, change)
    findings = Findings()
    read(load(config).data, findings)
    assert [f.level for f in findings if f.id == "I20"] == ["repaired"]
    print_check(load(config))
    said = capsys.readouterr().out
    assert {sixteen: "16-bit grey 12 (values ", opaque: "8-bit RGB with alpha 12"}[change] in said


def test_plain_pixels_are_counted_by_check_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = small_config(tmp_path)
    findings = Findings()
    read(load(config).data, findings)
    assert "I20" not in [f.id for f in findings]
    print_check(load(config))
    assert "pixels: 8-bit RGB 12" in capsys.readouterr().out


def test_one_range_for_all_images(tmp_path: Path) -> None:
    dark, bright = tmp_path / "a.png", tmp_path / "b.tif"
    Image.fromarray(np.full((9, 9), 40, np.uint16)).save(dark)
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(bright)
    values = [np.asarray(open_image(str(p), pixels=Pixels((0, 4000))))[0, 0, 0] for p in (dark, bright)]
    assert values == [round(40 / 4000 * 255), 255]
    beyond = np.asarray(open_image(str(bright), pixels=Pixels((100, 2000))))
    assert np.unique(beyond).tolist() == [255]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_levels_give_32_bits_a_scale(kind: type, tmp_path: Path) -> None:
    path = str(tmp_path / "a.tif")
    Image.fromarray(np.linspace(-5, 5, 100).reshape(10, 10).astype(kind)).save(path)
    with pytest.raises(SsodError, match=r"set data\.levels=\[low,high\]"):
        open_image(path)
    pixels = np.asarray(open_image(path, pixels=Pixels((-5, 5))))
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)


def test_colours_alone() -> None:
    from ssod.data.formats.image import to_rgb

    clear = Image.new("RGBA", (9, 9), (10, 20, 30, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(clear, Pixels(alpha="ignore")).getpixel((0, 0)) == (10, 20, 30)
    assert to_rgb(Image.new("LA", (9, 9), (7, 0)), Pixels(alpha="ignore")).getpixel((0, 0)) == (7, 7, 7)


def test_twelve_bits_in_sixteen_bit_colours_cannot_be_mended(tmp_path: Path) -> None:
    def deep(path: Path) -> None:
        import struct
        import zlib

        rgb = (np.asarray(Image.open(path).convert("RGB")).astype(np.uint16) * 16).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in rgb)
        head = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0)
        parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))

    with pytest.raises(SsodError, match=r"16-bit colours that use 16 of 256 levels.*convert the images to 8 bits"):
        read(load(spoilt(tmp_path, deep)).data)


def test_levels_are_in_order(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match=r"data\.levels.*black"):
        load(small_config(tmp_path), ["data.levels=[9,9]"])


def test_a_model_reads_pixels_as_it_was_taught_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    eight = spoilt(tmp_path / "8", lambda path: Image.open(path).convert("L").save(path))
    twelve_bits = spoilt(tmp_path / "12", twelve)
    levels = "data.levels=[0,4080]"  # exactly the eight bits, times 16
    first = ssod.train(load(eight), out=tmp_path / "run8")
    second = ssod.train(load(twelve_bits, [levels]), out=tmp_path / "run12")
    assert first == pytest.approx(second, nan_ok=True)  # the same pixels
    out = capsys.readouterr().out
    assert "is read as black, 4080 as white" in out
    run = tmp_path / "run12"
    card = model_file.read_card(run / "best.safetensors")
    assert card["pixels"] == {"levels": [0, 4080], "alpha": None}
    assert json.loads(metadata(load_model(run))["card"])["pixels"] == card["pixels"]
    assert evaluate(run) == pytest.approx(second, nan_ok=True)
    other = evaluate(run, data=twelve_bits)  # a config that says nothing of it
    assert other == pytest.approx(second, nan_ok=True)

    old, new = (next((tmp_path / bits / "data" / "val").glob("*.png")) for bits in ("8", "12"))
    assert old.name == new.name
    model = load_model(run)
    assert model(old, score=0).boxes.tolist() == model(new, score=0).boxes.tolist()
    array = np.asarray(Image.open(new))
    assert array.dtype == np.uint16
    assert model(array, score=0).boxes.tolist() == model(new, score=0).boxes.tolist()
    rows = [predict_files(run, path.parent, tmp_path / f"out{path.parts[-4]}", score=0) for path in (old, new)]
    assert rows[0] == rows[1]
    labels = [
        label_files(run, path.parent, tmp_path / f"labels{path.parts[-4]}", score=0).labels for path in (old, new)
    ]
    assert labels[0].boxes.tolist() == labels[1].boxes.tolist()

    plain = tmp_path / "run8"  # was taught 8 bits: asks, and takes the answer
    for command in (predict_files, label_files):
        with pytest.raises(SsodError, match=r"grey pixels use .*set --levels 0 4095"):
            command(plain, new.parent, tmp_path / "no")
        assert not (tmp_path / "no").exists()
    told = predict_files(plain, new.parent, tmp_path / "yes", score=0, levels=(0, 4080))
    assert told == predict_files(plain, old.parent, tmp_path / "yes8", score=0)
    Image.fromarray(np.full((64, 64), 60_000, np.uint16)).save(new)
    with pytest.raises(SsodError, match="up to 60000, and the model was trained with 4080 as white"):
        predict_files(run, new.parent, tmp_path / "no")
    depth_in_alpha(old)
    with pytest.raises(SsodError, match="set --alpha blend"):
        predict_files(plain, old, tmp_path / "no")
    assert predict_files(plain, old, tmp_path / "alpha", score=0, alpha="ignore")
