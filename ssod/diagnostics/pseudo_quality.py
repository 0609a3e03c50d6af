"""What the teacher believes about a fixed set of unlabelled images, looked at after each evaluation.

This is the one place that reads the hidden truth of unlabelled images. Training cannot: its loader is given
``DataSets.unlabeled``, whose type has no box field, and nothing that is computed here is ever read by a method, a loss
or a loader; tests/diagnostics/test_pseudo_quality.py trains with true and with false hidden boxes and compares the
weights bit for bit. The method is left as it was found: score banks that ``label`` fills are put back.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssod.config import Config
from ssod.data.datasets import DataSets
from ssod.data.formats.coco import to_coco
from ssod.data.formats.records import Images, Labeled
from ssod.data.label_statistics import label_statistics
from ssod.data.loading.loader import Loading, train_batches
from ssod.data.loading.sampling import Place, Sampling
from ssod.detectors.decode import DecodeConfig
from ssod.diagnostics import gallery, tile_truth
from ssod.diagnostics.pseudofile import Pseudo, read_pseudo, save_pseudo
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.evaluation import matching
from ssod.evaluation.columns import Found
from ssod.evaluation.matching import MOST, match, mean_ap
from ssod.methods.base import Method
from ssod.structures import Batch, Targets, View
from ssod.structures.boxes import warp
from ssod.utils import collective, distributed, progress
from ssod.utils.device import autocast
from ssod.utils.errors import SsodError
from ssod.utils.seeding import seed_step


@dataclass
class _Seen:
    """The teacher's output on the fixed set: COCO results, and the rows that its assigner would train.

    ``chooses`` is False for a method that makes no pseudo-boxes; ``shown`` are some of the images, for trackers.
    """

    kept: list[dict]
    all: list[dict]
    rows: list[np.ndarray]
    chooses: bool = True
    shown: list[gallery.Shown] = field(default_factory=list)
    parts: dict[Any, np.ndarray] = field(default_factory=dict)  # of images, where views show tiles


class Diagnose:
    """Called by the loop after each evaluation of the teacher.

    Saves the evaluation's matched detections (``eval/step_N.npz``) and, for methods with pseudo-labels, what they say
    about the fixed set (``eval/step_N.pseudo.npz``).

    Args:
        cfg: the run's.
        data: the same data sets as training has, hidden truth included.
        folder: of the run.
    """

    def __init__(self, cfg: Config, data: DataSets, folder: RunFolder) -> None:
        self.cfg, self.folder, self.labeled = cfg, folder, data.labeled
        self.images, self.hidden = fixed_set(data, cfg.eval.diagnose, cfg.eval.batch)
        self.categories = [{"id": i, "name": n} for i, n in enumerate(data.classes.names)]
        self._evaluated: tuple[dict[str, Any], Found] | None = None
        wanted = self.images is not None and cfg.train.trackers and collective.rank() == 0
        self._gallery = gallery.spread(self.images.ids) if wanted else set()
        self._shown: list[gallery.Shown] = []  # of the last look, in the order of the images

    def keep(self, truth: dict[str, Any], found: Found) -> None:
        """Take note of an evaluation's truth and detections; called on rank 0, the teacher's come first."""
        self._evaluated = truth, found

    def __call__(self, step: int, method: Method) -> dict[str, float]:
        """Save and measure; return what belongs into the log, the same on every rank."""
        distributed.on_rank_zero(partial(self._save_matches, step, method.teacher.model.decode))
        if not method.uses_unlabeled or self.images is None:
            return {}
        seed_step(self.cfg.train.seed, step, 0)
        with untouched(method):
            seen = self._look(step, method)
        self._shown = sorted(seen.shown, key=lambda shown: self.images.ids.index(shown.id))
        return distributed.on_rank_zero(lambda: self._measure(step, seen))

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Return what trackers are shown of the evaluation after ``step``, [H, W, 3] uint8 by name, on rank 0.

        The charts are drawn from the files that the report reads; the gallery has images of the same look.
        """
        from ssod.diagnostics import plots  # matplotlib takes a second to import

        table, look = (self.folder.eval / f"step_{step}{end}" for end in (".npz", ".pseudo.npz"))
        kept = matching.read(table) if table.exists() else None, read_pseudo(look) if look.exists() else None
        found = {f"figures/{name}": plots.render(chart) for name, chart in plots.charts(*kept).items()}
        return found | {f"gallery/{i}": gallery.draw(shown) for i, shown in enumerate(self._shown)}

    def _save_matches(self, step: int, decode: DecodeConfig) -> None:
        if self._evaluated is not None:
            most = max(MOST, decode.detections)
            table = match(*self._evaluated, self.cfg.eval.metric, decode.score, most)
            _save(matching.save, self.folder.eval / f"step_{step}.npz", table)
            self._evaluated = None

    # ---- looking ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _look(self, step: int, method: Method) -> _Seen:
        """Let the method label the fixed set as it would at ``step``; every rank does the same work."""
        seen = _Seen([], [], [])
        device, rows = next(method.parameters()).device, 0
        views = same_views(self.cfg, self.labeled, self.images)
        for batch in progress.passing(views, "pseudo-labels", len(self.images), lambda batch: len(batch.weak)):
            batch = batch.to(device)
            with autocast(device, self.cfg.train.precision):
                labels = method.labels(batch, step)
                out, pseudo, detections = labels.teacher, labels.pseudo, labels.teacher.detections()
                seen.chooses = pseudo is not None
                boxes = [t[:0] for t in detections] if pseudo is None else pseudo.cls
                rows_of = out if out.stages else method.teacher.predict(batch.weak)  # a file has boxes alone
                p, a = next(iter(method.teacher.model.assign(rows_of, boxes).values()))
            seen.kept += _results(batch.weak, boxes)
            seen.all += _results(batch.weak, detections)
            seen.parts |= tile_truth.parts_shown(batch.weak) if self.cfg.views.tiles is not None else {}
            if self._gallery.intersection(batch.weak.ids):
                shown = gallery.show(batch, detections, pseudo, self.hidden)
                seen.shown += [image for image in shown if image.id in self._gallery]
            chosen = torch.nonzero(a.fg if a.matched is None else a.matched >= 0).flatten()
            seen.rows.append(torch.stack([chosen + rows, a.labels()[chosen]], 1).cpu().numpy())
            rows += len(p)
        return seen

    # ---- measuring -------------------------------------------------------------------------------------------------

    def _measure(self, step: int, seen: _Seen) -> dict[str, float]:
        """Compare with the hidden truth, and with the teacher of the evaluation before."""
        truth = self._truth(seen.parts)
        kept, all_ = match(truth, seen.kept, "coco"), match(truth, seen.all, "coco")
        now = Pseudo(
            ids=list(self.images.ids),
            classes=[c["name"] for c in self.categories],
            known=self.hidden is not None,
            boxes=seen.kept,
            rows=np.concatenate(seen.rows),
            score=all_.score,
            iou=all_.iou,
            right=all_.right[:, 0],
            counted=all_.counted[:, 0],
        )
        found = counts(kept, truth, now.known) | self._changes(step, now) | self._labels()
        _save(save_pseudo, self.folder.eval / f"step_{step}.pseudo.npz", now)
        return found if seen.chooses else {}  # 0 boxes that nobody wanted say nothing

    def _truth(self, parts: dict[Any, np.ndarray]) -> dict[str, Any]:
        """Return the hidden truth in COCO layout with labels as ids, or no boxes at all."""
        images = [{"id": i} for i in self.images.ids]
        annotations = []
        if self.hidden is not None:
            table = to_coco(tile_truth.within(self.hidden, parts) if parts else self.hidden)
            label = {id: k for k, id in enumerate(self.hidden.classes.ids)}
            annotations = [{**row, "category_id": label[row["category_id"]]} for row in table["annotations"]]
        return {"images": images, "annotations": annotations, "categories": self.categories}

    def _labels(self) -> dict[str, float]:
        """Return labelled boxes per labelled image of each class, to hold the kept ones against."""
        known, names = label_statistics(self.labeled, self.cfg.views.tiles), [one["name"] for one in self.categories]
        return {f"labeled/boxes/{name}": count / known.images for name, count in zip(names, known.boxes.tolist())}

    def _changes(self, step: int, now: Pseudo) -> dict[str, float]:
        """Compare with the latest earlier look at the same images."""
        before = previous(self.folder.eval, step)
        if before is None or before.ids != now.ids:
            return {}
        old = {"images": [{"id": i} for i in now.ids], "annotations": before.boxes, "categories": self.categories}
        agreement = mean_ap(match(old, now.boxes, "coco"))[0]
        return {"pseudo/inconsistency": float(1 - agreement), "pseudo/churn": churn(before.rows, now.rows)}


def fixed_set(data: DataSets, most: int, batch: int) -> tuple[Images | None, Labeled | None]:
    """Return up to ``most`` unlabelled images, evenly spread over the set, and their hidden truth if there is one.

    They are images whose truth is complete; where none is, it is none.
    More than ``batch`` of them are cut to whole batches: each is looked at once, and none counts that is not.
    """
    if data.unlabeled is None or not len(data.unlabeled) or not most:
        return None, None
    known = [] if data.hidden is None else data.hidden.complete()
    rows = known if len(known) else np.arange(len(data.unlabeled))
    count = min(most, len(rows))
    count -= count % min(batch, count)
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]
    return data.unlabeled.subset(chosen), data.hidden.subset(chosen) if len(known) else None


def same_views(cfg: Config, labeled: Labeled, images: Images) -> Iterator[Batch]:
    """Show each of ``images``, a ``fixed_set``, always in the same weak and strong views; a mosaic has one alone."""
    size = min(cfg.eval.batch, len(images))
    sampling = Sampling(labeled=1, unlabeled=size, seed=cfg.train.seed)
    steps, loading = range(len(images) // size), Loading(0, cfg.data.reader())
    return train_batches(labeled, images, cfg.views, sampling, steps, loading, Place(), others=False)


@contextlib.contextmanager
def untouched(method: Method) -> Iterator[None]:
    """Put a method's own buffers and statistics back afterwards; the models' weights are not written by looking."""
    own = [
        (module, name, buffer)
        for path, module in method.named_modules()
        if path.split(".")[0] not in ("student", "teacher", "given")
        for name, buffer in module.named_buffers(recurse=False)
    ]
    before, stats = [buffer.clone() for _, _, buffer in own], method.stats
    try:
        yield
    finally:
        method.stats = stats
        for (module, name, buffer), value in zip(own, before):
            if buffer.shape == value.shape:
                buffer.copy_(value)
                setattr(module, name, buffer)
            else:
                setattr(module, name, value)


def counts(kept: matching.Matches, truth: dict[str, Any], known: bool) -> dict[str, float]:
    """Return boxes per image, and precision and recall at IoU 0.5, of all classes and of each.

    Without hidden truth there are boxes per image alone.
    """
    images = len(kept)
    found = {"pseudo/kept": len(kept.label) / images}
    per_class = np.bincount(kept.label, minlength=len(kept.classes)) / images
    found |= {f"pseudo/kept/{name}": float(count) for name, count in zip(kept.classes, per_class)}
    if not known:
        return found
    wanted = kept.wanted.sum(0)
    found["pseudo/true"] = float(wanted.sum() / images)
    right, counted = kept.right[:, 0], kept.counted[:, 0]
    for k, name in [(None, ""), *((k, f"/{name}") for k, name in enumerate(kept.classes))]:
        mine = np.ones(len(right), bool) if k is None else kept.label == k
        total, hits = int((counted & mine).sum()), int((right & mine).sum())
        boxes = int(wanted.sum() if k is None else wanted[k])
        found[f"pseudo/precision{name}"] = hits / total if total else float("nan")
        found[f"pseudo/recall{name}"] = hits / boxes if boxes else float("nan")
    return found


def churn(before: np.ndarray, now: np.ndarray) -> float:
    """Return the share of foreground rows that changed: 1 - |same row, same label| / |row is foreground in either|.

    Args:
        before, now: [F, 2] row number and label of the foreground rows; rows are the same as long as the views are.
    """
    old, new = set(map(tuple, before.tolist())), set(map(tuple, now.tolist()))
    either = {row for row, _ in old | new}
    return 1 - len(old & new) / len(either) if either else 0.0


def previous(folder: Path, step: int) -> Pseudo | None:
    """Return the latest look that was saved before ``step``."""
    found = (re.fullmatch(r"step_(\d{1,18})\.pseudo\.npz", path.name, re.ASCII) for path in folder.glob("step_*"))
    earlier = [number for number in (int(match[1]) for match in found if match) if number < step]
    return read_pseudo(folder / f"step_{max(earlier)}.pseudo.npz") if earlier else None


def _save(save: Callable[[Path, Any], None], path: Path, content: Any) -> None:
    """Save what the report reads, or say that it cannot be done: training does not need it."""
    try:
        save(path, content)
    except SsodError as error:
        logging.getLogger("ssod").warning("%s; training goes on without it", error)


def _results(view: View, found: list[Targets]) -> list[dict]:
    """Return boxes as COCO results in pixels of the original images, labels as category ids.

    Boxes with a side of one pixel or less are left out, as on the way to the student (``Pseudo.move``).
    """
    rows = []
    back = torch.linalg.inv(view.matrix.cpu().double())
    for image, targets, matrix in zip(view.ids, found, back):
        targets = targets.to("cpu")
        targets = targets[(targets.boxes[:, 2:] - targets.boxes[:, :2]).amin(1) > 1]
        boxes = warp(targets.boxes.double(), matrix)
        xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
        scores = [1.0] * len(boxes) if targets.scores is None else targets.scores.tolist()
        for box, label, score in zip(xywh, targets.labels.tolist(), scores):
            rows.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    return rows
