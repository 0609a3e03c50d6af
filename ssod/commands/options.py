"""Words and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="A config file (YAML), or the three options below; then changes to it: key.path=value ...",
    ),
]
RecipeMethod = Annotated[str | None, typer.Option("--method", help="A recipe's method: a file of configs/methods.")]
RecipeDetector = Annotated[str | None, typer.Option("--detector", help="Its detector: a file of configs/detectors.")]
RecipeData = Annotated[str | None, typer.Option("--data", help="Its data set: a file of configs/data.")]
Percent = Annotated[float | None, typer.Option("--percent", help="Its share of the labels, in per cent.")]
Fold = Annotated[int | None, typer.Option("--fold", help="Its draw of the labels.")]
Levels = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--levels",
        metavar="BLACK WHITE",
        help="Values that are black and white in grey images of more than 8 bits; default: as in training.",
    ),
]
Alpha = Annotated[
    str | None,
    typer.Option("--alpha", help="What an alpha channel means, blend or ignore; default: as in training."),
]
Weights = Annotated[Path, typer.Argument(help="best.safetensors, or a run folder that holds one.")]
