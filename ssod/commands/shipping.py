"""The commands that use trained weights, as the command line declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssod.commands import options as option
from ssod.commands.asked import once
from ssod.commands.json_output import answered


def evaluate(
    weights: option.Weights,
    data: Annotated[Path | None, typer.Option(help="Config whose `data.val` to measure on.")] = None,
    score: Annotated[float | None, typer.Option(help="Score threshold; it moves AP by about 1.")] = None,
    precision: Annotated[float, typer.Option(help="Say from which score on so many boxes of a class are right.")] = 0.9,
    device: option.Device = None,
    batch: option.EvalBatch = None,
    set: option.Set = None,
    overrides: option.OfTrained = None,
    json: option.Json = False,
) -> None:
    """AP of saved weights on a validation set; detector and view are those that the model was saved with."""
    changes = [*(overrides or []), *once(overrides or [], set, {"train.device": device, "eval.batch": batch})]
    from ssod.commands.evaluate import evaluate

    how = {"data": data, "score": score, "precision": precision, "overrides": changes}
    answered(json, lambda: evaluate(weights, **how))


def predict(
    weights: option.Weights,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES", help="Image, folder, glob, .txt list or COCO JSON.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for pictures and results.json.")],
    score: Annotated[float, typer.Option(help="Draw boxes above this score.")] = 0.3,
    levels: option.Levels = None,
    alpha: option.Alpha = None,
    max_pixels: option.MaxPixels = None,
    ids: option.Ids = None,
    workers: option.Workers = None,
    batch: option.ImageBatch = None,
    device: option.DeviceOfTrained = None,
) -> None:
    """Pictures with boxes, and a COCO results JSON."""
    from ssod.inference.predict import predict_files

    how = option.given(levels=levels, alpha=alpha, max_pixels=max_pixels, ids=ids, workers=workers, batch=batch)
    predict_files(weights, option.one_name(images), out, score, **how, **option.given(device=device))


def export(
    weights: option.OnlyWeights,
    format: Annotated[str, typer.Option(help="onnx or pt2.")] = "onnx",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default beside the weights.")] = None,
    half: Annotated[bool, typer.Option("--half", help="ONNX with layers in float16; boxes stay float32.")] = False,
    provider: Annotated[
        str | None, typer.Option(help="onnxruntime's engine to compare and time: cpu, cuda, openvino or tensorrt.")
    ] = None,
    benchmark: Annotated[bool, typer.Option("--benchmark", help="A table of latencies on this machine.")] = False,
    hub: Annotated[str | None, typer.Option(metavar="USER/NAME", help="Upload weights, graph and card there.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Of a repository that --hub makes: not public.")] = False,
) -> None:
    """The teacher as ONNX or .pt2, verified against torch; non-zero exit on a mismatch."""
    from ssod.inference.export import export

    how = {"half": half, "provider": provider, "benchmark": benchmark, "hub": hub, "private": private}
    export(weights, format=format, out=out, **how)
