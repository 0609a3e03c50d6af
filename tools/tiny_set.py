"""Write a set of objects of 8 pixels in images of 1600 x 1200, and the same objects in crops of 400 x 300.

    python -m tools.tiny_set -o runs/tiny --train 12 --unlabeled 48 --val 20

Below ``large`` and below ``crops`` lie ``{train,unlabeled,val}/000000.jpg``, ... and ``annotations/{train,...}.json``,
as those of ``shapes``; of ``unlabeled`` there are no boxes. A large image is cut into 16 crops, and no object lies in
two of them. Figures and hues are those of ``shapes``, of three of its classes; figures of no class have any hue. Image
``i`` of a part depends on (seed, part, i) alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ssod.data import synthetic
from ssod.utils import atomic, seeding
from ssod.utils.errors import SsodError

SIZE, GRID = (1600, 1200), 4  # pixels; crops in a row and in a column
CLASSES = synthetic.CLASSES[:3]
FINE = 4  # a figure is drawn at so many times its size
PATCH, FIELD = 16, 25  # pixels: a figure lies in a patch, and each patch in a field of its own; crops are whole fields

Labelled = tuple[Image.Image, np.ndarray, np.ndarray]  # picture, boxes [M, 4], labels [M]


def draw_image(seed: int, part: str, i: int) -> Labelled:
    """Draw large image ``i`` of a part, with 8 to 32 objects and as many figures of no class."""
    rng = seeding.generator(seed, "tiny", part, i)
    cells = rng.uniform(40, 215, 3) + rng.normal(0, 12, (6, 8, 3))
    picture = Image.fromarray(cells.clip(0, 255).astype(np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    count = int(rng.integers(8, 33))
    labels = rng.integers(0, len(CLASSES), count)
    boxes = []
    for n, (x, y) in enumerate(_places(rng, 2 * count)):
        name = CLASSES[labels[n]] if n < count else str(rng.choice(synthetic.DISTRACTORS))
        color = synthetic.typical(rng, labels[n]) if n < count else rng.uniform(20, 235, 3)
        mask = _mask(rng, name)
        picture.paste(tuple(color.astype(int).tolist()), (x, y), mask.resize((PATCH, PATCH), Image.Resampling.BOX))
        boxes.append(np.array(mask.getbbox()) / FINE + [x, y, x, y])
    pixels = np.asarray(picture, np.float32) + rng.standard_normal((*SIZE[::-1], 3), np.float32) * 3
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)), np.array(boxes[:count]), labels


def _places(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Return where patches begin."""
    across, down = SIZE[0] // FIELD, SIZE[1] // FIELD
    fields = rng.choice(across * down, count, replace=False)
    shift = rng.integers(0, FIELD - PATCH + 1, (count, 2)).tolist()
    return [(f % across * FIELD + x, f // across * FIELD + y) for f, (x, y) in zip(fields.tolist(), shift)]


def _mask(rng: np.random.Generator, name: str) -> Image.Image:
    """Return a figure of 7 to 9 pixels, turned, anywhere in a patch, ``FINE`` times as large."""
    outline, holes = synthetic.figure(rng, name)
    radius, turn = rng.uniform(3.5, 4.5) * FINE, rng.normal(0, 0.35)
    c, s = math.cos(turn), math.sin(turn)
    center = rng.uniform(5, PATCH - 5, 2) * FINE
    mask = Image.new("L", (PATCH * FINE, PATCH * FINE), 0)
    for points, fill in [(outline, 255), *((hole, 0) for hole in holes)]:
        at = points @ np.array([[c, s], [-s, c]]) * radius + center
        ImageDraw.Draw(mask).polygon([tuple(point) for point in at.tolist()], fill=fill)
    return mask


def crops(image: Labelled) -> Iterator[Labelled]:
    """Yield the crops of a large image, row by row, each with its objects."""
    picture, boxes, labels = image
    width, height = SIZE[0] // GRID, SIZE[1] // GRID
    for top in range(0, SIZE[1], height):
        for left in range(0, SIZE[0], width):
            here = ((boxes[:, :2] // [width, height]) * [width, height] == [left, top]).all(1)
            part = picture.crop((left, top, left + width, top + height))
            yield part, boxes[here] - [left, top, left, top], labels[here]


def write_set(out: Path, counts: dict[str, int], seed: int) -> None:
    """Write ``large`` and ``crops``."""
    for part, count in counts.items():
        _write(out / "large", part, (draw_image(seed, part, i) for i in range(count)))
        _write(out / "crops", part, (crop for i in range(count) for crop in crops(draw_image(seed, part, i))))


def _write(root: Path, part: str, images: Iterable[Labelled]) -> None:
    (root / part).mkdir(parents=True, exist_ok=True)
    rows, annotations = [], []
    for i, (picture, boxes, labels) in enumerate(images):
        name = f"{i:06d}.jpg"
        picture.save(root / part / name, quality=90, subsampling=0)
        rows.append({"id": i + 1, "file_name": name, "width": picture.width, "height": picture.height})
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist()):
            own = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": label + 1, "iscrowd": 0}
            annotations.append(own | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    known = {"annotations": annotations, "categories": categories} if part != "unlabeled" else {}
    atomic.write_text(root / "annotations" / f"{part}.json", json.dumps({"images": rows, **known}))


def main(argv: list[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part, count in (("train", 12), ("unlabeled", 48), ("val", 20)):
        parser.add_argument(f"--{part}", type=int, default=count, help=f"large images of {part}")
    parser.add_argument("--seed", type=int, default=0, help="everything follows from it")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write to")
    args = parser.parse_args(argv)
    try:
        write_set(args.out, {"train": args.train, "unlabeled": args.unlabeled, "val": args.val}, args.seed)
    except (SsodError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 6
    print(f"{args.out}: large and crops, {args.train} labelled, {args.unlabeled} unlabelled, {args.val} val images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
