"""Efficient Teacher's assigner against the authors' numbers: which rows learn what, losses and slopes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.detectors.dense_detector import DenseDetector, DenseDetectorConfig
from ssod.detectors.heads.own_level import bounded
from ssod.pseudo_labels.two_limits import divide
from ssod.structures import Assignment, Predictions, Pseudo, Targets
from tests.paths import golden_path
from tests.test_methods import method

FILE = np.load(golden_path("efficient_teacher_pla.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))


class Case:
    """A golden case as a Dense Detector, its rows, and the boxes that its teacher found."""

    def __init__(self, case: dict) -> None:
        self.case, self.classes, levels = case, case["num_classes"], range(3)
        self.raw = [torch.from_numpy(self(f"l{i}.pred")).requires_grad_() for i in levels]
        strides, n = case["strides"], case["batch"]
        anchors = [self(f"l{i}.anchors_grid") * s for i, s in enumerate(strides)]
        cfg = DenseDetectorConfig(backbone="tiny", channels=16, anchors=[a.tolist() for a in anchors])
        self.detector = DenseDetector(cfg, self.classes)
        rows = [raw.permute(0, 2, 3, 1, 4).flatten(1, 3) for raw in self.raw]
        reach = [s / torch.from_numpy(a) for a, s in zip(anchors, strides)]
        deltas = torch.cat([bounded(r[..., :4], of) for r, of in zip(rows, reach)], 1)
        of_all = torch.cat(rows, 1)
        grids = tuple(tuple(raw.shape[2:4]) for raw in self.raw)
        side = case["image"]
        priors = self.detector.anchors((side, side), list(grids))
        self.p = Predictions(
            logits=of_all[..., 5:].flatten(0, 1),
            deltas=deltas.flatten(0, 1)[:, None],
            priors=priors.repeat(n, 1),
            image=torch.arange(n).repeat_interleave(len(priors)),
            sizes=torch.full((n, 2), side),
            coder=self.detector.coder,
            quality=of_all[..., 4].flatten(),
            objectness=True,
            levels=tuple(r.shape[1] for r in rows),
            strides=tuple(strides),
            grids=grids,
        )

    def __call__(self, name: str) -> np.ndarray:
        return FILE[f"{self.case['id']}.{name}"]

    def found(self) -> list[Targets]:
        """What the teacher found, with its objectness."""
        rows, side = torch.from_numpy(self("pseudo")).float(), self.case["image"]
        center, size = rows[:, 2:4] * side, rows[:, 4:6] * side
        boxes = torch.cat([center - size / 2, center + size / 2], 1)
        of = [rows[:, 0] == i for i in range(self.case["batch"])]
        return [Targets(boxes[r], rows[r, 1].long(), rows[r, 6], quality=rows[r, 7]) for r in of]

    def asked(self) -> tuple[Pseudo, Assignment]:
        """The two kinds of boxes, and what the method asks of the rows."""
        case = self.case
        limits = {"score": case["tau_high"], "unsure_score": case["tau_low"]}
        m = method("efficient_teacher", self.detector, box_quality=0.99 if case["box_on_uncertain"] else 2.0, **limits)
        labels = Pseudo(*divide(self.found(), m.limits()))
        seen = SimpleNamespace(stages={"dense": self.p})
        ((_, a),) = m.assign(SimpleNamespace(labels=labels, side="unsup", student=seen)).values()
        return labels, a

    def level(self, values: Tensor, i: int) -> Tensor:
        """[R] -> [N, 3, H, W] of a level."""
        height, width = self.p.grids[i]
        part = values.view(self.case["batch"], -1).split(self.p.levels, 1)[i]
        return part.view(-1, height, width, 3).permute(0, 3, 1, 2)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_rows_learn_what_the_authors_have_them_learn(case: dict) -> None:
    known = Case(case)
    labels, a = known.asked()
    assert sum(map(len, labels.cls)) == known("n_reliable")
    assert sum(map(len, labels.unsure)) == known("n_uncertain")
    near = {"rtol": 1e-4, "atol": 1e-5}
    reliable = (a.cls < known.classes) & (a.cls_weight > 0)
    for i in range(3):
        wanted = torch.from_numpy(known(f"l{i}.obj_target"))
        torch.testing.assert_close(known.level(a.quality, i).to(wanted), wanted, **near)
        assert int(known.level(reliable, i).sum()) == known(f"l{i}.n_reliable_cells")
    losses = known.detector.reduce({"dense": (known.p, a)})
    for name, golden in (("box", "loss_box"), ("quality", "loss_obj"), ("cls", "loss_cls")):
        torch.testing.assert_close(losses[name].double(), torch.tensor(float(known(golden))).double(), **near)
    total = sum(losses.values()) * case["batch"]  # which YOLO's code multiplies by
    slopes = torch.autograd.grad(total, known.raw)
    for i, slope in enumerate(slopes):
        torch.testing.assert_close(slope, torch.from_numpy(known(f"l{i}.grad_pred")), rtol=1e-3, atol=1e-5)
