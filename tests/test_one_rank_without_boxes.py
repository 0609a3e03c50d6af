"""Every method on two ranks of which one has no pseudo-box, then neither, then the other: they learn as one process.

What the teacher finds is taken away by the step's number and by the half of the images that a rank has, so that one
process with both halves is asked for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssod.data.synthetic import CLASSES
from ssod.detectors.build import build
from ssod.detectors.dense import DenseOutput
from ssod.detectors.two_stage import TwoStageOutput
from ssod.methods import instant_teaching, instant_teaching_rectify
from ssod.methods.base import Method
from ssod.methods.registry import find, names
from ssod.structures import Batch, Pseudo, Targets
from ssod.structures.clusters import Clusters
from ssod.utils import collective
from tests.detectors.reference import config
from tests.detectors.test_dense_detector_methods import ANCHORS
from tests.small import seen_once, small_config, train_command
from tests.test_methods import SIDES
from tests.test_ranks import NETS, PLAIN, begun, largest_difference, losses, run, two

NOBODY, FIRST, SECOND, BOTH = set[int](), {0}, {1}, {0, 1}
USUAL = [SECOND, BOTH, FIRST]  # who has no box, step by step
# A method that labels an image once is told of each but once; others look for thresholds before they learn from boxes.
OTHERWISE = {"stac": [NOBODY, SECOND, SECOND], "label_match": [NOBODY, *USUAL], "s4od": [NOBODY, *USUAL]}

# The detector of a method, and keys with which an untrained one finds boxes to learn from. A method that is not here
# has FCOS and the keys of `section`; where it finds no box with these, the test says so.
SECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "acrst": ("retinanet", {}),
    "consistent_teacher": ("retinanet", {"start": 0, "count_ratio": 0}),
    "csd": ("faster_rcnn", {"ramp": 0, "ramp_down": None}),
    "dense_teacher": ("fcos", {"ramp": 0}),
    "dsl": ("fcos", {"unsure": 0.05, "every": 1}),
    "efficient_teacher": ("dense_detector", {"unsure_score": 0.05}),
    "humble_teacher": ("faster_rcnn", {}),
    "instant_teaching": ("faster_rcnn", {}),
    "instant_teaching_rectify": ("faster_rcnn", {}),
    "label_match": ("fcos", {"queue": 4, "reliable": 0.1}),
    "mix_pl": ("fcos", {"cache": {"side": 64}, "mosaic_size": 32}),
    "pseco": ("faster_rcnn", {}),
    "s4od": ("fcos", {"look": 1, "every": 1, "iou": 0.1, "members": 1, "spread": 0.5}),
    "soft_teacher": ("faster_rcnn", {"candidate_score": 0.02, "spread": 0.5}),
    "stac": ("fcos", {"burn_in": 1}),
    "unbiased_teacher": ("faster_rcnn", {}),
    "unbiased_teacher_v2": ("fcos", {"certainty": 0.3, "margin": 0.0, "box_score": 0.1}),
}
# A process of MixPL's weighs its own groups, and STAC asks for one image at a time, which has no half; with boxes on
# both ranks both are compared elsewhere (tests/test_mix_pl.py, tests/test_ranks.py).
NOT_COMPARED = {"mix_pl", "stac"}
SCORE = {"retinanet": 0.3, "fcos": 0.1, "faster_rcnn": 0.02, "dense_detector": 0.3}
DENSE_DETECTOR = {"name": "dense_detector", "backbone": "tiny", "channels": 16, "anchors": ANCHORS}


def section(name: str) -> tuple[str, dict[str, Any]]:
    """Return the detector of a method, and its section."""
    kind, own = SECTIONS.get(name, ("fcos", {}))
    keys = {"burn_in": 0, "score": SCORE[kind], "ema": {"decay": 0.9}} | own
    known = find(name).Config.model_fields
    return kind, {"name": name} | {key: value for key, value in keys.items() if key in known}


def net(kind: str, name: str, folder: Path) -> dict[str, Any]:
    """Return the section of a detector, with weights that find something."""
    if kind in ("fcos", "faster_rcnn"):
        asked: dict[str, Any] = {"half_size": True, "levels": [3, 5]} if name == "pseco" else {}
        if name == "unbiased_teacher_v2":
            asked = {key: value for key, value in SIDES[kind].items() if key != "bins"}  # ``begun`` knows distances
        return begun(kind, folder) | asked
    own = DENSE_DETECTOR if kind == "dense_detector" else NETS[kind]
    torch.manual_seed(0)
    detector = build(config(**own), len(CLASSES))
    for path, module in detector.named_modules():
        if path.endswith("cls_logits"):
            nn.init.normal_(module.weight, std=0.1)
            nn.init.zeros_(module.bias)
        if path.endswith("objectness"):
            nn.init.ones_(module.bias)
    torch.save(detector.state_dict(), folder / "begun.pth")
    return own | {"weights": str(folder / "begun.pth")}


def take(monkeypatch: pytest.MonkeyPatch, name: str, folder: Path, taken: Sequence[set[int]]) -> None:
    """Take boxes away in processes that are forked from now on; they note how many are left in each step."""
    kind, now = find(name), [0]
    forward, count = kind.forward, Method.count

    def gone(i: int, images: int) -> bool:
        return (collective.rank() if collective.active() else int(2 * i >= images)) in taken[now[0]]

    def left(found: Callable[..., list[Targets]]) -> Callable[..., list[Targets]]:
        def fewer(*args: Any, **words: Any) -> list[Targets]:
            boxes = found(*args, **words)
            return [t[:0] if gone(i, len(boxes)) else t for i, t in enumerate(boxes)]

        return fewer

    def left_of_clusters(found: Callable[..., Clusters]) -> Callable[..., Clusters]:
        def fewer(*args: Any, **words: Any) -> Clusters:
            of = found(*args, **words)
            out = torch.tensor([gone(i, len(of.owner)) for i in range(len(of.owner))])
            boxes = [t[:0] if none else t for t, none in zip(of.detections, out.tolist())]
            return replace(of, detections=boxes, owner=of.owner.masked_fill(out[:, None], -1))

        return fewer

    def noting_step(self: Any, batch: Batch, step: int) -> Any:
        now[0] = step
        return forward(self, batch, step)

    def noting_boxes(self: Method, pseudo: Pseudo | None) -> None:
        if pseudo is not None:
            lists = [pseudo.cls, pseudo.box or [], pseudo.unsure or []]
            with (folder / f"boxes-{collective.rank()}").open("a") as file:
                file.write(f"{now[0]} {sum(len(t) for some in lists for t in some)}\n")
        count(self, pseudo)

    monkeypatch.setattr(kind, "forward", noting_step)
    monkeypatch.setattr(Method, "count", noting_boxes)
    for where in (DenseOutput, TwoStageOutput):
        monkeypatch.setattr(where, "detections", left(where.detections))
        monkeypatch.setattr(where, "clusters", left_of_clusters(where.clusters))
    for module in (instant_teaching, instant_teaching_rectify):  # they suppress in their own way
        monkeypatch.setattr(module, "confident", left(module.confident))


def without(folder: Path, rank: int) -> set[int]:
    """Return the steps in which a rank was asked for its boxes and had none."""
    rows = [tuple(map(int, line.split())) for line in (folder / f"boxes-{rank}").read_text().splitlines()]
    return {step for step, _ in rows} - {step for step, boxes in rows if boxes}


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_a_method_goes_on_where_a_rank_has_no_pseudo_box(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kind, own), method, taken = section(name), find(name), OTHERWISE.get(name, USUAL)
    plain = PLAIN | {"train__steps": len(taken), "train__save_every": 0}
    made = small_config(tmp_path, detector=net(kind, name, tmp_path), method=own, **plain)
    take(monkeypatch, name, tmp_path, taken)
    two(made, tmp_path / "two", *seen_once(name))
    first = next(step for step, of in enumerate(taken) if of)
    if method.uses_unlabeled and method.Config(**own).taught_by == "boxes":
        for rank in range(2):
            assert without(tmp_path, rank) >= {step for step, of in enumerate(taken) if rank in of}, rank
        assert first not in without(tmp_path, 0), "it has found no box in the first place"
    together = losses(tmp_path / "two")
    assert len(together) == len(taken)
    if method.uses_unlabeled:
        assert all(any(loss.startswith("unsup/") for loss in row) for row in together[first:])
    if name in NOT_COMPARED:
        return
    run(train_command(made, tmp_path / "one", *seen_once(name)))
    alone = losses(tmp_path / "one")
    assert [set(row) for row in alone] == [set(row) for row in together]
    worst = largest_difference(alone[first], together[first])
    print(f"{name} on {kind}: largest difference in step {first} {worst:.1e}")
    assert worst <= 1e-5
