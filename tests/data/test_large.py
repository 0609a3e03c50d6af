"""Sets of the size that people have are read in seconds: a quarter of COCO's train2017, and a million images.

``SSOD_ALL_COCO=1`` reads all of train2017.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data import large
from tests.patience import in_time

pytestmark = pytest.mark.slow
SHARE = 1 if "SSOD_ALL_COCO" in os.environ else 4  # of train2017
REPOSITORY = Path(__file__).resolve().parents[2]


def measure(what: str, root: Path) -> dict[str, Any]:
    """Read in a process of its own; seconds are the processor's, for others may use the machine."""
    command = [sys.executable, "-m", "tests.data.large", what, str(root)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    shown = {key: round(value, 2) for key, value in measured.items() if key != "result"}
    print(f"{what}: {shown}")
    return measured


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    large.write_coco(root, SHARE)
    return root


def near_parsing(coco: Path) -> bool:
    return measure("load", coco)["seconds"] < 1.5 * measure("parse", coco)["seconds"]


def test_reading_and_splitting_coco_takes_seconds(coco: Path) -> None:
    measured = measure("load", coco)
    # 15 s for all; on a slow or crowded machine, half more at most than what Python's own parser takes (1.15 times as
    # long was seen). Neighbours come and go between the two, so that one pair of measurements says little.
    assert in_time(measured["seconds"], 15 / SHARE) or any(near_parsing(coco) for _ in range(4))
    assert measured["peak_mb"] < 2000
    split = measured["result"]
    labeled = large.IMAGES // SHARE // 10
    assert (split["labeled"], split["unlabeled"]) == (labeled, large.IMAGES // SHARE - labeled)
    assert split["classes_without_boxes"] == []


def test_checking_coco_with_every_image_header_takes_seconds(coco: Path) -> None:
    measured = measure("check", coco)
    assert in_time(measured["seconds"], 60 / SHARE)  # half of it on a core of its own
    assert measured["result"]["total"] == large.BOXES // SHARE
    assert [line for line in measured["result"]["lines"] if line.startswith("error")] == []


def test_a_list_of_a_million_images(tmp_path: Path) -> None:
    large.write_list(tmp_path / "list.txt")
    measured = measure("list", tmp_path)
    assert measured["result"]["images"] == 1_000_000
    assert measured["result"]["sizes"] is None
    assert in_time(measured["seconds"], 5)
    assert measured["peak_mb"] < 500
