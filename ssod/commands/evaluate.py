"""``ssod eval``: measure saved weights on a validation set, and on nothing else that a config names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from ssod.build import evaluator, visible
from ssod.commands.measured import Measured
from ssod.config import Config, load
from ssod.data import datasets
from ssod.data.datasets import DataConfig
from ssod.data.formats.findings import Findings
from ssod.data.formats.records import Labeled
from ssod.data.objects import check_measurable
from ssod.detectors.build import build as build_detector
from ssod.evaluation import cutoffs
from ssod.evaluation.columns import Found, Truth
from ssod.evaluation.cutoffs import PRECISION, Cutoff
from ssod.evaluation.matching import MOST, Matches, match
from ssod.inference.graph import MEASURE, GraphDetector, check_floor
from ssod.inference.label_limits import check_precision
from ssod.inference.model import Model, check_score
from ssod.inference.model import load as load_model
from ssod.structures import Detector
from ssod.utils import distributed, graph_file
from ssod.utils.errors import SsodError
from ssod.utils.printing import console, percent
from ssod.utils.progress import screen

# What a change on the command line can mean for weights that are trained already, and what of that it cannot.
COUNTS = (
    *("data", "eval", "detector.decode", "views.val", "views.tiles"),
    *("train.device", "train.workers", "train.precision"),
)
IDLE = ("data.labeled", "data.unlabeled", "data.split", "eval.diagnose")


@dataclass(frozen=True, eq=False)
class Evaluated(Measured):
    """What saved weights reach on a validation set: metrics by name, ``found["AP"]``, and what they stand on.

    Attributes:
        metrics: fractions in 0..1; NaN where there is nothing to find.
        weights: as they were named.
        step: of the training, at which they were saved; None where the file does not say it.
        images: how many were measured on.
        score: detections above it count.
        precision: share of the boxes of a class that is to be right from its cutoff on, 0..1.
        cutoffs: the lowest such score of each class; empty where no matches were kept.
    """

    weights: Path
    step: int | None
    images: int
    score: float
    precision: float
    cutoffs: tuple[Cutoff, ...]


def evaluate(
    weights: Path,
    *,
    data: Path | None = None,
    score: float | None = None,
    precision: float = PRECISION,
    overrides: Sequence[str] = (),
) -> Evaluated:
    """Measure saved weights and print the metrics, and from which score on the boxes of a class are right often enough.

    Detector and view are those that the model was saved with, whatever the config says.

    Args:
        weights: a model file, a run folder that holds one, or an exported graph.
        data: config whose ``data.val`` to measure on; None = the run's own. No other data has to be there.
        score: lowest score of a detection; None = the detector's own. It moves AP by about a point.
        precision: what is often enough, 0..1; see ``ssod.evaluation.cutoffs``.
        overrides: ``key.path=value`` for what ``COUNTS`` lists; ``detector.decode``, ``views.val`` and
            ``views.tiles`` change the model's own.

    Returns:
        The metrics by name, fractions in 0..1, NaN where there is nothing to find; and what they stand on.

    Raises:
        SsodError: no config or no validation set, an override without effect, classes that are not the model's; of a
            graph also a score below its own.
    """
    weights = Path(weights)
    check_score(score)
    check_precision(precision)
    changes = _effective(overrides)
    model = load_model(weights, "auto" if graph_file.is_graph(weights) else "cpu")
    if isinstance(model.detector, GraphDetector):
        _refuse_baked(weights, changes)
        check_floor(weights, model.detector.floor if score is None else score, model.detector.floor)
    source = _config_of(weights, data)
    own = {
        "detector": model.card["detector"],
        "views.val": model.card["val_view"],
        "views.tiles": model.card.get("tiles"),
    }
    cfg = load(source, overrides, replaced=own)
    cfg = replace(cfg, data=_read_alike(cfg.data, model))
    val = _val(source, cfg, model)
    if isinstance(model.detector, GraphDetector):
        detector, cfg = _graph(weights, model.detector, cfg)
    else:
        detector = _detector(model, cfg, changes)
    least = detector.decode.score if score is None else score
    tables: list[Matches] = []

    def keep(truth: Truth, rows: Found) -> None:
        tables.append(match(truth, rows, cfg.eval.metric, least, max(MOST, detector.decode.detections)))

    with screen():
        metrics = evaluator(cfg, val, score=score, keep=keep)(detector)
    limits = [cutoff for table in tables for cutoff in cutoffs.cutoffs(table, precision)]
    found = Evaluated(metrics, weights, model.card.get("step"), len(val), least, precision, tuple(limits))
    _show(found)
    return found


def _val(source: Path, cfg: Config, model: Model) -> Labeled:
    """Return the images to measure on, and print what is to be said of them."""
    val = datasets.load_measured(cfg.data, model.classes)
    if val is None:
        raise SsodError(source, "data.val", "missing", "name images with boxes to measure on")
    check_measurable(cfg.eval.metric, val)
    findings = Findings()
    ctx = datasets.context(cfg.data, findings)("val")
    visible(cfg).check("val", val, datasets.name_of(cfg.data.val, ctx), ctx)
    for line in findings.kinds():
        print(line)
    return val


def _detector(model: Model, cfg: Config, changes: Sequence[str]) -> Detector:
    """Return the detector of weights, as the command line changes it, where the config says that it runs."""
    detector = model.detector
    if any(_below(key, ("detector",)) for key in changes):
        detector = build_detector(cfg.detector, len(model.classes), pretrained=False)
        detector.load_state_dict(model.detector.state_dict())
    return detector.to(distributed.pick_device(cfg.train.device)).eval().requires_grad_(False)


def _graph(weights: Path, graph: GraphDetector, cfg: Config) -> tuple[GraphDetector, Config]:
    """Return the graph where the config says that it runs, and the config with numbers as they are in the graph."""
    device = cfg.train.device
    there = load_model(weights, distributed.pick_device(device)).detector if device != "auto" else graph
    assert isinstance(there, GraphDetector)
    print(there.line())
    return there, replace(cfg, train=cfg.train.model_copy(update={"precision": "fp32"}))


def _refuse_baked(weights: Path, changes: Sequence[str]) -> None:
    """Refuse to change what is part of an exported graph."""
    for key in changes:
        if _below(key, ("detector", "train.precision")):
            raise SsodError("command line", key, f"is part of the exported graph {weights}, and stays", MEASURE)


def _which(found: Evaluated) -> str:
    """Return which model of a run folder it is, in words: the best, where ``compare`` and ``report`` take the last."""
    if not found.weights.is_dir() or found.step is None:
        return ""
    return f": the best teacher on its own val set, of step {found.step}"


def _read_alike(data: DataConfig, model: Model) -> DataConfig:
    """Return the section with the model's own way to read pixels where it says none."""
    own = {"levels": model.pixels.levels, "alpha": model.pixels.alpha}
    return data.model_copy(update={key: value for key, value in own.items() if getattr(data, key) is None})


def _effective(overrides: Sequence[str]) -> list[str]:
    """Return the keys that are changed; refuse those that trained weights do not read."""
    keys = [text.partition("=")[0].strip() for text in overrides]
    for key in keys:
        if not _below(key, COUNTS) or _below(key, IDLE):
            problem = "has no effect on weights that are trained already"
            raise SsodError("command line", key, problem, f"what counts here: {', '.join(COUNTS)}")
    return keys


def _below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _config_of(weights: Path, data: Path | None) -> Path:
    """Return the config to measure by: the one that was named, or the one beside the weights."""
    if data is not None:
        return data
    beside = (weights if weights.is_dir() else weights.parent) / "config.yaml"
    if not beside.exists():
        problem = f"missing, and there is no config.yaml beside '{weights}'"
        raise SsodError("command line", "--data", problem, "name a config whose data.val to measure on")
    return beside


def _show(found: Evaluated) -> None:
    title = f"{found.weights}{_which(found)}, {found.images} images, scores above {found.score:g}"
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("%", justify="right")
    for name, value in found.items():
        table.add_row(name, percent(value))
    console().print(table)
    if found.cutoffs:
        print("\n".join(cutoffs.lines(found.cutoffs, found.precision)))
