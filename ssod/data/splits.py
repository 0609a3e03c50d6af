"""Which images keep their labels: the published draws, bit for bit, and a hash that names the outcome.

Three families are in use and give different images for the same percent and fold:

- ``without_replacement``: Soft Teacher's and Consistent-Teacher's script, seeded with the fold. Positions in the file's
  image order, images without boxes included; exactly ``int(percent / 100 * N)`` images.
- ``with_replacement``: STAC's script (also LabelMatch's, MixPL's and MMDetection's). The same but a position may be
  drawn twice, so that 10 % of COCO are 11 235 to 11 285 images and not 11 828.
- ``index_file``: Unbiased Teacher's ``COCO_supervision.txt`` (also Dense Teacher's). Positions among the images *sorted
  by id that have a box which is no crowd*; its percent keys are per-cents, ``"1.0"`` is 1 %.

For one fold the draws of a larger percent contain those of a smaller one in the first two families, not in the third.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ssod.data.formats.coco import read_coco
from ssod.data.formats.findings import Context, Rules, short
from ssod.data.formats.jsonfile import read_json
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.records import Images, Labeled
from ssod.data.shots import select_shots
from ssod.utils import atomic
from ssod.utils.address import refuse_url
from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import SsodError
from ssod.utils.schema import Section

Family = Literal["without_replacement", "with_replacement", "index_file"]


class SplitConfig(Section):
    """Keep the labels of a part of the labelled set and hide those of the rest."""

    percent: float = Field(gt=0, le=100)
    "Share of the images that keep their labels, in per cent."
    fold: int = Field(1, ge=0, lt=1 << 32)
    "Number of the draw; the published ones are 1 to 5 (index file: 0 to 9)."
    family: Family = "without_replacement"
    "The published procedure to follow; see ssod/data/splits.py."
    file: str | None = None
    "The index file, relative to the data root, for family index_file."

    @model_validator(mode="after")
    def _file_belongs_to_family(self) -> SplitConfig:
        if (self.family == "index_file") != (self.file is not None):
            raise ValueError("`file` is needed for family index_file, and for no other")
        return self


def draw(n: int, percent: float, fold: int, *, replace: bool = False) -> np.ndarray:
    """Draw ``int(percent / 100 * n)`` positions out of ``n`` as the published scripts do.

    Args:
        n: number of images.
        percent: share in per cent.
        fold: seed of NumPy's legacy generator.
        replace: whether a position may come twice (STAC).

    Returns:
        int64 positions in draw order.
    """
    return np.random.RandomState(fold).choice(n, size=int(percent / 100 * n), replace=replace)


def read_index_file(path: str, percent: float, fold: int, n: int, ctx: Context) -> np.ndarray:
    """Return the positions that Unbiased Teacher's index file lists.

    Args:
        path: the file, relative to the data root or absolute: ``{percent: {seed: [position, ...]}}``.
        percent: looked up as ``str(float(percent))``.
        fold: the seed.
        n: number of images that have a box which is no crowd; 117 266 for COCO's train2017.
        ctx: root and findings.

    Raises:
        SsodError: the file is unsound, lacks the entry, or was made for another number of images.
    """
    file = ctx.path(path)
    table = read_json(file, ctx, "data.split.file")
    for key, field in ((str(float(percent)), "percent"), (str(fold), "fold")):
        if not isinstance(table, dict) or key not in table:
            known = ", ".join(map(str, list(table)[:12])) if isinstance(table, dict) else "nothing"
            raise ctx.findings.fatal("D38", file, f"data.split.{field}", f"no entry {short(key)}", f"it has {known}")
        table = table[key]
    field = f"{float(percent)}.{fold}"
    if not isinstance(table, list) or set(map(type, table)) - {int}:
        raise ctx.findings.fatal("D38", file, field, "expected a list of integers", "get the file again")
    if len(table) != int(percent / 100 * n):
        problem = f"lists {len(table)} images, but {percent:g} % of {n} images with a box are {int(percent / 100 * n)}"
        raise ctx.findings.fatal("D38", file, field, problem, "use it with COCO's train2017 only")
    if table and not 0 <= min(table) <= max(table) < n:
        raise ctx.findings.fatal("D38", file, field, f"an index is not in 0..{n - 1}", "get the file again")
    if len(set(table)) != len(table):
        raise ctx.findings.fatal("D38", file, field, "an index is listed twice", "get the file again")
    return np.array(table, dtype=np.int64)


def with_objects(data: Labeled) -> np.ndarray:
    """Return the rows of the images that have a box which is no crowd, by ascending id."""
    owner = np.repeat(np.arange(len(data)), np.diff(data.starts))
    rows = np.unique(owner[~data.crowd])
    return np.array(sorted(rows.tolist(), key=lambda row: data.images.ids[row]), dtype=np.int64)


def select(data: Labeled, cfg: SplitConfig, ctx: Context) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that keep their labels and those that lose them.

    Both are in file order, but for the index file, whose images come by ascending id; there an image without a box is
    in neither part, as in the published procedure.

    Raises:
        SsodError: no image would be labelled, or the index file does not fit.
    """
    if cfg.family == "index_file":
        pool = with_objects(data)
        drawn = read_index_file(cfg.file, cfg.percent, cfg.fold, len(pool), ctx)
        bare = np.setdiff1d(np.arange(len(data)), pool)
        report_left_out("L08", [data.images.paths[row] for row in bare], ctx.path(cfg.file), ctx)
    else:
        pool = np.arange(len(data))
        drawn = draw(len(data), cfg.percent, cfg.fold, replace=cfg.family == "with_replacement")
    if len(drawn) == 0:
        least = next(p for p in range(1, 101) if int(p / 100 * len(pool)) > 0) if len(pool) else 100
        problem = f"{cfg.percent:g} % of {len(pool)} = 0 images"
        raise ctx.findings.fatal("D38", "config", "data.split.percent", problem, f"use ≥ {least}")
    keeps = np.zeros(len(pool), dtype=bool)
    keeps[drawn] = True
    return pool[keeps], pool[~keeps]


def split_hash(images: Images) -> str:
    """Return the SHA-256 of the images' ids, sorted and joined by commas.

    It depends on which images are labelled and on nothing else, so that a drawn split and the same images read from a
    published fold file have the same hash.
    """
    return hashlib.sha256(",".join(map(str, sorted(images.ids))).encode()).hexdigest()


def coverage(data: Labeled) -> dict[str, int]:
    """Return the number of boxes that are no crowd, per class."""
    counts = np.bincount(data.labels[~data.crowd], minlength=len(data.classes))
    return dict(zip(data.classes.names, counts.tolist()))


def describe(labeled: Labeled, unlabeled: int, cfg: SplitConfig | None) -> dict[str, Any]:
    """Return what a run folder's ``split.json`` says."""
    boxes = coverage(labeled)
    return {
        "family": cfg.family if cfg else None,
        "percent": cfg.percent if cfg else None,
        "fold": cfg.fold if cfg else None,
        "hash": split_hash(labeled.images),
        "labeled": len(labeled),
        "unlabeled": unlabeled,
        "boxes": boxes,
        "classes_without_boxes": [name for name, count in boxes.items() if count == 0],
    }


@dataclass(frozen=True)
class WrittenSplit:
    """Two files that ``write_splits`` wrote, and what ``describe`` says about them; as text, one line."""

    labeled: Path
    unlabeled: Path
    split: dict[str, Any]

    def __str__(self) -> str:
        empty, shots = len(self.split["classes_without_boxes"]), self.split.get("shots", 0)
        few = sum(0 < count < shots for count in self.split["boxes"].values())
        return (
            f"{self.labeled}: {self.split['labeled']} labelled, {self.split['unlabeled']} unlabelled images, "
            f"{empty} classes without a box, {f'{few} with fewer than {shots}, ' if few else ''}"
            f"sha256 {self.split['hash'][:12]}"
        )


def write_splits(
    ann: Path,
    percents: Sequence[float] | None,
    folds: Sequence[int],
    out: Path,
    family: Family = "without_replacement",
    *,
    file: Path | None = None,
    images: Path | None = None,
    shots: Sequence[int] | None = None,
) -> list[WrittenSplit]:
    """Write ``<ann>.{fold}@{percent}.json`` and ``...-unlabeled.json`` for every fold and percent.

    The labelled file has the drawn images with their annotations, masks included. The unlabelled one has all other
    images and the categories, and no annotation: what is not in a file cannot leak. Percents are written as the
    published scripts do, ``1@10``, and ``1@0.5`` where they are no whole number; boxes of each class as ``1@5shot``.

    Args:
        ann: a COCO JSON, e.g. ``instances_train2017.json``.
        percents: shares in per cent; None, or none, where there are ``shots``.
        folds: numbers of the draws.
        out: folder, made if need be; files of the same name are replaced.
        family: see the module's docstring.
        file: the index file of family ``index_file``.
        images: folder of the images, looked into only if the file does not state their sizes.
        shots: boxes of each class, see ``select_shots``.

    Raises:
        SsodError: the file is unsound, a split would be empty, or the disk refuses.
    """
    refuse_url(out)
    # Where boxes lie does not matter here, nor how many there are.
    rules = Rules(max_boxes_per_image=sys.maxsize, max_clip=math.inf, judge_boxes=False)
    ctx = Context(root="", section="data.labeled", rules=rules)
    more = {"family": family, "file": None if file is None else str(file)}
    configs = [
        read_section(SplitConfig, {"percent": percent, "fold": fold, **more}, "split", Source("command line", {}), {})
        for fold in folds
        for percent in percents or ()
    ]
    if not configs and not shots:
        raise SsodError(
            "command line", "--percent", "missing", "give a share, --percent 10, or boxes a class, --shots 5"
        )
    if min(shots or [1]) < 1:
        raise SsodError("command line", "--shots", f"{min(shots or ())} boxes of each class", "give 1 or more")
    data = read_coco(str(ann), str(images or ""), ctx)
    raw = json.loads(Path(ann).read_text("utf-8-sig"))
    written = []
    with _filled(out):
        for cfg in configs:
            parts = select(data, cfg, ctx)
            facts = describe(data.subset(parts[0]), len(parts[1]), cfg)
            written.append(_write_split(data, raw, *parts, out / f"{ann.stem}.{cfg.fold}@{cfg.percent:g}", facts))
        for fold, count in itertools.product(folds, shots or ()):
            parts = select_shots(data, count, fold)
            facts = describe(data.subset(parts[0]), len(parts[1]), None)
            facts |= {"family": "shots", "shots": count, "fold": fold}
            written.append(_write_split(data, raw, *parts, out / f"{ann.stem}.{fold}@{count}shot", facts))
    return written


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """Make a folder if there is none; it goes again where not one file could be written to it."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise atomic.refused(folder, error) from None
    finally:
        if new:
            with suppress(OSError):  # it is filled, or was never made
                folder.rmdir()


def _write_split(
    data: Labeled, raw: dict[str, Any], keeps: np.ndarray, loses: np.ndarray, stem: Path, facts: dict[str, Any]
) -> WrittenSplit:
    part = data.subset(keeps)
    ids = set(part.images.ids)
    own = [row for row in raw["annotations"] if row["image_id"] in ids]
    labeled, unlabeled = (stem.with_name(f"{stem.name}{end}") for end in (".json", "-unlabeled.json"))
    for path, rows, boxes in ((labeled, keeps, own), (unlabeled, loses, [])):
        images = [raw["images"][row] for row in rows]
        atomic.write_text(path, json.dumps({**raw, "images": images, "annotations": boxes}))
    return WrittenSplit(labeled, unlabeled, facts)
