"""The command line as a user meets it: what it lists, one line per mistake, the right exit code, never a traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssod import build as build_module
from ssod import cli
from ssod.evaluation.columns import Found
from ssod.methods.registry import names
from ssod.utils.errors import Exit
from tests.data.nano import Nano
from tests.data.test_corpus import CASES, Case
from tests.small import small_config
from tests.small_sets import voc


def ssod(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["ssod", *args])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def one_line(text: str) -> str:
    """Return the one error line that stderr must hold."""
    lines = [line for line in text.splitlines() if line.startswith("ssod: error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert len(lines[0]) <= 300 + len("ssod: error: ")
    return lines[0]


def train_config(nano: Nano, tmp_path: Path) -> Path:
    nano.config()  # writes the annotation files
    view = ["flip"]
    tree = {
        "data": nano.section,
        "views": {"labeled": {"weak": view}, "unlabeled": {"weak": view, "strong": view}, "val": []},
        "detector": {"name": "fcos", "backbone": "tiny", "channels": 8},
        "method": {"name": "mean_teacher"},
        "train": {"steps": 1, "batch": {"labeled": 1, "unlabeled": 1}, "workers": 0},
    }
    path = tmp_path / "nano.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("case", [c for c in CASES if c.level == "error" and not c.only_check], ids=lambda c: c.id)
def test_bad_input_is_one_line_before_the_first_step(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "data" / "empty").mkdir(parents=True)
    nano = Nano(tmp_path / "data")
    case.spoil(nano)
    config = train_config(nano, tmp_path)
    code = ssod(monkeypatch, "train", str(config), "-o", str(tmp_path / "run"))
    line = one_line(capsys.readouterr().err)
    assert code == case.code
    assert all(word in line for word in case.words)
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        ("train.lrr=1", ("train.lrr", "did you mean 'lr'"), Exit.USAGE),
        ("train.lr=nan", ("train.lr",), Exit.USAGE),
        ("train.batch.labeled=-1", ("train.batch.labeled",), Exit.USAGE),
        ("train.batch.labeled=400", ("train.batch.labeled", "images"), Exit.USAGE),
        ("method.ema.decay=1.5", ("method.ema.decay", "1.5"), Exit.USAGE),
        ("method.burn_in=24", ("method.burn_in", "no semi-supervised phase"), Exit.USAGE),
        ("method.name=mean_techer", ("did you mean 'mean_teacher'",), Exit.USAGE),
        ("detector.backbone=resnet5", ("detector.backbone",), Exit.USAGE),
        ("detector.loss.cls=cross_entropy", ("detector.loss.cls",), Exit.USAGE),
        ("train.device=cuda", ("train.device", "not available"), Exit.USAGE),
        ("views.unlabeled.strong.ops=[colour]", ("colour", "did you mean"), Exit.USAGE),
        ("data.labeled.ann=annotations/trainn.json", ("not found", "train.json"), Exit.DATA),
        ("data.split.percent=1", ("0 images",), Exit.DATA),
        ("detector.weights=absent.pth", ("absent.pth",), Exit.USAGE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_config_mistakes_are_one_line(
    change: str,
    words: tuple[str, ...],
    code: Exit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    if "device=cuda" in change:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = small_config(tmp_path)
    assert ssod(monkeypatch, "train", str(config), change, "-o", str(tmp_path / "run")) == code
    line = one_line(capsys.readouterr().err)
    assert all(word in line for word in words), line


def test_lists_name_what_a_config_may_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for command, expected in (
        ("methods", names()),
        ("detectors", ["retinanet", "fcos", "faster_rcnn"]),
        ("losses", ["focal", "giou", "cross_entropy"]),
    ):
        assert ssod(monkeypatch, command) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in expected)


def test_config_says_where_values_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = small_config(tmp_path)
    assert ssod(monkeypatch, "config", str(config), "train.lr=0.5") == 0
    out = capsys.readouterr().out
    lr = next(line for line in out.splitlines() if line.strip().startswith("lr:"))
    assert "0.5" in lr
    assert "command line" in lr
    assert "default" in next(line for line in out.splitlines() if "bad_steps" in line)
    assert yaml.safe_load(out)["train"]["lr"] == 0.5


def test_init_takes_a_percentage_instead_of_unlabelled_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    voc(tmp_path / "voc", {"trainval": 10, "test": 2})
    config = tmp_path / "my.yaml"
    common = ["--labeled", str(tmp_path / "voc"), "--val", str(tmp_path / "voc"), "-o", str(config)]
    assert ssod(monkeypatch, "init", *common) == Exit.USAGE
    assert "--percent 10" in one_line(capsys.readouterr().err)
    assert ssod(monkeypatch, "init", *common, "--percent", "20") == 0
    assert "labelled   2 images" in capsys.readouterr().out
    assert yaml.safe_load(config.read_text())["data"]["split"]["percent"] == 20


def test_check_prints_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = train_config(Nano(tmp_path / "data"), tmp_path)
    assert ssod(monkeypatch, "check", str(config)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "labeled:",
        "  images: 10",
        "  boxes: 20",
        "  boxes per class: car 7, van 7, bus 6",
        "  crowd: 0",
        "  difficult: 0",
        "  images without boxes: 0",
        "  most boxes in an image: 2",
        "  side: 55 to 55 pixels, median 55",
        "  aspect: 10 wider than high, 0 not",
        "  pixels: 8-bit RGB 10",
        "val:",
        "  images: 4",
        "  boxes: 8",
        "  boxes per class: car 3, van 3, bus 2",
        "  crowd: 0",
        "  difficult: 0",
        "  images without boxes: 0",
        "  most boxes in an image: 2",
        "  side: 55 to 55 pixels, median 55",
        "  aspect: 4 wider than high, 0 not",
        "  pixels: 8-bit RGB 4",
        "unlabeled:",
        "  images: 6",
        "  pixels: 8-bit RGB 6",
        "split: none",
        "within reach of the detector: 100 % of 20 boxes",
        "images decoded: labeled 10 of 10, val 4 of 4, unlabeled 6 of 6",
        "no findings",
    ]


def test_check_says_what_the_split_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    nano = Nano(tmp_path / "data")
    nano.section |= {"split": {"percent": 20}, "unlabeled": None, "val": None}
    assert ssod(monkeypatch, "check", str(train_config(nano, tmp_path))) == 0
    out = capsys.readouterr().out
    assert "{" not in out
    assert "[]" not in out
    lines = out[out.index("split: ") :].splitlines()
    assert lines[:4] == [
        "split: without_replacement, 20 %, fold 1",
        "  labelled images: 2",
        "  unlabelled images: 8",
        "  labelled boxes per class: car 1, van 2, bus 1",
    ]
    assert lines[4] == "  classes without boxes: none"
    assert len(lines[5].removeprefix("  hash: ")) == 64
    assert out.startswith("labeled: 20 % of these images keep their labels, see split\n")
    (few,) = [line for line in lines if line.startswith("warning[D51] ")]
    assert "fewer than 5 labelled boxes: 3 classes ('car', 'van', 'bus')" in few


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['ssod', '--help']\nfrom ssod.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    code += "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("words", [["--debug", "config", "absent.yaml"], ["config", "absent.yaml", "--debug"]])
def test_debug_shows_tracebacks_wherever_it_stands(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["ssod", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == Exit.USAGE
    *before, last = capsys.readouterr().err.splitlines()
    assert before[0].startswith("Traceback")
    assert last.startswith("ssod: error: absent.yaml")
    monkeypatch.setattr(sys, "argv", ["ssod", *words, "--debugg"])
    with pytest.raises(SystemExit):
        cli.main()


def test_train_eval_predict_label_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def metrics(truth: dict, found: Found, most: int) -> dict[str, float]:
        """Figures that eight steps bring above 0, and that other weights, views or thresholds change."""
        return {"AP": float(found.scores.mean()), "AR100": len(found) / 1000}

    monkeypatch.setattr(build_module, "coco_metrics", metrics)
    config = small_config(tmp_path, train__steps=8, train__eval_every=4)
    run = str(tmp_path / "run")
    assert ssod(monkeypatch, "check", str(config)) == 0
    assert ssod(monkeypatch, "train", str(config), "-o", run) == 0
    trained = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    capsys.readouterr()
    assert ssod(monkeypatch, "eval", run) == 0
    shown = capsys.readouterr().out
    best = max((row for row in trained if row["kind"] == "eval"), key=lambda row: row["teacher/AP"])
    rows = dict(re.findall(r"(\w+) +│ +([\d.-]+) ", shown))
    assert rows == {name: f"{100 * best[f'teacher/{name}']:.1f}" for name in ("AP", "AR100")}
    assert float(rows["AP"]) > 1
    images = str(tmp_path / "data" / "val")
    assert ssod(monkeypatch, "predict", run, images, "-o", str(tmp_path / "out")) == 0
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 6
    assert ssod(monkeypatch, "label", run, images, "-o", str(tmp_path / "labels"), "--score", "0") == 0
    assert any((tmp_path / "labels").rglob("*.json"))
    label = ["label", run, str(tmp_path / "data" / "train"), "-o", str(tmp_path / "more")]
    capsys.readouterr()
    assert ssod(monkeypatch, *label, "--precision", "0.9") == Exit.DATA
    assert "no class reaches 0.9 on val" in one_line(capsys.readouterr().err)
    assert ssod(monkeypatch, *label, "--score", "0", "--next", "2", "--audit", "3") == 0
    left = 12 - json.loads((tmp_path / "run" / "split.json").read_text())["labeled"]
    said = capsys.readouterr().out
    assert f"to label next: 2 of {left} images without labels" in said
    assert f"to check: 3 of {left} images without labels" in said
    assert ssod(monkeypatch, "label", run, images, "-o", str(tmp_path / "none"), "--next", "2") == Exit.DATA
    assert "all 6 images are labelled already" in one_line(capsys.readouterr().err)
    sample = str(tmp_path / "more" / "audit" / "instances.json")
    assert ssod(monkeypatch, "audit", sample, sample) == 0
    assert "all classes" in capsys.readouterr().out
    merged = str(tmp_path / "all.json")
    assert ssod(monkeypatch, "merge", str(tmp_path / "more" / "instances.json"), sample, "-o", merged) == 0
    assert "12 images, " in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("command", ["predict", "label"])
def test_names_that_a_shell_put_in_place_of_a_pattern(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    weights = tmp_path / "best.safetensors"
    weights.touch()
    assert ssod(monkeypatch, command, str(weights), "a.jpg", "b.jpg", "-o", str(tmp_path / "out")) == 2
    assert "put a pattern in quotes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
