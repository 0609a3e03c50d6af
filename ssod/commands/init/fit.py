"""From a recipe, a user's changes and a budget to the sizes that ``ssod init`` writes, and to what it says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ssod.commands.coverage import ENOUGH, coverage, cut_by_tiles, doubt
from ssod.commands.init.budget import read_budget, taught_share
from ssod.commands.init.sizes import Sizes, Wanted, choose, read_detector
from ssod.commands.init.start import coco_fits
from ssod.commands.init.text import Numbers
from ssod.commands.init.tiles import or_tiles
from ssod.config import Config
from ssod.data.checks.reach import Coverage
from ssod.data.formats.records import Labeled
from ssod.detectors.fcos import FcosConfig
from ssod.methods.registry import find
from ssod.structures import Tiles
from ssod.utils.config_errors import Source, read_section
from ssod.utils.given import given
from ssod.utils.merging import merge

STRUCTURE = ("levels", "anchors", "assigner")  # of a detector's section: where a user names one, all of it stays
BARE = ("none", "imagenet")  # weights that say nothing of anchors and levels
SMALL = 16  # pixels: below, size is what boxes lack; above, an anchor of their shape
MORE = 0.1  # share of the boxes that another detector has to reach more, to be named


def fit(data: Labeled, tree: Mapping[str, Any], changes: Mapping[str, Any], n: Numbers, budget: str | None) -> Sizes:
    """Choose the sizes.

    Args:
        data: the images that keep their labels.
        tree: the recipe's sections.
        changes: the user's, section by section.
        n: batch and steps.
        budget: what the user allows; None = what the machine does.

    Raises:
        SsodError: no budget, or a detector's section that is wrong.
    """
    detector: dict[str, Any] = {}
    own = changes.get("detector", {})
    for section in (tree["detector"], own):
        merge(detector, section, {}, "command line")
    coco = "weights" not in own and coco_fits(read_detector(detector))
    detector |= {"weights": "coco"} if coco else {}
    method = {**tree["method"], **changes.get("method", {})}
    train = changes.get("train", {})
    steps, fewest = n.steps, n.fewest
    if isinstance(train.get("steps"), int):
        steps = fewest = train["steps"]
    elif any(isinstance(changes.get("method", {}).get(key), int) for key in ("burn_in", "start")):
        fewest = steps  # a number of steps was meant for so many
    batch = {"labeled": n.labeled, "unlabeled": n.unlabeled} | train.get("batch", {})
    images = (batch["labeled"], batch["unlabeled"] if find(method["name"]).uses_unlabeled else 0)
    wanted = Wanted(
        detector=detector,
        fixed=coco or own.get("weights", "none") not in BARE or any(key in own for key in STRUCTURE),
        images=images,
        most_parts=1 if "mix" in method else min(filter(None, images)),
        steps=steps,
        fewest=fewest,
        taught=taught_share(method, steps),
        budget=read_budget(budget, detector.get("backbone", "")),
    )
    sizes, views = choose(data, wanted), changes.get("views", {})
    if views.get("tiles") is not None:
        tiles = read_section(Tiles, views["tiles"], "views.tiles", Source("command line", {}), {})
        sizes = or_tiles(data, wanted, sizes, tiles)
    elif "tiles" not in views and not _labels_once(method, steps):
        sizes = or_tiles(data, wanted, sizes)
    return replace(sizes, detector={"weights": "coco"} | sizes.detector) if coco else sizes


def _input(sizes: Sizes) -> str:
    """Return what the network gets to see, in words."""
    if sizes.tiles is None:
        return f"{sizes.short} pixels on the shorter side"
    size = sizes.tiles.size
    enlarged = "" if sizes.short == size else f", enlarged to {sizes.short}"
    return f"tiles of {size} x {size} pixels{enlarged}, {sizes.each} of an image"


def _labels_once(section: Mapping[str, Any], steps: int) -> bool:
    """Return whether a method labels an image once, and so cannot see another tile of it each time."""
    method = find(section["name"])
    if not method.uses_unlabeled:
        return False
    return read_section(
        method.Config, dict(section), "method", Source("command line", {}), {"steps": steps}
    ).labels_once


def said(sizes: Sizes, cfg: Config, data: Labeled, budget: str | None) -> list[str]:
    """Return what init says of the sizes: to people, and at the head of the file.

    Args:
        sizes: what was chosen.
        cfg: the config that is written.
        data: the images that keep their labels.
        budget: what the user allows; None = what the machine does.
    """
    reached = coverage(cfg, data)
    lines = []
    if sizes.cost:
        allowed = f"budget {budget}" if budget else "the budget of this machine"
        over = "" if sizes.fits else f"; that is more than {allowed}, and the smallest size there is"
        lines.append(f"input      {_input(sizes)}, {sizes.cost} (estimated){over}")
    if sizes.tiles is not None:
        lines.append(f"           whole images that fit have {100 * sizes.whole:.0f} % of the boxes within reach")
    if reached is not None:
        lines.append(f"reach      {reached.within()} within reach of the detector")
    if reached is not None and doubt(reached) is not None:
        lines.append(f"           out of reach: {reached.beyond()}")
        lines.append(f"           fewer than {ENOUGH:.0%}: {_remedy(sizes, reached, cfg, data)}")
    return lines


def _remedy(sizes: Sizes, reached: Coverage, cfg: Config, data: Labeled) -> str:
    """Return what may bring more boxes within reach; a detector is named where it was tried, and does."""
    if cut_by_tiles(reached):
        return "tiles are too small for the objects: a larger --budget, or whole images, views.tiles=null"
    if "weights" in sizes.detector:  # those of COCO ask for their own anchors
        return "detector.weights=imagenet lets init choose anchors and levels"
    if reached.side < SMALL:
        return "a larger --budget may help"
    other = given(coverage(replace(cfg, detector=FcosConfig()), data), "an FCOS has points")
    if other.share > reached.share + MORE:
        return f"an FCOS, which has no anchors, has {other.within()} within reach: --detector fcos_..."
    return "no size within the budget, and no anchors or levels that may change, reach more"
