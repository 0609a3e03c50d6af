"""Seconds to fit the thresholds of all classes at once, against one scikit-learn mixture per class.

python tools/bench_gmm.py [--classes 80] [--scores 100] [--runs 9] [--device cuda]

Both are timed in one process, in turns, on the same banks: each class a random mixture of low and high scores, as
training fills them. The largest difference between their thresholds is printed beside the times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from ssod.pseudo_labels.gmm import Backend, fit, thresholds


def banks(classes: int, scores: int, seed: int = 0) -> Tensor:
    """Return [classes, scores] float32 in (0.05, 1): shares and shapes of low and high scores differ by class."""
    rng = np.random.default_rng(seed)
    high = rng.random((classes, scores)) < rng.random((classes, 1))
    low_shape, high_shape = rng.uniform(1, 3, (classes, 1)), rng.uniform(4, 10, (classes, 1))
    values = np.where(high, rng.beta(high_shape, 2, high.shape), rng.beta(low_shape, 8, high.shape))
    return torch.from_numpy(values.clip(0.05, 1)).float()


def timed(work: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Return seconds and result of one call, waiting for the device."""
    begin = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin, result


def main(
    classes: Annotated[int, typer.Option(min=1, help="Classes.")] = 80,
    scores: Annotated[int, typer.Option(min=4, help="Scores in each class's bank.")] = 100,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each; the median is printed.")] = 9,
    device: Annotated[str, typer.Option(help="Where the banks are, e.g. cuda.")] = "cpu",
) -> None:
    """Print both medians, their ratio, and how far the thresholds differ."""
    place = torch.device(device)
    bank = banks(classes, scores).to(place)
    rows = torch.ones(classes, dtype=torch.bool, device=place)
    seconds: dict[Backend, list[float]] = {"batched": [], "sklearn": []}
    found: dict[Backend, Tensor] = {}
    for run in range(runs + 1):
        for backend in seconds:
            took, found[backend] = timed(lambda b=backend: thresholds(bank, rows, backend=b), place)
            if run:  # the first run loads and warms up
                seconds[backend].append(took)
    batched, sklearn = (statistics.median(seconds[backend]) for backend in seconds)
    difference = float((found["batched"] - found["sklearn"]).abs().max())
    iterations = fit(bank.double(), bank > 0, rows).iterations
    typer.echo(
        f"{classes} classes x {scores} scores, {device}, median of {runs} runs, {torch.get_num_threads()} threads"
    )
    typer.echo(f"batched  {1000 * batched:9.2f} ms   {int(iterations.min())} to {int(iterations.max())} iterations")
    typer.echo(f"sklearn  {1000 * sklearn:9.2f} ms")
    typer.echo(f"ratio    {sklearn / batched:9.1f}   largest difference {difference:.1e}")


if __name__ == "__main__":
    typer.run(main)
