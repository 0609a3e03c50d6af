"""Take boxes away from a labelled set, as in a half-done project: what does it cost to take that for background?

    python -m tools.incomplete_set --data neu_det --images 0.8 --boxes 0.5 --draws 3 -o runs/incomplete

For each draw, 1 to ``--draws``, the share ``--images`` of the images is drawn, and three COCO JSONs are written:

* ``neu_det.1@half.json``: these images have lost all of their boxes. Read as it is, they show no object; with
  ``which: labeled``, and ``which: bare`` for the unlabelled images, nobody has labelled them yet.
* ``neu_det.1@part.json``: these images have lost the share ``--boxes`` of their boxes, and nothing says so.
* ``neu_det.1@marked.json``: the same boxes, and these images are marked ``incomplete``.

The other images keep all of their boxes. Where the share of an image's boxes is no whole number, the next one above or
below is drawn, so that it is met on average. A crowd is no object, and stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssod.config import load_recipe
from ssod.data import datasets
from ssod.data.formats.coco import to_coco
from ssod.data.formats.records import Labeled
from ssod.utils import atomic
from ssod.utils.errors import SsodError


def share(text: str) -> float:
    """Read a share above 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0 and below 1")
    return value


def count(text: str) -> int:
    """Read a number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of draws, 1 or more")
    return int(text)


def drawn(images: int, of: float, seed: int) -> np.ndarray:
    """Return [N] bool, which images lose boxes. The draw of a smaller share is part of that of a larger one."""
    found = np.zeros(images, dtype=bool)
    found[np.random.default_rng([seed, 0]).permutation(images)[: round(of * images)]] = True
    return found


def lost(data: Labeled, images: np.ndarray, of: float, seed: int) -> np.ndarray:
    """Return [A] bool, which boxes go.

    Args:
        data: the labelled set.
        images: [N] bool, those that lose boxes.
        of: share of the boxes of each of them.
        seed: number of the draw.
    """
    rng = np.random.default_rng([seed, 1])
    found = np.zeros(len(data.boxes), dtype=bool)
    for i in np.flatnonzero(images):
        objects = np.arange(data.starts[i], data.starts[i + 1])
        objects = objects[~data.crowd[objects]]
        found[rng.permutation(objects)[: int(of * len(objects) + rng.random())]] = True
    return found


def tables(data: Labeled, images: float, boxes: float, seed: int) -> dict[str, dict]:
    """Return ``half``, ``part`` and ``marked`` as COCO objects."""
    data = replace(data, images=replace(data.images, ids=range(1, len(data) + 1)))  # a name is no id for COCO
    few = drawn(len(data), images, seed)
    marks = np.repeat(few[:, None], len(data.classes), axis=1)
    marked = replace(data, incomplete=marks if data.incomplete is None else marks | data.incomplete)
    half, part = lost(data, few, 1.0, seed), lost(data, few, boxes, seed)
    return {"half": _without(data, half), "part": _without(data, part), "marked": _without(marked, part)}


def _without(data: Labeled, gone: np.ndarray) -> dict:
    whole = to_coco(data)
    return whole | {"annotations": [row for row, out in zip(whole["annotations"], gone) if not out]}


def main(argv: list[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key.path=value of the data section, e.g. data.root=/data")
    parser.add_argument("--data", required=True, help="name of a data recipe")
    parser.add_argument("--images", type=share, default=0.8, help="share of the images that lose boxes")
    parser.add_argument("--boxes", type=share, default=0.5, help="share of the boxes of such an image that go")
    parser.add_argument("--draws", type=count, default=1, help="how many draws: 1 to this number")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write to")
    args = parser.parse_args(argv)
    try:
        recipe = {"method": "supervised", "detector": "retinanet_tiny_fpn", "data": args.data}
        cfg = load_recipe(**recipe, overrides=args.overrides).data
        data = datasets.load_labeled(cfg, datasets.context(cfg)("labeled"))
        for seed in range(1, args.draws + 1):
            for name, table in tables(data, args.images, args.boxes, seed).items():
                file = args.out / f"{args.data}.{seed}@{name}.json"
                atomic.write_text(file, json.dumps(table))
                print(f"{file}: {len(table['annotations'])} of {len(data.boxes)} boxes, {len(data)} images")
    except SsodError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
