"""Unbiased Teacher v2: the released code's numbers through our functions, and what its sides and weights do."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.assign.surer_sides import surer_sides
from ssod.detectors.dense import Dense
from ssod.detectors.heads.integral import Integral
from ssod.losses.box import l1, nll
from ssod.structures import Assignment, Predictions, Pseudo, Targets
from ssod.structures.boxes import SideCoder
from tests.paths import golden_path
from tests.rows import context
from tests.test_methods import SIDES, detector, method, view

FILE = np.load(golden_path("unbiased_teacher_v2.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))
LRTB = (0, 2, 1, 3)  # the released Faster R-CNN's order of sides


def of_kind(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    return torch.from_numpy(FILE[f"{case['id']}.{name}"])


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    torch.testing.assert_close(got.detach().double(), wanted.double(), rtol=rtol, atol=atol)


# ---- the released FCOS ---------------------------------------------------------------------------------------------

MAPS = ("logits", "reg_logits", "centerness_logit", "delta")


def maps_of(case: dict, images: int) -> dict[str, list[Tensor]]:
    levels = sum(f"{case['id']}.l{i}.logits" in FILE for i in range(9))
    return {n: [array(case, f"l{i}.{n}")[:images].requires_grad_() for i in range(levels)] for n in MAPS}


def rows_of(student: Dense, maps: dict[str, list[Tensor]], height: int, width: int) -> Predictions:
    def flat(name: str) -> Tensor:
        return torch.cat([x.flatten(2).transpose(1, 2) for x in maps[name]], 1).flatten(0, 1)

    grids = [tuple(x.shape[-2:]) for x in maps["logits"]]
    n, priors = len(maps["logits"][0]), student.anchors((height, width), grids)
    return Predictions(
        logits=flat("logits"),
        deltas=student.head.integral(flat("reg_logits"))[:, None],
        priors=priors.repeat(n, 1),
        image=torch.arange(n).repeat_interleave(len(priors)),
        sizes=torch.tensor([[height, width]]).repeat(n, 1),
        coder=student.coder,
        quality=flat("centerness_logit").squeeze(1),
        levels=tuple(h * w for h, w in grids),
        strides=student.strides,
        grids=tuple(grids),
        box_std=flat("delta"),
    )


def level_first(p: Predictions, rows: Tensor) -> Tensor:
    """Image, level, row, column -> level, image, row, column."""
    each = rows.unflatten(0, (p.num_images, -1)).split(p.levels, 1)
    return torch.cat([part.flatten(0, 1) for part in each])


def boxes(case: dict, image: int, part: str = "") -> Targets:
    name = f"i{image}{part}"
    found = Targets(array(case, f"{name}.boxes"), array(case, f"{name}.labels"))
    if part:
        found.box_std = array(case, f"{name}.boundary_delta")
    return found


def gradients(case: dict, maps: dict[str, list[Tensor]], loss: Tensor) -> None:
    """Compare the derivatives; those of the classes went through float32."""
    loss.backward()
    for name in MAPS:
        for i, x in enumerate(maps[name]):
            got = torch.zeros_like(x) if x.grad is None else x.grad
            rtol, atol = (1e-4, 1e-8) if name == "logits" else (1e-5, 1e-8)
            close(got, array(case, f"l{i}.grad_{name}")[: len(x)], rtol, atol)


@pytest.mark.parametrize("case", of_kind("fcos_unsup"))
def test_pseudo_labels_on_fcos_golden(case: dict) -> None:
    """Classes and centerness by one set, sides by the other, averaged over those that learn; no box is background."""
    m = method("unbiased_teacher_v2", detector("fcos", case["num_classes"], SIDES), certainty=case["c_min"], weight=1.0)
    m = m.double()
    n, (height, width) = case["batch"], case["image_hw"]
    maps = maps_of(case, n)
    p = rows_of(m.student, maps, height, width)
    labels = Pseudo([boxes(case, i, ".cls") for i in range(n)], [boxes(case, i, ".reg") for i in range(n)])
    rows = m.student.rows | m.criterion.rows("unsup", labels)
    out = SimpleNamespace(stages={"dense": p})
    ctx = context(student=out, teacher=out, labels=labels, view=view(0, n=n), rows=rows, side="unsup")
    a = m.reweight("dense", p, m.assign(ctx)["dense"][1], ctx)
    assert torch.equal(level_first(p, a.box_weight > 0), array(case, "selected_lnhw"))
    assert m.stats["pseudo/foreground_sides_per_image"] * n == case_count(case)
    assert torch.equal(level_first(p, a.quality_of.cls), array(case, "cls_labels_lnhw"))
    losses = m.learn(ctx)
    close(losses["cls"], array(case, "loss_cls"), 1e-5)
    close(losses["box"], array(case, "loss_loc"))
    close(losses["quality"], array(case, "loss_ctr"))
    gradients(case, maps, losses["cls"] + losses["box"] + losses["quality"])


def case_count(case: dict) -> int:
    return int(array(case, "n_selected"))


@pytest.mark.parametrize("case", of_kind("fcos_sup"))
def test_labels_on_fcos_golden(case: dict) -> None:
    """GIoU by centerness and the likelihood beside it, without our floor; images without a box are left out by hand."""
    student = detector("fcos", case["num_classes"], SIDES).double()
    student.rows["spread"] = partial(student.rows["spread"], floor=1e-9)
    n, (height, width) = case["batch"], case["image_hw"]
    n -= sum(len(boxes(case, i)) == 0 for i in range(n))
    maps = maps_of(case, n)
    p = rows_of(student, maps, height, width)
    out = SimpleNamespace(stages={"dense": p})
    losses = student.reduce(student.assign(out, [boxes(case, i) for i in range(n)]))
    close(losses["cls"], array(case, "loss_cls"), 1e-5)
    close(losses["box"] + losses["spread"], array(case, "loss_loc"))
    close(losses["quality"], array(case, "loss_ctr"))
    gradients(case, maps, sum(losses.values()))


def test_a_distance_is_the_mean_of_its_distribution() -> None:
    integral = Integral(17)
    sure = torch.full((2, 4, 17), -50.0)
    sure[..., 5] = 50.0
    assert torch.equal(integral(sure.flatten(1)), torch.full((2, 4), 5.0))
    torch.testing.assert_close(integral(torch.zeros(1, 68)), torch.full((1, 4), 8.0))


# ---- the released Faster R-CNN -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", of_kind("roi"))
def test_sides_of_proposals_golden(case: dict) -> None:
    def sides(name: str) -> Tensor:
        return array(case, name)[:, LRTB].clone()

    deltas, std = sides("pred_deltas").requires_grad_(), sides("pred_delta_std").requires_grad_()
    labels, priors, rows = array(case, "gt_classes"), array(case, "proposals"), case["R"]
    fg = labels < case["num_classes"]
    p = Predictions(
        torch.zeros(rows, case["num_classes"] + 1), deltas[:, None], priors, torch.zeros(rows, dtype=torch.long),
        torch.tensor([[400, 400]]), SideCoder(case["weights"]), softmax=True, box_std=std,
    )  # fmt: skip
    a = Assignment(labels, torch.ones(rows), array(case, "gt_boxes"), fg.double(), box_std=sides("teacher_delta_std"))
    close(p.boxes().float(), array(case, "decoded").float(), 1e-4, 1e-4)
    close(p.coder.encode(a.box, priors)[fg], sides("target_deltas")[fg])
    listening = surer_sides(p, a, case["c_min"], case["margin"])
    assert torch.equal((listening.box_weight > 0)[fg], array(case, "selected")[:, LRTB][fg])
    pseudo = listening.weighed_box(l1(p, listening)).sum() / rows
    close(pseudo, array(case, "loss_pseudo"))
    pseudo.backward()
    close(deltas.grad, array(case, "grad_pseudo_deltas")[:, LRTB], 1e-5)
    assert std.grad is None or not std.grad.any()
    deltas.grad = None
    labelled = (l1(p, a) + 0.05 * nll(p, a, iou_slope=True)).sum() / rows
    close(labelled, array(case, "loss_supervised"))
    labelled.backward()
    close(deltas.grad, array(case, "grad_sup_deltas")[:, LRTB], 1e-5)
    close(std.grad, array(case, "grad_sup_std")[:, LRTB], 1e-5)
