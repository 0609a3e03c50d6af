"""How long a detector takes on this machine, as torch runs it and as its graph runs, in one table.

Both see the same pictures at the size of the model's own view, and take turns: what else the machine does meets both.
What is timed is the graph of ``ssod.inference.export_graph``, from pixels in 0..1 to detections; reading files and
resizing are not in it. The pictures are random patterns. In crowded images more boxes compete, which takes longer.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import Tensor

from ssod.inference.export_parity import Run, texture
from ssod.inference.graph_content import DIVISOR
from ssod.inference.model import Model
from ssod.transforms.views import make_views
from ssod.utils.printing import console

PHOTO = (640, 480)  # width, height of the photo that the view is made of
BATCHES = (1, 8)
WARM_UP, LEAST, MOST = 3, 10, 100  # calls of each: not counted; counted at least; at most
SECONDS = 20.0  # for one batch size; no further round begins after it, once there are LEAST


@dataclass(frozen=True)
class Timing:
    """How long one of them took for one size of batch.

    Attributes:
        name: ``torch``, or the graph's format and what computed it.
        batch: images at once.
        rounds: calls that were timed.
        median: milliseconds of a call.
        p95: milliseconds that 95 % of the calls stayed below.
    """

    name: str
    batch: int
    rounds: int
    median: float
    p95: float

    @property
    def rate(self) -> float:
        """Images a second, at the median."""
        return 1000 * self.batch / self.median


@dataclass(frozen=True)
class Benchmark:
    """A table of latencies.

    Attributes:
        machine: name of the processor, threads, versions.
        view: (height, width) of what the detector is shown, without padding.
        padded: (height, width) of the tensor.
        rows: torch and the graph, for each size of batch.
    """

    machine: str
    view: tuple[int, int]
    padded: tuple[int, int]
    rows: tuple[Timing, ...]

    @property
    def title(self) -> str:
        """What was measured, and on what."""
        (height, width), (tall, wide) = self.view, self.padded
        return f"{width} x {height} pixels, padded to {wide} x {tall}; {self.machine}"

    def show(self) -> None:
        """Print it."""
        table = Table(title=self.title, title_justify="left", box=None, pad_edge=False)
        table.add_column("latency")
        for column in ("batch", "calls", "median ms", "p95 ms", "images/s"):
            table.add_column(column, justify="right")
        for row in self.rows:
            numbers = (f"{row.median:.1f}", f"{row.p95:.1f}", f"{row.rate:.1f}")
            table.add_row(row.name, str(row.batch), str(row.rounds), *numbers)
        console().print(table)


def benchmark(model: Model, runs: dict[str, Run], versions: Sequence[str] = ()) -> Benchmark:
    """Time programs that answer the same question, by turns.

    Args:
        model: whose view says how large the images are.
        runs: name -> program, as ``ssod.inference.graph.runner`` returns it.
        versions: of the libraries that compute, for the title.
    """
    height, width = view_size(model)
    padded = -(-height // DIVISOR) * DIVISOR, -(-width // DIVISOR) * DIVISOR
    rows = []
    for batch in BATCHES:
        draw = torch.Generator().manual_seed(batch)
        images = torch.zeros(batch, 3, *padded)
        images[:, :, :height, :width] = torch.stack([texture(height, width, draw) for _ in range(batch)])
        sizes = torch.tensor([[height, width]] * batch)
        rows += [summary(name, batch, times) for name, times in by_turns(runs, images, sizes).items()]
    threads = torch.get_num_threads()
    said = [processor(), f"{threads} thread{'s' if threads > 1 else ''}", *versions]
    return Benchmark(", ".join(said), (height, width), padded, tuple(rows))


def view_size(model: Model) -> tuple[int, int]:
    """Return (height, width) of what the detector is shown of a tile, or, without tiles, of a photo of ``PHOTO``."""
    size = PHOTO if model.tiles is None else (model.tiles.size, model.tiles.size)
    view = make_views(Image.new("RGB", size), None, {"val": model.pipeline}, 0, "val", 0, 0)["val"]
    return view.image.size[1], view.image.size[0]


@torch.no_grad()
def by_turns(
    runs: dict[str, Run], images: Tensor, sizes: Tensor, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of each call, one list a program; each round calls every program once.

    Args:
        runs: name -> program.
        images: [N, 3, H, W].
        sizes: [N, 2].
        clock: seconds.
    """
    for run in runs.values():
        for _ in range(WARM_UP):
            run(images, sizes)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    start = clock()
    for number in range(MOST):
        if number >= LEAST and clock() - start > SECONDS:
            break
        for name, run in runs.items():
            before = clock()
            run(images, sizes)
            taken[name].append(clock() - before)
    return taken


def summary(name: str, batch: int, seconds: Sequence[float]) -> Timing:
    """Return median and 95th percentile of calls that took so many seconds."""
    median, p95 = 1000 * np.percentile(seconds, [50, 95])
    return Timing(name, batch, len(seconds), float(median), float(p95))


def processor() -> str:
    """Return the name of the processor, as its maker calls it where the system says so."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
