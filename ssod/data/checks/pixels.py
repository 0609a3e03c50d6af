"""What the pixels of a data set are: 8 bits or more, and whether a fourth channel is transparency; told once.

Headers of some images of each set are read. Pixels are decoded of those alone that are more than 8-bit RGB or grey.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ssod.data.formats.findings import Context
from ssod.data.formats.header import path_of
from ssod.data.formats.image import DEEP, FORMATS, Pixels
from ssod.data.formats.records import Images
from ssod.utils.errors import SsodError

LOOKED_AT = 64  # images of a set whose headers are read
DECODED = 16  # of these, whose pixels are looked at
FULL = 65535
HALF = 32768  # 16-bit images that stay below are of fewer bits
NARROW = 16384  # or use so small a part of the range that little would be left of it in 8 bits
NEARLY = 99.9  # per cent of an image's pixels that say where its range ends: a few are always hot


@dataclass
class Census:
    """What was seen in some images of a set.

    Attributes:
        kinds: how many images of each kind, by its name for people.
        low, high: the range of grey pixels of more than 8 bits; ``high`` is below ``low`` where there are none.
        most: their highest value.
        color: the highest value of 16-bit colours, in the 8 bits that are read of them; 0 where there are none.
        alphas: images whose alpha channel is not opaque all over.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    low: float = math.inf
    high: float = -math.inf
    most: float = -math.inf
    color: int = 0
    deep_colors: int = 0
    alphas: int = 0

    def line(self) -> str:
        """Return the kinds in words, ``8-bit RGB 20, 16-bit grey 4 (values 0 to 4080)``."""
        shown = [f"{kind} {count}" for kind, count in self.kinds.most_common()]
        values = f" (values {self.low:.6g} to {self.most:g})" if self.high >= self.low else ""
        return ", ".join(shown) + values

    @property
    def plain(self) -> bool:
        """Whether all that was seen is 8-bit RGB or grey."""
        return all(kind.startswith("8-bit") and "alpha" not in kind for kind in self.kinds)


def census(images: Images, ctx: Context) -> Census:
    """Look at up to ``LOOKED_AT`` images, evenly spread; one that cannot be read says nothing here."""
    found, decoded = Census(), Counter[str]()
    for row in np.unique(np.linspace(0, len(images) - 1, min(LOOKED_AT, len(images))).round().astype(int)).tolist():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path_of(images, row, ctx), formats=FORMATS) as image:
                    kind = _kind(image)
                    found.kinds[kind] += 1
                    decoded[kind] += 1
                    if decoded[kind] <= DECODED and image.width * image.height <= ctx.rules.max_pixels:
                        _look(image, kind, found)
        except (SsodError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # opening the image for training says what is wrong with it
    return found


def _kind(image: Image.Image) -> str:
    """Return what an image's pixels are, by its header."""
    if image.mode in DEEP:
        return {"I": "32-bit grey", "F": "floating-point grey"}.get(image.mode, "16-bit grey")
    bits = 16 if any(";16" in str(tile[3]) for tile in image.tile) else 8
    names = {"1": "grey", "L": "grey", "LA": "grey with alpha", "RGBA": "RGB with alpha", "P": "palette"}
    return f"{bits}-bit {names.get(image.mode, image.mode)}"


def _look(image: Image.Image, kind: str, found: Census) -> None:
    """Decode what needs it, and take note of its range."""
    if kind.startswith("8-bit") and "alpha" not in kind:
        return
    pixels = np.asarray(image)
    if image.mode in DEEP:
        values = pixels[np.isfinite(pixels)]
        if len(values):
            low, high = np.percentile(values, (100 - NEARLY, NEARLY))
            low, high = (low, high) if image.mode == "F" else (math.floor(low), math.ceil(high))
            found.low, found.high = min(found.low, float(low)), max(found.high, float(high))
            found.most = max(found.most, float(values.max()))
        return
    if "alpha" in kind:
        found.alphas += int((pixels[..., -1] < 255).any())
        pixels = pixels[..., :-1]
    if kind.startswith("16-bit"):
        found.deep_colors += 1
        found.color = max(found.color, int(np.percentile(pixels, NEARLY)))


def check_pixels(sets: Mapping[str, Census], files: Mapping[str, str], pixels: Pixels, ctx: Context) -> None:
    """Say what the sets of a data set are where that is more than 8-bit RGB or grey; ask where it has two meanings.

    One range holds for all sets: what one of them is taught, another is measured by.

    Args:
        sets: part -> what was seen of it.
        files: part -> the file or folder that messages name.
        pixels: what the config, or the model, says.
        ctx: findings; its section is where the keys stand.
    """
    odd = {part: found for part, found in sets.items() if not found.plain}
    if not odd:
        return
    key = "--{}" if ctx.section == "images" else "data.{}"
    problem = _deep(list(odd.values()), pixels, key.format("levels"))
    problem = problem or _shallow_colors(list(odd.values())) or _alpha(odd, pixels, key.format("alpha"))
    part = next(iter(odd))
    if problem:
        ctx.findings.error("I20", files[part], ctx.section, *problem)
        return
    told = "; ".join(f"{part}: {found.line()}" if len(sets) > 1 else found.line() for part, found in odd.items())
    said = []
    if any(found.high >= found.low for found in odd.values()):
        low, high = pixels.levels or (0, FULL)
        said.append(f"{low:g} is read as black, {high:g} as white")
    if any(found.alphas for found in odd.values()):
        said.append("alpha is ignored" if pixels.alpha == "ignore" else "alpha is laid over white")
    ctx.findings.repaired("I20", files[part], ctx.section, f"pixels of {told}", ", ".join(said))


def _deep(odd: list[Census], pixels: Pixels, key: str) -> tuple[str, str] | None:
    """Return problem and fix of grey pixels whose range is not known."""
    low, high = min(found.low for found in odd), max(found.high for found in odd)
    most = max(found.most for found in odd)
    if high < low:
        return None
    if pixels.levels is None and high >= HALF and high - low >= NARROW and most <= FULL and low >= 0:
        return None
    if pixels.levels is not None and (key.startswith("data.") or high <= pixels.levels[1]):
        return None  # what a person wrote is believed; what a model was trained with may be of another camera
    one, other = _suggested(low, most)
    spaced = "{} {:g} {:g}" if key.startswith("--") else "{}=[{:g},{:g}]"
    fix = f"set {spaced.format(key, one, other)}, the values that are black and white"
    if pixels.levels is not None:
        return f"grey pixels up to {most:g}, and the model was trained with {pixels.levels[1]:g} as white", fix
    return f"grey pixels use {low:.6g} to {most:g} of 0 to {FULL}, and no file says what is white", fix


def _suggested(low: float, high: float) -> tuple[float, float]:
    """Return likely levels: those of a whole number of bits, or the range itself where it begins far from 0."""
    if low < 0 or low > high / 2 or high <= 1:
        return math.floor(low), math.ceil(high)
    return 0, 2 ** math.ceil(math.log2(high + 1)) - 1


def _shallow_colors(odd: list[Census]) -> tuple[str, str] | None:
    """Return problem and fix of 16-bit colours of fewer bits: the decoder has dropped the lower eight."""
    if not any(found.deep_colors for found in odd) or max(found.color for found in odd) >= 128:
        return None
    problem = f"16-bit colours that use {max(found.color for found in odd) + 1} of 256 levels after reading"
    return problem, "convert the images to 8 bits, stretched by the bits of the camera"


def _alpha(odd: Mapping[str, Census], pixels: Pixels, name: str) -> tuple[str, str] | None:
    """Return problem and fix of an alpha channel that may be no transparency."""
    count = sum(found.alphas for found in odd.values())
    if pixels.alpha is not None or not count:
        return None
    assign = " " if name.startswith("--") else "="
    problem = f"{count} of the images looked at have an alpha channel that is not opaque: transparency, or data"
    return (
        problem,
        f"set {name}{assign}blend to lay transparent pixels over white, or {name}{assign}ignore for the colours",
    )
