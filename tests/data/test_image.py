"""Whatever an image file holds, it becomes one upright RGB picture or one error that names it."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from ssod.data.formats.image import BACKGROUND, open_image
from ssod.utils.errors import Exit, SsodError
from tests.transforms.common import picture


def refused(path, **kw):
    with pytest.raises(SsodError) as caught:
        open_image(str(path), **kw)
    assert os.path.basename(path) in caught.value.line()
    assert "\n" not in caught.value.line()
    return caught.value


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_gives_the_same_upright_picture(tmp_path, orientation, suffix):
    upright = picture(40, 24)
    undo = {  # how a camera stores it
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if undo is None else upright.transpose(undo)
    options = {"lossless": True} if suffix == "webp" else {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    got = open_image(str(tmp_path / f"a.{suffix}"))
    assert got.size == (40, 24)
    assert abs(np.asarray(got, int) - np.asarray(upright, int)).max() <= (8 if suffix == "jpg" else 0)


@pytest.mark.parametrize("value", [0, 9, 42])
def test_odd_orientation_is_ignored(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    picture(20, 10).save(tmp_path / "a.png", exif=exif)
    assert open_image(str(tmp_path / "a.png")).size == (20, 10)


def test_broken_exif_and_profile_are_ignored(tmp_path):
    path = tmp_path / "a.jpg"
    picture(20, 10).save(path, exif=b"Exif\0\0garbage that is no TIFF", icc_profile=b"no profile")
    assert open_image(str(path)).size == (20, 10)


def grey_ramp():
    return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))


def test_grey_and_bilevel(tmp_path):
    grey_ramp().save(tmp_path / "l.png")
    got = np.asarray(open_image(str(tmp_path / "l.png")))
    assert np.array_equal(got, np.repeat(np.asarray(grey_ramp())[..., None], 3, 2))
    grey_ramp().convert("1", dither=Image.Dither.NONE).save(tmp_path / "one.png")
    got = np.asarray(open_image(str(tmp_path / "one.png")))
    assert set(np.unique(got)) == {0, 255}
    assert (got[8:] == 255).all()


def test_16_bit_grey_is_divided_by_257(tmp_path):
    values = np.array([0, 256, 257, 25700, 65535] * 13 + [0] * 15, np.uint16).reshape(8, 10)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        got = np.asarray(open_image(str(tmp_path / f"a.{suffix}")))
        assert got.ravel()[:15].tolist() == [0] * 3 + [1] * 6 + [100] * 3 + [255] * 3


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_lies_over_the_background(tmp_path, mode):
    alpha = np.zeros((10, 12), np.uint8)
    alpha[:, 6:] = 255
    image = Image.new("RGB", (12, 10), (90, 90, 90)).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    got = np.asarray(open_image(str(tmp_path / "a.png")))
    assert (got[:, :6] == BACKGROUND).all()
    assert (got[:, 6:] == 90).all()


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (12, 10), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 6, 10))
    image.save(tmp_path / "p.png")
    got = np.asarray(open_image(str(tmp_path / "p.png")))
    assert (got[:, :6] == (10, 20, 30)).all()
    assert (got[:, 6:] == (200, 100, 50)).all()
    image.save(tmp_path / "t.png", transparency=0)
    got = np.asarray(open_image(str(tmp_path / "t.png")))
    assert (got[:, :6] == BACKGROUND).all()
    assert (got[:, 6:] == (200, 100, 50)).all()


def test_cmyk_also_inverted_as_adobe_writes_it(tmp_path):
    rgb = picture(32, 24)
    rgb.convert("CMYK").save(tmp_path / "a.tif")
    assert np.array_equal(open_image(str(tmp_path / "a.tif")), rgb.convert("CMYK").convert("RGB"))
    rgb.convert("CMYK").save(tmp_path / "a.jpg", quality=95, subsampling=0)  # Pillow writes the Adobe marker
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    got = np.asarray(open_image(str(tmp_path / "a.jpg")), int)
    assert abs(got - np.asarray(rgb, int)).mean() < 3


def test_lab(tmp_path):
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[..., 0] = 128  # L = 50, a = b = 0: a middle grey
    Image.frombytes("LAB", (10, 10), pixels.tobytes()).save(tmp_path / "a.tif")
    got = np.asarray(open_image(str(tmp_path / "a.tif")), int)
    assert got.std() < 3
    assert 110 < got.mean() < 130


def test_first_frame_of_gif_and_tiff(tmp_path):
    frames = [Image.new("RGB", (20, 12), c) for c in ((200, 30, 30), (30, 200, 30))]
    for suffix in ("gif", "tif", "webp"):
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
        got = np.asarray(open_image(str(tmp_path / f"a.{suffix}")))
        assert (got == (200, 30, 30)).all()


def test_mpo_is_a_jpeg_with_more_frames(tmp_path):
    first, second = Image.new("RGB", (24, 16), (200, 30, 30)), Image.new("RGB", (24, 16), (30, 200, 30))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert abs(np.asarray(open_image(str(tmp_path / "a.jpg")), int) - (200, 30, 30)).max() < 4


def test_empty_truncated_and_no_image(tmp_path):
    (tmp_path / "zero.jpg").write_bytes(b"")
    assert "empty file" in refused(tmp_path / "zero.jpg").problem
    (tmp_path / "text.jpg").write_text("not an image at all")
    assert "not an image" in refused(tmp_path / "text.jpg").problem
    rng = np.random.default_rng(0)
    noisy = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for suffix in ("jpg", "png", "webp", "bmp", "tif", "gif"):
        whole = tmp_path / f"whole.{suffix}"
        noisy.save(whole)
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        error = refused(cut)
        assert error.code == Exit.DATA
        if suffix in ("jpg", "png"):
            assert "truncated" in error.problem
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def outcome(path):
    try:
        return open_image(str(path)).size
    except SsodError as error:
        return error.code


def test_every_cut_of_a_file_is_an_error_or_a_picture(tmp_path):
    picture(16, 12).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    outcomes = set()
    for end in range(len(whole)):
        path = tmp_path / "cut.png"
        path.write_bytes(whole[:end])
        outcomes.add(outcome(path))
    assert outcomes <= {(16, 12), Exit.DATA}
    assert Exit.DATA in outcomes
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        outcome(path)  # a picture or an SsodError; anything else fails the test


def test_absent_and_unreadable(tmp_path):
    assert "not found" in refused(tmp_path / "none.jpg").problem
    assert refused(tmp_path / "none.jpg").code == Exit.DATA
    assert refused(tmp_path).code == Exit.UNSAFE
    os.mkfifo(tmp_path / "fifo.jpg")
    assert refused(tmp_path / "fifo.jpg").code == Exit.UNSAFE


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_permission(tmp_path):
    picture(20, 10).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert "permission" in refused(tmp_path / "a.png").problem


def test_permission_as_the_system_reports_it(tmp_path, monkeypatch):
    picture(20, 10).save(tmp_path / "a.png")

    def deny(*args, **kw):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", deny)
    assert "permission denied" in refused(tmp_path / "a.png").problem


def _png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (10000, 9000)])
def test_pixel_limit_without_touching_pillow(tmp_path, width, height, recwarn):
    before = Image.MAX_IMAGE_PIXELS
    (tmp_path / "a.png").write_bytes(_png_header(width, height))
    error = refused(tmp_path / "a.png")
    assert error.code == Exit.UNSAFE
    assert "max_pixels 89 M" in error.problem
    assert before == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


def test_pillows_own_limit_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(_png_header(60000, 60000))
    error = refused(tmp_path / "a.png", max_pixels=4_000_000_000)
    assert error.code == Exit.UNSAFE
    assert "179 Mpx, the most that Pillow opens" in error.problem


def test_limits_can_be_set(tmp_path):
    picture(100, 60).save(tmp_path / "a.png")
    assert refused(tmp_path / "a.png", max_pixels=5999).code == Exit.UNSAFE
    assert open_image(str(tmp_path / "a.png"), max_pixels=6000).size == (100, 60)
    assert "below 80" in refused(tmp_path / "a.png", min_side=80).problem
    for size in ((1, 1), (1, 1000), (1000, 7)):
        Image.new("RGB", size).save(tmp_path / "small.png")
        assert "below 8" in refused(tmp_path / "small.png").problem


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "EPS", "PCX"])
def test_other_formats_are_refused_by_name(tmp_path, kind):
    picture(32, 32).save(tmp_path / "a.jpg", format=kind)
    error = refused(tmp_path / "a.jpg")
    if kind == "TGA":  # has no signature: Pillow itself may not know it
        assert error.code in (Exit.UNSAFE, Exit.DATA)
    else:
        assert error.code == Exit.UNSAFE
        assert f"format {kind} not in" in error.problem


def test_float_and_32_bit_have_no_scale(tmp_path):
    values = np.full((10, 12), 0.5, np.float32)
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert "floating-point" in refused(tmp_path / "f.tif").problem
    values[7, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    assert "pixel nan at (3,7)" in refused(tmp_path / "nan.tif").problem
    Image.fromarray(np.full((10, 12), 70000, np.int32)).save(tmp_path / "i.tif")
    assert "32-bit integer" in refused(tmp_path / "i.tif").problem
