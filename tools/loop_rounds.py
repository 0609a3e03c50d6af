"""Run the two rounds of docs/loop.md on a VOC folder whose labels are known, and say what the labels of each are worth.

    python -m tools.loop_rounds /data/bccd -o runs/loop --control

Of ``trainval`` a tenth keeps its labels. The hidden truth of the others stands in for the person: true boxes of the
images that are asked for are written as a labelling tool exports them. All else is done by the calls of docs/python.md,
each printed as a command. ``--control`` trains a third run, which goes on from round 1 as round 2 does, with images
drawn by chance in the place of those of ``--next``.

Last comes a table in Markdown, also in ``table.md``: the labels of each run, AP and AP50 of its best teacher, and how
right the labels of round 1 are, by the audit and by the truth of all unlabelled images. What is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

import ssod
from ssod.data.formats.coco import to_coco
from ssod.data.formats.infer import MEASURED, labeled_source
from ssod.data.formats.records import Labeled
from ssod.data.formats.registry import LabeledSource, read_labeled
from ssod.evaluation.agreement import Agreement
from ssod.utils import atomic
from ssod.utils.errors import SsodError
from ssod.utils.printing import percent
from tools.options import count

NAMES = {
    "evaluate": "eval",
    "label_files": "label",
    "out": "-o",
    "overrides": "--set",
}  # of commands and options, where a call has others
SHARES = [f"{kind} by {by}" for kind in ("precision", "recall") for by in ("audit (95 %)", "truth")]


def once(file: Path, make: Callable[[], Any]) -> Any:
    """Return what ``make`` found, from the JSON that keeps it where it was made before."""
    if not file.exists():
        atomic.write_text(file, json.dumps(make(), indent=1))
    return json.loads(file.read_text())


def same(args: argparse.Namespace, file: str, names: Sequence[str]) -> None:
    """Refuse options that differ from those that ``file`` of the folder keeps; the first ones are kept."""
    asked = {name: str(getattr(args, name)) for name in names}
    if once(args.out / file, lambda: asked) != asked:
        raise SsodError(args.out, "", "was begun with other options", f"give those of its {file}, or name another -o")


def typed(call: Callable[..., Any], *words: Any, **options: Any) -> Any:
    """Print a call as the command that a person would type, make it, and return what it does."""
    line = ["ssod", NAMES.get(call.__name__, call.__name__)]
    line += [str(word) for one in words for word in (one if isinstance(one, list) else [one])]
    for key, value in options.items():
        many = value if isinstance(value, list) else [] if value is None else [value]
        line += [word for one in many for word in (NAMES.get(key, f"--{key}"), str(one))]
    print(f"\n$ {shlex.join(line)}", flush=True)
    return call(*words, **options)


def train(config: Path, out: Path) -> None:
    """Train the config of a file."""
    ssod.train(ssod.load_config(config), out=out)


def read_truth(folder: Path) -> Labeled:
    """Read what may be learnt from of a VOC folder: ``trainval``, or ``train`` where ``val`` is measured on."""
    measured = labeled_source(str(folder), "FOLDER", MEASURED)
    parts = ("trainval", "train") if measured.get("split") == "test" else ("train", "trainval")
    data = read_labeled(TypeAdapter(LabeledSource).validate_python(labeled_source(str(folder), "FOLDER", parts)))
    return replace(data, images=replace(data.images, ids=range(1, len(data) + 1)))  # a name is no id for COCO


def hide(data: Labeled, out: Path, share: float, seed: int) -> None:
    """Write ``train.json`` with ``photos``, which are labelled, ``more``, which are not, and last ``truth.json``."""
    many = min(max(1, round(share / 100 * len(data))), len(data) - 1)
    keeps = set(np.random.default_rng([seed, 0]).permutation(len(data))[:many].tolist())
    for i, path in enumerate(data.images.paths):
        place = out / ("photos" if i in keeps else "more") / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(os.path.join(data.images.root, path), place)
    for name, part in (("train", data.subset(sorted(keeps))), ("truth", data)):
        atomic.write_text(out / f"{name}.json", json.dumps(to_coco(part)))


def names_of(file: Path) -> set[str]:
    """Return the names of the images of a COCO JSON."""
    return {row["file_name"] for row in json.loads(file.read_text())["images"]}


def by_hand(names: set[str], truth: Path, target: Path) -> None:
    """Write the true boxes of images, numbered anew, as the person's labelling tool exports them."""
    whole = json.loads(truth.read_text())
    number = {row["id"]: i for i, row in enumerate(whole["images"]) if row["file_name"] in names}
    rows = [row | {"image_id": number[row["image_id"]]} for row in whole["annotations"] if row["image_id"] in number]
    images = [row | {"id": number[row["id"]]} for row in whole["images"] if row["id"] in number]
    atomic.write_text(target, json.dumps(whole | {"images": images, "annotations": rows}))


def trained(name: str, parts: Sequence[str], args: argparse.Namespace, **begin: str) -> dict[str, float]:
    """Merge what is labelled, write a config, train and evaluate; return the amount of labels, AP and AP50."""
    out, config, run = args.out, args.out / f"{name}.yaml", args.out / "runs" / name
    labels = out / f"{'-'.join(parts)}.json"
    if not labels.exists():
        typed(ssod.merge, [out / f"{part}.json" for part in parts], out=labels, images=[out / "photos", out / "more"])
    places = {"labeled": str(labels), "unlabeled": str(out / "more"), "val": str(args.folder), **begin}
    if not config.exists():
        wanted = {"method": args.method, "budget": args.budget, "overrides": args.set}
        print(typed(ssod.init, **places, **wanted, out=config).text)

    def reached() -> dict[str, float]:
        typed(train, config, out=run)
        found, held = typed(ssod.evaluate, run), json.loads(labels.read_text())
        return {key: len(held[key]) for key in ("images", "annotations")} | {key: found[key] for key in ("AP", "AP50")}

    return once(out / f"{name}.result.json", reached)


def held_against(labels: Path, truth: Path, keep: Path) -> Agreement:
    """Return how right labels are by a truth, all classes together."""
    return Agreement(**once(keep, lambda: asdict(typed(ssod.audit, labels, truth).classes[-1])))


def rounds(args: argparse.Namespace) -> str:
    """Make both rounds, and the control if it is wanted; return the table."""
    out, first = args.out, args.out / "runs" / "one"
    runs = {"round 1": trained("one", ["train"], args, images=str(out / "photos"), detector=args.detector)}
    labels, *asked = (out / f"round1/{part}instances.json" for part in ("", "next/", "audit/"))
    if not labels.exists():
        limits = {"precision": args.precision if args.score is None else None, "score": args.score}
        typed(ssod.label, first, out / "more", out=out / "round1", **limits, next=args.next, audit=args.audit)
    same(args, "round1.json", ("next", "audit", "precision", "score"))
    for file in asked:
        by_hand(names_of(file), out / "truth.json", out / f"{file.parent.name}.json")
    audit = held_against(asked[1], out / "audit.json", out / "audit.result.json")
    truth = held_against(labels, out / "truth.json", out / "truth.result.json")
    runs["round 2"] = trained("two", ["train", "next", "audit"], args, weights=str(first))
    if args.control:
        free = sorted(names_of(labels) - names_of(asked[1]))
        drawn = np.random.default_rng([args.seed, 1]).permutation(free)[: len(names_of(asked[0]))]
        by_hand(set(drawn.tolist()), out / "truth.json", out / "chance.json")
        runs["by chance"] = trained("three", ["train", "chance", "audit"], args, weights=str(first))
    return table(runs, audit, truth)


def table(runs: dict[str, dict[str, float]], audit: Agreement, truth: Agreement) -> str:
    """Return the table; shares in per cent, those of the labels beside the run that wrote them."""
    shares: list[str] = []
    for kind in ("precision", "recall"):
        interval = " to ".join(map(percent, getattr(audit, f"{kind}_interval")))
        shares += [f"{percent(getattr(audit, kind))} ({interval})", percent(getattr(truth, kind))]
    lines = [("run", "labelled images", "boxes", "AP", "AP50", *SHARES), ("---", *["---:"] * (4 + len(SHARES)))]
    for name, held in runs.items():
        amount = str(held["images"]), str(held["annotations"])
        lines.append((name, *amount, percent(held["AP"]), percent(held["AP50"]), *shares))
        shares = [""] * len(shares)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a VOC folder with trainval and test, or with train and val")
    for name, default in {"detector": "retinanet_tiny_fpn", "method": "mean_teacher", "budget": None}.items():
        parser.add_argument(f"--{name}", default=default, help="as of ssod init")
    parser.add_argument("--percent", type=float, default=10.0, help="share of the images that keep their labels")
    parser.add_argument("--seed", type=int, default=0, help="of what is hidden, and of the control")
    for name in ("next", "audit"):
        parser.add_argument(f"--{name}", type=count, default=50, help="as of ssod label")
    parser.add_argument("--precision", type=float, default=0.9, help="as of ssod label")
    parser.add_argument("--score", type=float, help="in its place: a run of few steps reaches no precision")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a key of both configs")
    parser.add_argument("--control", action="store_true", help="train a third run, on images drawn by chance")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write to, and to go on in")
    args = parser.parse_args(argv)
    try:
        if not (args.out / "truth.json").exists():
            hide(read_truth(args.folder), args.out, args.percent, args.seed)
        same(args, "options.json", ("folder", "percent", "seed", "detector", "method", "budget", "set"))
        text = rounds(args)
        atomic.write_text(args.out / "table.md", text)
    except SsodError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    print(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
