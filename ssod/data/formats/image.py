"""One image file to one upright RGB picture, or one error that names the file.

Nothing here trusts the file: only six formats are tried, the number of pixels is checked before any is decoded, and
whatever a decoder raises becomes an ``SsodError``. Pillow's own settings are left as they are.
"""

from __future__ import annotations

import os
import stat
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from ssod.utils.errors import Exit, SsodError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 89_000_000
MIN_SIDE = 8
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # modes of grey pixels of more than 8 bits
BACKGROUND = (255, 255, 255)
_BOMB = 178_956_970  # twice Pillow's default limit: from here on Pillow itself refuses

# EXIF 2.32, tag 0x0112: what undoes the camera's rotation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Alpha = Literal["blend", "ignore"]


@dataclass(frozen=True)
class Pixels:
    """How pixels are read that are more than 8-bit RGB.

    Attributes:
        levels: the values that become black and white in grey pixels of more than 8 bits; None = 0 and 65535, and no
            pixel of 32 bits is read.
        alpha: ``blend`` lays transparent pixels over white, ``ignore`` takes the colours alone; None = ``blend``.
    """

    levels: tuple[float, float] | None = None
    alpha: Alpha | None = None


AS_THEY_ARE = Pixels()


def open_image(
    path: str, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE, pixels: Pixels = AS_THEY_ARE
) -> Image.Image:
    """Read an image file.

    The first frame of an animation or a multi-page file is the image. EXIF orientation is applied, colour profiles
    are ignored, and every colour mode becomes RGB by ``to_rgb``.

    Args:
        path: the file.
        max_pixels: refuse larger images before decoding them.
        min_side: refuse images with a shorter side, in pixels.
        pixels: see ``to_rgb``.

    Raises:
        SsodError: naming the file. Code 7 for too many pixels, a format outside ``FORMATS`` or what is no regular
            file; code 3 for everything else.
    """
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is the stricter one
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        if max_pixels < _BOMB:
            raise _too_large(path, f"more than {_BOMB / 1e6:.0f} Mpx", max_pixels) from None
        problem = f"more than {_BOMB / 1e6:.0f} Mpx, the most that Pillow opens; refused"
        raise _bad(path, problem, "tile or shrink the image", Exit.UNSAFE) from None
    except UnidentifiedImageError:
        raise _unknown(path) from None
    except PermissionError:
        raise _bad(path, "permission denied", "make it readable (chmod)") from None
    except Exception as error:
        raise _bad(path, f"cannot be read ({error})", "replace or remove it") from None
    with image:
        _check_size(path, image, max_pixels, min_side)
        try:
            image.load()
        except Exception as error:
            raise _undecodable(path, error) from None
        try:
            return upright(to_rgb(image, pixels), orientation(image))
        except ValueError as error:
            raise _bad(path, str(error), "set data.levels=[low,high], or convert it to 8-bit RGB") from None


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it cannot be read. No pixel is decoded."""
    try:
        value = Image.Image.getexif(image).get(0x0112, 1)  # a PNG's own method decodes the pixels
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return value if value in _UPRIGHT else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Undo the camera's rotation."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: Image.Image, pixels: Pixels = AS_THEY_ARE) -> Image.Image:
    """Convert any mode that image files come in to RGB.

    Transparency is laid over white, unless alpha is to be ignored; a palette's always is. 16-bit grey is divided by
    257, so that 65535 is 255, or goes from black to white between the levels. CMYK is Pillow's plain conversion,
    without a profile.

    Raises:
        ValueError: 32-bit and floating-point pixels without levels, whose scale no file states, and such as are no
            numbers.
    """
    mode = image.mode
    if mode == "RGB":
        return image
    if mode in DEEP and pixels.levels is not None:
        return _between(image, *pixels.levels)
    if mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if mode in ("I", "F"):
        raise ValueError(_no_scale(image))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if mode in ("LA", "RGBA") and pixels.alpha == "ignore":
        return image.convert(mode[:-1]).convert("RGB")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")


def _between(image: Image.Image, low: float, high: float) -> Image.Image:
    """Return grey pixels with ``low`` as black and ``high`` as white; what is beyond either is that."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(_no_scale(image))
    grey = ((values - low) / (high - low) * 255).round().clip(0, 255)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _no_scale(image: Image.Image) -> str:
    pixels = np.asarray(image)
    bad = np.argwhere(~np.isfinite(pixels))
    if len(bad):
        row, column = bad[0]
        return f"pixel {pixels[row, column]} at ({column},{row})"
    kind = "floating-point" if image.mode == "F" else "32-bit integer"
    return f"{kind} pixels have no stated scale"


def _check_file(path: str) -> None:
    """Refuse what would block or is no image, before it is opened."""
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise _bad(path, "image not found", "check the file name and its case, and the images folder") from None
    except (OSError, ValueError) as error:
        raise _bad(path, f"cannot be reached ({error})", "check the path and its permissions") from None
    if not stat.S_ISREG(info.st_mode):
        raise _bad(path, "not a regular file; refused", "name an image file", Exit.UNSAFE)
    if info.st_size == 0:
        raise _bad(path, "empty file", "copy or download it again")


def _check_size(path: str, image: Image.Image, max_pixels: int, min_side: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(path, f"{width}x{height}, {width * height / 1e6:.0f} Mpx", max_pixels, width * height)
    if min(width, height) < min_side:
        raise _bad(path, f"{width}x{height} px, a side is below {min_side}", "remove the image")


def _undecodable(path: str, error: Exception) -> SsodError:
    if "truncated" in str(error).lower():
        return _bad(path, "truncated image", "copy or download it again")
    return _bad(path, f"broken image ({error})", "copy or download it again")


def _unknown(path: str) -> SsodError:
    """Say what a file is that none of the allowed formats could open; its pixels are not decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                kind = image.format
    except Exception:
        kind = None
    if kind is None or kind in FORMATS:
        return _bad(path, "not an image, or its header is broken", "replace or remove it")
    return _bad(path, f"format {kind} not in {{{', '.join(FORMATS)}}}; refused", "convert it", Exit.UNSAFE)


def _too_large(path: str, size: str, max_pixels: int, pixels: int = _BOMB) -> SsodError:
    problem = f"{size} > max_pixels {max_pixels / 1e6:.0f} M; refused"
    return _bad(path, problem, f"shrink or tile the image, or set data.max_pixels={pixels}", Exit.UNSAFE)


def _bad(path: str, problem: str, fix: str, code: Exit = Exit.DATA) -> SsodError:
    return SsodError(path, "", problem, fix, code=code)
