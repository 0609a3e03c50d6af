"""Bring a downloaded COCO 2017 into the layout that the configs expect, check it, and write the splits.

    python tools/prepare_coco.py --source ~/Downloads/coco

``--source`` holds ``train2017``, ``val2017``, ``annotations`` and, for the "full" protocol, ``unlabeled2017``, as they
come out of the archives of cocodataset.org. Nothing is copied or changed there: the target gets links to image folders
and annotation files, and new files beside them. Where VOC2012 lies beside the target, the list of unlabelled images of
VOC 07+12+COCO20 is one of them. The command can be repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from ssod.data.formats.coco import read_coco, read_coco_images
from ssod.data.formats.findings import Context, default_root
from ssod.data.formats.jsonfile import read_json
from ssod.data.formats.presence import check_files
from ssod.data.splits import write_splits
from ssod.data.voc_in_coco import write_list
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError

# Images and annotations of the released files.
PUBLISHED = {"train2017": (118_287, 860_001), "val2017": (5_000, 36_781), "unlabeled2017": (123_403, 0)}
INDEX_FILE = "COCO_supervision.txt"
INDEX_MD5 = "fa3f3143d51afeb7ee249bbb3c078793"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with the unpacked archives")
    parser.add_argument("--target", type=Path, help="default: $SSOD_DATASETS/coco, or datasets/coco")
    parser.add_argument("--percent", type=float, nargs="*", default=[1, 2, 5, 10], help="splits to write")
    parser.add_argument("--folds", type=int, default=5, help="folds 1..N of each percent")
    parser.add_argument(
        "--family", default="without_replacement", choices=["without_replacement", "with_replacement", "index_file"]
    )
    parser.add_argument("--subset", action="store_true", help="accept other numbers of images than the published ones")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    target = args.target or Path(default_root()) / "coco"
    try:
        prepare(args, args.source.expanduser().resolve(), target.expanduser().absolute())
    except SsodError as error:
        print(f"ssod: error: {error}", file=sys.stderr)
        return int(error.code)
    return 0


def prepare(args: argparse.Namespace, source: Path, target: Path) -> None:
    link(source, target)
    annotations = target / "annotations"
    categories = check_labeled("train2017", target, args.subset)
    check_labeled("val2017", target, args.subset)
    if (target / "unlabeled2017").exists():
        write_unlabeled(target, categories, args.subset)
    else:
        print("unlabeled2017: not there, which only the full protocol needs")
    print(write_list(target, ("train2017", "val2017")))
    index = check_index_file(target) if args.family == "index_file" else None
    folds = range(1, args.folds + 1)
    out = annotations / "semi_supervised" / ("" if args.family == "without_replacement" else args.family)
    for written in write_splits(
        annotations / "instances_train2017.json", args.percent, folds, out, args.family, file=index
    ):
        print(written)


def link(source: Path, target: Path) -> None:
    """Link image folders and annotation files into the target; what is there already stays."""
    try:
        (target / "annotations").mkdir(parents=True, exist_ok=True)
        if target.resolve() == source:
            return
        for name in PUBLISHED:
            link_one(source / name, target / name)
        for path in sorted((source / "annotations").glob("*.json")):
            link_one(path, target / "annotations" / path.name)
        link_one(source / INDEX_FILE, target / INDEX_FILE)
    except OSError as error:
        raise atomic.refused(target, error) from None


def link_one(path: Path, at: Path) -> None:
    if path.exists() and not os.path.lexists(at):
        at.symlink_to(path)


def check_labeled(name: str, target: Path, subset: bool) -> list[dict[str, Any]]:
    """Check an annotated part completely, image files included; return its categories."""
    ctx = Context(root=str(target), section=name)
    file = target / "annotations" / f"instances_{name}.json"
    data = read_coco(str(file), name, ctx)
    check_files(data.images, str(file), ctx)
    ctx.findings.raise_first()
    raw = read_json(str(file), ctx, "annotations")
    count = len(raw["annotations"])
    check_numbers(name, file, len(data), count, subset)
    for line in ctx.findings.lines():
        print(line)
    print(f"{name}: {len(data)} images, {count} annotations, {len(data.boxes)} of them usable, no file missing")
    return raw["categories"]


def write_unlabeled(target: Path, categories: list[dict[str, Any]], subset: bool) -> None:
    """Write ``instances_unlabeled2017.json``: the released image list with train's categories and no annotation."""
    ctx = Context(root=str(target), section="unlabeled2017")
    file = target / "annotations" / "image_info_unlabeled2017.json"
    images = read_coco_images(str(file), "unlabeled2017", ctx)
    check_files(images, str(file), ctx)
    ctx.findings.raise_first()
    check_numbers("unlabeled2017", file, len(images), 0, subset)
    raw = json.loads(file.read_text("utf-8-sig"))
    out = target / "annotations" / "instances_unlabeled2017.json"
    atomic.write_text(out, json.dumps({**raw, "annotations": [], "categories": categories}))
    print(f"unlabeled2017: {len(images)} images, no file missing; wrote {out}")


def check_numbers(name: str, file: Path, images: int, annotations: int, subset: bool) -> None:
    if not subset and (images, annotations) != PUBLISHED[name]:
        wanted = "{} images and {} annotations".format(*PUBLISHED[name])
        problem = f"{images} images and {annotations} annotations, the release has {wanted}"
        raise SsodError(file, name, problem, "download it again, or accept it with --subset", code=Exit.DATA)


def check_index_file(target: Path) -> Path:
    """Return Unbiased Teacher's index file if it is the published one."""
    path = target / INDEX_FILE
    if not path.exists():
        raise SsodError(
            path, "index file", "not found", "it is in the dataseed folder of unbiased-teacher", code=Exit.DATA
        )
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != INDEX_MD5:
        problem = f"md5 {found}, the published file has {INDEX_MD5}"
        raise SsodError(path, "md5", problem, "get the file again", code=Exit.DATA)
    return path


if __name__ == "__main__":
    sys.exit(main())
