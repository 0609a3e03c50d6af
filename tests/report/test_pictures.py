"""Pictures of a report whose data or weights are no longer those of the run: the page says why it has none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ssod.report.run_page import report
from tests.report.test_pages import check

Categories = list[dict]


@pytest.fixture
def moved(trained: Path, tmp_path: Path) -> Path:
    """Return a run that stands alone with data of its own."""
    run = Path(shutil.copytree(trained / "mean_teacher", tmp_path / "run"))
    shutil.copytree(trained.parent / "data", tmp_path / "data")
    config = (run / "config.yaml").read_text("utf-8")
    (run / "config.yaml").write_text(config.replace(str(trained.parent / "data"), str(tmp_path / "data")), "utf-8")
    return run


def why(run: Path) -> str:
    """Return the reason that the page gives for having no pictures."""
    text = " ".join(check(report(run, out=run.parent / "page.html").read_text("utf-8")).text.split())
    return text.partition("No pictures: ")[2].partition(" Settings ")[0]


def add(found: Categories) -> None:
    found.append({"id": 99, "name": "heptagon"})


def rename(found: Categories) -> None:
    found[0]["name"] = "disc"


def swap(found: Categories) -> None:
    found[0]["name"], found[1]["name"] = found[1]["name"], found[0]["name"]


@pytest.mark.parametrize("weights", ["last.pt", "best.safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [(add, "now has heptagon, which the run did not learn"), (rename, "has no circle any more"), (swap, "other order")],
)
def test_data_with_other_classes(moved: Path, change: Callable[[Categories], None], message: str, weights: str) -> None:
    if weights != "last.pt":
        (moved / "checkpoints" / "last.pt").unlink()
    for file in (moved.parent / "data" / "annotations").glob("*.json"):
        tree = json.loads(file.read_text())
        change(tree["categories"])
        file.write_text(json.dumps(tree))
    assert message in why(moved)


@pytest.mark.parametrize("weights", ["last.pt", "best.safetensors"])
def test_weights_of_another_detector(moved: Path, weights: str) -> None:
    if weights != "last.pt":
        (moved / "checkpoints" / "last.pt").unlink()
    config = (moved / "config.yaml").read_text("utf-8")
    assert "channels: 16" in config
    (moved / "config.yaml").write_text(config.replace("channels: 16", "channels: 32"), "utf-8")
    assert "shape [16" in why(moved)
    assert weights in why(moved)


def test_images_that_cannot_be_read_any_more(moved: Path) -> None:
    for file in (moved.parent / "data" / "val").iterdir():
        file.write_bytes(file.read_bytes()[:-300])
    assert str(moved.parent / "data" / "val") in why(moved)


def test_pictures_of_the_best_teacher(moved: Path) -> None:
    (moved / "checkpoints" / "last.pt").unlink()
    assert why(moved) == ""
