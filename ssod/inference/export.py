"""The teacher as a file that runs without our code, checked against torch before it is kept.

What the graph takes and returns, and what its metadata say, is told in ``ssod.inference.export_graph``.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ssod.inference import benchmark as latency
from ssod.inference.export_graph import Graph, convert, metadata, runner
from ssod.inference.export_parity import Parity, Run, measure, pictures
from ssod.inference.model import Model, load
from ssod.inference.model_card import card_file, check_card_file, model_card
from ssod.inference.run_facts import run_facts
from ssod.inference.weights_file import weights_file
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError

__all__ = ["Exported", "Graph", "convert", "export", "metadata", "parity", "runner"]

SUFFIX = {"onnx": ".onnx", "pt2": ".pt2"}
LIBRARY = {"onnx": "onnxruntime", "pt2": "torch"}  # what runs the graph


@dataclass(frozen=True)
class Exported(os.PathLike):
    """What ``export`` wrote; where a path is asked for, it is that of the graph.

    Attributes:
        file: the graph.
        card: its page in Markdown.
        parity: how it compares with torch; None = it was not compared.
        benchmark: the table of latencies, if one was asked for.
    """

    file: Path
    card: Path
    parity: Parity | None
    benchmark: latency.Benchmark | None = None

    def __fspath__(self) -> str:
        return os.fspath(self.file)


def export(
    weights: str | os.PathLike,
    format: str = "onnx",
    out: str | os.PathLike | None = None,
    check: bool = True,
    *,
    benchmark: bool = False,
) -> Exported:
    """Write the teacher as a graph, with a page about it, and say how far its answers are from torch's.

    Args:
        weights: model file or run folder.
        format: ``onnx``, or ``pt2`` for ``torch.export.load``.
        out: the file, ``*.onnx`` or ``*.pt2``; None = beside the weights. An earlier export is replaced.
        check: compare the graph with torch; a graph that differs is not written.
        benchmark: print how long torch and the graph take on this machine.

    Returns:
        The file, and what was measured.

    Raises:
        SsodError: code 2 for a format or packages that are not there, or for a file that must not be written; 1 where
            graph and torch differ, 4 or 7 for the weights, 6 when the disk refuses.
    """
    if format not in SUFFIX:
        raise SsodError("command line", "--format", f"'{format}' is unknown", f"use {' or '.join(SUFFIX)}")
    held = weights_file(weights)
    file = Path(out) if out is not None else held.with_suffix(SUFFIX[format])
    _check_target(file, held, SUFFIX[format])
    model = load(held)
    if format == "onnx":
        _need_packages()
    content = convert(model, format)
    run = runner(content, format) if check or benchmark else None
    found = parity(model, run) if check and run is not None else None
    if found is not None and found.problem:
        fix = "the graph was not written; please report this with the versions of `ssod doctor`"
        raise SsodError(file, "parity", found.problem, fix, code=Exit.BUG)
    _write(file, content)
    page = card_file(file)
    atomic.write_text(page, model_card(model, file, format, found, run_facts(held, model.card)))
    _tell(file, len(content), model, found)
    print(f"{page}: its model card; the license is left to you")
    times = _timed(model, run, format) if benchmark and run is not None else None
    return Exported(file, page, found, times)


def _check_target(file: Path, weights: Path, suffix: str) -> None:
    """Refuse what is no place for a graph, before the work that it would cost to find out."""
    if file.is_dir():
        inside = (file / weights.name).with_suffix(suffix)
        raise SsodError(file, "", "is a folder", f"name a file in it: -o {inside}")
    if file.suffix.lower() != suffix:
        raise SsodError(file, "", f"does not end in {suffix}", f"-o {file.with_suffix(suffix)}, or another --format")
    if file.exists() and file.samefile(weights):
        raise SsodError(file, "", "holds the weights, which the graph would replace", "name another file with -o")
    check_card_file(card_file(file))


def _need_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        fix = f"pip install {' '.join(missing)}"
        raise SsodError("command line", "--format onnx", f"needs {', '.join(missing)}, which is not installed", fix)


def parity(model: Model, run: Run) -> Parity:
    """Compare a graph with torch on seeded pictures: odd sizes, batches of 1 and 2, flat ones with nothing in them."""
    return measure(model.detector, Graph(model.detector), run, pictures(model.detector))


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.refused(file.parent, error) from None
    atomic.write(file, lambda target: target.write(content), label="export")


def _tell(file: Path, size: int, model: Model, found: Parity | None) -> None:
    """Print what was written."""
    cfg = model.detector.decode
    print(f"{file}: {size / 1e6:.1f} MB; up to {cfg.detections} detections above {cfg.score:g} per image")
    if model.tiles is not None:
        side, overlap = model.tiles.size, model.tiles.overlap
        print(f"it looks at one tile: cut images into {side} x {side} pixels, {overlap:.0%} in common; merge the boxes")
    print(f"compared with torch: {found.line()}" if found is not None else "not compared with torch")


def _timed(model: Model, run: Run, format: str) -> latency.Benchmark:
    """Print the table of latencies, and return it."""
    versions = [f"{name} {version(name)}" for name in dict.fromkeys(("torch", LIBRARY[format]))]
    times = latency.benchmark(model, {"torch": Graph(model.detector), format: run}, versions)
    times.show()
    return times
