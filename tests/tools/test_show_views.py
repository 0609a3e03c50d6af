"""The picture sheet of a config's views."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ssod.data.synthetic import write_shapes
from tests.patience import LONG
from tests.small import small_config

TOOL = Path(__file__).resolve().parents[2] / "tools" / "show_views.py"
CONFIG = """
data:
  root: {root}
  labeled: {{format: coco, ann: annotations/train.json, images: train}}
  unlabeled: {{format: folder, path: unlabeled}}
views:
  labeled:
    weak: [{{resize: {{short: [80, 120]}}}}, flip{labeled}]
  unlabeled:
    weak: [{{resize: {{short: [80, 120]}}}}, flip]
    strong: {{start: weak, ops: [{preset}]}}
  val: []
"""


POLICY = ", {policy: {name: scale_aware, variant: released}}"


def run(tmp_path, preset, labeled="", train=3):
    root = write_shapes(tmp_path / "data", train=train, val=1, unlabeled=3, size=96)
    (tmp_path / "c.yaml").write_text(CONFIG.format(root=root, preset=preset, labeled=labeled))
    command = [sys.executable, str(TOOL), str(tmp_path / "c.yaml"), "-o", str(tmp_path / "v.png"), "--images", "2"]
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG)


def test_draws_a_sheet(tmp_path):
    done = run(tmp_path, "soft_teacher_strong")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "v.png") as sheet:
        assert sheet.width > 500
        assert sheet.height > 1000  # two labelled and two unlabelled rows
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 1000


def test_draws_what_takes_parts_of_other_images(tmp_path):
    done = run(tmp_path, "blur", POLICY, train=5)
    assert done.returncode == 0, done.stderr
    too_few = run(tmp_path / "few", "blur", POLICY)
    assert too_few.returncode == 2
    assert too_few.stderr.count("\n") == 1
    assert "'policy' puts 4 labelled images together, and there are 3" in too_few.stderr


def test_draws_what_a_method_mixes(tmp_path):
    config = small_config(tmp_path, method={"name": "instant_teaching", "mix": {"tiles": 4}})
    command = [sys.executable, str(TOOL), str(config), "-o", str(tmp_path / "v.png"), "--images", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "v.png") as sheet:
        assert sheet.height == 6 * 330  # two labelled, two unlabelled and two mixed rows


@pytest.mark.parametrize("preset", ["soft_teacher_stron"])
def test_a_mistake_is_one_line(tmp_path, preset):
    done = run(tmp_path, preset)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'soft_teacher_strong'?" in done.stderr
    assert "unlabeled.strong" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--images", "0"], "--images and --draws are 1 or more"),
        (["--draws", "0"], "--images and --draws are 1 or more"),
        (["-o", "x.foo"], "'x.foo' is no picture file"),
    ],
)
def test_options_that_make_no_sheet(options, words):
    done = subprocess.run([sys.executable, str(TOOL), "c.yaml", *options], capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
