"""Keys changed in the text of a config: it reads as the change says, and what people wrote beside it stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ssod.commands.init.edit import with_changes
from ssod.commands.init.write import changed, write_config
from ssod.config import load
from ssod.utils.errors import SsodError
from ssod.utils.merging import merge
from tests.small_sets import coco, pictures

TEXT = """\
# the head
recipe: {method: mean_teacher, detector: fcos_tiny_fpn, data: own}

views: # of images
  unlabeled:
    weak: [flip] # the teacher's
    strong: {start: weak, ops: ["#no remark", cutout]} # the student's
  val: []

train: # the rule
  steps: 3000
  batch: {labeled: 8, unlabeled: 8} # totals
  lr: 0.01 # 0.00125 for each
  clip: 10

# below
"""
CHANGES = [
    ["train.lr=0.02"],
    ["train.steps=50", "train.seed=3", "train.device=cpu"],
    ["train.batch.labeled=4"],
    ["train.optimizer={name: adamw}", "train.optimizer.weight_decay=0.1"],
    ["views.unlabeled.weak=[]", "views.tiles={size: 64}"],
    ["views.unlabeled.strong.start=none", "views.unlabeled.extra=[flip]"],
    ["views.unlabeled={name: other}"],
    ["eval.batch=4", "method={name: supervised}", "train.clip=null"],
    ["detector.channels=8", "train.seed=3"],
    ["recipe.fold=3"],
]


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip(), "recipe: {method: stac}\n# nothing else\n"])
def test_the_text_reads_as_the_change_says(text: str, words: list[str]) -> None:
    changes: dict = {}
    merge(changes, {"recipe": {"fold": 3}} if words == ["recipe.fold=3"] else changed(words), {}, "")
    wanted: dict = {}
    for tree in (yaml.safe_load(text), changes):
        merge(wanted, tree, {}, "")
    assert yaml.safe_load(with_changes(text, changes)) == wanted


@pytest.mark.parametrize("words", CHANGES[:-1], ids=" ".join)
def test_remarks_stay(words: list[str]) -> None:
    text = with_changes(TEXT, changed(words))
    for remark in ("# the head", "# of images", "# the teacher's", "# the student's", "# the rule", "# totals"):
        assert text.count(remark) == 1, text
    assert text.count("# 0.00125 for each") == text.count("# below") == 1


def test_a_line_says_what_it_was() -> None:
    text = with_changes(TEXT, changed(["train.lr=0.02", "train.seed=3"]))
    assert "  lr: 0.02 # given to ssod init; else 0.01 # 0.00125 for each\n  clip: 10\n  seed: 3\n\n# below\n" in text
    assert with_changes(TEXT, changed(["train.lr=0.01"])) == TEXT


def test_init_keeps_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    coco(tmp_path / "train.json", tmp_path / "train", [f"{i}.jpg" for i in range(10)])
    pictures(tmp_path / "free", ["u.png", "v.png"])
    how: dict = {"images": "train", "detector": "retinanet_tiny_fpn"}
    write_config("aaa.yaml", "train.json", "free", **how)
    write_config(
        "bbb.yaml", "train.json", "free", **how, overrides=["train.lr=0.5", "train.seed=3", "method.score=0.6"]
    )
    plain, own = (Path(name).with_suffix(".yaml").read_text().replace(name, "X") for name in ("aaa", "bbb"))
    assert [line for line in plain.splitlines() if line not in own.splitlines()] == [
        line for line in plain.splitlines() if line.startswith(("  lr:", "  threshold:"))
    ]
    cfg = load("bbb.yaml")
    assert (cfg.train.lr, cfg.train.seed, cfg.method.score, cfg.method.threshold) == (0.5, 3, 0.6, None)
    assert load("aaa.yaml").method.threshold.name == "label_count"
    with pytest.raises(SsodError, match="says label_count"):
        load("aaa.yaml", ["method.score=0.3"])
    assert load("aaa.yaml", ["method.score=0.3", "method.threshold=null"]).method.score == 0.3
