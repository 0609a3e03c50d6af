"""An exported graph that runs in the place of a detector: what is shipped is what is measured."""

from __future__ import annotations

import functools
import io
import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ssod.detectors.decode import DecodeConfig
from ssod.inference.export_parity import Run
from ssod.inference.graph_content import AGAIN, INPUTS, OUTPUTS, Content
from ssod.inference.providers import check_used
from ssod.structures import Detector, Targets, View
from ssod.utils.errors import Exit, SsodError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
MEASURE = "use the best.safetensors that it was exported from"
SHARE = 0.75  # of the machine's memory: what the tensors of graphs may take on the CPU


@dataclass(frozen=True)
class Found:
    """What a graph found in N images: the one question of a detector's that it answers.

    Attributes:
        targets: N Targets with scores, best first.
        floor: the score that they are above.
        file: the graph's, for messages.
    """

    targets: list[Targets]
    floor: float
    file: Path

    def detections(self, score: float | None = None) -> list[Targets]:
        """Return N Targets that score above ``score``; None = all that the graph gives.

        Raises:
            SsodError: code 2, the score is below the one that is part of the graph.
        """
        if score is None:
            return self.targets
        check_floor(self.file, score, self.floor)
        return [one[one.confidence() > score] for one in self.targets]


class GraphDetector(Detector):
    """A graph that detects. It has no weights that torch could move, train or save.

    Args:
        run: images [N, 3, H, W] in 0..1 and sizes [N, 2] -> boxes [N, D, 4], scores [N, D], labels [N, D].
        decode: what of a detector's config is part of the graph.
        num_classes: K.
        file: the graph's, for messages.
        runner: what runs it, in words.
    """

    def __init__(self, run: Run, decode: DecodeConfig, num_classes: int, file: Path, runner: str) -> None:
        super().__init__()
        self.run, self.decode, self.num_classes, self.file, self.runner = run, decode, num_classes, file, runner
        self.floor = decode.score

    @property
    def device(self) -> torch.device:
        """Where images are handed to it and answers come back: main memory, whatever computes."""
        return torch.device("cpu")

    def line(self) -> str:
        """Return what runs the graph, in words."""
        return f"{self.file}: run by {self.runner}"

    @torch.no_grad()
    def predict(self, view: View) -> Any:
        """Look at a view; returns ``Found``.

        Raises:
            SsodError: code 4, the graph fails on it, or answers with what are no detections.
        """
        images = view.images if view.images.is_floating_point() else view.images.float() / 255
        try:
            boxes, scores, labels = self.run(images.cpu(), view.sizes.cpu())
        except Exception as error:  # of onnxruntime or torch, of any kind
            raise _failed(self.file, error) from None
        n, d = len(images), scores.shape[-1]
        fits = (boxes.shape, scores.shape, labels.shape) == ((n, d, 4), (n, d), (n, d))
        if not fits or not (boxes.isfinite().all() and ((scores >= 0) & (scores <= 1)).all()):
            raise SsodError(self.file, "graph", "answers with what are no detections", AGAIN, code=Exit.CHECKPOINT)
        if ((labels < 0) | (labels >= self.num_classes)).any():
            problem = f"answers with labels beyond the {self.num_classes} classes of its card"
            raise SsodError(self.file, "graph", problem, AGAIN, code=Exit.CHECKPOINT)
        found = [Targets(b[s > 0], k[s > 0], s[s > 0]) for b, s, k in zip(boxes, scores, labels)]
        return Found(found, self.floor, self.file)


def check_floor(file: Path, score: float, floor: float) -> None:
    """Refuse a score below the one that a graph leaves everything out at.

    Raises:
        SsodError: code 2.
    """
    if score < floor:
        problem = f"{score:g} is below {floor:g}, and the exported graph gives nothing that scores less than that"
        raise SsodError(file, "score", problem, f"give {floor:g} or more, or {MEASURE}")


def detector_of(content: Content, num_classes: int, device: torch.device, *, must: bool) -> GraphDetector:
    """Return the detector that a file holds.

    Args:
        content: from ``graph_content.read``.
        num_classes: K, of its card.
        device: where torch would run it.
        must: refuse where it cannot run there; else it then runs on the CPU, and says so.

    Raises:
        SsodError: code 2, it cannot run there; code 4, the graph cannot be read.
        ValidationError: its ``decode`` is none.
    """
    decode = TypeAdapter(dict[str, DecodeConfig]).validate_python({"decode": content.decode})["decode"]
    wanted = _provider(content, device, must)
    try:
        run = runner(content.data, content.format, wanted, device.index or 0)
    except Exception as error:  # of onnxruntime or torch, of any kind
        raise _failed(content.path, error) from None
    if content.format == "pt2":
        said = f"torch {torch.__version__} on the CPU"
    else:
        import onnxruntime

        said = f"onnxruntime {onnxruntime.__version__}, {wanted}"
    return GraphDetector(run, decode, num_classes, content.path, said)


def _provider(content: Content, device: torch.device, must: bool) -> str:
    """Return onnxruntime's name of what computes on a device."""
    if device.type == "cpu":
        return CPU
    if content.format == "onnx":
        import onnxruntime

        if device.type == "cuda" and CUDA in onnxruntime.get_available_providers():
            return CUDA
        problem = f"onnxruntime has nothing here that runs on it ({', '.join(onnxruntime.get_available_providers())})"
    else:
        problem = "a .pt2 graph runs on the CPU"
    if must:
        raise SsodError("device", str(device), problem, "use 'cpu'")
    return CPU


def _failed(file: Path, error: Exception) -> SsodError:
    if isinstance(error, SsodError):
        return error
    words, fix = " ".join(str(error).split()), AGAIN
    if "Available memory of" in words:  # the arena's own
        problem, fix = (
            f"takes more than {SHARE:.0%} of this machine's memory",
            "give it smaller images, or fewer at once",
        )
    else:
        problem = f"cannot be run: {type(error).__name__}: {words[:150]}"
    return SsodError(file, "graph", problem, fix, code=Exit.CHECKPOINT)


def runner(content: bytes, format: str, provider: str = CPU, place: int = 0) -> Run:
    """Return a graph as a function, loaded from the very bytes that are written.

    Args:
        content: what ``export_graph.convert`` returned.
        format: of it.
        provider: onnxruntime's, which computes; for ONNX. It has as many threads as torch.
        place: number of the GPU.

    Raises:
        SsodError: code 2, the provider does not load here; onnxruntime by itself would take another.
    """
    if format == "pt2":
        with quiet():
            module = torch.export.load(io.BytesIO(content)).module()
        return lambda images, sizes: module(images, sizes)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4 if provider == CPU else 3  # what fails is raised, too
    options.intra_op_num_threads = torch.get_num_threads()
    if provider == CPU and have_limit():
        options.add_session_config_entry("session.use_env_allocators", "1")
        # It computes before there is a step, in memory that no arena counts.
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    chosen = (provider, {"device_id": place}) if provider == CUDA else provider
    session = onnxruntime.InferenceSession(content, options, providers=[chosen])
    check_used(provider, session.get_providers())

    def run(images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = session.run(list(OUTPUTS), dict(zip(INPUTS, (images.numpy(), sizes.numpy()))))
        boxes, scores, labels = (torch.from_numpy(np.asarray(array)) for array in out)
        return boxes, scores, labels

    return run


@functools.cache
def have_limit() -> bool:
    """Limit the memory of all graphs that this process runs on the CPU, once; return whether it is limited.

    A few bytes of a stranger's graph can ask for any amount: by the shape of a constant, or by what it makes of images.
    """
    import onnxruntime as ort

    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": int(SHARE * whole)}))
    except Exception:  # of onnxruntime, of any kind: a program has an arena of its own; or no such call, on Windows
        return False
    return True


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Keep the exporters' own remarks from the terminal."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
