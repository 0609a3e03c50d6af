"""Instant-Teaching as a method: what its losses weigh, who labels, and the second model."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace as Namespace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from ssod.detectors.build import DetectorConfig, build
from ssod.detectors.d2.dense import D2Dense
from ssod.detectors.d2.faster_rcnn import D2FasterRcnn
from ssod.engine import optim
from ssod.engine.checkpointing import checkpoint
from ssod.engine.guard import Guard
from ssod.methods.instant_teaching_rectify import redrawn
from ssod.pseudo_labels.co_rectify import rectify_once
from ssod.pseudo_labels.nms_once import confident, rows_of
from ssod.structures import Batch
from ssod.transforms.mix import Recipe
from ssod.utils.errors import SsodError
from tests.test_methods import (
    DETECTORS,
    K,
    batch,
    bits,
    detector,
    method,
    optimizer_of,
    some_targets,
    step,
    view,
)

OFF = {"mixup": 0.0, "mosaic": 0.0}


def always_mixed(share: float):
    """A recipe that blends every image with its partner by ``share``."""

    def draw(seen, partner_sizes) -> Recipe:
        n = len(seen)
        yes, no, zero = torch.ones(n) > 0, torch.ones(n) < 0, torch.zeros(n, dtype=torch.long)
        return Recipe(yes, no, torch.full((n,), share), no, zero, torch.zeros(n, 2, dtype=torch.long), zero)

    return draw


def unsup(m, share: float, data: Batch) -> dict[str, Tensor]:
    """Losses on unlabelled images that are their partners' pixels, labelled with nothing but the partners' boxes."""
    m.mixer.draw = always_mixed(share)
    data = Batch(data.labeled, {name: replace(data.labeled, targets=None) for name in ("weak", "strong")})
    losses = m(data, 50)
    return {name.removeprefix("unsup/"): loss for name, loss in losses.items() if name.startswith("unsup/")}


@pytest.mark.parametrize("net", DETECTORS)
def test_mass_weighs_the_class_loss_of_boxes_and_nothing_else(net: str) -> None:
    """As released: positives count by their mass; background, box losses and the proposal network do not notice.

    The image is mixed with itself, so that pixels do not depend on the share, and has no box of its own, so that all
    boxes have the same mass.
    """
    found = []
    for share in (0.9, 0.5, 0.1):  # of the unlabelled image: the boxes have mass 1 - share
        found.append(unsup(method("instant_teaching", detector(net), score=1.0), share, batch()))
    first, second, third = found
    for name in {"box", "quality", "rpn_cls", "rpn_box"} & set(first):
        torch.testing.assert_close(second[name], first[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(third[name], first[name], rtol=1e-4, atol=1e-6)
    slope = second["cls"] - first["cls"]
    assert slope > 1e-4
    torch.testing.assert_close(third["cls"] - second["cls"], slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("net", DETECTORS)
def test_as_in_the_paper_missing_mass_is_background(net: str) -> None:
    """A row of a box of mass m is asked for m of its class, and the losses of the two kinds of images are added."""
    asked = {}
    m = method("instant_teaching", detector(net), score=1.0, as_released=False)
    reduce = m.student.reduce
    m.student.reduce = lambda assigned, *more: asked.update(assigned) or reduce(assigned, *more)
    unsup(m, 0.7, batch())
    a = asked["roi" if net == "faster_rcnn" else "dense"][1]
    assert a.cls.shape[1] == K
    torch.testing.assert_close(a.cls[a.fg].sum(1), torch.full((int(a.fg.sum()),), 0.3))
    if net == "faster_rcnn":
        a = asked["rpn"][1]
        assert set(a.cls[a.cls_weight > 0].tolist()) == {0, 1}  # whole objects and background


def test_released_losses_are_the_mean_of_both_kinds_of_images() -> None:
    losses = [method("instant_teaching", detector("fcos"), mix=OFF, as_released=r)(batch(), 50) for r in (True, False)]
    assert losses[0].keys() == losses[1].keys()
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name] / 2)


@pytest.mark.parametrize("net", DETECTORS)
def test_the_threshold_is_inclusive_and_the_model_labels_for_itself(net: str) -> None:
    m, data = method("instant_teaching", detector(net)), batch()
    optimizer = optimizer_of(m)
    step(m, data, 0, optimizer)
    assert all(
        torch.equal(a, b) for a, b in zip(m.student.state_dict().values(), m.teacher.model.state_dict().values())
    )
    with torch.no_grad():
        out = m.teacher.predict(data.weak)
    best = max(t.scores.max() for t in confident(rows_of(out), 0.3))
    exact = method("instant_teaching", m.student, score=float(best))
    labels = exact.label(out, data)
    assert sum(len(t) for t in labels.cls) >= 1
    assert all((t.scores >= best).all() for t in labels.cls)
    above = method("instant_teaching", m.student, score=float(best) + 1e-6)
    assert sum(len(t) for t in above.label(out, data).cls) == 0
    assert exact.stats["pseudo/score_quantiles"][-1] >= best


def test_labelled_boxes_do_not_count_as_pseudo_boxes() -> None:
    m = method("instant_teaching", detector("fcos"), score=1.0, mix={"mixup": 1.0, "mosaic": 0.0})
    m(batch(), 50)
    assert m.stats["pseudo/boxes_per_image"] == 0


# ---- two models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", DETECTORS)
def test_the_peer_shares_the_backbone_and_has_heads_of_its_own(net: str) -> None:
    m = method("instant_teaching_rectify", detector(net))
    for (name, mine), theirs in zip(m.student.named_parameters(), m.peer.student.parameters()):
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values), name  # of the same law
        same = name.startswith("backbone.body.") or mine.unique().numel() == 1
        assert torch.equal(mine, theirs) == same, name
    same = method("instant_teaching_rectify", detector(net), fresh_heads=False)
    assert all(torch.equal(a, b) for a, b in zip(same.student.parameters(), same.peer.student.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(m.peer.student.parameters(), m.peer.teacher.parameters()))


class Zoo(nn.Module):
    """Layers under detectron2's names."""

    body = D2Dense.body
    pretrained_heads = False

    def __init__(self) -> None:
        super().__init__()
        pyramid = {"bottom_up": nn.Linear(8, 8), "fpn_lateral3": nn.Linear(8, 8)}
        self.backbone, self.head = nn.Module(), nn.Linear(8, 8)
        for name, layer in pyramid.items():
            setattr(self.backbone, name, layer)


def test_the_detector_says_what_its_pretrained_body_is() -> None:
    zoo = Zoo()
    twin = redrawn(deepcopy(zoo))
    changed = {n for (n, a), b in zip(zoo.named_parameters(), twin.parameters()) if not torch.equal(a, b)}
    assert changed == {f"{name}.{part}" for name in ("backbone.fpn_lateral3", "head") for part in ("weight", "bias")}
    assert D2FasterRcnn.body.fget(zoo) is zoo.backbone.bottom_up
    assert D2Dense.body.fget(Namespace(backbone=zoo.head)) is zoo.head  # no pyramid


@pytest.mark.parametrize("net", DETECTORS)
def test_heads_that_come_from_a_file_are_not_drawn_anew(net: str, tmp_path) -> None:
    cfg = {"name": net, "backbone": "tiny", "channels": 16, "norm": "batch", **DETECTORS[net]}
    read = TypeAdapter(DetectorConfig).validate_python
    whole = build(read(cfg), K)
    assert not whole.pretrained_heads
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    torch.save(whole.body.state_dict(), tmp_path / "body.pth")
    for file, loaded in (("body.pth", False), ("whole.pth", True)):
        found = build(read({**cfg, "weights": str(tmp_path / file)}), K)
        assert found.pretrained_heads == loaded
        same = method("instant_teaching_rectify", found, fresh_heads=False)
        assert all(torch.equal(a, b) for a, b in zip(same.student.parameters(), same.peer.student.parameters()))
        if not loaded:
            method("instant_teaching_rectify", found)
    with pytest.raises(SsodError) as error:
        method("instant_teaching_rectify", found)
    assert (error.value.field, error.value.fix) == ("method.fresh_heads", "set method.fresh_heads=false")


@pytest.mark.parametrize("net", DETECTORS)
def test_as_in_the_paper_there_is_one_round(net: str) -> None:
    """The student's own boxes above the threshold, averaged with the peer's opinion, and tested again."""
    score, data = 0.1, batch()
    m = method("instant_teaching_rectify", detector(net), as_released=False, score=score)
    mine, theirs = m.teacher.predict(data.weak), m.peer.teacher.predict(data.weak)
    for_me, for_peer = m.rectify(mine, theirs)
    for labels, own, other in ((for_me, mine, theirs), (for_peer, theirs, mine)):
        found = rectify_once(confident(rows_of(own), score), other)
        for t, f in zip(labels.cls, found):
            assert torch.equal(t.boxes, f[f.scores >= score].boxes)
    two_rounds = method("instant_teaching_rectify", detector(net), score=score).rectify(mine, theirs)[0]
    assert len(for_me.cls[0])
    assert not torch.equal(for_me.cls[0].boxes, two_rounds.cls[0].boxes)
    losses = step(m, data, 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("net", DETECTORS)
def test_both_models_learn_and_every_parameter_gets_a_gradient(net: str) -> None:
    """Burn-in included: processes that train together wait for the gradient of every parameter."""
    m = method("instant_teaching_rectify", detector(net), burn_in=10)
    for number, data in ((9, Batch(view(0, some_targets()))), (10, batch())):
        m.zero_grad()
        losses = m(data, number)
        sum(losses.values()).backward()
        kinds = {"sup"} if number == 9 else {"sup", "unsup"}
        names = {name.partition("/")[2] for name in losses if name.startswith("sup/")}
        assert losses.keys() == {f"{kind}/{name}" for kind in kinds for name in names}
        assert {n.removeprefix("peer_") for n in names} == {n for n in names if not n.startswith("peer_")}
        assert all(p.grad is not None for p in m.parameters() if p.requires_grad)


def test_equal_models_agree_and_learn_the_same() -> None:
    m = method("instant_teaching_rectify", detector("faster_rcnn"), fresh_heads=False)
    losses = m(batch(), 50)
    assert m.stats["pseudo/boxes_per_image"] > 0
    for name in ("cls", "box", "rpn_cls", "rpn_box"):
        for kind in ("sup", "unsup"):
            assert torch.equal(losses[f"{kind}/{name}"], losses[f"{kind}/peer_{name}"])


def test_what_the_peer_says_of_its_losses_is_logged_too() -> None:
    loss = {"sup": {"weighting": "uncertainty"}}
    m = method("instant_teaching_rectify", detector("fcos"), loss=loss, loss_weights={"box": 0.0}, burn_in=10)
    m(batch(), 50)
    own = {name for name in m.stats if name.startswith(("off/", "rows/", "weighting/"))}
    assert {name.partition("/")[0] for name in own} == {"off", "rows", "weighting"}
    peers = {name.removeprefix("peer/") for name in m.stats if name.startswith("peer/")}
    assert peers == own | {"pseudo/boxes_per_image"}
    m(batch(), 0)
    assert not any("off/" in name for name in m.stats)  # nor what it said steps ago


def test_the_peer_looks_at_its_own_strong_view() -> None:
    data = batch()
    other = Batch(data.labeled, data.views | {"strong2": view(9)})
    first, second = (
        method("instant_teaching_rectify", detector("fcos"), fresh_heads=False)(d, 50) for d in (data, other)
    )
    assert torch.equal(first["unsup/cls"], second["unsup/cls"])
    assert not torch.equal(first["unsup/peer_cls"], second["unsup/peer_cls"])


@pytest.mark.parametrize("net", DETECTORS)
def test_two_models_resume_with_the_same_bits(net: str) -> None:
    first = method("instant_teaching_rectify", detector(net))
    optimizer = optimizer_of(first)
    step(first, batch(), 50, optimizer)
    second = method("instant_teaching_rectify", detector(net))
    torch.nn.init.zeros_(next(second.peer.student.parameters()))
    second.load_state_dict(bits(first))
    other = optimizer_of(second)
    other.load_state_dict(optimizer.state_dict())
    for m, o in ((first, optimizer), (second, other)):
        step(m, batch(), 51, o)
    assert all(torch.equal(a, b) for a, b in zip(bits(first).values(), bits(second).values()))


def test_optimiser_guard_and_checkpoint_know_the_peer(tmp_path) -> None:
    m = method("instant_teaching_rectify", detector("fcos"))
    optimizer = optim.build(m, optim.SGD(backbone_lr=0.1))
    wanted = {id(p) for n, p in m.named_parameters() if ".teacher." not in f".{n}"}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == wanted
    guard = Guard(m, optimizer)
    losses = m(batch(), 50)
    one = torch.ones(())
    assert guard.judge(losses, {"one": one}, one, 0).read().good
    with torch.no_grad():
        next(m.peer.student.parameters()).fill_(float("nan"))
    judged = guard.judge(losses, {"one": one}, one, 0)
    assert not judged.read().good
    assert judged.culprit().startswith("peer.student.")
    with pytest.raises(SsodError, match=r"peer\.student"):
        checkpoint.save(tmp_path, {"method": m.state_dict()})
