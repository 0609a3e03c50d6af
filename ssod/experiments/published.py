"""The published tables, beside one's own rows where the protocol is the same.

``published.csv`` has one number a line, each with its source and how it is known: ``paper`` (as the paper, or a survey
quoting it, prints it), ``repository`` (the authors' README), ``figure`` (read off a drawing of the authors, by its
pixels), ``re-implemented by others``, ``quoted by another paper``, or ``recalled, not checked``. Numbers are per cent.
Published runs differ among each other in splits, evaluators and score thresholds (these move AP by about a point), so
they are references, and never ranked.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ssod.experiments.runs import Run

COCO_CLASSES, COCO_VAL = 80, 5000
COCO_PERCENTS = (1.0, 2.0, 5.0, 10.0)
VOC, VOC_COCO20 = "VOC 07+12", "VOC 07+12+COCO20"
VOC_COCO20_LIST = "voc12_coco20.txt"  # as configs/data/voc_coco20.yaml names it


@dataclass(frozen=True)
class Published:
    """One number.

    Attributes:
        method: as in ``ssod methods`` where the method is there; a variant in brackets.
        detector: as the source calls it.
        protocol: ``COCO 10 %``, ``COCO additional``, ``VOC 07+12``, ``VOC 07+12+COCO20``.
        metric: ``AP`` or ``AP50``.
        value: per cent.
        sd: over folds, per cent; None = not given.
        source: paper.
        kind: how the number is known.
    """

    method: str
    detector: str
    protocol: str
    metric: str
    value: float
    sd: float | None
    source: str
    kind: str


@cache
def published() -> tuple[Published, ...]:
    """Return every number of ``published.csv``."""
    with (files("ssod.experiments") / "published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Published(**{**row, "value": float(row["value"]), "sd": float(row["sd"]) if row["sd"] else None})
            for row in csv.DictReader(file)
        )


def protocol_of(run: Run) -> str | None:
    """Return which published protocol a run followed; None = none of them.

    COCO is recognised by its 80 classes and the name and size of val2017; VOC by its 20 classes, VOC 2007 as labelled
    and test set, and VOC 2012, alone or in the list with COCO's images, as unlabelled images. A supervised run needs no
    unlabelled images to follow a protocol.
    """
    data = run.config["data"]
    supervised = run.method == "supervised"
    val = data.get("val") or {}
    if len(run.classes) == COCO_CLASSES and {"person", "hair drier"} <= set(run.classes):
        images = len(run.table) if run.table is not None else COCO_VAL
        if images != COCO_VAL or "instances_val2017" not in str(val.get("ann")):
            return None
        extra = data.get("unlabeled")
        if run.percent in COCO_PERCENTS and (extra is None or "@" in str(extra.get("ann", ""))):
            return f"COCO {run.percent:g} %"
        whole = run.percent in (None, 100.0) and "instances_train2017.json" in str(data["labeled"].get("ann"))
        additional = whole and ("unlabeled2017" in str(extra) or (supervised and extra is None))
        return "COCO additional" if additional else None
    if len(run.classes) == 20 and {"aeroplane", "tvmonitor"} <= set(run.classes):
        roots = [str((data.get(part) or {}).get("root", "")) for part in ("labeled", "val")]
        if val.get("split") != "test" or data.get("split") is not None or not all("VOC2007" in root for root in roots):
            return None
        extra = data.get("unlabeled") or {}
        if str(extra.get("path", "")).endswith(VOC_COCO20_LIST):
            return VOC_COCO20
        return VOC if supervised or "VOC2012" in str(extra.get("root", "")) else None
    return None


def references(runs: Sequence[Run]) -> list[Published]:
    """Return the published numbers of the one protocol that all ``runs`` followed, the highest AP last."""
    protocols = {protocol_of(run) for run in runs}
    if VOC_COCO20 in protocols and all(run.method == "supervised" for run in runs if protocol_of(run) == VOC):
        protocols -= {VOC}  # baselines, which see the same labels and neither's unlabelled images
    if len(protocols) != 1 or None in protocols:
        return []
    (protocol,) = protocols
    return sorted((row for row in published() if row.protocol == protocol), key=lambda row: (row.metric, row.value))
