"""The composition root: the only file that knows every part and puts them together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssod.config import Config
from ssod.data import datasets
from ssod.data.checks.decoded import Decode, refuse_undecodable
from ssod.data.checks.visible import Visible
from ssod.data.datasets import DataSets
from ssod.data.formats.coco import to_coco
from ssod.data.formats.findings import Findings
from ssod.data.formats.records import Labeled
from ssod.data.label_statistics import label_statistics
from ssod.data.loading.loader import Loading, train_batches
from ssod.data.loading.sampling import Place, Sampling
from ssod.data.loading.tiled import val_views
from ssod.data.loading.workers import reading
from ssod.data.objects import check_measurable
from ssod.detectors.build import build as build_detector
from ssod.detectors.d2.config import D2Config
from ssod.diagnostics.pseudo_quality import Diagnose
from ssod.engine.checkpointing import checkpoint
from ssod.engine.checkpointing.burn_in import BurnIn
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.engine.trainer import Trainer
from ssod.evaluation.coco import coco_metrics
from ssod.evaluation.columns import Found
from ssod.evaluation.matching import MOST
from ssod.evaluation.measure import evaluate as measure
from ssod.evaluation.merge_tiles import Merging
from ssod.evaluation.voc import voc_metrics
from ssod.labelers import from_config as labelers
from ssod.methods import burn_in
from ssod.methods.base import Method
from ssod.methods.registry import find
from ssod.pseudo_labels import threshold
from ssod.structures import Batch, Detector
from ssod.transforms import raster
from ssod.utils import collective, distributed
from ssod.utils.errors import Exit, SsodError
from ssod.version import __version__

TAUGHT = "pseudo-labels"  # the phase in which unlabelled images teach


def read_data(cfg: Config, decode: Decode | None = "none") -> DataSets:
    """Read the data of a config and print each kind of thing that was repaired or left out in it.

    Args:
        cfg: the run's.
        decode: which val images to decode; each process of a job takes its share.

    Raises:
        SsodError: what is wrong with the data, or a batch that it cannot fill.
    """
    findings = Findings()
    data = load_data(cfg, findings)
    check_batch(cfg, data)
    if data.val is not None:
        check_measurable(cfg.eval.metric, data.val)
    for part, images in (("labeled", data.labeled), ("val", data.val)):
        if images is not None:
            ctx = datasets.context(cfg.data, findings)(part)
            file = datasets.name_of(getattr(cfg.data, part), ctx)
            visible(cfg).check(part, images, file, ctx)
            if part == "val":
                refuse_undecodable(images.images, Place.here().part(len(images)), file, ctx, decode)
    if collective.rank() == 0:
        for line in findings.kinds():
            print(line)
    return data


def visible(cfg: Config) -> Visible:
    """Return what objects the views and the detector of a config can show and find."""
    return Visible(cfg.views, MOST if isinstance(cfg.detector, D2Config) else cfg.detector.decode.detections)


def load_data(cfg: Config, findings: Findings | None = None) -> DataSets:
    """Read all that a config trains on: its ``data`` section, and the boxes of a file that labels.

    Raises:
        SsodError: what is wrong with the data.
    """
    findings = Findings() if findings is None else findings
    return labelers.with_boxes(cfg, datasets.load(cfg.data, findings), findings)


def build(
    cfg: Config, data: DataSets, folder: RunFolder, allow_change: Sequence[str] = (), from_burn_in: Path | None = None
) -> Trainer:
    """Build detector and method, and return a trainer that has everything but the first step."""
    goes_on = checkpoint.exists(folder.checkpoints)  # from a state that has all weights: the first file may be gone
    method = distributed.together(partial(build_method, cfg, data, pretrained=not goes_on))
    return Trainer(method, cfg.train, Parts(cfg, data, folder, allow_change, from_burn_in))


class Parts:
    """The parts of a run as a config describes them; see ``engine.parts.RunParts``."""

    def __init__(
        self,
        cfg: Config,
        data: DataSets,
        folder: RunFolder,
        allow_change: Collection[str] = (),
        from_burn_in: Path | None = None,
    ) -> None:
        self.cfg, self.data, self.folder, self.allow_change = cfg, data, folder, allow_change
        resolved, classes = cfg.dump(), {"names": list(data.classes.names), "ids": list(data.classes.ids)}
        fixed = [] if cfg.method.restart_at is None else ["method.burn_in"]  # a run starts afresh once
        self.identity = {"config": resolved, "classes": classes, "data": data.fingerprint, "fixed": fixed}
        self.identity["pixels"] = raster.libraries()
        self.card = {
            "detector": resolved["detector"],
            "classes": classes,
            "val_view": resolved["views"]["val"],
            **{key: resolved["views"][key] for key in ("tiles",) if key in resolved["views"]},
            "pixels": {"levels": cfg.data.levels, "alpha": cfg.data.alpha},
            "method": cfg.method.name,
            "split_hash": data.split.get("hash"),
            "version": __version__,
        }
        self.evaluates = data.val is not None
        self.burn_in = BurnIn(burn_in.ends(cfg.method), self._deciding, from_burn_in, burn_in.plateau(cfg.method))
        self.diagnosis = Diagnose(cfg, data, folder)
        self._measure = evaluator(cfg, data.val, keep=self.diagnosis.keep) if data.val is not None else None

    def _deciding(self, step: int) -> dict[str, Any]:
        own = burn_in.deciding(self.identity["config"], self.cfg.method, step)
        data = {"classes": self.identity["classes"], "data": self.data.fingerprint_labeled}
        return own | data | {"world_size": collective.world_size()}

    def begin(self) -> list[str]:
        """Write what says what runs, and return it in words."""
        cfg, data, folder = self.cfg, self.data, self.folder
        folder.write_inputs(cfg.dump(), data.split, raster.libraries())
        distributed.on_rank_zero(lambda: folder.write_json(folder.path / "origins.json", origins(cfg)))
        parts = {"labelled": data.labeled, "val": data.val}
        if find(cfg.method.name).uses_unlabeled:
            parts = {"labelled": data.labeled, "unlabelled": data.unlabeled, "val": data.val}
        counts = ", ".join(f"{len(images)} {part}" for part, images in parts.items() if images is not None)
        device, world = distributed.pick_device(cfg.train.device).type, collective.world_size()
        where = device if world == 1 else f"{world} x {device}"
        return [
            f"{cfg.method.name}, {cfg.detector.name} on {where}: {counts} images, {len(data.classes)} classes",
            *([labelers.first_line(cfg, data)] if labelers.wanted(cfg) is not None else []),
            f"run folder: {folder.path}",
        ]

    def batches(self, start: int, ahead: int = 0) -> Generator[Batch, None, None]:
        """Return the training batches from step ``start`` on, of a run whose burn-in was ``ahead`` steps shorter."""
        return batches(self.cfg, self.data, start, ahead)

    def phase(self, step: int) -> str:
        """Name what a step does, for the log."""
        return phase(self.cfg, step)

    def evaluate(self, detector: Detector) -> dict[str, float]:
        """Measure a detector on the val images."""
        return self._measure(detector)

    def diagnose(self, step: int, method: Method) -> dict[str, float]:
        """Save what the evaluation of the teacher found, and look at its pseudo-labels."""
        return self.diagnosis(step, method)

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Draw that evaluation for trackers, [H, W, 3] uint8 by name."""
        return self.diagnosis.pictures(step)


def phase(cfg: Config, step: int) -> str:
    """Name what a step does: ``burn-in 336/2000``, ``ssod``."""
    if not find(cfg.method.name).uses_unlabeled:
        return "supervised"
    burn_in, unsup_start = cfg.method.burn_in, cfg.method.unsup_start
    if step < burn_in:
        return f"burn-in {step}/{burn_in}"
    return f"labels only {step}/{unsup_start}" if step < unsup_start else TAUGHT


def origins(cfg: Config) -> dict[str, Any]:
    """Return who set each key, and which of the files is the base; a report shows what a run changes in it."""
    files = [file for file in dict.fromkeys(cfg.origins.values()) if file != "command line"]
    base = next((file for file in files if Path(file).stem != cfg.stem), "")
    return {"base": base, "keys": cfg.origins}


def build_method(cfg: Config, data: DataSets, *, pretrained: bool = True) -> Method:
    """Build a method around a freshly initialised detector; its weights depend on ``train.seed`` alone.

    Args:
        cfg: the run's.
        data: from ``load_data``.
        pretrained: False is for those who load a state of their own: the file to start from may be gone by then.
    """
    torch.manual_seed(cfg.train.seed)
    classes = data.classes.names
    detector = build_detector(cfg.detector, len(classes), pretrained=pretrained, classes=classes)
    method = find(cfg.method.name)(detector, cfg.method)
    method.see_labels(label_statistics(data.labeled, cfg.views.tiles))
    method.see_batch(cfg.train.batch.unlabeled // collective.world_size())
    threshold.divide(method, cfg.train.accumulate)
    labeler = labelers.build_labeler(cfg, data, pretrained=pretrained)
    if labeler is not None:
        method.use_labeler(labeler)
    return method


def batches(cfg: Config, data: DataSets, start: int, ahead: int = 0) -> Generator[Batch, None, None]:
    """Return the training batches from step ``start`` on, to be closed as ``train_batches`` says; see ``RunParts``."""
    train, unlabeled = cfg.train, find(cfg.method.name).uses_unlabeled
    sampling = Sampling(
        labeled=train.batch.labeled,
        unlabeled=train.batch.unlabeled if unlabeled else 0,
        seed=train.seed,
        unlabeled_from=cfg.method.burn_in - ahead if find(cfg.method.name).uses_unlabeled else 0,
        accumulate=train.accumulate,
        group_by_aspect=cfg.views.group_by_aspect,
    )
    return train_batches(
        data.labeled,
        data.unlabeled if unlabeled else None,
        cfg.views,
        sampling,
        range(start, train.steps),
        Loading(train.workers, cfg.data.reader()),
        Place.here(),
        on_bad=lambda error: logging.getLogger("ssod").warning(f"left out, another image takes its place: {error}"),
    )


def evaluator(
    cfg: Config,
    truth: Labeled,
    *,
    score: float | None = None,
    keep: Callable[[dict, Found], None] | None = None,
) -> Callable[[Detector], dict[str, float]]:
    """Return what measures a detector on ``truth``, with the config's metric, seen through its view.

    ``keep`` is handed truth and detections on rank 0, before they are measured.
    """
    table = to_coco(truth)
    images = truth.images
    if images.sizes is not None:  # neighbours of one size share a batch
        images = images.subset(np.lexsort(images.sizes.T))
    known = {"coco": coco_metrics, "voc": voc_metrics, "voc07": partial(voc_metrics, eleven_points=True)}
    metrics = known[cfg.eval.metric]

    def measured(truth: dict, found: Found, most: int) -> dict[str, float]:
        if keep is not None:
            keep(truth, found)
        return metrics(truth, found, most) if cfg.eval.metric == "coco" else metrics(truth, found)

    def run(detector: Detector) -> dict[str, float]:
        count, merging = partial(measured, most=max(MOST, detector.decode.detections)), Merging.of(detector.decode)
        how = {"device": detector.device, "precision": cfg.train.precision, "score": score}
        seen = val_views(images, cfg.views, cfg.eval.batch, Loading(cfg.train.workers, cfg.data.reader()), Place.here())
        with reading(seen):
            return measure(detector, seen, table, merging, metrics=count, **how)

    return run


def check_batch(cfg: Config, data: DataSets) -> None:
    """Refuse a batch that is larger than the set it is drawn from, or too small to mix images of."""
    wanted: dict[str, tuple[int, int]] = {"labeled": (cfg.train.batch.labeled, len(data.labeled))}
    if find(cfg.method.name).uses_unlabeled:
        wanted["unlabeled"] = (cfg.train.batch.unlabeled, len(data.unlabeled or ()))
    for name, (batch, have) in wanted.items():
        if have == 0:
            problem = f"0 images, method '{cfg.method.name}' needs at least {batch}"
            raise SsodError("config", f"data.{name}", problem, "check path and split", code=Exit.DATA)
        if batch > have:
            raise SsodError("config", f"train.batch.{name}", f"{batch} > {have} images", f"lower it to {have} or less")
    mix = cfg.method.mix if find(cfg.method.name).uses_unlabeled else None
    parts = collective.world_size() * cfg.train.accumulate
    if mix is not None and cfg.train.batch.labeled < mix.partners * parts:
        problem = f"{cfg.train.batch.labeled} images for {parts} micro-batches, method.mix needs {mix.partners} in each"
        fix = f"raise it to {mix.partners * parts}"
        fix += ", or set method.mix.tiles=2" if mix.partners > 1 else ""
        raise SsodError("config", "train.batch.labeled", problem, fix)
