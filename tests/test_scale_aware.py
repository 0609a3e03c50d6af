"""Policies of scale-aware AutoAugment in whole runs: methods, restarts, messages, and the sweep of the docs."""

import json
from pathlib import Path

import pytest
import torch

from ssod import run
from ssod.config import load, load_recipe
from ssod.engine.checkpointing import checkpoint
from ssod.engine.stepper import Stepper
from ssod.experiments.sweep.sweep import read_sweep
from ssod.transforms.scale_aware import Policy
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config

DOCS = Path(__file__).resolve().parents[1] / "docs"
RELEASED = "{policy: {name: scale_aware, variant: released, short: 200}}"
VIEWS = [
    f"views.labeled.weak=[flip, {RELEASED}]",
    "views.unlabeled.strong={start: weak, ops: [color_op, {policy: {name: scale_aware, variant: released, "
    "parts: [zoom_in, jitter]}}]}",
    "data.split.percent=60",
]


def losses(folder: Path) -> torch.Tensor:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return torch.tensor([value for row in rows for key, value in row.items() if key.endswith("sup/cls")])


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints/last.pt")["method"]


@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path, monkeypatch, method):
    """What a step draws, and how likely a policy acts, depends on the step and on the length of the run alone."""
    config = small_config(tmp_path, train__eval_every=0, train__save_every=2, train__log_every=1)
    cfg = load(
        config, [*VIEWS, f"method.name={method}", "train.steps=4"] + ["method.burn_in=1"] * (method != "supervised")
    )
    run.train(cfg, out=tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) >= 4
    assert losses(tmp_path / "whole").isfinite().all()

    real = Stepper.train_step

    def stops(self, batches, step):
        if step == 3:
            raise RuntimeError("stopped here")
        return real(self, batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "train_step", stops)
        with pytest.raises(RuntimeError, match="stopped here"):
            run.train(cfg, out=tmp_path / "parts")
    run.train(cfg, out=tmp_path / "parts")
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        (f"views.unlabeled.weak=[{RELEASED}]", "views.unlabeled", "write parts: [zoom_in, jitter], or remove it"),
        (f"views.val=[{RELEASED}]", "views.val", "which are not shown to a detector; write parts: [zoom_in, jitter]"),
        ("views.labeled.weak=[{policy: {name: scale_aware}}]", "views.labeled.weak", "policy.variant: Field required"),
    ],
)
def test_what_has_no_meaning_is_one_line_before_training(tmp_path, change, key, words):
    with pytest.raises(SsodError) as caught:
        load(small_config(tmp_path), [change])
    assert caught.value.code == Exit.USAGE
    assert caught.value.field.startswith(key)
    assert words in caught.value.line()
    assert "\n" not in caught.value.line()


def test_too_few_labelled_images_stop_a_run_at_once(tmp_path):
    cfg = load(
        small_config(tmp_path), [VIEWS[0], "method.name=supervised", "data.split.percent=20", "train.batch.labeled=1"]
    )
    with pytest.raises(SsodError, match="'policy' puts 4 labelled images together, and there are 2") as caught:
        run.train(cfg, out=tmp_path / "run")
    assert caught.value.field == "views.labeled.weak"


def test_the_sweep_of_the_docs_changes_the_labelled_view_alone():
    cells = read_sweep(DOCS / "sweep_neu_det_scale_aware.yaml").cells
    trees = {cell.name: cell.load().dump() for cell in cells}
    short = ["train.steps=1600", "train.eval_every=50%"]
    recipe = load_recipe(method="supervised", detector="retinanet_tiny_fpn", data="neu_det", overrides=short).dump()
    rows = ["plain", "colours", "scale_aware_published", "scale_aware_released"]
    assert sorted(trees) == sorted(f"{row}/fold{fold}-seed0" for row in rows for fold in (1, 2, 3))
    views, start = set(), recipe["views"]["labeled"]["weak"][:3]
    for tree in trees.values():
        weak = tree["views"]["labeled"]["weak"]
        assert weak[:3] == start
        views.add(json.dumps(weak))
        tree["views"]["labeled"]["weak"] = recipe["views"]["labeled"]["weak"]
        tree["data"]["split"]["fold"] = recipe["data"]["split"]["fold"]
        tree["train"]["seed"] = recipe["train"]["seed"]
        assert tree == recipe
    assert len(views) == 4
    used = [cell.load().views.labeled["weak"].ops[-1] for cell in cells if cell.name.startswith("scale_aware")]
    assert all(isinstance(op, Policy) and op.short == 800 for op in used)
