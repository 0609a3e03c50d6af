"""The commands of the loop from trained weights to more labels, as the command line declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssod.commands import options as option


def label(
    weights: option.Weights,
    images: Annotated[str, typer.Argument(help="Folder, glob or list of images.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the labels go.")],
    format: Annotated[str, typer.Option(help="coco, yolo, voc, labelstudio or cvat.")] = "coco",
    score: Annotated[float | None, typer.Option(help="Keep boxes above this score; 0.5 where nothing is said.")] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            help="Keep the boxes of each class from the score on from which so many were right on the run's own val "
            "images: 0.9. A class that has no such score is left out."
        ),
    ] = None,
    levels: option.Levels = None,
    alpha: option.Alpha = None,
    max_pixels: option.MaxPixels = None,
) -> None:
    """Pseudo-labels to files, and a ranking of the images to look at first."""
    from ssod.inference.label import label_files

    how = option.given(levels=levels, alpha=alpha, max_pixels=max_pixels)
    label_files(weights, images, out, format=format, score=score, precision=precision, **how)
