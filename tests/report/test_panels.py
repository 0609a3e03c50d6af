"""What a page leaves out because there is nothing in it, and what stands where a reader with a phone looks first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markupsafe import Markup

from ssod.commands.compare import compare
from ssod.report.page import Section, grid, page, sheet
from ssod.report.run_page import report
from ssod.report.shots import legend, shot
from tests.experiments.fake import fake_run
from tests.report.test_pages import check


def words(path: Path) -> str:
    return " ".join(check(path.read_text("utf-8")).text.split())


def heads(text: str, title: str) -> list[str]:
    """Return the heads of the first table below a title."""
    table = text[text.index(title) :]
    return re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table[: table.index("</thead>")])


def test_a_section_with_nothing_in_it_is_left_out_with_its_link() -> None:
    empty = Section("b", "Bare", [grid([Markup(""), Markup("")])])
    text = page("t", "s", [Section("a", "All", [Markup("<p>x</p>")]), empty, Section("c", "None")])
    assert re.findall(r'href="#(\w+)"', text) == ["main", "a"]
    assert "Bare" not in text


def test_a_supervised_run_has_no_word_of_pseudo_labels(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", "supervised")
    text = report(run, out=tmp_path / "r.html").read_text("utf-8")
    told = words(tmp_path / "r.html").partition("Settings")[0]
    assert not re.search(r"pseudo|unlabelled|gain|verdict", told, re.I)
    assert 'id="pseudo"' not in text
    assert "#pseudo" not in text
    assert "nothing was logged" not in text
    assert heads(text, "after step 24;") == ["class", "AP", "AP50", "val boxes", "detections", "labelled boxes"]


def test_a_run_in_burn_in_says_that_it_has_none_yet(tmp_path: Path) -> None:
    told = words(report(fake_run(tmp_path / "run"), out=tmp_path / "r.html"))
    assert "The run has logged no pseudo-labels so far." in told
    assert "Inconsistency" not in told
    assert "On a fixed set" not in told


def test_what_explains_a_figure_comes_with_it(trained: Path, tmp_path: Path) -> None:
    told = words(report(trained / "mean_teacher", out=tmp_path / "r.html"))
    assert "each evaluation measures precision and recall and change" in told
    assert "Inconsistency is 1 - AP" in told
    assert "The hidden truth is read for these figures alone" in told


def test_a_report_says_what_its_gain_shows(trained: Path, tmp_path: Path) -> None:
    told = words(report(trained / "mean_teacher", baseline=trained / "supervised", out=tmp_path / "r.html"))
    assert re.search(r"mean_teacher (gains|loses) .* its supervised baseline on fold 1 alone", told)
    runs = [fake_run(tmp_path / name, name, ap=ap) for name, ap in (("mean_teacher", 0.7), ("supervised", 0.3))]
    told = words(report(runs[0], baseline=runs[1], out=tmp_path / "r.html"))
    assert re.search(r"mean_teacher gains [\d.]+ AP \[[\d.]+, [\d.]+\] over .* on fold 1 alone: ahead with these", told)
    alone = words(report(fake_run(tmp_path / "far" / "x"), out=tmp_path / "r.html"))
    assert "No supervised baseline was found" in alone


@pytest.mark.parametrize("folds", [1, 2])
def test_the_gain_stands_beside_the_method(tmp_path: Path, folds: int) -> None:
    runs = [
        fake_run(tmp_path / f"{name}-{fold}", name, fold, ap=ap)
        for name, ap in (("mean_teacher", 0.7), ("supervised", 0.3))
        for fold in range(1, folds + 1)
    ]
    compare(runs, out=[tmp_path / "c.html"], resamples=20)
    text = (tmp_path / "c.html").read_text("utf-8")
    found = heads(text, "teacher after the last step")
    whole = ["[95 %, and folds]"] if folds > 1 else []  # one fold has none
    assert found[:4] == ["#", "method", "gain over baseline [95 %, val images]", *(whole or ["AP"])]
    assert sorted(found[3 + len(whole) :])[:3] == ["AP", "AP50", "AP75"]
    assert "folds x seeds" in found
    assert text.count('class="text pin"') == 3  # the head and two rows
    assert heads(text, "every run, AP of its last evaluation") == ["row", "labels", "seed", "AP", "state", "folder"]
    assert '<td class="text">fold 1</td><td class="text">0</td>' in text
    assert "00000000" not in check(text).text  # no hash


def test_supervised_rows_have_no_column_of_gains(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / f"{lr}", "supervised", changes={"train.lr": lr}) for lr in (0.1, 0.2)]
    compare(runs, out=[tmp_path / "c.html"], resamples=20)
    text = (tmp_path / "c.html").read_text("utf-8")
    assert heads(text, "teacher after the last step")[:3] == ["#", "method", "AP"]
    told = words(tmp_path / "c.html")
    assert "All rows are supervised" in told
    assert "How the interval is made" not in told


def test_a_pinned_column_is_marked() -> None:
    text = sheet("t", ["a", "b", "c"], [["1", "2", "3"]], texts=2, pinned=1)
    assert '<th scope="col" class="text">a</th><th scope="col" class="text pin">b</th><th scope="col">c</th>' in text


def test_a_legend_draws_boxes_as_the_pictures_do() -> None:
    """Each box has a dark line below it; the truth is on top of what was found, and dashed."""
    import numpy as np

    kinds = {"kept": "found", "truth": "the truth"}
    drawn = re.findall(r'<rect class="([\w ]+)"', legend(kinds))
    assert drawn == ["case kept", "kept", "case truth", "truth"]
    boxes = [("kept", "a", (1, 1, 5, 5)), ("truth", "a", (1, 1, 5, 5))]
    assert re.findall(r'<rect class="([\w ]+)"', shot(np.zeros((8, 8, 3), np.uint8), boxes, "l")) == drawn


def test_the_truth_is_drawn_last_and_explained(trained: Path, tmp_path: Path) -> None:
    text = report(trained / "mean_teacher", out=tmp_path / "r.html").read_text("utf-8")
    pictures = re.findall(r'<svg class="shot".*?</svg>', text, re.S)
    both = [re.findall(r'<rect class="(\w+)"', picture) for picture in pictures]
    both = [kinds for kinds in both if {"kept", "truth"} <= set(kinds)]
    assert both
    assert all("truth" not in kinds[: kinds.index("truth")] for kinds in both)
    assert all(set(kinds[kinds.index("truth") :]) == {"truth"} for kinds in both)
    explained = set(re.findall(r'<rect class="(\w+)"', "".join(re.findall(r'<ul class="legend boxes">.*?</ul>', text))))
    assert explained == {kind for picture in pictures for kind in re.findall(r'<rect class="(\w+)"', picture)}
