"""The client of docs/deploy.md finds what we find, without torch and without us."""

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

import ssod
from ssod.inference.export_parity import FULL, Limits, differences
from ssod.inference.model import load
from ssod.structures import Targets
from tests.converted import Converted
from tests.paths import shared_path
from tests.trained import model_file, shipped

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
# Whoever imports one of the two gets an ImportError.
ALONE = (
    "import runpy, sys; sys.modules.update(torch=None, ssod=None); "
    "sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0])"
)
RESIZED = Limits(box=1.0, score=0.02, near=1.0, edge=0.02, overlap=0.05)  # pixels of the image


def client(folder: Path) -> Path:
    """Write the lines of the page to a file."""
    (lines,) = re.findall(r"<!-- client -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    file = folder / "detect.py"
    file.write_text(lines, "utf-8")
    return file


def run(file: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run it where neither torch nor ssod can be imported."""
    command = [sys.executable, "-c", ALONE, str(file), *map(str, words)]
    return subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)


def photos(folder: Path) -> list[Path]:
    """Return three real photos, the last of them on its side by EXIF."""
    named = ["bccd/JPEGImages/BloodImage_00000.jpg", "bccd/JPEGImages/BloodImage_00001.jpg"]
    files = [shared_path("data") / name for name in named]
    turned = folder / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(files[0]) as image:
        image.crop((0, 0, 301, 200)).save(turned, exif=exif, quality=95)
    return [*files, turned]


@pytest.fixture(scope="module")
def content(converted: Converted) -> bytes:
    return converted(shipped("faster_rcnn"), "onnx")


def with_card(content: bytes, card: dict) -> bytes:
    """Return the graph with another card in its metadata."""
    proto = onnx.load_model_from_string(content)
    (entry,) = (entry for entry in proto.metadata_props if entry.key == "card")
    entry.value = json.dumps(card)
    return proto.SerializeToString()


@pytest.mark.parametrize(("view", "limits"), [([], FULL), ([{"resize": {"short": [160, 160], "long": 200}}], RESIZED)])
def test_the_client_of_the_page_finds_what_load_finds(
    content: bytes, tmp_path: Path, view: list, limits: Limits
) -> None:
    weights = model_file(tmp_path / "best.safetensors", "faster_rcnn", val_view=view)
    model = load(weights)
    graph = tmp_path / "best.onnx"
    graph.write_bytes(with_card(content, model.card))
    files = photos(tmp_path)
    done = run(client(tmp_path), graph, *files)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(file) for file in files]
    names = model.classes.names
    boxes = 0
    for line, want in zip(lines, ssod.load(weights)(files)):
        rows = line["found"]
        have = Targets(
            torch.tensor([box for _, _, box in rows]).view(-1, 4),
            torch.tensor([names.index(name) for name, _, _ in rows], dtype=torch.long),
            torch.tensor([score for _, score, _ in rows]),
        )
        _, _, problem = differences(Targets(want.boxes, want.labels, want.scores), have, model.detector.decode, limits)
        assert not problem, problem
        boxes += len(want)
    assert boxes > 10


def test_the_client_is_short_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    lines = client(tmp_path).read_text("utf-8").splitlines()
    assert len(lines) <= 40
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys\ntry:\n    import torch\nexcept ImportError:\n    print('none', sys.argv[1])\n", "utf-8"
    )
    assert run(probe, "x").stdout == "none x\n"
    shown: dict = {}
    start = next(i for i, line in enumerate(lines) if line.startswith("def shown"))
    end = next(i for i, line in enumerate(lines) if line.startswith("session"))
    exec("\n".join(["import sys", *lines[start:end]]), shown)
    assert shown["shown"]((640, 480), {"resize": {"short": [96, 96]}}) == (128, 96)
    assert shown["shown"]((640, 480), {"resize": {"short": 96, "long": 100}}) == (100, 75)
    assert shown["shown"]((3, 7), {"resize": {"ratio": [0.5, 0.5]}}) == (2, 4)
    assert shown["shown"]((640, 480), {"stretch": {"height": 5, "width": 9}}) == (9, 5)
    with pytest.raises(SystemExit, match="val_view has 'crop'"):
        shown["shown"]((640, 480), {"crop": {"share": 1.0}})
