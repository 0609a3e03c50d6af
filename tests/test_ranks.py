"""Two processes and one process with the same batch in total learn the same from the same images.

Processes are forked with the environment that torchrun gives; the last test starts torchrun itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ssod.data.synthetic import CLASSES
from ssod.detectors.build import build
from ssod.engine.checkpointing import checkpoint
from tests.detectors.reference import config as section
from tests.engine.fork import run
from tests.small import seen_once, small_config, train_command
from tests.test_methods import SIDES

STEPS = 12
NETS = {
    "retinanet": {"name": "retinanet", "backbone": "tiny", "channels": 16, "levels": [3, 5]},
    "fcos": {"name": "fcos", "backbone": "tiny", "channels": 16, "levels": [3, 5]},
    "faster_rcnn": {
        "name": "faster_rcnn",
        "backbone": "tiny",
        "channels": 16,
        "rpn": {"rows": 32, "before": [60, 60], "after": [30, 30]},
        "roi": {"rows": 16, "hidden": 32, "size": 3, "scale": 64},
    },
}

# Four images of each kind, logged at every step; SGD, for Adam magnifies rounding.
PLAIN = {
    "train__log_every": 1,
    "train__eval_every": 0,
    "train__optimizer": {"name": "sgd"},
    "train__lr": 0.001,
    "train__batch": {"labeled": 4, "unlabeled": 4},
}

# Steps of burn-in, and how many steps are compared. Faster R-CNN chooses proposals by rank and overlap, and a
# difference of one bit between two near ties changes which are chosen: equal at first, then two runs of equal chances.
# A teacher without burn-in scores all boxes nearly alike, so the dense detectors are compared after one.
BURN_IN = {"retinanet": 6, "fcos": 6, "faster_rcnn": 0}
COMPARED = {"retinanet": STEPS, "fcos": STEPS, "faster_rcnn": 3}
SCORE = {"retinanet": 0.02, "fcos": 0.1, "faster_rcnn": 0.02}


def losses(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k.startswith(("sup/", "unsup/"))} for r in rows if r["kind"] == "train"]


def begun(net: str, folder: Path) -> dict[str, object]:
    """Return a detector's section; FCOS starts from weights with which no rounding chooses between near ties.

    A fresh FCOS scores all rows alike and gives boxes hardly an area, so that a last bit decides which of them are
    kept, and a difference of 1e-7 doubles in each step. Where scores differ, it stays at 1e-7 or 2e-7 for 12 steps with
    each of four seeds, and grows to 4e-6 in 20 with one of them. Sides are not two whole strides: neighbours would
    overlap by 0.6, which is the threshold of suppression.
    """
    if net != "fcos":
        return NETS[net]
    torch.manual_seed(0)
    detector = build(section(**NETS[net]), len(CLASSES))
    nn.init.normal_(detector.head.classification_head.cls_logits.weight, std=0.1)
    nn.init.constant_(detector.head.regression_head.bbox_reg.bias, 2.3)
    torch.save(detector.state_dict(), folder / "begun.pth")
    return {**NETS[net], "weights": str(folder / "begun.pth")}


def largest_difference(alone: dict[str, float], together: dict[str, float]) -> float:
    return max(abs(value - together[name]) / max(1.0, abs(value)) for name, value in alone.items())


def two(config: Path, out: Path, *changes: str) -> None:
    run(train_command(config, out, *changes), ranks=2)


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_two_ranks_lose_what_one_process_does(tmp_path: Path, net: str) -> None:
    """Counts are taken over ranks and rows are drawn by image, so they agree; SGD, for Adam magnifies rounding."""
    config = small_config(
        tmp_path,
        detector=begun(net, tmp_path),
        train__steps=STEPS,
        **PLAIN,
        method__score=SCORE[net],
        method__damping=1.0,
        method__burn_in=BURN_IN[net],
    )
    run(train_command(config, tmp_path / "one"))
    two(config, tmp_path / "two")
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(alone) == len(together) == STEPS
    alone, together = alone[: COMPARED[net]], together[: COMPARED[net]]
    assert any(name.startswith("unsup/") for name in alone[-1])
    worst = 0.0
    for a, b in zip(alone, together):
        assert a.keys() == b.keys()
        worst = max(worst, largest_difference(a, b))
    print(f"{net}: largest difference over {COMPARED[net]} steps {worst:.1e}")
    assert worst <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_two_ranks_of_two_parts_lose_what_four_parts_do(tmp_path: Path, net: str) -> None:
    """Score banks, thresholds and counts are those of the step, however it is divided."""
    config = small_config(
        tmp_path,
        detector=begun(net, tmp_path) | ({"assigner": {"name": "adaptive"}} if net == "retinanet" else {}),
        train__steps=3,
        **PLAIN,
        method={"name": "consistent_teacher", "start": 0, "count_ratio": 0, "damping": 0.5, "ema": {"decay": 0.9}},
    )
    run(train_command(config, tmp_path / "one", "train.accumulate=4"))
    two(config, tmp_path / "two", "train.accumulate=2")
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(alone) == len(together) == 3
    assert alone[0].keys() == together[0].keys()
    assert any(name.startswith("unsup/") for name in alone[0])
    worst = largest_difference(alone[0], together[0])
    print(f"{net}: largest difference in the first step {worst:.1e}")
    assert worst <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("net", ["fcos", "faster_rcnn"])
def test_two_ranks_count_the_sides_of_both(tmp_path: Path, net: str) -> None:
    """Unbiased Teacher v2 divides by the sides that learn, of which a rank may have few or none."""
    keys = {"score": SCORE[net], "certainty": 0.3, "margin": 0.0, "burn_in": 0}
    keys |= {"box_score": 0.1, "normalize": True} if net == "fcos" else {}
    sides = {key: value for key, value in SIDES[net].items() if key != "bins"}  # ``begun`` knows distances alone
    config = small_config(
        tmp_path,
        detector=begun(net, tmp_path) | sides,
        train__steps=3,
        **PLAIN,
        method={"name": "unbiased_teacher_v2", **keys},
    )
    run(train_command(config, tmp_path / "one"))
    two(config, tmp_path / "two")
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(alone) == len(together) == 3
    assert alone[0].keys() == together[0].keys()
    assert alone[0]["unsup/box"] > 0
    worst = largest_difference(alone[0], together[0])
    print(f"{net}: largest difference in the first step {worst:.1e}")
    assert worst <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_two_ranks_weigh_rows_by_what_all_of_them_are_sure_of(tmp_path: Path, net: str) -> None:
    """So many samples are their mean, as two ranks draw others than one process does."""
    weighting = {"weighting": {"name": "uncertainty", "samples": 10**14}}
    config = small_config(
        tmp_path,
        detector=begun(net, tmp_path),
        train__steps=3,
        **PLAIN,
        method__score=SCORE[net],
        method__damping=1.0,
        method__burn_in=0,
        method__loss={"sup": weighting, "unsup": weighting},
    )
    run(train_command(config, tmp_path / "one"))
    two(config, tmp_path / "two")
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    wanted = {"sup/aux", "unsup/aux"} | ({"sup/rpn_aux", "unsup/rpn_aux"} if net == "faster_rcnn" else set())
    assert wanted <= alone[0].keys() == together[0].keys()
    worst = largest_difference(alone[0], together[0])
    print(f"{net}: largest difference in the first step {worst:.1e}")
    assert worst <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("net", ["fcos", "faster_rcnn"])
def test_two_ranks_weigh_boxes_by_the_votes_of_all(tmp_path: Path, net: str) -> None:
    config = small_config(
        tmp_path,
        detector=begun(net, tmp_path) | {"half_size": True, "levels": [3, 5]},
        train__steps=3,
        **PLAIN,
        method={"name": "pseco", "score": SCORE[net], "ema": {"decay": 0.9}},
    )
    run(train_command(config, tmp_path / "one"))
    two(config, tmp_path / "two")
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert alone[0].keys() == together[0].keys()
    assert alone[0]["unsup/box"] > 0
    worst = largest_difference(alone[0], together[0])
    print(f"{net}: largest difference in the first step {worst:.1e}")
    assert worst <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("net", ["fcos", "faster_rcnn"])
def test_two_ranks_compare_the_rows_of_both(tmp_path: Path, net: str) -> None:
    """CSD divides by the rows that are left on both ranks, of labelled and of unlabelled images."""
    keys = {"ramp": 0, "ramp_down": None} | ({"foreground": 0.02} if net == "fcos" else {})
    config = small_config(
        tmp_path, detector=begun(net, tmp_path), train__steps=3, **PLAIN, method={"name": "csd", **keys}
    )
    run(train_command(config, tmp_path / "one"))
    two(config, tmp_path / "two")
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert alone[0].keys() == together[0].keys()
    assert alone[0]["unsup/cls"] > 0
    assert alone[0]["unsup/box"] > 0
    worst = largest_difference(alone[0], together[0])
    print(f"{net}: largest difference in the first step {worst:.1e}")
    assert worst <= 1e-6


@pytest.mark.slow
def test_two_ranks_with_banks_of_their_own_go_on_where_they_stopped(tmp_path: Path) -> None:
    """Each takes up its own banks, of which the checkpoint has all."""
    threshold = {"name": "gmm", "banks": "rank"}
    config = small_config(
        tmp_path,
        train__eval_every=0,
        train__batch={"labeled": 4, "unlabeled": 4},
        method={"name": "consistent_teacher", "start": 0, "threshold": threshold, "ema": {"decay": 0.9}},
    )
    two(config, tmp_path / "whole", "train.steps=6")
    two(config, tmp_path / "cut", "train.steps=3")
    two(config, tmp_path / "cut", "train.steps=6")
    whole, cut = (checkpoint.load(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "cut"))
    for a, b in [
        (whole["method"], cut["method"]),
        *((x["buffers"], y["buffers"]) for x, y in zip(whole["ranks"], cut["ranks"])),
    ]:
        assert all(torch.equal(value, b[name]) for name, value in a.items())
    first, second = (share["buffers"]["threshold.bank.scores"] for share in cut["ranks"])
    assert (first > 0).any()
    assert not torch.equal(first, second)


STAGES = {"name": "stac", "score": 0.6, "ema": {"decay": 0.0}}


@pytest.mark.slow
@pytest.mark.parametrize("net", ["retinanet", "faster_rcnn"])
def test_two_ranks_start_afresh_as_one_process_does(tmp_path: Path, net: str) -> None:
    """Each asks the frozen teacher about its own images. Faster R-CNN is compared up to where near ties may differ."""
    burn_in, compared = (6, STEPS) if net == "retinanet" else (1, 3)
    config = small_config(tmp_path, detector=begun(net, tmp_path), train__steps=STEPS, **PLAIN, method=STAGES)
    changes = [f"method.burn_in={burn_in}", f"method.score={SCORE[net]}", *seen_once("stac")]
    run(train_command(config, tmp_path / "one", *changes))
    two(config, tmp_path / "two", *changes)
    alone, together = losses(tmp_path / "one")[:compared], losses(tmp_path / "two")[:compared]
    assert "unsup/box" in alone[-1]
    assert all(a.keys() == b.keys() for a, b in zip(alone, together, strict=True))
    worst = max(largest_difference(a, b) for a, b in zip(alone, together))
    print(f"{net}: largest difference over {compared} steps {worst:.1e}")
    assert worst <= 1e-5
    saved = checkpoint.load(tmp_path / "two" / "checkpoints/last.pt")
    assert sum(name.startswith("given.") for name in saved["method"]) > 0


@pytest.mark.slow
def test_stac_goes_on_where_no_rank_has_a_pseudo_box(tmp_path: Path) -> None:
    config = small_config(tmp_path, train__steps=8, train__eval_every=0, train__log_every=1, method=STAGES)
    two(config, tmp_path / "none", "method={score: 1, burn_in: 4, as_released: false}", *seen_once("stac"))
    rows = [json.loads(line) for line in (tmp_path / "none" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    assert rows[-1]["step"] == 8
    assert rows[-1]["pseudo/boxes_per_image"] == 0


@pytest.mark.slow
def test_a_rank_without_a_single_pseudo_box_goes_on(tmp_path: Path) -> None:
    config = small_config(tmp_path, train__steps=16, train__eval_every=0, train__log_every=1, method__score=1.0)
    two(config, tmp_path / "none")
    rows = [json.loads(line) for line in (tmp_path / "none" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    assert rows[-1]["step"] == 16
    assert rows[-1]["pseudo/boxes_per_image"] == 0


LEAVING = """
import atexit, gc, sys


def count() -> None:
    print("left:", sum(type(o).__name__ == "DistributedDataParallel" for o in gc.get_objects()), flush=True)


atexit.register(count)  # the first that is registered comes last
from ssod import cli

sys.argv[0] = "ssod"
cli.main()
"""


@pytest.mark.slow
def test_a_rank_leaves_no_process_group_behind(tmp_path: Path) -> None:
    """What holds one when Python ends may abort, and torchrun then calls a finished job a failure."""
    method = {"name": "mean_teacher", "burn_in": 1}
    config = small_config(tmp_path, detector=begun("fcos", tmp_path), train__steps=2, method=method, **PLAIN)
    (tmp_path / "leaving.py").write_text(LEAVING)
    command = train_command(config, tmp_path / "two")
    arguments = command[command.index("train") :]
    job = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = subprocess.run(
        [*job, str(tmp_path / "leaving.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("left: 0") == 2
