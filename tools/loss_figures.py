"""Figures of the losses, each computed by the functions that train.

    python -m tools.loss_figures curves -o curves.png
    python -m tools.loss_figures cumulative RUN -o cumulative.png
    python -m tools.loss_figures uncertainty RUN -o uncertainty.png --images 4

``curves``: loss against logit for every class loss and each of its parameters. ``cumulative``: how much of the focal
loss of a run's positives and negatives its hardest ones have, for several gamma (Lin et al. 2017, figure 4).
``uncertainty``: BALD heat maps of correct and of wrong rows, for a run trained with ``weighting: uncertainty`` or
``conv_bayes`` (Li et al., ICIP 2020); on a two-stage detector rows are the anchors that its proposal network sampled.
The last two look at validation images (labelled ones where there are none) with the run's student.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssod import config
from ssod.data import datasets
from ssod.data.loading.loader import collate
from ssod.detectors.build import build
from ssod.engine.checkpointing import checkpoint
from ssod.losses.elements import focal_elements
from ssod.losses.weighting.bayes import Guess
from ssod.losses.weighting.uncertainty import judge
from ssod.methods.base import Method
from ssod.methods.registry import find
from ssod.structures import Assignment, Predictions
from ssod.transforms.views import Sample, make_views
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError
from tools.loss_curves import SEEN, panels
from tools.options import count, picture

GAMMAS = (0.0, 0.5, 1.0, 2.0)
DIVISOR = 32


def draw_curves(out: Path) -> None:
    """Write one panel per parameter of each loss. They begin below 0, so that a line of zeros is seen."""
    x = torch.linspace(-5, 5, 201)
    found = panels(x)
    columns = 5
    lines = -(-len(found) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(17, 3 * lines), squeeze=False)
    for axes in grid.flat[len(found) :]:
        axes.axis("off")
    for axes, (title, values) in zip(grid.flat, found.items()):
        for label, line in values:
            axes.plot(x.numpy(), line.numpy(), label=label)
        axes.set(title=title, xlabel=f"logit of {SEEN.get(title, 'the class')}", ylabel="loss", ylim=(-0.25, 6))
        axes.legend(fontsize=7)
    save(figure, out)


# ---- a run ---------------------------------------------------------------------------------------------------------


@dataclass
class Look:
    """One image as the student sees it.

    Attributes:
        sample: its picture and boxes.
        stage: ``dense``, or ``rpn``.
        p, a: the rows of that stage and what they should say.
        guess: the auxiliary branch's, where the run has one.
    """

    sample: Sample
    stage: str
    p: Predictions
    a: Assignment
    guess: Guess | None


def open_run(folder: Path) -> tuple[config.Config, Method, datasets.DataSets]:
    """Return a run's config, its method with the weights of the last checkpoint, and its data.

    Raises:
        SsodError: code 4 where there is no checkpoint or it does not fit.
    """
    cfg = config.load(folder / "config.yaml")
    path = checkpoint.find(folder / "checkpoints")
    if path is None:
        raise SsodError(folder, "checkpoints", "no checkpoint", "name the folder of a run", code=Exit.CHECKPOINT)
    data = datasets.load(cfg.data)
    method = find(cfg.method.name)(build(cfg.detector, len(data.classes), pretrained=False), cfg.method)
    state = checkpoint.load(path)["method"]
    checkpoint.check_model(path, state, method.state_dict())
    method.load_state_dict(state)
    return cfg, method.eval().requires_grad_(False), data


def looks(folder: Path, images: int) -> Iterator[Look]:
    """Yield evenly spread images, as the student of a run sees them."""
    cfg, method, data = open_run(folder)
    source = data.labeled if data.val is None else data.val
    read = cfg.data.reader()
    student = method.student
    torch.manual_seed(0)
    for i in np.linspace(0, len(source) - 1, min(images, len(source))).round().astype(int).tolist():
        sample = make_views(read(source.images, i), source.targets(i), {"val": cfg.views.val}, 0, "val", 0, 0)["val"]
        view = collate([sample], [source.images.ids[i]], DIVISOR)
        out = student.predict(view)
        assigned = student.assign(out, view.targets)
        stage = "rpn" if "rpn" in assigned else "dense"
        p, a = assigned[stage]
        branches = method.criterion.branches
        yield Look(sample, stage, p, a, branches[stage](p.cls_features) if stage in branches else None)


# ---- cumulative loss by difficulty ---------------------------------------------------------------------------------


def cumulative(logits: Tensor, target: float, gamma: float) -> np.ndarray:
    """Return the share of the summed focal loss that the easiest 1, 2, ... elements have, normalised to end at 1."""
    loss = focal_elements(logits.double(), torch.full_like(logits, target), alpha=-1, gamma=gamma)
    running = loss.sort().values.cumsum(0)
    return (running / running[-1]).numpy()


def draw_cumulative(folder: Path, out: Path, images: int) -> None:
    """Write both panels of Lin et al.'s figure 4."""
    parts: dict[str, list[Tensor]] = {"positives": [], "negatives": []}
    for seen in looks(folder, images):
        counted = seen.a.cls_weight > 0
        asked = seen.a.soft(seen.p.num_classes)[counted] > 0.5
        logits = seen.p.logits[counted]
        parts["positives"].append(logits[asked])
        parts["negatives"].append(logits[~asked])
    figure, grid = plt.subplots(1, 2, figsize=(10, 4))
    for axes, (kind, found) in zip(grid, parts.items()):
        values = torch.cat(found)
        if not len(values):
            raise SsodError(folder, kind, "there are none in these images", "give more --images", code=Exit.DATA)
        share = np.linspace(0, 1, len(values) + 1)[1:]
        for gamma in GAMMAS:
            line = cumulative(values, float(kind == "positives"), gamma)
            axes.plot(share, line, label=f"gamma {gamma:g}")
            half = int(np.searchsorted(line, 0.5))
            print(f"{kind}, gamma {gamma:g}: the hardest {1 - share[half]:.2%} have half of the loss")
        axes.set(title=f"{len(values)} {kind}", xlabel="share of them, by difficulty", ylabel="cumulative loss")
        axes.legend()
    save(figure, out)


# ---- heat maps of the uncertainty ----------------------------------------------------------------------------------


def heat(values: Tensor, chosen: Tensor, p: Predictions, size: tuple[int, int]) -> Tensor:
    """Paint rows into the image: the largest value of the chosen rows at each place, NaN where there is none.

    Args:
        values: [R] of one image.
        chosen: [R] bool.
        p: the rows; their grids say where they are.
        size: height and width of the padded image.
    """
    painted = []
    marked = torch.where(chosen, values, -torch.inf)
    for part, (high, wide) in zip(marked.split(p.levels), p.grids):
        cells = part.view(high, wide, -1).amax(-1)
        painted.append(F.interpolate(cells[None, None], size=size, mode="nearest")[0, 0])
    best = torch.stack(painted).amax(0)
    return torch.where(best.isfinite(), best, torch.nan)


def draw_uncertainty(folder: Path, out: Path, images: int) -> None:
    """Write, for each image, its boxes and the BALD score of correct and of wrong rows."""
    found = list(looks(folder, images))
    guess = found[0].guess
    if guess is None or not guess.sigma.any():
        problem = "the run has no auxiliary branch" if guess is None else "a plain convolution is never uncertain"
        raise SsodError(folder, "method.loss", problem, "train with weighting: uncertainty, or conv_bayes")
    what = "sampled anchors" if found[0].stage == "rpn" else "rows"
    judged = [(seen, *judge(seen.guess, seen.p, seen.a)) for seen in found]
    values = torch.cat([uncertain[seen.a.cls_weight > 0] for seen, uncertain, _, _ in judged])
    scale = {"vmin": float(values.min()), "vmax": float(values.max())}  # U of a narrow kernel hardly leaves 1/2
    figure, grid = plt.subplots(len(found), 3, figsize=(10, 3 * len(found)), squeeze=False, layout="constrained")
    means: dict[str, list[Tensor]] = {"correct": [], "wrong": []}
    for line, (seen, uncertain, _, correct) in zip(grid, judged):
        counted = seen.a.cls_weight > 0
        wide, high = seen.sample.image.size
        padded = tuple(-(-side // DIVISOR) * DIVISOR for side in (high, wide))
        line[0].imshow(np.asarray(seen.sample.image))
        for x1, y1, x2, y2 in seen.sample.targets.boxes.tolist():
            line[0].add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="lime"))
        for axes, (kind, chosen) in zip(line[1:], (("correct", correct), ("wrong", ~correct))):
            means[kind].append(uncertain[chosen & counted])
            map_ = heat(uncertain, chosen & counted, seen.p, padded)[:high, :wide]
            axes.imshow(np.asarray(seen.sample.image.image().convert("L")), cmap="gray", alpha=0.5)
            image = axes.imshow(map_.numpy(), cmap="inferno", alpha=0.8, **scale)
            axes.set_title(f"U, {kind} {what}", fontsize=8)
        for axes in line:
            axes.axis("off")
    figure.colorbar(image, ax=grid, shrink=0.6, label="U, largest of a place's rows")
    for kind, parts in means.items():
        values = torch.cat(parts)
        print(f"{kind} {what}: {len(values)}, mean U {values.mean() if len(values) else float('nan'):.5f}")
    save(figure, out)


def save(figure: plt.Figure, out: Path) -> None:
    """Write a figure and close it."""
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    try:
        figure.savefig(out, dpi=110)
    except OSError as error:
        raise atomic.refused(out, error) from None
    plt.close(figure)
    print(out)


def main(argv: list[str] | None = None) -> int:
    """Draw the figure that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=["curves", "cumulative", "uncertainty"])
    parser.add_argument("run", type=Path, nargs="?", help="a run folder, for the last two")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a picture file")
    parser.add_argument("--images", type=count, default=4, help="how many images to look at")
    args = parser.parse_args(argv)
    if (args.run is None) != (args.figure == "curves"):
        parser.error(f"{args.figure} needs {'no' if args.figure == 'curves' else 'a'} run folder")
    try:
        picture(args.out)
        if args.figure == "curves":
            draw_curves(args.out)
        else:
            {"cumulative": draw_cumulative, "uncertainty": draw_uncertainty}[args.figure](
                args.run, args.out, args.images
            )
    except SsodError as error:
        print(f"loss_figures: error: {error.line()}", file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
