"""The picture sheet of a config's views: from the command once, else from its function."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ssod.data.synthetic import write_shapes
from tests.patience import LONG
from tests.small import small_config
from tools import show_views

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


def config_file(folder, preset, labeled="", train=3):
    root = write_shapes(folder / "data", train=train, val=1, unlabeled=3, size=96)
    (folder / "c.yaml").write_text(CONFIG.format(root=root, preset=preset, labeled=labeled))
    return folder / "c.yaml"


@pytest.fixture
def draw(monkeypatch, capsys):
    """Return a function that runs the tool in this process: words -> its exit code and what it printed as an error."""

    def draw(*words):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
        try:
            code = show_views.main()
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err

    return draw


def test_draws_a_sheet(tmp_path):
    config, out = config_file(tmp_path, "soft_teacher_strong"), tmp_path / "v.png"
    command = [sys.executable, str(TOOL), str(config), "-o", str(out), "--images", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as sheet:
        assert sheet.width > 500
        assert sheet.height > 1000  # two labelled and two unlabelled rows
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 1000


def test_draws_what_takes_parts_of_other_images(tmp_path, draw):
    config = config_file(tmp_path, "blur", POLICY, train=5)
    code, told = draw(config, "-o", tmp_path / "v.png", "--images", "2")
    assert code == 0, told
    code, told = draw(config_file(tmp_path / "few", "blur", POLICY), "-o", tmp_path / "few.png", "--images", "2")
    assert code == 2
    assert told.count("\n") == 1
    assert "'policy' puts 4 labelled images together, and there are 3" in told


def test_draws_what_a_method_mixes(tmp_path, draw):
    config = small_config(tmp_path, method={"name": "instant_teaching", "mix": {"tiles": 4}})
    code, told = draw(config, "-o", tmp_path / "v.png", "--images", "2")
    assert code == 0, told
    with Image.open(tmp_path / "v.png") as sheet:
        assert sheet.height == 6 * 330  # two labelled, two unlabelled and two mixed rows


@pytest.mark.parametrize("preset", ["soft_teacher_stron"])
def test_a_mistake_is_one_line(tmp_path, preset, draw):
    code, told = draw(config_file(tmp_path, preset), "-o", tmp_path / "v.png", "--images", "2")
    assert code == 2
    assert told.count("\n") == 1
    assert "did you mean 'soft_teacher_strong'?" in told
    assert "unlabeled.strong" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--images", "0"], "--images and --draws are 1 or more"),
        (["--draws", "0"], "--images and --draws are 1 or more"),
        (["-o", "x.foo"], "'x.foo' is no picture file"),
    ],
)
def test_options_that_make_no_sheet(options, words, draw):
    code, told = draw("c.yaml", *options)
    assert code == 2
    assert words in told
    assert "Traceback" not in told
