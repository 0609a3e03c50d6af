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
from ssod.inference import providers
from ssod.inference.export_graph import Graph, convert, metadata
from ssod.inference.export_half import to_half
from ssod.inference.export_parity import FULL, HALF, Limits, Parity, Run, measure, pictures
from ssod.inference.graph import runner
from ssod.inference.hub import check_hub, upload
from ssod.inference.model import Model, load
from ssod.inference.model_card import card_file, check_card_file, model_card
from ssod.inference.run_facts import run_facts
from ssod.inference.weights_file import weights_file
from ssod.utils import atomic, graph_file
from ssod.utils.address import refuse_url
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
        url: of the commit on a hub, if it was uploaded.
    """

    file: Path
    card: Path
    parity: Parity | None
    benchmark: latency.Benchmark | None = None
    url: str | None = None

    def __fspath__(self) -> str:
        return os.fspath(self.file)


def export(
    weights: str | os.PathLike,
    format: str = "onnx",
    out: str | os.PathLike | None = None,
    check: bool = True,
    *,
    half: bool = False,
    provider: str | None = None,
    benchmark: bool = False,
    hub: str | None = None,
    private: bool = False,
) -> Exported:
    """Write the teacher as a graph, with a page about it, and say how far its answers are from torch's.

    Args:
        weights: model file or run folder.
        format: ``onnx``, or ``pt2`` for ``torch.export.load``.
        out: the file, ``*.onnx`` or ``*.pt2``; None = beside the weights. An earlier export is replaced.
        check: compare the graph with torch; a graph that differs is not written.
        half: layers compute in float16, and boxes are decoded in float32 (``ssod.inference.export_half``); for onnx.
            The file is ``*.fp16.onnx`` unless ``out`` says otherwise, and the comparison is that of ``HALF``.
        provider: which of onnxruntime's engines is compared with torch, and timed: ``cpu``, the default, ``cuda``,
            ``openvino`` or ``tensorrt``.
        benchmark: print how long torch and the graph take on this machine.
        hub: ``user/name``, a repository that weights, graph and card are uploaded to (``ssod.inference.hub``), once
            the comparison has passed.
        private: the repository is private, if it is made now.

    Returns:
        The file, and what was measured.

    Raises:
        SsodError: code 2 for a format, provider, token or packages that are not there, or for a file that must not be
            written; 1 where graph and torch differ, 4 or 7 for the weights, 6 when the disk or the hub refuses.
    """
    asked = Asked(format, half, provider)
    asked.check(runs=check or benchmark)
    _check_upload(hub, private, check)
    held = weights_file(weights)
    file = Path(out) if out is not None else held.with_suffix(asked.suffix)
    _check_target(file, held, SUFFIX[format])
    graph_file.refuse(held, "exported again")
    model = load(held)
    if format == "onnx":
        _need_packages()
    engine = providers.provider(provider or "cpu") if format == "onnx" else ""
    content = convert(model, format)
    content = to_half(content) if half else content
    run = (runner(content, format, engine) if engine else runner(content, format)) if check or benchmark else None
    found = parity(model, run, HALF if half else FULL) if check and run is not None else None
    _refuse_other(file, found, half)
    atomic.write(file, lambda target: target.write(content), label="export")
    page = card_file(file)
    atomic.write_text(page, model_card(model, file, asked.words, found, run_facts(held, model.card)))
    _tell(file, len(content), model, found)
    print(f"{page}: its model card; the license is left to you")
    times = _timed(model, run, asked) if benchmark and run is not None else None
    url = upload(hub, held, file, page, private=private) if hub is not None else None
    if url is not None:
        print(f"uploaded: {url}")
    return Exported(file, page, found, times, url)


@dataclass(frozen=True)
class Asked:
    """What sort of graph is asked for."""

    format: str
    half: bool
    provider: str | None

    def check(self, *, runs: bool) -> None:
        """Refuse what does not exist, or does not go together; ``runs`` says whether the graph will be run here."""
        if self.provider is not None and not runs:
            raise SsodError("export", "provider", "no graph is run", "leave check as it is, or ask for a benchmark")
        if self.format not in SUFFIX:
            problem = f"'{self.format}' is unknown"
            raise SsodError("command line", "--format", problem, f"use {' or '.join(SUFFIX)}")
        for option, given in (("--half", self.half), ("--provider", self.provider is not None)):
            if given and self.format != "onnx":
                raise SsodError("command line", option, f"is of ONNX, not of {self.format}", "use --format onnx")

    @property
    def suffix(self) -> str:
        """The end of a file's name."""
        return f".fp16{SUFFIX[self.format]}" if self.half else SUFFIX[self.format]

    @property
    def words(self) -> str:
        """What tables and pages call the graph."""
        return " ".join([self.format, *(["fp16"] if self.half else []), *([self.provider] if self.provider else [])])


def _check_upload(hub: str | None, private: bool, check: bool) -> None:
    """Refuse an upload that cannot be, or of what nobody has compared."""
    if hub is None:
        if private:
            raise SsodError("command line", "--private", "says how to upload, and nothing is", "name --hub user/name")
        return
    if not check:
        raise SsodError("export", "hub", "takes graphs that were compared with torch", "leave check as it is")
    check_hub(hub)


def _refuse_other(file: Path, found: Parity | None, half: bool) -> None:
    """Refuse a graph that differs from torch, and one of float16 of which the comparison says little."""
    if found is None:
        return
    problem = found.problem
    if not problem and half and found.undecided > found.images:
        problem = f"{found.undecided} of {found.undecided + found.images} images hang on rounding"
    if problem:
        fix = "the graph was not written; please report this with the versions of `ssod doctor`"
        raise SsodError(file, "parity", problem, fix, code=Exit.BUG)


def _check_target(file: Path, weights: Path, suffix: str) -> None:
    """Refuse what is no place for a graph, before the work that it would cost to find out."""
    refuse_url(file)
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


def parity(model: Model, run: Run, limits: Limits = FULL) -> Parity:
    """Compare a graph with torch on seeded pictures: odd sizes, batches of 1 and 2, flat ones with nothing in them."""
    return measure(model.detector, Graph(model.detector), run, pictures(model.detector), limits)


def _tell(file: Path, size: int, model: Model, found: Parity | None) -> None:
    """Print what was written."""
    cfg = model.detector.decode
    print(f"{file}: {size / 1e6:.1f} MB; up to {cfg.detections} detections above {cfg.score:g} per image")
    if model.tiles is not None:
        side, overlap = model.tiles.size, model.tiles.overlap
        print(f"it looks at one tile: cut images into {side} x {side} pixels, {overlap:.0%} in common; merge the boxes")
    print(f"compared with torch: {found.line()}" if found is not None else "not compared with torch")


def _timed(model: Model, run: Run, asked: Asked) -> latency.Benchmark:
    """Print the table of latencies, and return it."""
    versions = [f"{name} {version(name)}" for name in dict.fromkeys(("torch", LIBRARY[asked.format]))]
    times = latency.benchmark(model, {"torch": Graph(model.detector), asked.words: run}, versions)
    times.show()
    return times
