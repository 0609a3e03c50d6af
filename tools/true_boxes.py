"""Write the boxes that a split hides to a file, all of them or a share, for ``method.teacher`` to read.

    python -m tools.true_boxes --data neu_det -o truth.json
    python -m tools.true_boxes --data neu_det --drop 0.3 -o most.json

A run that is taught by all true boxes says what its method could reach at best (``oracle``); one that is taught by a
part of them, what missing boxes cost. The file is a COCO annotation file of every image of the labelled set before it
is split, so that one file serves every fold and percentage: what it says about other images than the unlabelled ones is
left out. An image that loses all of its boxes stays in it, as one without objects.
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
    """Read a share from 0 up to, but without, 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of boxes, 0 or more and below 1")
    return value


def kept(crowd: np.ndarray, drop: float, seed: int) -> np.ndarray:
    """Return [A] bool, which boxes stay: the seed alone decides. A crowd is no object, and stays."""
    objects = np.flatnonzero(~crowd)
    found = np.ones(len(crowd), dtype=bool)
    found[np.random.default_rng(seed).permutation(objects)[: round(drop * len(objects))]] = False
    return found


def table(data: Labeled, drop: float, seed: int) -> dict:
    """Return images, categories and the annotations that are left; who reads them goes by the images' names."""
    numbered = replace(data, images=replace(data.images, ids=range(1, len(data) + 1)))  # a name is no id for COCO
    whole = to_coco(numbered)
    rows = zip(whole["annotations"], kept(data.crowd, drop, seed))
    return whole | {"annotations": [row for row, stays in rows if stays]}


def main(argv: list[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key.path=value of the data section, e.g. data.root=/data")
    parser.add_argument("--data", required=True, help="name of a data recipe")
    parser.add_argument("--drop", type=share, default=0.0, help="share of the boxes to leave out")
    parser.add_argument("--seed", type=int, default=0, help="which boxes are left out")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write")
    args = parser.parse_args(argv)
    try:
        cfg = load_recipe(
            method="supervised", detector="retinanet_tiny_fpn", data=args.data, overrides=args.overrides
        ).data
        data = datasets.load_labeled(cfg, datasets.context(cfg)("labeled"))
        found = table(data, args.drop, args.seed)
        atomic.write_text(args.out, json.dumps(found))
    except SsodError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    print(f"{args.out}: {len(found['annotations'])} of {len(data.boxes)} boxes, {len(data)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
