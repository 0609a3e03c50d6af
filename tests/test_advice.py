"""Whether unlabelled images will help, as `ssod plan` says it: limits, sources, and a foreign set that is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssod.commands import advice as advices
from ssod.commands.advice import FOREIGN, advice, rarest, ratio, source
from ssod.config import load
from ssod.data import datasets
from ssod.data.checks.foreign import LEAST, told_apart
from ssod.data.datasets import DataSets
from ssod.data.formats.records import Images
from tests.paths import shared_path
from tests.small import small_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("advice"))


@pytest.fixture
def data(config: Path) -> DataSets:
    """4 labelled images; boxes: circle 4, square 3, triangle 2, star 3, ring 0, cross 4."""
    return datasets.load(load(config).data)


def times(data: DataSets, count: int) -> DataSets:
    """Return the same with each labelled image so many times, at least one ring among the boxes of each."""
    labels = data.labeled.labels.copy()
    labels[0] = data.classes.names.index("ring")
    whole = replace(data.labeled, labels=labels)
    return replace(data, labeled=whole.subset(list(range(len(whole))) * count))


def test_boxes_of_the_rarest_class(data: DataSets) -> None:
    ((_, row),), (line,) = rarest(data, "mean_teacher")
    assert row.startswith("0 boxes in 0 images ('ring'); 5 or more are needed")
    assert "arXiv:2601.13380" in row
    assert line.startswith("fewer than 5 labelled boxes: 6 classes ('circle', 'square', 'triangle', ...); unlabelled")
    assert "arXiv:2601.13380" in line
    _, lines = rarest(times(data, 5), "mean_teacher")
    assert [line[:45] for line in lines] == ["5 to 9 labelled boxes: 1 class ('ring'); of t"]
    assert rarest(times(data, 5), "consistent_teacher")[1] == []
    assert rarest(times(data, 10), "mean_teacher")[1] == []


def test_unlabelled_images_for_a_labelled_one() -> None:
    assert ratio(4, 36) == ([("unlabelled images for a labelled one", f"9.0 ({advices.RATIO})")], [])
    assert ratio(10, 5)[1][0].startswith("0.50 unlabelled images for a labelled one: fewer than any published gain")


def test_advice_is_for_methods_that_take_unlabelled_images(config: Path, data: DataSets) -> None:
    rows, warnings = advice(load(config), data)
    assert [what for what, _ in rows] == [
        "rarest class", "unlabelled images for a labelled one", "told apart from labelled"
    ]  # fmt: skip
    assert rows[2][1] == "not known: fewer than 10 images of a set can be read"  # there are 4 and 8
    assert len(warnings) == 1
    assert advice(load(config, ["method={name: supervised}"]), data) == ([], [])


def colored(folder: Path, count: int, tint: tuple[int, int, int], seed: int) -> Images:
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for i in range(count):
        pixels = draw.integers(0, 160, (6, 8, 3)) + np.array(tint)
        Image.fromarray(pixels.astype(np.uint8)).resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    names = sorted(path.name for path in folder.iterdir())
    return Images(str(folder), names, names)


def test_a_planted_foreign_set_is_told_and_one_of_the_same_source_is_not(
    config: Path, data: DataSets, tmp_path: Path
) -> None:
    cfg = load(config).data
    labeled = colored(tmp_path / "labeled", 24, (0, 0, 0), 1)
    same, other = (colored(tmp_path / str(i), 40, tint, 2 + i) for i, tint in enumerate([(0, 0, 0), (60, 0, 30)]))
    (tmp_path / "0" / "0.jpg").write_bytes(b"no image")  # is left out
    data = replace(data, labeled=replace(data.labeled, images=labeled))
    (row,), lines = source(replace(data, unlabeled=same), cfg)
    assert row[1].startswith("AUC 0.")
    assert lines == []
    (row,), lines = source(replace(data, unlabeled=other), cfg)
    assert lines[0].startswith("unlabelled images look foreign: AUC 1.00")
    few = replace(data, unlabeled=other.subset(range(LEAST - 1)))
    assert source(few, cfg)[1] == []


def test_blood_is_foreign_to_steel_and_steel_is_not(data: DataSets, config: Path) -> None:
    steel, blood = (sorted(shared_path(f"data/{name}/JPEGImages").iterdir()) for name in ("neu-det", "bccd"))
    cfg = load(config).data

    def told(first: list[Path], second: list[Path]) -> list[str]:
        one, other = (Images(str(part[0].parent), [p.name for p in part], range(len(part))) for part in (first, second))
        return source(replace(data, labeled=replace(data.labeled, images=one), unlabeled=other), cfg)[1]

    assert told(steel[::30], steel[1::30]) == []
    assert len(told(steel[::60], blood[::10])) == 1


def test_the_number_is_an_area_under_a_curve() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.normal(0, 1, (60, 34)), draw.normal(0, 1, (60, 34))
    assert 0.3 < told_apart(first, second) < 0.7 < FOREIGN
    assert told_apart(first, second + 3) == 1
