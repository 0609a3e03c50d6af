"""PISA's weights leave the class loss that a detector really trains on as large as it was, whatever it divides by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from ssod.detectors.build import DetectorConfig, build
from ssod.losses.weighting.pisa import isr_n, isr_p
from ssod.structures import Assignment, Detector, Predictions
from tests.rows import context
from tests.test_methods import DETECTORS, K, batch

NETS = {
    "retinanet, image": ("retinanet", {"normalizer": "image"}),
    "retinanet, batch": ("retinanet", {"normalizer": "batch"}),
    "retinanet, adaptive": ("retinanet", {"assigner": "adaptive"}),
    "fcos": ("fcos", {}),
    "faster_rcnn": ("faster_rcnn", {}),
}


def net(name: str, changes: dict) -> Detector:
    torch.manual_seed(0)
    section = {"name": name, "backbone": "tiny", "channels": 16} | DETECTORS[name] | changes
    return build(TypeAdapter(DetectorConfig).validate_python(section), K)


def exactly(p: Predictions, a: Assignment) -> tuple[Predictions, Assignment]:
    """The same in float64, so that what is left is no rounding of the sum."""
    return replace(p, logits=p.logits.double()), replace(a, cls_weight=a.cls_weight.double())


@pytest.mark.parametrize("bias", [0.0, 0.3])
@pytest.mark.parametrize("case", NETS)
def test_prime_samples_leave_the_detectors_class_loss(case: str, bias: float) -> None:
    name, changes = NETS[case]
    student, data = net(name, changes), batch().labeled
    with torch.no_grad():
        out = student.predict(data)
        assigned = {stage: exactly(p, a) for stage, (p, a) in student.assign(out, data.targets).items()}
        stage = "roi" if name == "faster_rcnn" else "dense"
        p, a = assigned[stage]
        objects = replace(a, cls_weight=a.cls_weight * (a.cls < K))  # the loss of positives, and nothing beside it
        for weigh, before in ((isr_p, objects), (isr_p, a), *([(isr_n, a)] if stage == "roi" else [])):
            known = context(rows=student.rows, normalizer=student.cls_normalizer)
            after = weigh(stage, p, before, known, bias=bias)
            assert not torch.allclose(after.cls_weight, before.cls_weight)
            was, now = (student.reduce(assigned | {stage: (p, x)})["cls"] for x in (before, after))
            assert now.item() == pytest.approx(was.item(), rel=1e-6)


def test_images_have_normalizers_of_their_own() -> None:
    """Else the case above would not tell a sum over the batch from the detector's."""
    student, data = net(*NETS["retinanet, image"]), batch().labeled
    p, a = student.assign(student.predict(data), data.targets)["dense"]
    assert len(student.cls_normalizer("dense", p, a).unique()) == 2
