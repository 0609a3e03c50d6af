"""``shapes``: a generated detection set for the demo and the tests. Real JPEG files and COCO JSON, made from a seed.

Six classes (circle, square, triangle, star, ring, cross) of many textures, sizes and leans, partly hidden by each
other, over clutter that holds figures of no class (half discs, crescents, bars). A class has a hue that most of its
figures are near, neighbouring classes overlap in it, and texture says nothing: a small network without pretraining
learns the set in minutes on a CPU, and a tenth of the labels is far from enough to learn all of it.

Image ``i`` of a part depends on (seed, part, i) alone: a larger set begins with the smaller one.
"""

from __future__ import annotations

import colorsys
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ssod.utils import seeding, untrusted
from ssod.utils.address import refuse_url
from ssod.utils.errors import SsodError

CLASSES = ("circle", "square", "triangle", "star", "ring", "cross")
DISTRACTORS = ("half", "crescent", "bar")
VERSION = 2  # of the pictures: a seed gives other ones when this changes
_OVERSAMPLE = 2
_VISIBLE = 0.7  # share of each object that those in front of it must leave
_CONTRAST = 120  # grey levels, in at least one channel, between a figure and what it covers


def write_shapes(
    root: str | Path, *, train: int = 500, val: int = 200, unlabeled: int = 0, size: int = 128, seed: int = 0
) -> Path:
    """Write the set below ``root``, or leave it alone if it is there already with the same settings.

    The layout is ``{train,val,unlabeled}/000000.jpg`` and ``annotations/{train,val,unlabeled}.json``; the last has
    neither annotations nor categories. A part of 0 images is not written.

    Args:
        root: folder, made if absent.
        train: labelled images; a split may take the labels of most of them away.
        val: labelled images to measure on.
        unlabeled: images without labels.
        size: side of the square images in pixels, at least 32.
        seed: everything follows from it.

    Returns:
        ``root``.

    Raises:
        SsodError: ``root`` holds a set with other settings, is an address, or ``size`` is too small.
    """
    root = Path(root)
    refuse_url(root)
    if size < 32:
        raise SsodError("shapes", "size", f"{size} is below 32", "use 128")
    counts = {"train": train, "val": val, "unlabeled": unlabeled}
    settings = {"version": VERSION, "size": size, "seed": seed, **counts}
    marker = root / "shapes.json"
    if marker.exists():
        if untrusted.read_json(untrusted.Source(marker, "remove it")) == settings:
            return root
        raise SsodError(marker, "", "holds the set with other settings", f"remove {root} or name another folder")
    for part, count in counts.items():
        if count:
            _write_part(root, part, count, size, seed)
    marker.write_text(json.dumps(settings))  # last: a half-written set has no marker
    return root


def _write_part(root: Path, part: str, count: int, size: int, seed: int) -> None:
    folder = root / part
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for i in range(count):
        picture, boxes, labels = draw_image(size, seed, part, i)
        name = f"{i:06d}.jpg"
        picture.save(folder / name, quality=88)
        images.append({"id": i + 1, "file_name": name, "width": size, "height": size})
        for box, label in zip(boxes.tolist(), labels.tolist()):
            annotations.append(_annotation(len(annotations) + 1, i + 1, box, label))
    table: dict[str, Any] = {"info": {"description": f"ssod shapes, {part}"}, "images": images}
    if part != "unlabeled":
        table["annotations"] = annotations
        table["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    (root / "annotations" / f"{part}.json").write_text(json.dumps(table))


def _annotation(number: int, image: int, box: list[float], label: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(value, 2) for value in box)
    width, height = round(x2 - x1, 2), round(y2 - y1, 2)
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "bbox": [x1, y1, width, height],
        "area": round(width * height, 2),
        "iscrowd": 0,
    }


def draw_image(size: int, seed: int, part: str, i: int) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Draw image ``i`` of a part.

    Returns:
        The RGB picture; boxes [M, 4] of the whole figures as far as they lie inside it, to half a pixel; labels [M]
        in the order of ``CLASSES``. M is 0 to 6.
    """
    rng = seeding.generator(seed, "shapes", part, i)
    side = size * _OVERSAMPLE
    canvas = _background(rng, side)
    for _ in range(int(rng.integers(0, 3))):
        outline, holes = _placed(rng, DISTRACTORS[int(rng.integers(len(DISTRACTORS)))], side, (0.08, 0.3))
        _paint(rng, canvas, _mask(side, outline, holes))
    _scribble(rng, canvas)
    boxes, labels = _objects(rng, canvas, side)
    picture = canvas.resize((size, size), Image.Resampling.BOX)
    return _spoil(rng, picture), boxes / _OVERSAMPLE, labels


def _objects(rng: np.random.Generator, canvas: Image.Image, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw objects from back to front; one that would hide too much of an earlier one is left out."""
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    visible: list[tuple[np.ndarray, int]] = []  # what is left of each object, and its whole area
    for _ in range(int(rng.choice(7, p=[0.05, 0.2, 0.25, 0.2, 0.15, 0.1, 0.05]))):
        label = int(rng.integers(len(CLASSES)))
        outline, holes = _placed(rng, CLASSES[label], side, (0.2, 0.5))
        mask = _mask(side, outline, holes)
        covered = np.asarray(mask) > 127
        if not covered.any() or any((left & ~covered).sum() < _VISIBLE * area for left, area in visible):
            continue
        _paint(rng, canvas, mask, label)
        visible = [(left & ~covered, area) for left, area in visible]
        visible.append((covered, int(covered.sum())))
        boxes.append(mask.getbbox())
        labels.append(label)
    return np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64)


# ---- figures -----------------------------------------------------------------------------------------------------


def _circle(radius: float = 1.0, start: float = 0.0, end: float = 2 * math.pi) -> np.ndarray:
    angle = np.linspace(start, end, 48)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _polygon(corners: int, inner: float | None = None) -> np.ndarray:
    """Return a regular polygon, or a star where every other corner lies at radius ``inner``."""
    count = corners if inner is None else 2 * corners
    angle = 2 * math.pi * np.arange(count) / count
    radius = np.ones(count) if inner is None else np.where(np.arange(count) % 2 == 0, 1, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def figure(rng: np.random.Generator, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the outline [P, 2] of a figure inside the unit circle, and its holes."""
    if name == "ring":
        return _circle(), [_circle(rng.uniform(0.45, 0.72))]
    if name == "crescent":
        return _circle(), [_circle(0.85) + np.array([0.35, 0.0])]
    if name == "half":
        return _circle(end=math.pi), []
    if name == "bar":
        thick = rng.uniform(0.12, 0.4)
        return np.array([[-1, -thick], [1, -thick], [1, thick], [-1, thick]]), []
    if name == "cross":
        t = rng.uniform(0.24, 0.38)
        points = [(-t, -1), (t, -1), (t, -t), (1, -t), (1, t), (t, t), (t, 1), (-t, 1), (-t, t), (-1, t), (-1, -t)]
        return np.array([*points, (-t, -t)]), []
    if name == "star":
        return _polygon(5, rng.uniform(0.38, 0.52)), []
    if name == "circle":
        return _circle(), []
    return _polygon({"triangle": 3, "square": 4, "pentagon": 5}[name]), []


def _placed(
    rng: np.random.Generator, name: str, side: int, extent: tuple[float, float]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Turn, squeeze, scale and place a figure; its center lies inside the picture."""
    outline, holes = figure(rng, name)
    diameter = side * extent[0] * (extent[1] / extent[0]) ** rng.random()
    squeeze = np.exp(rng.uniform(-0.2, 0.2, 2))
    turn, lean = rng.normal(0, 0.35), rng.uniform(-0.15, 0.15)
    c, s = math.cos(turn), math.sin(turn)
    matrix = np.diag(squeeze) @ np.array([[1, lean], [0, 1]]) @ np.array([[c, -s], [s, c]]) * diameter / 2
    center = rng.uniform(0.08 * side, 0.92 * side, 2)
    return outline @ matrix.T + center, [hole @ matrix.T + center for hole in holes]


def _mask(side: int, outline: np.ndarray, holes: list[np.ndarray]) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    draw.polygon([tuple(point) for point in outline.tolist()], fill=255)
    for hole in holes:
        draw.polygon([tuple(point) for point in hole.tolist()], fill=0)
    return mask


# ---- colours -----------------------------------------------------------------------------------------------------


def _color(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(20, 235, 3)


def typical(rng: np.random.Generator, label: int) -> np.ndarray:
    """Return a color near the hue of a class; the hues of neighbouring classes are two deviations apart."""
    hue = (label / len(CLASSES) + rng.normal(0, 0.08)) % 1
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.35, 1), rng.uniform(0.4, 1)))


def _unlike(rng: np.random.Generator, behind: Image.Image, label: int | None = None) -> np.ndarray:
    """Return a color, of class ``label`` if given, that stands out from the mean of what it will cover."""
    mean = np.asarray(behind, np.float64).mean((0, 1))
    for _ in range(20):
        color = _color(rng) if label is None else typical(rng, label)
        if np.abs(color - mean).max() > _CONTRAST:
            break
    return color


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """Return soft blotches around one colour."""
    cells = int(rng.integers(3, 10))
    blotches = _color(rng) + rng.normal(0, rng.uniform(4, 18), (cells, cells, 3))
    coarse = Image.fromarray(blotches.clip(0, 255).astype(np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def _paint(rng: np.random.Generator, canvas: Image.Image, mask: Image.Image, label: int | None = None) -> None:
    """Fill a mask with a texture of two colours: flat, striped, chequered or blotched; a little seen through.

    The first color is typical of class ``label``, if one is given.
    """
    rect = mask.getbbox()
    if rect is None:
        return
    width, height = rect[2] - rect[0], rect[3] - rect[1]
    one, two = _unlike(rng, canvas.crop(rect), label), _color(rng)
    kind, pitch = int(rng.integers(4)), rng.uniform(6, 24)
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    if kind == 0:
        mix = np.zeros((height, width))
    elif kind == 1:
        turn = rng.uniform(0, math.pi)
        mix = np.floor((x * math.cos(turn) + y * math.sin(turn)) / pitch) % 2
    elif kind == 2:
        mix = (x // pitch + y // pitch) % 2
    else:
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8))
        mix = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 255
    texture = one + (two - one) * mix[..., None] * rng.uniform(0.1, 0.5)
    opacity = rng.uniform(0.85, 1.0)
    canvas.paste(Image.fromarray(texture.astype(np.uint8)), rect, mask.crop(rect).point(lambda v: int(v * opacity)))


def _scribble(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Draw a few lines and arcs across the picture."""
    draw, side = ImageDraw.Draw(canvas), canvas.width
    for _ in range(int(rng.integers(0, 5))):
        color = tuple(int(v) for v in _color(rng))
        ends = rng.uniform(0, side, 4)
        width = int(rng.integers(1, 4))
        if rng.random() < 0.5:
            draw.line(ends.tolist(), fill=color, width=width)
        else:
            rect = [*np.minimum(ends[:2], ends[2:]).tolist(), *np.maximum(ends[:2], ends[2:]).tolist()]
            start = int(rng.integers(360))
            draw.arc(rect, start, start + int(rng.integers(40, 200)), fill=color, width=width)


def _spoil(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Change exposure and add sensor noise."""
    pixels = np.asarray(picture, np.float32)
    pixels = (pixels - 127.5) * rng.uniform(0.75, 1.1) + 127.5 + rng.uniform(-25, 25)
    pixels += rng.standard_normal(pixels.shape, np.float32) * rng.uniform(2, 6)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
