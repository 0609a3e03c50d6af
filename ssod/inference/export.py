"""The teacher as a file that runs without our code, checked against torch before it is kept.

What the graph takes and returns, and what its metadata say, is told in ``ssod.inference.export_graph``.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ssod.inference.export_graph import Graph, convert, metadata, runner
from ssod.inference.export_parity import Parity, Run, measure, pictures
from ssod.inference.model import Model, load
from ssod.inference.weights_file import weights_file
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError

__all__ = ["Graph", "convert", "export", "metadata", "parity", "runner"]

SUFFIX = {"onnx": ".onnx", "pt2": ".pt2"}


def export(
    weights: str | os.PathLike,
    format: str = "onnx",
    out: str | os.PathLike | None = None,
    check: bool = True,
) -> Path:
    """Write the teacher as a graph, and say how far its answers are from torch's.

    Args:
        weights: model file or run folder.
        format: ``onnx``, or ``pt2`` for ``torch.export.load``.
        out: the file, ``*.onnx`` or ``*.pt2``; None = beside the weights. An earlier export is replaced.
        check: compare the graph with torch; a graph that differs is not written.

    Returns:
        The file.

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
    found = parity(model, runner(content, format)) if check else None
    if found is not None and found.problem:
        fix = "the graph was not written; please report this with the versions of `ssod doctor`"
        raise SsodError(file, "parity", found.problem, fix, code=Exit.BUG)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.refused(file.parent, error) from None
    atomic.write(file, lambda target: target.write(content), label="export")
    cfg = model.detector.decode
    print(f"{file}: {len(content) / 1e6:.1f} MB; up to {cfg.detections} detections above {cfg.score:g} per image")
    if model.tiles is not None:
        size, overlap = model.tiles.size, model.tiles.overlap
        print(f"it looks at one tile: cut images into {size} x {size} pixels, {overlap:.0%} in common; merge the boxes")
    print(f"compared with torch: {found.line()}" if found is not None else "not compared with torch")
    return file


def _check_target(file: Path, weights: Path, suffix: str) -> None:
    """Refuse what is no place for a graph, before the work that it would cost to find out."""
    if file.is_dir():
        inside = (file / weights.name).with_suffix(suffix)
        raise SsodError(file, "", "is a folder", f"name a file in it: -o {inside}")
    if file.suffix.lower() != suffix:
        raise SsodError(file, "", f"does not end in {suffix}", f"-o {file.with_suffix(suffix)}, or another --format")
    if file.exists() and file.samefile(weights):
        raise SsodError(file, "", "holds the weights, which the graph would replace", "name another file with -o")


def parity(model: Model, run: Run) -> Parity:
    """Compare a graph with torch on seeded pictures: odd sizes, batches of 1 and 2, flat ones with nothing in them."""
    return measure(model.detector, Graph(model.detector), run, pictures(model.detector))


def _need_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        fix = f"pip install {' '.join(missing)}"
        raise SsodError("command line", "--format onnx", f"needs {', '.join(missing)}, which is not installed", fix)
