"""``ssod init``: look at a user's data and write a config that trains on it.

The numbers follow from the data by a rule that suits a few hundred labelled images, and the file says so:

* batch: 8 labelled and 8 unlabelled images, or the largest power of two that there are;
* steps: 100 passes over the labelled images, at least 3 000 and at most 30 000, or 200 and at least 1 500 for a
  detector without pretrained weights; where a time is the budget fewer, such that images can be larger;
* optimiser, rate, schedule, burn-in, average: of ``configs/data/own.yaml``, or of ``own_small.yaml`` for a detector
  without pretrained weights, and of what the method says for its protocol;
* size, anchors and levels: from the labelled boxes' sides and a budget, see ``sizes``; views vary by a fifth.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ssod import config
from ssod.commands.check import check
from ssod.commands.init import text as init_text
from ssod.commands.init.early import DETECTOR, own_recipe
from ssod.commands.init.edit import flow, score_counts, with_changes
from ssod.commands.init.fit import fit, said
from ssod.commands.init.half_labeled import refuse_half_labeled
from ssod.commands.init.seldom import fewer_evaluations, seldom
from ssod.commands.init.text import compose
from ssod.commands.init.unfitted import compose_unfitted, in_the_data, refuse_taken, sealed
from ssod.commands.init.val import cut_off, other_part, share_of
from ssod.commands.init.weights import begin_with
from ssod.commands.pace import NO_PACE, Pace
from ssod.config import Config
from ssod.data import datasets
from ssod.data.datasets import DataConfig, DataSets
from ssod.data.formats.infer import data_section
from ssod.utils import atomic, recipes
from ssod.utils.config_errors import Source, nearest, read_section
from ssod.utils.errors import Exit, SsodError
from ssod.utils.given import given
from ssod.utils.merging import merge, override
from ssod.utils.recipes import Recipe
from ssod.utils.yaml_io import parse_yaml


def write_config(
    out: Path | str,
    labeled: str | None = None,
    unlabeled: str | None = None,
    val: str | None = None,
    *,
    percent: float | None = None,
    detector: str | None = None,
    method: str = "mean_teacher",
    images: str | None = None,
    val_images: str | None = None,
    fold: int | None = None,
    weights: str | None = None,
    overrides: Sequence[str] = (),
    pace: Pace = NO_PACE,
    budget: str | None = None,
    group: str | None = None,
) -> str:
    """Write a starting config for a user's own data.

    Args:
        out: the file to write; never overwritten.
        labeled: COCO JSON, VOC folder or YOLO folder, or another export of a labelling tool.
        unlabeled: folder, glob or .txt list of images, or one of the above; "rest": the images of ``labeled`` that
            nobody labelled. None = with ``percent``, the labelled set's other images.
        val: like ``labeled``; a share such as ``20%``, None = that one, cuts it from the labelled images.
        percent: share of the labelled images that keep their labels; needed where ``unlabeled`` is None. With both,
            the unlabelled images are those of ``unlabeled`` alone, and the labelled set's others are left out.
        detector: a file of ``configs/detectors``; None = that of ``weights``, or ``DETECTOR``.
        method: a file of ``configs/methods``.
        images: image folder of ``labeled``, a COCO JSON; the others' images may lie there, too. None = one of the
            usual folders.
        val_images: image folder of ``val``, a COCO JSON. None = one of the usual folders, or ``images``.
        fold: number of the draw, where ``percent`` is given; None = 1.
        weights: a run folder or its model file, whose teacher the training begins with.
        overrides: ``key.path=value`` for keys of the config; those of ``data`` hold for reading the data, too.
        pace: batch and steps in place of the rule's.
        budget: what training may cost, ``30m`` or ``8GB``; None = what the machine has.
        group: images that the cut leaves together: of one ``folder``, or of one ``prefix`` of names.

    Returns:
        A few lines for people: what was found, and what to do next.

    Raises:
        SsodError: what was not recognised; or the first error in the data, of which all findings are printed, and a
            config is written that is not fitted to them.
    """
    out = Path(out)
    refuse_taken(out)
    if labeled is None:
        raise SsodError("command line", "--labeled", "missing", "name your data, or one of configs/data with --data")
    share = share_of(val, group)
    if fold is not None and percent is None:
        raise SsodError("command line", "--fold", "nothing is drawn", "give --percent, too, or leave it out")
    recipe = own_recipe(method, detector or DETECTOR)  # an unknown name is refused before the data is read
    changes: dict[str, Any] = {}
    if weights is not None:
        name, changes["detector"] = begin_with(weights, method, detector)
        recipe = own_recipe(method, name)
    named = val if share is None else None
    section = data_section(labeled, unlabeled, named, percent, images, val_images, fold=1 if fold is None else fold)
    merge(changes, changed(overrides), {}, "command line")
    merge(section, changes.pop("data", {}), {}, "command line")
    cutting = nullcontext() if share is None or "val" in section else cut_off(out, section, share, group)
    try:
        with cutting:
            return _begins(weights, recipe) + _write_fitted(out, section, recipe, changes, budget, pace)
    except SsodError as error:
        if in_the_data(error):
            _write_unfitted(out, section, recipe, changes)
        raise


def _write_fitted(
    out: Path, section: dict[str, Any], recipe: Recipe, changes: dict[str, Any], budget: str | None, pace: Pace
) -> str:
    """Read the data, write a config that fits them, and return what to say."""
    data = _read(section)
    refuse_half_labeled(section, data)
    if section["labeled"]["format"] in ("voc", "labelme", "labelstudio") and "classes" not in section:
        section["classes"] = list(data.classes.names)  # these have no list; this one stays the same
    tree, _ = recipes.compose(recipe)
    score_counts(tree, changes)
    train = changes.get("train", {})
    n = init_text.numbers(data, tree["train"], train.get("batch"), pace, small=recipe.data == recipes.OWN_SMALL)
    sizes = fit(data.labeled, tree, changes, n, budget)
    n = n if "steps" in train else init_text.brought_down(n, sizes.steps)
    text = seldom(compose(out, section, data, recipe, tree, n, sizes), tree, changes, n.steps)
    text = with_changes(text, changes)
    cfg = _check(text, recipe, out)
    about = said(sizes, cfg, data.labeled, budget)
    _write_new(out, init_text.with_remarks(text, about))
    return (
        f"labelled   {_found(section['labeled'], data.labeled)}{_kept(section)}, {len(data.classes)} classes\n"
        f"unlabelled {_unlabeled(section, data)}\n"
        f"val        {_measured(section, data)}\n"
        f"{''.join(f'{line}{chr(10)}' for line in (*pace.told(n.labeled, n.steps, len(data.labeled)), *about))}"
        f"wrote {out}; next: ssod check, ssod plan and ssod train {shlex.quote(str(out))}"
    )


def _begins(weights: str | None, recipe: Recipe) -> str:
    return "" if weights is None else f"weights    those of {weights}, a {recipe.detector}\n"


def write_recipe(
    out: Path | str,
    data: str,
    own: Mapping[str, str],
    *,
    method: str,
    detector: str | None = None,
    percent: float | None = None,
    fold: int | None = None,
    overrides: Sequence[str] = (),
    pace: Pace = NO_PACE,
) -> str:
    """Write a config that names a recipe of ``configs`` and changes nothing of it.

    Args:
        out: the file to write; never overwritten.
        data: a file of ``configs/data``.
        own: options about other data, which are refused: name -> value.
        method, detector, percent, fold: the rest of the recipe.
        overrides: ``key.path=value``, what the config changes of it.
        pace: batch and steps; with ``epochs`` the labelled images are read.

    Returns:
        A line for people.

    Raises:
        SsodError: an unknown name, or a file that is there.
    """
    out = Path(out)
    for option in own:
        problem, fix = f"--data {data} names all images", "leave one of the two out"
        if option == "weights":
            problem, fix = "goes with data of your own", "with --data, give detector.weights=FILE instead"
        raise SsodError("command line", f"--{option.replace('_', '-')}", problem, fix)
    detector = detector or DETECTOR
    named = {"method": method, "detector": detector, "data": data, "percent": percent, "fold": fold}
    named = {key: value for key, value in named.items() if value is not None}
    lines: list[str] = []
    cfg = config.load_recipe(
        **named, overrides=overrides, settle=lambda tree, origins: lines.extend(pace.settle(tree, origins))
    )
    if percent is not None and percent == int(percent):
        named["percent"] = int(percent)
    file = shlex.quote(str(out))
    text = f"""\
# {detector}, {method} on {data}. All keys with their values, and where each comes from: ssod config {file}
recipe: {flow(named)}
# What is written below changes it, such as
# train: {{batch: {{labeled: 4, unlabeled: 4}}}}
"""
    fewer = fewer_evaluations(cfg, changed(overrides))
    text = with_changes(text, changed([*overrides, *pace.words(cfg.train), *fewer]))
    _write_new(out, text)
    return "\n".join([*lines, f"wrote {out}; next: ssod check, ssod plan and ssod train {file}"])


def changed(overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``key.path=value`` texts as a tree; refuse a section that no config has.

    Raises:
        SsodError: code 2.
    """
    tree: dict[str, Any] = {}
    for text in overrides:
        override(tree, {}, text)
    for name, value in tree.items():
        if name not in config.SECTIONS:
            raise SsodError("command line", name, "unknown section", nearest(name, config.SECTIONS))
        if not isinstance(value, dict):
            raise SsodError("command line", name, "is a section", f"name a key of it: {name}.KEY=VALUE")
    return tree


def _check(text: str, recipe: Recipe, out: Path) -> Config:
    """Load the text as if it stood in ``out``: what is written can be trained."""
    tree, origins = recipes.compose(recipe)
    own = parse_yaml(text, str(out))
    merge(tree, {key: value for key, value in own.items() if key != "recipe"}, origins, str(out))
    return config.validate(tree, str(out), stem=out.stem, origins=origins)


def _read(section: dict[str, Any]) -> DataSets:
    cfg = read_section(DataConfig, section, "data", Source("command line", {}), {})
    try:
        return datasets.load(cfg)
    except SsodError as error:
        if error.field == "data.split.percent":
            raise SsodError("command line", "--percent", error.problem, error.fix, code=error.code) from None
        raise


def _found(source: dict[str, str], images: Any) -> str:
    what = {"coco": "COCO", "voc": "VOC", "yolo": "YOLO", "folder": "no labels", "labelstudio": "Label Studio"}
    what = what.get(source["format"], source["format"])
    if "ann" in source:
        place = f"{source['ann']}, images in {source['images']}"
    else:
        place = source.get("path") or ", ".join([source["root"], *([source["split"]] if "split" in source else [])])
    what = f"those of {what} without labels" if source.get("which") == "bare" else what
    return f"{len(images)} images ({what}: {place})"


def _kept(section: dict[str, Any]) -> str:
    return f": {section['split']['percent']:g} % keep their labels" if "split" in section else ""


def _measured(section: dict[str, Any], data: DataSets) -> str:
    if "held_out" not in section:
        return _found(section["val"], data.val)
    cut = f"{len(given(data.val, 'cut'))} of the labelled images, not learnt from: {section['held_out']}"
    return cut + other_part(section)


def _write_unfitted(out: Path, section: dict[str, Any], recipe: Recipe, changes: dict[str, Any]) -> None:
    """Write a config that names data with errors, and print all that a check of them finds."""
    text = with_changes(compose_unfitted(out, section, recipe), changes)
    cfg = _check(text, recipe, out)
    _write_new(out, sealed(text))
    print("\n".join([*check(cfg.data).lines(), f"wrote {out}, which is not fitted to the data: they have errors"]))


def _unlabeled(section: dict[str, Any], data: DataSets) -> str:
    if "unlabeled" not in section:
        return f"{len(data.unlabeled)} images (the others of the labelled set)"
    left = "; the labelled set's other images are left out" if "split" in section else ""
    return _found(section["unlabeled"], data.unlabeled) + left


def _write_new(out: Path, text: str) -> None:
    try:
        atomic.write_text(out, text, new=True)
    except SsodError as error:
        raise SsodError(out, "", error.problem, "choose another place", code=Exit.IO) from error
