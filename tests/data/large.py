"""Data sets of the size that people have, generated in seconds; run as a program it reads one and prints the cost."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tests.data.nano import picture

IMAGES, BOXES, CLASSES = 118_287, 860_001, 80
MASK = ",".join(f"{20 + 13.37 * i:.2f}" for i in range(26))


def write_coco(root: Path, share: int = 1) -> None:
    """Write a COCO JSON of train2017's size, masks included, and as many image files (links to a few).

    Args:
        root: an empty folder.
        share: of what part of that size; 4 = a quarter.
    """
    count = IMAGES // share
    images = ",".join(
        f'{{"license":3,"file_name":"{i:012d}.jpg","coco_url":"http://images.cocodataset.org/train2017/{i:012d}.jpg",'
        f'"height":480,"width":640,"date_captured":"2013-11-14 11:18:45","id":{i * 5 % 581_929}}}'
        for i in range(count)
    )
    annotations = ",".join(
        f'{{"segmentation":[[{MASK}]],'
        f'"area":{(20 + i % 91) * (20 + i % 77) * (5 + i % 5) / 10},"iscrowd":{int(i % 86 == 0)},'
        f'"image_id":{i * 7919 % count * 5 % 581_929},'
        f'"bbox":[{i % 300}.25,{i % 200}.5,{20 + i % 91}.75,{20 + i % 77}.5],'
        f'"category_id":{1 + i % CLASSES},"id":{i + 1}}}'
        for i in range(BOXES // share)
    )
    categories = ",".join(f'{{"supercategory":"x","id":{i + 1},"name":"class {i}"}}' for i in range(CLASSES))
    text = f'{{"info":{{}},"images":[{images}],"annotations":[{annotations}],"categories":[{categories}]}}'
    (root / "train.json").write_text(text)
    (root / "train").mkdir()
    for i in range(count):
        if i % 10_000 == 0:  # file systems limit the links to one file
            picture(root / f"{i}.jpg", i, size=(640, 480))
        os.link(root / f"{i - i % 10_000}.jpg", root / "train" / f"{i:012d}.jpg")


def write_list(path: Path, lines: int = 1_000_000) -> None:
    """Write a list of images that are not there."""
    path.write_text("".join(f"camera_{i % 97:02d}/2024-05-17/frame_{i:09d}.jpg\n" for i in range(lines)))


def main(what: str, root: str) -> None:
    """Read a set and print processor seconds, peak memory and what was found, as JSON."""
    from ssod.data.datasets import DataConfig, load
    from ssod.data.formats.findings import Context
    from ssod.data.formats.registry import FolderSource, read_images

    start, before = time.process_time(), peak()
    result: dict[str, object]
    if what == "list":
        images = read_images(FolderSource(format="folder", path="list.txt"), Context(root))
        result = {"images": len(images), "last": images.paths[-1], "sizes": images.sizes}
    elif what == "parse":
        result = {"images": len(json.loads(Path(root, "train.json").read_text("utf-8"))["images"])}
    else:
        source = {"format": "coco", "ann": "train.json", "images": "train"}
        cfg = DataConfig.model_validate({"root": root, "labeled": source, "split": {"percent": 10}})
        if what == "load":
            result = load(cfg).split
        else:
            from ssod.commands.check import check

            report = check(cfg)
            result = report.split | {"lines": report.lines(), "total": report.counts["labeled"]["boxes"]}
    seconds = time.process_time() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak(), "imports_mb": before, "result": result}))


def peak() -> float:
    """Return this process's largest resident size so far, in MB. (``ru_maxrss`` would be its parent's, if larger.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e3
    raise RuntimeError("no VmHWM in /proc/self/status")


if __name__ == "__main__":
    main(*sys.argv[1:])
