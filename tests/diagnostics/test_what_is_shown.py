"""What is measured, drawn and counted are the labels that a step learns from, for every method that there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssod import build
from ssod.config import Config, load
from ssod.data import datasets
from ssod.diagnostics import pseudo_quality
from ssod.diagnostics.gallery import SHOWN
from ssod.diagnostics.pseudo_quality import Diagnose, previous, same_views
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.experiments.runs import read_run
from ssod.methods.base import Method
from ssod.methods.registry import find, names
from ssod.report import pictures
from ssod.structures import Batch, Pseudo, Targets, move_targets
from ssod.utils.seeding import seed_step
from tests.small import seen_once, small_config

SEMI = [name for name in names() if find(name).uses_unlabeled]
TWO_STAGE = "roi: {rows: 8, hidden: 16, size: 3, scale: 64}, rpn: {rows: 16, before: [60, 60], after: [30, 30]}"
NETS = {"fcos": "name: fcos", "faster_rcnn": f"name: faster_rcnn, {TWO_STAGE}"}
SIDES = {
    "fcos": ", spread: true, loss: {spread: nll}",
    "faster_rcnn": ", code: sides, spread: true, loss: {spread: nll}",
}  # what Unbiased Teacher v2 asks of them
REFUSED = {(method, "faster_rcnn") for method in ("dense_teacher", "dsl", "efficient_teacher")}
CASES = [(name, net) for name in SEMI for net in NETS if (name, net) not in REFUSED]
STEP = 1000
# So low that an untrained teacher has labels.
USUAL: dict[str, Any] = {"burn_in": 0, "start": 0, "score": 0.2, "candidate_score": 0.05, "spread": 1.0}


@dataclass
class Seen:
    """What a method was asked for, and what a step made of it."""

    cfg: Config
    method: Method
    look: Diagnose
    batch: Batch
    learnt: list[Pseudo | None] = field(default_factory=list)  # in the strong view, before it is mixed
    drawn: list[Pseudo | None] = field(default_factory=list)  # in the weak view


def lively(method: nn.Module) -> None:
    """Let every head find something, each model something else."""
    torch.manual_seed(0)
    for path, module in method.named_modules():
        if path.endswith(("cls_logits", "cls_score")):
            nn.init.normal_(module.weight, std=0.3)
            nn.init.zeros_(module.bias)


def seen(name: str, net: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    kind = find(name).Config.model_fields
    changes = [f"method={{name: {name}}}", *(f"method.{key}={value}" for key, value in USUAL.items() if key in kind)]
    changes += ["method.burn_in=1"] if name == "stac" else []  # without a first stage it asks for a teacher
    sides = SIDES[net] if name == "unbiased_teacher_v2" else ""
    detector = f"detector={{{NETS[net]}, backbone: tiny, channels: 16{sides}}}"
    look = [f"eval.diagnose={SHOWN}", f"eval.batch={SHOWN}", "train.tensorboard=true"]  # one batch, as in a report
    cfg = load(small_config(folder), ["train.steps=200000", detector, *look, *changes, *seen_once(name)])
    data = datasets.load(cfg.data)
    method = build.build_method(cfg, data).train()
    lively(method)
    look = Diagnose(cfg, data, RunFolder(folder / "run"))
    (batch,) = same_views(cfg, data.labeled, look.images)
    found = Seen(cfg, method, look, batch)
    mix: Callable = method.mix
    monkeypatch.setattr(method, "mix", lambda view, pseudo, by: found.learnt.append(pseudo) or mix(view, pseudo, by))
    for place, holder in ((pseudo_quality.gallery, "show"), (pictures, "show")):
        show: Callable = getattr(place, holder)
        keep = lambda *given, show=show: found.drawn.append(given[2]) or show(*given)  # noqa: E731
        monkeypatch.setattr(place, holder, keep)
    return found


def same(found: list[Targets], wanted: list[Targets]) -> None:
    assert [t.labels.tolist() for t in found] == [t.labels.tolist() for t in wanted]
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=1e-2)
        torch.testing.assert_close(a.confidence(), b.confidence(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "net"), CASES)
def test_what_is_shown_is_what_is_learnt(name: str, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look that an evaluation saves, its gallery, and the report's, each in the state that a step begins with."""
    now = seen(name, net, tmp_path, monkeypatch)
    method, batch, weak = now.method, now.batch, now.batch.weak
    state = {key: value.clone() for key, value in method.state_dict().items()}
    seed_step(now.cfg.train.seed, STEP, 0)
    method(batch, STEP)
    method.load_state_dict(state)

    stats = now.method.stats
    now.look(STEP, method)
    assert method.stats is stats
    seed_step(now.cfg.train.seed, STEP, 0)
    pictures.gallery(now.cfg, datasets.load(now.cfg.data), method, STEP)
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())

    (learnt, *_), (shown, reported) = now.learnt, now.drawn
    look = previous(now.look.folder.eval, STEP + 1)
    if method.cfg.taught_by != "boxes":
        assert (learnt, shown, reported, look.boxes) == (None, None, None, [])
        return
    assert sum(map(len, learnt.cls)) > 0
    for drawn in (shown, reported):
        same(drawn.move(weak, batch.strong).cls, learnt.cls)
    rows = [[row for row in look.boxes if row["image_id"] == image] for image in weak.ids]
    saved = [
        Targets(
            torch.tensor([row["bbox"] for row in mine]).view(-1, 4),
            torch.tensor([row["category_id"] for row in mine], dtype=torch.long),
            torch.tensor([row["score"] for row in mine]),
        )
        for mine in rows
    ]
    for targets in saved:
        targets.boxes[:, 2:] += targets.boxes[:, :2]
    same(move_targets(saved, batch.strong.matrix, batch.strong.sizes), learnt.cls)


def test_a_model_file_has_one_of_the_two_models(tmp_path: Path) -> None:
    """Then the report has no labels to show, and says so; with an untrained peer it would show others."""
    changes = ["train.steps=2", "train.eval_every=2", "method={name: instant_teaching_rectify, score: 0.01}"]
    cfg = load(small_config(tmp_path), changes)
    with RunFolder(tmp_path / "run") as folder:
        build.build(cfg, datasets.load(cfg.data), folder).fit()
    titles = [section.title for section in pictures.pictures(read_run(folder.path))]
    assert pictures.ONE_OF_TWO not in str(pictures.pictures(read_run(folder.path))[0].blocks)
    (folder.checkpoints / "last.pt").unlink()
    without = pictures.pictures(read_run(folder.path))
    assert [section.title for section in without] == titles
    assert pictures.ONE_OF_TWO in str(without[0].blocks)
