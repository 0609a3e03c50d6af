"""Reports of run folders that lack something, or hold half of a file: the page says what is missing, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssod.inference.label_limits import of_run
from ssod.report.run_page import report
from tests.experiments.fake import STEPS, fake_run
from tests.report.test_pages import check
from tests.trained import model_file


def words(run: Path) -> str:
    """Return the text of the run's page on one line."""
    return " ".join(check(report(run, out=run.parent / "page.html").read_text("utf-8")).text.split())


def change(path: Path, how: Callable[[dict[str, Any]], None]) -> None:
    """Change a YAML or JSON file, or each line of ``metrics.jsonl``."""
    text = path.read_text("utf-8")
    parts = text.splitlines() if path.suffix == ".jsonl" else [text]
    written = []
    for part in parts:
        tree = yaml.safe_load(part)
        how(tree)
        written.append(json.dumps(tree))
    path.write_text("\n".join(written) + "\n", "utf-8")


@pytest.mark.parametrize("name", [f"eval/step_{STEPS}.json", "origins.json"])
@pytest.mark.parametrize("content", ["", '{"teacher/AP": 0.', "[1, 2]", "\x00"])
def test_a_damaged_file_is_reported_and_left_out(tmp_path: Path, name: str, content: str) -> None:
    run = fake_run(tmp_path / "run")
    (run / name).write_text(content)
    message = words(run)
    assert f"{Path(name).name} is damaged or half written" in message
    assert "AP, last step" in message


def test_origins_without_keys_say_nothing(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    (run / "origins.json").write_text('{"base": "x.yaml"}')
    assert "set over the base" not in words(run)


def test_damaged_pseudo_labels_are_reported_and_left_out(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    (run / "eval" / f"step_{STEPS}.pseudo.npz").write_bytes(b"PK")
    assert f"step_{STEPS}.pseudo.npz: cannot be read" in words(run)


def test_metrics_that_a_line_lacks(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    change(run / "metrics.jsonl", lambda row: row.pop("teacher/AP75", None))
    assert "AP50, AP75 50.0, - " in words(run).replace(read_ap50(run), "50.0")


def read_ap50(run: Path) -> str:
    """Return AP50 of the last evaluation as the page writes it."""
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return f"{100 * last['teacher/AP50']:.1f}"


def test_a_split_without_counts(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    change(run / "split.json", lambda tree: (tree.pop("labeled"), tree.pop("unlabeled")))
    assert "labelled images seen 48; split.json does not say of how many" in words(run)


@pytest.mark.parametrize("saved", [True, False])
def test_detectron2_has_no_lowest_score_in_the_config(tmp_path: Path, saved: bool) -> None:
    run = fake_run(tmp_path / "run", saved=saved)
    change(run / "config.yaml", lambda tree: tree["detector"].pop("decode"))
    assert f"scores above {'0.05' if saved else '-'} " in words(run)


def test_the_lowest_score_is_that_of_the_evaluation(tmp_path: Path) -> None:
    assert "scores above 0.2 " in words(fake_run(tmp_path / "run", about={"score": 0.2}))


def test_scores_for_labels_are_those_of_the_best_teacher(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    assert "ssod label --precision" not in words(run)
    model_file(run / "best.safetensors", step=STEPS // 2)
    told = words(run)
    assert "ssod label --precision 0.9 takes them" in told
    (row,) = of_run(run, 0.9)[:1]
    assert f"{row.name} {'left out' if row.score is None else f'{row.score:.3f}'} " in told
    (run / "eval" / f"step_{STEPS // 2}.npz").unlink()
    assert "No scores for labels: " in words(run)
