"""Every recipe starts: two steps, an evaluation and a resume, on a miniature of its data and with few channels.

Which recipes: those of ``chosen``, some 60 of the product of methods, detectors and data. A recipe says what it says in
the page of one factor, or under ``for`` where conditions on others hold, and breaks on a value that does not fit one of
another factor. What the pages of others make different for a method is the family of detectors and the protocol of the
data, so each pair of these is in a run, and each entry of ``for`` that sets more than numbers is in force in one; those
with a published figure come first. What is left out: three factors of which any two fit, and other numbers, which a
miniature replaces in part. All recipes are loaded, and their detectors built, in ``test_recipes`` and ``test_configs``.
``SSOD_ALL_RECIPES=1`` runs the whole product, all percentages of COCO included.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ssod.config import load_recipe
from ssod.engine.checkpointing import checkpoint
from ssod.experiments.published import published
from ssod.methods.registry import find
from ssod.run import opened
from ssod.structures import Batch
from ssod.utils import recipes
from tests.mini import STEPS, shrunk, write_data
from tests.recipes_resolved import DETECTORS, FAMILIES, combinations

FAMILY = {"RetinaNet R50-FPN": "retinanet", "FCOS R50-FPN": "fcos", "Faster R-CNN R50-FPN": "faster_rcnn"}
FAMILY |= {"Faster R-CNN R50, P3-P7": "faster_rcnn", "FCOS R50-RLA": "fcos"}
PROTOCOL = {
    "coco": "COCO 10 %",
    "coco_additional": "COCO additional",
    "voc": "VOC 07+12",
    "voc_coco20": "VOC 07+12+COCO20",
}
BACKBONES = {name: recipes.compose(recipes.Recipe(detector=name))[0]["detector"].get("backbone") for name in DETECTORS}


USUAL = (None, 10)


class Named(NamedTuple):
    """A recipe by its names."""

    method: str
    detector: str
    data: str
    percent: int | None

    def __str__(self) -> str:
        return "-".join(str(part) for part in self if part is not None)


@cache
def figures() -> set[tuple[str, str, str]]:
    """Return (method, family, protocol) of what is published."""
    rows = [row for row in published() if row.detector in FAMILY]
    return {(row.method.partition(" (")[0], FAMILY[row.detector], row.protocol) for row in rows}


def has_a_figure(names: Named) -> bool:
    figure = (names.method, FAMILIES[names.detector], PROTOCOL.get(names.data))
    return figure in figures() and "_r50_" in names.detector and names.percent in USUAL


def product() -> list[Named]:
    """Return every recipe whose detector can be built here; first those of papers, last those of other percentages."""
    d2 = find_spec("detectron2") is not None
    found = [Named(*names) for names in combinations() if d2 or not FAMILIES[names[1]].startswith("d2_")]
    return sorted(found, key=lambda names: (not has_a_figure(names), names.percent not in USUAL))


# ---- which of them -------------------------------------------------------------------------------------------------


PAIRS = (("method", "family"), ("method", "protocol"), ("detector", "protocol"), ("family", "data"))
pages = cache(recipes.pages)


def facts(names: Named) -> dict[str, Any]:
    """Return what conditions of ``for`` ask, and the method."""
    found = {**names._asdict(), "family": FAMILIES[names.detector], "backbone": BACKBONES[names.detector]}
    protocols = [page.protocol for page in pages("data", names.data) if page.protocol]
    return {**found, "protocol": protocols[-1]}


def numbers(tree: Any) -> bool:
    """Tell whether an entry sets nothing but numbers."""
    if isinstance(tree, dict | list):
        return all(map(numbers, tree.values() if isinstance(tree, dict) else tree))
    return isinstance(tree, int | float) and not isinstance(tree, bool)


def claims(names: Named) -> set[Any]:
    """Return what a run of this recipe shows: pairs of facts, entries of ``for``."""
    facts_ = facts(names)
    found: set[Any] = {(pair, *(facts_[key] for key in pair)) for pair in PAIRS}
    for factor in recipes.FACTORS:
        for page in pages(factor, getattr(names, factor)):
            entries = [(i, entry) for i, entry in enumerate(page.entries) if not numbers(entry.then)]
            found |= {(page.file, i) for i, entry in entries if entry.holds(facts_)}
    return found


def chosen(everything: list[Named]) -> list[Named]:
    """Return a few recipes that have all claims: always the first of those that add the most."""
    has = {names: claims(names) for names in everything}
    left, found = set().union(*has.values()), []
    while left:
        best = max(has, key=lambda names: len(has[names] & left))
        found.append(best)
        left -= has[best]
    return found


ALL = product()
RUNS = ALL if os.environ.get("SSOD_ALL_RECIPES") else chosen(ALL)


def test_the_chosen_ones_have_every_pair_and_every_entry() -> None:
    few = chosen(ALL)
    assert set().union(*map(claims, few)) == set().union(*map(claims, ALL))
    for first, second in PAIRS:
        few_, all_ = ({(facts(names)[first], facts(names)[second]) for names in some} for some in (few, ALL))
        assert few_ == all_
    assert {names.data for names in few} == {names.data for names in ALL}
    assert sum(map(has_a_figure, few)) >= 10
    assert len(few) < len(ALL) / 10


# ---- the runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from the name of a data set to the folder of its miniature."""

    @cache
    def written(data: str) -> Path:
        folder = tmp_path_factory.mktemp(data)
        write_data(load_recipe(method="mean_teacher", detector="fcos_tiny_fpn", data=data).dump()["data"], folder)
        return folder

    return written


class Cut(Exception):
    """Stands for a process that dies."""


def cut_after_a_step(batches: Callable[[int, int], Iterator[Batch]]) -> Callable[[int, int], Iterator[Batch]]:
    def cut(start: int, ahead: int) -> Iterator[Batch]:
        yield next(batches(start, ahead))
        raise Cut

    return cut


@pytest.mark.parametrize("names", RUNS, ids=str)
def test_two_steps_an_evaluation_and_a_resume(
    names: Named, root: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg, out = shrunk(*names, root(names.data)), tmp_path / "run"
    with opened(cfg, out=out) as trainer:
        trainer.parts.batches = cut_after_a_step(trainer.parts.batches)
        with pytest.raises(Cut):
            trainer.fit()
    with opened(cfg, out=out) as trainer:
        metrics = trainer.fit()
    assert f"resuming after step 1 of {STEPS}" in capsys.readouterr().out
    assert checkpoint.load(out / "checkpoints/last.pt")["step"] == STEPS
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, STEPS]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [STEPS]
    assert 0 <= metrics["AP"] <= 1
    check_losses(names, [row for row in rows if row["kind"] == "train"])


def check_losses(names: Named, rows: list[dict[str, Any]]) -> None:
    """Losses are numbers; in the second step unlabelled images have theirs, and boxes where a score lets them pass."""
    cfg = load_recipe(**names._asdict())
    for row in rows:
        assert all(math.isfinite(value) for key, value in row.items() if key.startswith(("sup/", "unsup/")))
        assert any(key.startswith("sup/") for key in row)
    last = rows[-1]
    assert any(key.startswith("unsup/") for key in last) == find(cfg.method.name).uses_unlabeled
    if "pseudo/boxes_per_image" in last and hasattr(cfg.method, "score"):
        assert last["pseudo/boxes_per_image"] > 0
