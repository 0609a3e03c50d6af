"""The commands of the loop from trained weights to more labels, as the command line declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssod.commands import options as option
from ssod.commands.json_output import answered


def label(
    weights: option.Weights,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES", help="Folder, glob or list of images.")],
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
    next: Annotated[
        int, typer.Option(min=0, help="Choose so many images to label next, which most is to be learnt from: out/next.")
    ] = 0,
    audit: Annotated[
        int, typer.Option(min=0, help="Draw so many images by chance, whose labels to check: out/audit.")
    ] = 0,
    labeled: Annotated[
        list[str] | None,
        typer.Option(help="Labelled already, as the run's own images are: neither --next nor --audit takes them."),
    ] = None,
    levels: option.Levels = None,
    alpha: option.Alpha = None,
    max_pixels: option.MaxPixels = None,
    workers: option.Workers = None,
    batch: option.ImageBatch = None,
    device: option.DeviceOfTrained = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Label one part of the images: 1/8 to 8/8, in as many processes; ssod merge joins them."),
    ] = None,
) -> None:
    """Pseudo-labels to files, and a ranking of the images to look at first."""
    from ssod.inference.label import label_files

    parts = {"next": next, "audit": audit, "labeled": labeled or [], "shard": shard}
    how = option.given(levels=levels, alpha=alpha, max_pixels=max_pixels, workers=workers, batch=batch, device=device)
    label_files(weights, option.one_name(images), out, format=format, score=score, precision=precision, **parts, **how)


def audit(
    labels: Annotated[str, typer.Argument(help="COCO JSON, VOC folder or YOLO folder: labels, or a sample of them.")],
    corrected: Annotated[str, typer.Argument(help="What a person made of them, likewise.")],
    json: option.Json = False,
) -> None:
    """Precision and recall of labels, with their intervals, from a sample that a person corrected."""
    from ssod.commands.audit import audit

    answered(json, lambda: audit(labels, corrected))


def merge(
    sources: Annotated[
        list[str], typer.Argument(help="COCO JSONs, VOC or YOLO folders; corrections after what they correct.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="COCO JSON to write.")],
    images: Annotated[
        list[str] | None, typer.Option(help="Image folder of a JSON whose images are in no usual one; may be repeated.")
    ] = None,
) -> None:
    """Several labelled sets to one COCO JSON; of an image that two of them have, the labels of the last count."""
    from ssod.commands.merge import merge

    merge(sources, out, images=images or [])
