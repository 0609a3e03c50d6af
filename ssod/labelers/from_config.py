"""Who labels in the place of the average, from a config: the part of the composition root that knows other teachers."""

from __future__ import annotations

import torch

from ssod.config import Config
from ssod.data.datasets import DataSets
from ssod.data.formats.findings import Context, Findings
from ssod.data.stored import Stored, read_stored
from ssod.detectors.build import build as build_detector
from ssod.detectors.build import load_trained
from ssod.inference.weights_file import weights_file
from ssod.methods.config import FileTeacher, TeacherConfig
from ssod.methods.registry import find
from ssod.methods.teachers import FromFile, Frozen
from ssod.structures import Targets
from ssod.transforms.views import takes_others
from ssod.utils.errors import Exit, SsodError


def wanted(cfg: Config) -> TeacherConfig | None:
    """Return the teacher that the config names, or None where the average labels, or nobody."""
    return cfg.method.teacher if find(cfg.method.name).uses_unlabeled else None


def with_boxes(cfg: Config, data: DataSets, findings: Findings) -> DataSets:
    """Read the boxes of a file that labels, if one does.

    Raises:
        SsodError: code 3, what is wrong with the file; code 2, views that the file does not know all boxes of.
    """
    teacher = wanted(cfg)
    if not isinstance(teacher, FileTeacher) or data.unlabeled is None:
        return data
    if takes_others(cfg.views.unlabeled, "weak"):
        problem = "puts other images into the view, and a file says what is in one image"
        raise SsodError("config", "views.unlabeled.weak", f"'mosaic' {problem}", "remove it, or method.teacher")
    if cfg.views.tiles is not None:
        problem = "parts of a file's boxes that a tile cuts would teach as objects"
        raise SsodError("config", "views.tiles", problem, "remove it, or method.teacher")
    ctx = Context("", "method.teacher.results", cfg.data.rules(), findings)
    stored = read_stored(teacher.results, data.unlabeled, data.classes, ctx)
    lost = len(data.unlabeled) - len(stored)
    if cfg.method.blends_unlabeled and lost:
        problem = f"{lost} unlabelled images have no entry, and '{cfg.method.name}' puts several images into a picture"
        fix = "list them, in an annotation file if nothing is in them, or leave them out of data.unlabeled"
        raise SsodError(teacher.results, "", problem, fix, code=Exit.DATA)
    return data.with_stored(stored)


def build_labeler(cfg: Config, data: DataSets, *, pretrained: bool = True) -> Frozen | FromFile | None:
    """Return who labels in the place of the average, or None.

    Args:
        cfg: the run's.
        data: from ``build.load_data``.
        pretrained: False leaves a frozen detector without its weights, for those who load a state that has them.

    Raises:
        SsodError: the weights are absent, do not fit, or are of other classes.
    """
    teacher = wanted(cfg)
    if teacher is None:
        return None
    if isinstance(teacher, FileTeacher):
        return from_file(data.stored, teacher.until)
    classes = data.classes.names
    detector = build_detector(cfg.detector, len(classes), pretrained=False, classes=classes)
    if pretrained:
        load_trained(detector, cfg.detector, weights_file(teacher.weights), classes)
    return Frozen(detector)


def from_file(stored: Stored, until: int | None) -> FromFile:
    """Put what was read of a file into the teacher that tells it."""
    table = Targets(
        torch.from_numpy(stored.boxes),
        torch.from_numpy(stored.labels),
        torch.from_numpy(stored.scores),
        weight=torch.from_numpy(~stored.crowd).float() if stored.crowd.any() else None,
    )
    return FromFile(stored.ids, table, stored.starts.tolist(), until)


def first_line(cfg: Config, data: DataSets) -> str:
    """Say who labels in the place of the average."""
    teacher, stored = wanted(cfg), data.stored
    if stored is None:
        return f"labels: a detector that never changes, {teacher.weights}"
    until = "" if teacher.until is None else f" until step {teacher.until}"
    lost = len(data.unlabeled) - len(stored)
    message = (
        f"labels{until}: {len(stored.boxes)} boxes for {len(stored)} of {len(data.unlabeled)} unlabelled images in "
    )
    message += stored.file
    return f"{message}; {lost} without an entry, and so without a label" if lost else message
