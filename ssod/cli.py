"""The command line: one function a subcommand, each a thin cover over a Python call.

Nothing heavy is imported here; ``ssod --help`` must answer at once, so torch is imported by the command that needs it,
and only after the files that it was given are known to be there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssod.commands import listing, loop, shipping, studies
from ssod.commands import options as option
from ssod.commands.asked import Asked, of_a_config
from ssod.commands.ending import one_line_errors
from ssod.commands.json_output import answered
from ssod.utils.errors import SsodError
from ssod.version import __version__

if TYPE_CHECKING:
    from ssod.commands.planned import Plan

app = typer.Typer(
    name="ssod",
    help="Train an object detector with a tenth of the labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to put data, runs and pictures.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Repeat with this many seeds and average.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Fewer or more steps than the demo's config says.")] = None,
) -> None:
    """The main job on a generated data set, on the CPU: a supervised baseline and Mean Teacher, side by side."""
    from ssod.commands.demo import demo

    demo(out, seeds=seeds, steps=steps)


@app.command()
def doctor(json: option.Json = False) -> None:
    """Versions, torch/torchvision pairing, devices, write access; exit 0 or 1."""
    from ssod.commands.doctor import doctor

    raise typer.Exit(0 if answered(json, doctor).healthy else 1)


@app.command()
def init(
    out: Annotated[Path, typer.Option("-o", "--out", help="The config to write.")],
    changes: option.Changes = None,
    labeled: Annotated[str | None, typer.Option(help="COCO JSON, VOC or YOLO folder, or an export of a tool.")] = None,
    val: option.Val = None,
    unlabeled: Annotated[str | None, typer.Option(help="Folder, glob or .txt list of images, or rest.")] = None,
    percent: option.Percents = None,
    detector: option.OwnDetector = None,
    method: Annotated[str, typer.Option(help="A file of configs/methods.")] = "mean_teacher",
    data: option.OwnOrKnown = None,
    fold: Annotated[int | None, typer.Option(help="Draw of the labels that are kept.")] = None,
    images: option.ImageFolder = None,
    val_images: Annotated[str | None, typer.Option(help="Image folder of --val, likewise.")] = None,
    weights: option.BeginWith = None,
    budget: option.Budget = None,
    group: option.Group = None,
    device: option.Device = None,
    seed: option.Seed = None,
    epochs: option.Epochs = None,
    batch: option.StepBatch = None,
    set: option.Set = None,
) -> None:
    """Write a starting config for your own data, or for a data set of configs/data."""
    asked = Asked(changes, percent=percent, fold=fold, device=device, seed=seed, epochs=epochs, batch=batch, set=set)
    overrides = [*(changes or []), *asked.changes()]
    from ssod.commands.init import early

    if data is None:
        early.own_recipe(method, detector or early.DETECTOR)
        early.refuse_absent(labeled, val, unlabeled)
    else:
        early.known("data", data)
    from ssod.commands.init.begin import init

    own = {"labeled": labeled, "val": val, "unlabeled": unlabeled, "images": images, "val_images": val_images}
    more = {"percent": percent, "detector": detector, "method": method, "fold": fold, "overrides": overrides}
    pace = {"epochs": epochs, "batch": batch}
    print(init(out, **own, **more, **pace, data=data, weights=weights, budget=budget, group=group).text)


@app.command()
@of_a_config("device")
def check(
    decode: option.Decode = None,
    out: option.Sheet = None,
    run: option.Doubts = None,
    json: option.Json = False,
    **said: Any,
) -> None:
    """Counts, classes, bad boxes, leakage, near duplicates: every finding, not the first."""
    asked = Asked(**said)
    if asked.device is not None and run is None:
        raise SsodError("command line", "--device", "is where a model looks, and none is asked", "add --run RUN")
    cfg = asked.load()
    from ssod.run import check

    found = answered(json, lambda: check(cfg, decode=decode, out=out, weights=run))
    raise typer.Exit(int(found.code))


@app.command()
def split(
    ann: Annotated[Path, typer.Option(help="COCO JSON to divide.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the JSON pairs.")],
    percent: option.Shares = None,
    shots: option.Shots = None,
    folds: Annotated[int, typer.Option(min=1, help="Folds 1..n.")] = 5,
    family: option.Family = "without_replacement",
    file: Annotated[Path | None, typer.Option(help="The published index file, for --family index_file.")] = None,
) -> None:
    """Labelled / unlabelled splits, bit-identical to the published procedures."""
    from ssod.commands.split import split

    for line in split(ann, out, percent=percent or [], shots=shots or [], folds=folds, family=family, file=file):
        print(line)


@app.command()
@of_a_config("device", "seed", "epochs", "batch")
def plan(json: option.Json = False, **said: Any) -> None:
    """Batch, learning rate, epochs over each set, time and memory from a few timed steps, before training."""
    asked = Asked(**said)

    def found() -> Plan:
        cfg = asked.load()  # which may print a line, too
        from ssod.commands.plan import plan

        return plan(cfg)

    answered(json, found)


@app.command()
@of_a_config("device", "seed", "epochs", "batch")
def train(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder; default runs/<config>/<time>.")] = None,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(help="A key that may differ from the checkpoint's when resuming."),
    ] = None,
    from_burn_in: Annotated[
        Path | None,
        typer.Option(help="Run folder with an equal burn-in, kept by train.keep_burn_in=true; begin where that ended."),
    ] = None,
    decode: option.DecodeVal = None,
    **said: Any,
) -> None:
    """Train; resumes by itself when its run folder has a checkpoint."""
    cfg = Asked(**said).load()
    from ssod.run import opened

    allow = allow_change or []
    with opened(cfg, out=out, allow_change=allow, from_burn_in=from_burn_in, decode=decode) as trainer:
        trainer.fit()


app.command("eval")(shipping.evaluate)
for declared in (
    shipping.predict,
    loop.label,
    loop.audit,
    loop.merge,
    shipping.export,
    studies.compare,
    studies.report,
):
    app.command()(declared)


@app.command("config")
@of_a_config("device", "seed", "epochs", "batch")
def show_config(
    keys: Annotated[
        bool, typer.Option("--keys", help="Every key, its default and what it is for: of WORDS alone.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON schema of a config file, for editors.")] = False,
    **said: Any,
) -> None:
    """The merged config, and where each value came from; or which keys there are."""
    asked = Asked(**said)
    if keys or schema:
        from ssod.commands.config_keys import show

        asked.refuse_options("--schema" if schema else "--keys")
        show(asked.words or [], schema=schema)
        return
    from ssod.commands.config_text import describe

    print(describe(asked.load(say=lambda line: print(f"# {line}"))))


for listed in (listing.methods, listing.detectors, listing.losses):
    app.command()(listed)


@app.callback(invoke_without_command=True)
def _root(
    debug: option.Debug = False,  # `main` takes both, wherever they stand; they are here for the help
    allow_code: option.AllowCode = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; turns errors a user can mend into one line and an exit code."""
    words = [word for word in sys.argv[1:] if word not in ("--debug", "--allow-code")]
    if "--allow-code" in sys.argv[1:]:
        os.environ["SSOD_ALLOW_CODE"] = "*"  # for processes that this one starts, too; see ssod/methods/registry.py
    with one_line_errors(debug="--debug" in sys.argv[1:]):
        app(words)
