"""The pages: what they must have, that they need no network, that a keyboard and a phone will do."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from ssod.commands.compare import compare
from ssod.experiments.runs import read_run
from ssod.report.pictures import difficulty
from ssod.report.run_page import report
from tests.experiments.fake import fake_run
from tests.experiments.test_bootstrap import table

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects ids, links and sources; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.focusable = 0
        self.feed(text.replace("<wbr>", ""))  # where a word may be broken, which makes no two of it
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "id" in values:
            self.ids.append(values["id"])
        self.targets += [values[key] for key in ("href", "src", "xlink:href") if key in values]
        self.focusable += tag in ("a", "button", "summary") or values.get("tabindex") == "0"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += f" {data}"


def check(page: str) -> Page:
    """Check what holds for every page."""
    found = Page(page)
    assert len(set(found.ids)) == len(found.ids)
    for target in found.targets:
        assert target.startswith(("#", "data:")), target
        assert not target.startswith("#") or target[1:] in found.ids
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in page
    assert 'name="viewport"' in page
    return found


def test_the_report_has_what_a_reader_looks_for(trained: Path) -> None:
    page = check(report(trained / "mean_teacher").read_text("utf-8"))
    assert page.ids[0] == "theme"
    headings = ["summary", "alarms", "curves", "classes", "pseudo", "gallery", "hardest", "config", "origin"]
    assert [i for i in page.ids if i in headings] == headings
    for words in (
        "AP over the supervised baseline", "student", "unsup", "Precision against recall", "Boxes per image",
        "against the hidden truth", "inconsistency", "churn", "Score thresholds", "Confidence against IoU",
        "kept", "rejected", "moved", "set in the config", "differences to the supervised baseline", "torchvision",
        read_run(trained / "mean_teacher").hash[:12], "labelled images seen",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.focusable > 20


def test_a_method_that_chooses_no_box_is_shown(trained: Path) -> None:
    page = check(report(trained / "humble_teacher").read_text("utf-8"))
    assert "This method chooses no box" in page.text
    assert "Confidence against IoU" in page.text
    assert "above 0.3" in page.text
    assert "AP over the supervised baseline" in page.text


def test_uncertainty_and_difficulty_of_rows_are_shown(trained: Path, tmp_path: Path) -> None:
    """Where a run logged them: U, D and the share of wrong rows, of labelled and of pseudo-labelled images."""
    words = ("Uncertainty U", "Standard deviation of U", "Difficulty D", "Rows on which the student is wrong")
    page = check(report(trained / "weighted").read_text("utf-8"))
    for word in (*words, "wrong, labelled", "correct, pseudo-labelled", "BALD", "Boxes per image"):
        assert word in page.text, word
    assert not any(word in report(trained / "mean_teacher").read_text("utf-8") for word in words)
    row = '{"kind": "train", "step": 8, "time/step": 0.5, "weighting/sup/U_wrong": 0.0, '
    row += '"weighting/sup/U_correct": 0.625, "weighting/sup/D_wrong": 0.0, '
    row += '"weighting/sup/D_correct": 0.3125, "weighting/sup/wrong": 0.0}\n'
    run = fake_run(tmp_path / "run", "supervised", saved=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(row)
    page = check(report(run, out=tmp_path / "r.html").read_text("utf-8"))
    wanted = (*words, "correct, labelled", "0.625")
    assert [word for word in wanted if word not in page.text] == [words[1]]  # which was not logged
    assert "wrong, labelled" not in page.text  # no row was wrong so far: no line at 0
    assert "pseudo-labelled" not in page.text
    assert "proposal network" not in page.text
    with open(run / "metrics.jsonl", "a") as file:
        file.write(row.replace("/sup/", "/sup/rpn_").replace("0.625", "0.5625"))
    page = check(report(run, out=tmp_path / "r.html").read_text("utf-8"))
    assert "Difficulty D, by which rows count: proposal network" in page.text
    assert "0.5625" in page.text


def test_rows_that_miss_their_objects_are_shown(tmp_path: Path) -> None:
    """As a share, stage by stage; a line without objects has none."""
    run = fake_run(tmp_path / "run", "supervised", saved=False)
    title = "Rows whose box misses its labelled object"
    assert title not in report(run, out=tmp_path / "r.html").read_text("utf-8")
    with open(run / "metrics.jsonl", "a") as file:
        for step, learning, missing in ((8, 64.0, 4.0), (16, 0.0, 0.0)):
            row = f'{{"kind": "train", "step": {step}, "time/step": 0.5, '
            file.write(f'{row}"rows/dense/learning": {learning}, "rows/dense/missing": {missing}}}\n')
    page = check(report(run, out=tmp_path / "r.html").read_text("utf-8"))
    assert title in page.text
    assert "6.25" in page.text


def test_what_a_config_changes_in_its_base_is_shown(trained: Path) -> None:
    page = check(report(trained / "mean_teacher").read_text("utf-8"))
    assert "command line" in page.text
    rows = re.findall(r"method\.score\s+([\d.]+)\s+(command line)", " ".join(page.text.split()))
    assert rows
    assert rows[0][0] == "0.02"


def test_a_run_without_data_weights_or_matches_still_has_a_page(tmp_path: Path) -> None:
    page = check(report(fake_run(tmp_path / "run", saved=False, code=None)).read_text("utf-8"))
    assert "No pictures" in page.text
    assert "running or killed" in page.text
    assert "saved no eval/step_*.npz" in page.text


def test_a_run_that_began_with_the_burn_in_of_another_says_so(tmp_path: Path) -> None:
    """Its best teacher is one of its own: an evaluation of the other run, however good, left it no weights."""
    run = fake_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = {12: 0.75, 24: 0.25}
    rows = [{**row, **({"teacher/AP": values[row["step"]]} if row["kind"] == "eval" else {})} for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "75.0 at step 12" in check(report(run).read_text("utf-8")).text
    (run / "burn_in.json").write_text(json.dumps({"from": "runs/other", "step": 16}))
    page = check(report(run).read_text("utf-8")).text
    assert "the first 16 steps are those of runs/other" in page
    assert "25.0 at step 24" in page


def test_pictures_need_no_file_that_the_run_started_from(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained / "mean_teacher", tmp_path / "run"))
    (run / "report.html").unlink(missing_ok=True)
    config = (run / "config.yaml").read_text("utf-8")
    assert "weights: none" in config
    (run / "config.yaml").write_text(config.replace("weights: none", "weights: gone.safetensors"), "utf-8")
    page = check(report(run).read_text("utf-8"))
    assert "No pictures" not in page.text
    assert "rejected" in page.text


def test_names_in_a_report_are_harmless(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    run = fake_run(tmp_path / "run", split={"boxes": {evil: 3}, "hash": "0" * 64}, saved=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "alarm", "step": 24, "text": "<script>bad()</script>"}\n')
    text = report(run, out=tmp_path / "r.html").read_text("utf-8")
    assert "<img" not in text
    assert "<script>bad" not in text


def test_the_comparison_page(tmp_path: Path) -> None:
    folders = [
        fake_run(tmp_path / f"{method}-{fold}", method, fold, ap=ap)
        for method, ap in (("supervised", 0.3), ("mean_teacher", 0.6), ("unbiased_teacher", 0.5))
        for fold in (1, 2)
    ]
    folders.append(
        fake_run(tmp_path / "other", "mean_teacher", 1, changes={"eval.metric": "voc"}, about={"score": 0.5})
    )
    with open(folders[2] / "metrics.jsonl", "a") as file:
        file.write('{"kind": "alarm", "step": 24, "text": "collapse: it fell"}\n')
    compare(folders, out=[tmp_path / "c.html"], resamples=50)
    page = check((tmp_path / "c.html").read_text("utf-8"))
    words = ("not ranked together", "Gain over the supervised baseline", "at equal cost", "hours", "paired bootstrap")
    assert all(word in page.text for word in words)
    assert "mean_teacher, fold 1, seed 0, step 24: collapse: it fell" in page.text
    assert (
        page.ids.index("verdict") < page.ids.index("b1-gain") < page.ids.index("b1-table") < page.ids.index("b1-curves")
    )


def test_hard_images_by_hand() -> None:
    found = table(np.array([True, False, False]), np.array([0, 0, 2]), np.random.default_rng(0))
    sure = found.score > 0.3
    wrong = (~found.right[:, 0] & sure)[found.image == 2].sum()
    assert difficulty(found).tolist() == [0, 1, 1 + wrong]
