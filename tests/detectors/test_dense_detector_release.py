"""The Dense Detector's rows and losses are those of the released Efficient Teacher, with its sure and unsure boxes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.detectors.dense_detector import DenseDetector, DenseDetectorConfig
from ssod.detectors.heads.own_level import bounded
from ssod.losses.objectness import with_objectness
from ssod.structures import Predictions, Targets
from tests.paths import golden_path

FILE = golden_path("efficient_teacher_pla.npz")
CASES = json.loads(str(np.load(FILE)["cases_json"]))


class Case:
    """One case: raw outputs of three levels, and pseudo-labels in fractions of the image."""

    def __init__(self, facts: dict) -> None:
        with np.load(FILE) as npz:
            own = {k.removeprefix(f"{facts['id']}."): npz[k] for k in npz.files if k.startswith(facts["id"] + ".")}
        self.facts, self.numbers = facts, own
        self.raw = [torch.from_numpy(own[f"l{i}.pred"]).requires_grad_() for i in range(3)]
        self.anchors = [own[f"l{i}.anchors_grid"] * stride for i, stride in enumerate(facts["strides"])]
        cfg = DenseDetectorConfig(backbone="tiny", channels=8, anchors=[a.tolist() for a in self.anchors])
        self.detector = DenseDetector(cfg, facts["num_classes"])

    def predictions(self) -> Predictions:
        """The rows as the detector would say them, in float64."""
        rows, grids, images, size = [], [], self.facts["batch"], self.facts["image"]
        for raw, anchors, stride in zip(self.raw, self.anchors, self.facts["strides"]):
            grids.append(tuple(raw.shape[2:4]))
            flat = raw.permute(0, 2, 3, 1, 4).flatten(1, 3)
            rows.append(torch.cat([bounded(flat[..., :4], stride / torch.from_numpy(anchors)), flat[..., 4:]], 2))
        levels = tuple(r.shape[1] for r in rows)
        together = torch.cat(rows, 1).flatten(0, 1)
        return Predictions(
            logits=together[:, 5:],
            deltas=together[:, None, :4],
            priors=self.detector.anchors((size, size), grids).double().repeat(images, 1),
            image=torch.arange(images).repeat_interleave(sum(levels)),
            sizes=torch.full((images, 2), size),
            coder=self.detector.coder,
            quality=together[:, 4],
            objectness=True,
            levels=levels,
            strides=tuple(self.facts["strides"]),
            grids=tuple(grids),
        )

    def boxes(self, keep: np.ndarray) -> list[Targets]:
        """The pseudo-labels of each image that are kept; their scores are the teacher's objectness."""
        found = []
        for image in range(self.facts["batch"]):
            rows = torch.from_numpy(self.numbers["pseudo"][keep & (self.numbers["pseudo"][:, 0] == image)])
            x, y, w, h = (rows[:, 2:6] * self.facts["image"]).unbind(1)
            corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
            found.append(Targets(corners, rows[:, 1].long(), rows[:, 7]))
        return found


def losses(case: Case) -> tuple[dict[str, Tensor], Tensor]:
    """The losses by name, and what objectness is asked for, of sure and unsure boxes."""
    p, pseudo, facts = case.predictions(), case.numbers["pseudo"], case.facts
    sure = pseudo[:, 6] >= facts["tau_high"]
    unsure = case.boxes(~sure & (pseudo[:, 6] >= facts["tau_low"]))
    a, u = case.detector.assigner(p, case.boxes(sure)), case.detector.assigner(p, unsure)
    known = torch.cat([torch.cat([t.scores for t in unsure]), torch.zeros(1)])[u.matches().clamp(min=-1)]
    a = with_objectness(p, a)
    found = case.detector.reduce({"dense": (p, replace(a, quality=torch.where(u.fg, known, a.quality)))})
    places = u.fg & (known >= 0.99) & facts["box_on_uncertain"]
    more = case.detector.reduce({"dense": (p, replace(u, box_weight=places.double()))})
    found["box"] = found["box"] + more["box"]
    return found, torch.where(u.fg, known, a.quality)


@pytest.mark.parametrize("facts", CASES, ids=[c["name"] for c in CASES])
def test_as_released(facts: dict) -> None:
    case = Case(facts)
    found, asked = losses(case)
    for name, theirs in (("box", "loss_box"), ("quality", "loss_obj"), ("cls", "loss_cls")):
        assert float(found[name].detach()) == pytest.approx(float(case.numbers[theirs]), rel=1e-5, abs=1e-9), name
    total = sum(found.values()) * facts["batch"]
    assert float(total.detach()) == pytest.approx(float(case.numbers["loss_total"]), rel=1e-5)
    total.backward()
    images = facts["batch"]
    parts = asked.view(images, -1).split([r.numel() // r.shape[-1] // images for r in case.raw], 1)
    for i, (raw, part) in enumerate(zip(case.raw, parts)):
        of_cells = part.view(images, *raw.shape[2:4], 3).permute(0, 3, 1, 2)
        torch.testing.assert_close(of_cells, torch.from_numpy(case.numbers[f"l{i}.obj_target"]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(raw.grad, torch.from_numpy(case.numbers[f"l{i}.grad_pred"]), rtol=1e-4, atol=1e-8)
