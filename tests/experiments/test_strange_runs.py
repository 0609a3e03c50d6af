"""A run folder of a stranger gives a page and a table, or one line: whatever its files say, and in little memory."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ssod.diagnostics.pseudofile import Pseudo, read_pseudo, save_pseudo
from ssod.evaluation import matching
from ssod.experiments import tables
from ssod.experiments.comparison import comparison
from ssod.experiments.records import comma_separated
from ssod.experiments.runs import read_run
from ssod.report.compare_page import compare_page
from ssod.report.run_page import run_page
from ssod.utils import npz
from ssod.utils.errors import Exit, SsodError
from tests.experiments.fake import STEPS, fake_run
from tests.strange import ended, memory, spoilt

CODES = {Exit.USAGE, Exit.DATA, Exit.UNSAFE}  # 2: of a config that is no YAML
LEFT_OUT = ("origins.json", f"eval/step_{STEPS}.json")  # where they are damaged the page says so
LINE = {
    **{"loss/sup": 1.0, "grad_norm": 2.0, "pseudo/boxes_per_image": 1.0, "labeled/boxes_per_image": 2.0},
    **{"pseudo/threshold": [0.5, 0.4], "pseudo/score_quantiles": [0.1, 0.2, 0.3, 0.4, 0.5], "phase": "ssod"},
    **{"rows/rpn/learning": 3.0, "rows/rpn/missing": 1.0, "weighting/sup/wrong": 0.5, "lr": 0.1, "time/data": 0.1},
}
PLACES = int(os.environ.get("SSOD_TEST_PLACES", "12"))  # of each file that are spoilt; more where there is time
FILES = ("config.yaml", "split.json", "env.json", "exit.json", "burn_in.json", "origins.json", "metrics.jsonl",
         f"eval/step_{STEPS}.json")  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with every file that is read, and its baseline."""
    root = tmp_path_factory.mktemp("runs")
    run = fake_run(root / "run", images=12)
    texts = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(text) for text in texts]
    for row in rows:
        row.update(LINE if row["kind"] == "train" else {"student/AP": 0.1, "pseudo/precision": 0.5})
    rows.append({"kind": "alarm", "step": 8, "text": "!"})
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[-5:]))
    (run / "burn_in.json").write_text('{"from": "runs/a", "step": 4}')
    (run / "origins.json").write_text('{"base": "a.yaml", "keys": {"train.lr": "b.yaml"}}')
    (run / f"eval/step_{STEPS}.json").write_text('{"pseudo/precision/box": 0.5, "pseudo/recall/box": 0.5}')
    return run, fake_run(root / "supervised", "supervised", images=12)


def read(file: Path) -> Any:
    text = file.read_text()
    if file.suffix == ".yaml":
        return yaml.safe_load(text)
    return [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)


def write(file: Path, tree: Any) -> None:
    rows = tree if file.suffix == ".jsonl" and isinstance(tree, list) else [tree]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))  # which is YAML, too


def look(run: Path, baseline: Path) -> None:
    """Do with a run what ``report`` and ``compare`` do, but for its pictures."""
    own, other = read_run(run), read_run(baseline)
    run_page(own, None)
    found = comparison([own, other], 10)
    compare_page(found)
    comma_separated(found.groups, found.rows, found.refusals)
    tables.markdown(found.sheets, found.refusals)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_spoilt_anywhere_is_one_line_or_a_page(
    runs: tuple[Path, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssod.report.run_page.pictures", lambda run: [])
    run = shutil.copytree(runs[0], tmp_path / "run")
    found = Counter()
    with memory():
        for said, strange in spoilt(read(run / name), 1, seed=2, most=PLACES):
            write(run / name, strange)
            found[ended(lambda: look(run, runs[1]), said, CODES, "run")] += 1
    assert found["good" if name in LEFT_OUT else "refused"], found


def table(path: Path, **changes: Any) -> None:
    """Write a table of matches, some of its arrays changed."""
    with np.load(path) as file:
        arrays = dict(file)
    arrays |= {name: change(arrays[name]) if callable(change) else change for name, change in changes.items()}
    np.savez_compressed(path, **arrays)


def bomb(path: Path) -> None:
    """An array that claims to be three gigabytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i4", "fortran_order": False, "shape": (800 << 20,)})
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(8):  # the rest is claimed
            file.write(b"\0" * (1 << 20))


def text(**changes: Any) -> Any:
    return lambda old: np.array(json.dumps({**json.loads(str(old)), **changes}))


STRANGE = {
    "objects": {"image": np.array([None, "x"], object)},
    "letters": {"score": lambda old: old.astype("U8")},
    "a side more": {"score": lambda old: old[:, None]},
    "fewer rows": {"label": lambda old: old[1:]},
    "fewer classes": {"wanted": lambda old: old[:, :0]},
    "fewer images": {"wanted": lambda old: old[1:]},
    "other IoUs": {"right": lambda old: old[:, :1]},
    "an image that is not there": {"image": lambda old: old + 1000},
    "a class below 0": {"label": lambda old: old - 1},
    "NaN": {"score": lambda old: old * np.nan},
    "text is a list": {"text": np.array("[1, 2]")},
    "text is deep": {"text": np.array("[" * 5000)},
    "ids in lists": {"text": text(ids=[[1]] * 60)},
    "classes are numbers": {"text": text(classes=[3])},
    "unknown points": {"text": text(points=10**9)},
    "about is text": {"text": text(about="x")},
    "score is text": {"text": text(about={"score": "x"})},
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_table_that_does_not_fit_itself_is_one_line(runs: tuple[Path, Path], tmp_path: Path, case: str) -> None:
    path = tmp_path / "t.npz"
    shutil.copy(runs[0] / "eval" / f"step_{STEPS}.npz", path)
    table(path, **STRANGE[case])
    with pytest.raises(SsodError) as caught:
        matching.read(path)
    assert (caught.value.code, caught.value.file) == (Exit.DATA, str(path))


@pytest.mark.parametrize("reader", [matching.read, read_pseudo])
def test_a_table_that_unpacks_to_gigabytes_is_refused_unread(
    runs: tuple[Path, Path], tmp_path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.npz"
    shutil.copy(runs[0] / "eval" / f"step_{STEPS}.npz", path)
    if reader is read_pseudo:
        none = [np.zeros((0, 2), int), *[np.zeros(0)] * 2, *[np.zeros(0, bool)] * 2]
        save_pseudo(path, Pseudo([1], ["a"], False, [], *none))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != "image.npy"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    bomb(path)
    with memory(200), pytest.raises(SsodError, match="its header says 3355443200") as caught:
        reader(path)
    assert caught.value.code == Exit.DATA
    monkeypatch.setattr(npz, "LARGEST", 1 << 20)
    with pytest.raises(SsodError, match="unpacks to 8 MB > 1 MB limit"):
        reader(path)
