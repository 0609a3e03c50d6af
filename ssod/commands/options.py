"""Words and options that several commands take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssod.inference.weights_file import weights_file
from ssod.utils import graph_file
from ssod.utils.errors import SsodError

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="A config file (YAML), or the three options below; then changes to it: key.path=value ...",
    ),
]
RecipeMethod = Annotated[str | None, typer.Option("--method", help="A recipe's method: a file of configs/methods.")]
RecipeDetector = Annotated[str | None, typer.Option("--detector", help="Its detector: `ssod detectors` lists them.")]
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
Decode = Annotated[
    str | None,
    typer.Option(
        help="Images to decode, which finds truncated ones: none, sample or all; all of a set of up to 20 000 images."
    ),
]
DecodeVal = Annotated[
    str | None,
    typer.Option("--decode", help="Val images to decode before the first step: none, sample or all; as in ssod check."),
]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", min=1, help="An image with more pixels is not decoded.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Threads that read images, and as many that draw pictures; 4 unless said."),
]
ImageBatch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Images that the detector looks at together; 8 unless said.")
]
Ids = Annotated[
    Path | None,
    typer.Option("--ids", help="COCO JSON that lists the images; results carry its ids of images and classes."),
]
Percents = Annotated[
    float | None,
    typer.Option(
        "--percent",
        help="Keep the labels of so many per cent of --labeled. The others are the unlabelled images, unless "
        "--unlabeled names some: then the others are left out. One of the two options is needed.",
    ),
]
OwnDetector = Annotated[
    str | None,
    typer.Option("--detector", help="A file of configs/detectors; else that of --weights, or retinanet_r50_fpn."),
]
BeginWith = Annotated[
    str | None,
    typer.Option("--weights", help="Run folder, or its best.safetensors: the training begins with that teacher."),
]
ImageFolder = Annotated[
    str | None,
    typer.Option(
        "--images",
        help="Image folder of --labeled, where that is a COCO JSON and no usual folder. The images of the other JSONs "
        "are looked for there, too.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="What training may cost: a time on this CPU, 30m or 2h, or memory, 8GB. By default the memory of the GPU "
        "that is here, else 15m for a *_tiny detector and 8GB for others.",
    ),
]
OwnOrKnown = Annotated[
    str | None,
    typer.Option("--data", help="In place of --labeled and --val: a file of configs/data, such as coco."),
]
Family = Annotated[
    str, typer.Option("--family", help="Of --percent: without_replacement, with_replacement (STAC) or index_file.")
]
Shares = Annotated[
    list[float] | None,
    typer.Option("--percent", help="Share of the images; repeat for several: --percent 1 --percent 10."),
]
Shots = Annotated[
    list[int] | None,
    typer.Option("--shots", help="Boxes of each class, beside or in place of --percent; repeat for several: 1, 5, 10."),
]
Val = Annotated[
    str | None,
    typer.Option("--val", help="Like --labeled, for measuring; 20%, the default, cuts it from --labeled."),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        help="Images that stay together where --val is cut: of one folder, or of one prefix of names (cam1_0042.jpg, "
        "cam1_0043.jpg).",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Keys of the config that is written: data.labeled.box_format=xyxy, train.steps=5000 ...",
    ),
]


def _present(weights: Path) -> Path:
    """Refuse weights that are not there, before torch is imported for them."""
    weights_file(weights)
    return weights


def _usable(weights: Path) -> Path:
    """Refuse a graph that nothing here can run, likewise."""
    graph_file.need_packages(_present(weights))
    return weights


def _trained(weights: Path) -> Path:
    """Refuse a graph where weights are needed, likewise."""
    graph_file.refuse(_present(weights), "exported again")
    return weights


Weights = Annotated[
    Path,
    typer.Argument(
        help="best.safetensors, or a run folder that holds one; or an exported graph, .onnx or .pt2.", callback=_usable
    ),
]
OnlyWeights = Annotated[
    Path, typer.Argument(help="best.safetensors, or a run folder that holds one.", callback=_trained)
]
Sheet = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Write a page with pictures, too: sheet.html; an older one is replaced."),
]
Doubts = Annotated[
    Path | None,
    typer.Option(
        "--run",
        help="Run folder, or a model file: -o shows what it is sure of and no label says.",
        callback=lambda weights: None if weights is None else _usable(weights),
    ),
]
OfTrained = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the config: key.path=value ..., of data, eval, detector.decode, views.val, views.tiles, "
        "train.device, train.workers and train.precision; no others count for trained weights."
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on standard output; what is for people goes to standard error."),
]


def _device(name: str | None) -> str | None:
    """Refuse what is no device before anything is read."""
    if name not in (None, *DEVICES):
        raise SsodError("command line", "--device", f"'{name}' is none", f"give one of {', '.join(DEVICES)}")
    return name


DEVICES = ("auto", "cpu", "cuda")
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu or cuda; short for train.device=...", callback=_device),
]
DeviceOfTrained = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu or cuda; auto takes a GPU where there is one.", callback=_device),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of everything random; short for train.seed=...")]
Epochs = Annotated[
    float | None,
    typer.Option(
        "--epochs",
        help="Passes over the labelled images, of which every step of every method sees some; sets train.steps.",
    ),
]
StepBatch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        min=1,
        help="Images of a step, labelled and unlabelled together; sets train.batch, in the ratio that it has.",
    ),
]
EvalBatch = Annotated[
    int | None,
    typer.Option("--batch", min=1, help="Images that the detector looks at together; short for eval.batch=..."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="The same as the bare words KEY=VALUE; may be repeated."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks; before or after the command.")]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Let a config name a method of your own package, which is then run, and open a .pt2, which may run code.",
    ),
]


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given; the others keep the defaults of what is called."""
    return {key: value for key, value in options.items() if value is not None}


def one_name(images: list[str]) -> str:
    """Return the argument that names images.

    Raises:
        SsodError: code 2, several: a shell has put the names of files in the place of a pattern.
    """
    if len(images) > 1:
        problem = f"{len(images)} names of images where one is read, first '{images[0]}' and '{images[1]}'"
        fix = "put a pattern in quotes, 'photos/*.jpg', or name the folder or a .txt list"
        raise SsodError("command line", "IMAGES", problem, fix)
    return images[0]
