"""Every method on every detector: the step's promises, on two-layer models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

import ssod.methods
from ssod import config
from ssod.detectors.build import DetectorConfig, build
from ssod.methods.base import Config, EmaConfig, Method
from ssod.methods.registry import find, names, summary
from ssod.structures import Batch, Targets, View
from ssod.structures.boxes import clip, warp
from ssod.utils.errors import SsodError
from tests.small import small_config

K, SIDE = 3, 96
SEMI = [name for name in names() if find(name).uses_unlabeled]
# Where rows are asked for a map, or maps are compared; test_dense_teacher.py and test_dsl.py read the refusals.
REFUSED = {("dense_teacher", "faster_rcnn"), ("dsl", "faster_rcnn")}
REFUSED |= {("efficient_teacher", net) for net in ("retinanet", "faster_rcnn")}  # it asks for a quality branch
OF_LABELS = {"image"}  # losses that labelled images alone have: a classifier of images, acrst's
NOT_COMPARED = {"csd": {"rpn_cls", "rpn_box"}}  # it leaves the proposal network to them
OF_TWO_SIZES = {"unsup/consistency"}  # a loss that unlabelled images alone have: dsl's
DETECTORS = {
    "retinanet": {"head_norm": "group"},
    "fcos": {},
    "faster_rcnn": {
        "roi": {"rows": 16, "hidden": 32, "size": 3, "scale": 64},
        "rpn": {"rows": 32, "before": (60, 60), "after": (30, 30)},
        "loss": {"cls": "softmax_focal"},
    },
}
# What Unbiased Teacher v2 asks of a detector, as its recipe has it.
SIDES = {
    "retinanet": {"code": "sides", "spread": True, "loss": {"spread": {"name": "nll", "weight": 0.05}}},
    "fcos": {
        "spread": True,
        "bins": 17,
        "points": "middle",
        "assigner": {"name": "center", "radius": "box"},
        "box_weight": "centerness",
        "loss": {"box": {"name": "giou", "smooth": 1}, "spread": {"name": "nll", "weight": 0.0025, "smooth": 1}},
    },
    "faster_rcnn": {
        "code": "sides",
        "agnostic": True,
        "spread": True,
        "loss": {
            "cls": "softmax_focal",
            "box": "l1",
            "spread": {"name": "nll", "weight": 0.05, "iou_slope": True},
        },
    },
}


def offered(methods: list[str]) -> list[tuple[str, str]]:
    """Every method on every detector that it can learn on."""
    return [(name, net) for name in methods for net in DETECTORS if (name, net) not in REFUSED]


def detector(name: str, classes: int = K, keys: dict[str, dict] | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = {"name": name, "backbone": "tiny", "channels": 16, **DETECTORS[name], **(keys or {}).get(name, {})}
    net = build(TypeAdapter(DetectorConfig).validate_python(cfg), classes)
    for path, module in net.named_modules():
        if path.endswith(("cls_logits", "cls_score")):  # an untrained head must already find something
            torch.nn.init.normal_(module.weight, std=0.1)
            torch.nn.init.zeros_(module.bias)
    return net


def suited(name: str, net: torch.nn.Module) -> torch.nn.Module:
    """Give Unbiased Teacher v2 the heads that it asks for, on a detector of the same kind and as many classes."""
    if name != "unbiased_teacher_v2" or "spread" in net.rows:
        return net
    kind = "faster_rcnn" if "rpn_cls" in net.kinds else "fcos" if "quality" in net.kinds else "retinanet"
    return detector(kind, net.num_classes, SIDES)


def method(name: str, net: torch.nn.Module, **changes: object) -> Method:
    net, kind = suited(name, net), find(name)
    usual = {"burn_in": 0, "start": 0, "score": 0.3, "candidate_score": 0.05, "spread": 1.0, "certainty": 0.3}
    usual |= {"look": 1, "members": 1}
    usual |= {"cache": {"side": SIDE, "boxes": 20}, "mosaic_size": (32, 64)}
    usual |= {"margin": 0.0} if name == "unbiased_teacher_v2" else {}  # untrained, teacher and student are equals
    usual |= {"burn_in": 1} if name == "stac" and "teacher" not in changes else {}  # it has a first stage, or a teacher
    usual = {key: value for key, value in usual.items() if key in kind.Config.model_fields}
    section = {"name": name} | usual | changes
    return kind(net, kind.Config.model_validate(section, context={"steps": 100})).train()


def matrix(flip: bool) -> Tensor:
    return torch.tensor([[-1.0, 0, SIDE], [0, 1, 0], [0, 0, 1]]) if flip else torch.eye(3)


def view(seed: int, targets: list[Targets] | None = None, flip: bool = False, n: int = 2) -> View:
    g = torch.Generator().manual_seed(seed)
    return View(
        images=torch.randint(0, 256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=g),
        sizes=torch.tensor([[SIDE, SIDE], [SIDE - 7, SIDE - 13]])[:n],
        matrix=matrix(flip).repeat(n, 1, 1),
        keys=torch.arange(n) + seed,
        ids=list(range(n)),
        targets=targets,
    )


def some_targets() -> list[Targets]:
    boxes = torch.tensor([[8.0, 8, 50, 60], [30, 20, 80, 70]])
    return [Targets(boxes, torch.tensor([1, 2])), Targets(boxes[:1], torch.tensor([0]))]


def no_targets() -> list[Targets]:
    return [Targets.empty(torch.zeros(1)) for _ in range(2)]


def batch(targets: list[Targets] | None = None, flip: bool = True) -> Batch:
    return Batch(
        view(0, targets or some_targets()), {"weak": view(5), "strong": view(5, flip=True) if flip else view(6)}
    )


def batch_for(m: Method, targets: list[Targets] | None = None) -> Batch:
    """The student's view is mirrored, unless the method compares the views pixel by pixel."""
    return batch(targets, flip=not (m.uses_unlabeled and m.cfg.taught_by != "boxes"))


def step(m: Method, data: Batch, number: int, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    losses = m(data, number)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    m.after_step(number)
    return losses


def bits(m: Method) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in m.state_dict().items()}


def optimizer_of(m: Method) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=1e-3)


@pytest.mark.parametrize(("name", "net"), offered(names()))
def test_a_step_is_finite_and_moves_student_then_teacher(name: str, net: str) -> None:
    m = method(name, detector(net))
    before = bits(m)
    losses = m(batch_for(m), 50)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert all(p.grad is None for p in m.teacher.parameters())
    assert all(p.grad is not None for p in m.student.parameters() if p.requires_grad)
    assert all(torch.equal(before[k], v) for k, v in m.teacher.state_dict(prefix="teacher.").items())
    optimizer = optimizer_of(m)
    optimizer.step()
    m.after_step(50)
    moved = {k for k, v in bits(m).items() if not torch.equal(before[k], v)}
    assert any(k.startswith("student.") for k in moved)
    assert any(k.startswith("teacher.") for k in moved)
    assert not m.teacher.model.training


@pytest.mark.parametrize(("name", "net"), offered(SEMI))
def test_unlabelled_images_teach(name: str, net: str) -> None:
    """With a threshold that the untrained teacher passes, every live loss is there and reaches the student."""
    m = method(name, detector(net))
    losses = m(batch_for(m), 50)
    assert m.stats.get("pseudo/boxes_per_image", 1) > 0  # a method that learns from the teacher's maps chooses none
    live = {key for key in losses if key.startswith("unsup/")}
    off = {key for key in m.stats if key.startswith("off/")}
    wanted = (
        {k.removeprefix("sup/") for k in losses if k.startswith("sup/")} - OF_LABELS - NOT_COMPARED.get(name, set())
    )
    assert {k.removeprefix("unsup/") for k in live - OF_TWO_SIZES} | {k.removeprefix("off/") for k in off} == wanted
    sum(losses[key] for key in live).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in m.student.parameters())


@pytest.mark.parametrize(("name", "net"), offered(names()))
def test_no_boxes_anywhere_is_a_step_like_any_other(name: str, net: str) -> None:
    impossible = {"score": 1.0, "threshold": {"name": "fixed", "score": 1.0}}
    if name == "stac":  # which, as released, keeps the best box of an image
        impossible["as_released"] = False
    changes = {key: value for key, value in impossible.items() if key in find(name).Config.model_fields}
    m = method(name, detector(net), **changes)
    losses = step(m, batch_for(m, no_targets()), 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in losses.values())
    if "pseudo/boxes_per_image" in m.stats:
        assert m.stats["pseudo/boxes_per_image"] == 0


@pytest.mark.parametrize(("name", "net"), offered(names()))
def test_one_class_and_one_image(name: str, net: str) -> None:
    one = [Targets(torch.tensor([[8.0, 8, 50, 60]]), torch.tensor([0]))]
    data = Batch(view(0, one, n=1), {"weak": view(5, n=1), "strong": view(5, n=1)})
    m = method(name, detector(net, classes=1))
    assert all(loss.isfinite() for loss in step(m, data, 50, optimizer_of(m)).values())


@pytest.mark.parametrize("name", names())
def test_restored_state_goes_on_with_the_same_bits(name: str) -> None:
    first = method(name, detector("fcos"))
    optimizer = optimizer_of(first)
    step(first, batch_for(first), 50, optimizer)
    second = method(name, detector("fcos"))
    second.load_state_dict(bits(first))
    other = optimizer_of(second)
    other.load_state_dict(optimizer.state_dict())
    for number in (51, 52):
        step(first, batch_for(first), number, optimizer)
        step(second, batch_for(second), number, other)
    assert all(torch.equal(a, b) for a, b in zip(bits(first).values(), bits(second).values()))


@pytest.mark.parametrize("name", SEMI)
def test_burn_in_looks_at_no_unlabelled_image(name: str) -> None:
    m = method(name, detector("fcos"), burn_in=10)
    losses = m(Batch(view(0, some_targets())), 9)
    assert all(key.startswith("sup/") for key in losses)


@pytest.mark.parametrize("name", names())
def test_one_line_says_what_a_method_is(name: str) -> None:
    assert 20 < len(summary(name)) < 120


def test_pseudo_labels_are_the_teachers_boxes_in_the_students_view() -> None:
    m = method("mean_teacher", detector("fcos"))
    data = batch()
    seen: dict[str, list[Targets]] = {}
    assign = m.student.assign
    m.student.assign = lambda out, cls, *more: seen.update(t=cls) or assign(out, cls, *more)
    m(data, 50)
    found = m.teacher.predict(data.weak).detections()
    for image, (mine, theirs) in enumerate(zip(seen["t"], found)):
        expected = clip(warp(theirs.boxes[theirs.scores > 0.3], matrix(True)), data.strong.sizes[image])
        wide = (expected[:, 2:] - expected[:, :2]).amin(1) > 1
        torch.testing.assert_close(mine.boxes, expected[wide])
        assert (mine.scores > 0.3).all()


def test_mean_teacher_damps_while_fewer_than_half_of_the_images_have_a_label() -> None:
    data = Batch(view(0, some_targets()), {"weak": view(5), "strong": view(5)})
    m = method("mean_teacher", detector("retinanet"))
    scores = torch.stack([t.scores.max() for t in m.teacher.predict(data.weak).detections()])

    def unsup(score: float, damping: float) -> Tensor:
        return method("mean_teacher", detector("retinanet"), score=score, damping=damping)(data, 50)["unsup/cls"]

    assert scores.min() < scores.max()
    one_of_two, none = float(scores.min()), float(scores.max())
    torch.testing.assert_close(unsup(none, 0.01), unsup(none, 1.0) * 0.01)
    torch.testing.assert_close(unsup(one_of_two, 0.01), unsup(one_of_two, 1.0))


def test_unbiased_teacher_never_regresses_towards_pseudo_boxes() -> None:
    m = method("unbiased_teacher", detector("faster_rcnn"))
    losses = m(batch(), 50)
    assert {"unsup/cls", "unsup/rpn_cls"} == {key for key in losses if key.startswith("unsup/")}
    assert m.stats["off/box"].isfinite()
    sum(loss for key, loss in losses.items() if key.startswith("unsup/")).backward()
    weight = m.student.roi_heads["box_predictor"].bbox_pred.weight
    assert weight.grad is None or not weight.grad.any()


def test_unbiased_teacher_copies_at_the_end_of_burn_in_and_averages_after() -> None:
    m = method("unbiased_teacher", detector("fcos"), burn_in=2)
    optimizer = optimizer_of(m)
    step(m, Batch(view(0, some_targets())), 0, optimizer)
    step(m, Batch(view(0, some_targets())), 1, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(m.student.parameters(), m.teacher.parameters()))
    old = [p.clone() for p in m.teacher.parameters()]
    step(m, batch(), 2, optimizer)
    for before, student, teacher in zip(old, m.student.parameters(), m.teacher.parameters()):
        torch.testing.assert_close(teacher, before * 0.9996 + student * 0.0004)


@pytest.mark.parametrize("name", ["mean_teacher", "unbiased_teacher"])
def test_a_threshold_stands_in_for_the_score(name: str) -> None:
    fixed = method(name, detector("fcos"), score=0.9, threshold={"name": "fixed", "score": 0.3})
    losses, same = fixed(batch(), 50), method(name, detector("fcos"), score=0.3)(batch(), 50)
    assert all(torch.equal(losses[key], same[key]) for key in same)
    gmm = method(name, detector("fcos"), threshold="gmm")
    step(gmm, batch(), 50, optimizer_of(gmm))
    assert gmm.stats["pseudo/threshold"].any()
    assert gmm.state_dict()["threshold.bank.scores"].any()
    assert not any("threshold" in key for key in method(name, detector("fcos")).state_dict())


# ---- mixing, for every method that learns from boxes ---------------------------------------------------------------

MIXING = ["mean_teacher", "unbiased_teacher", "consistent_teacher"]
ALWAYS = {"mixup": 1.0, "mosaic": 0.0}


def asked_for(m: Method, data: Batch) -> dict[str, tuple]:
    """What the student's rows on unlabelled images are asked for, by stage; (predictions, assignment)."""
    asked: dict[str, tuple] = {}
    reduce = m.student.reduce
    m.student.reduce = lambda assigned, *more: asked.update(assigned) or reduce(assigned, *more)
    m(data, 50)
    return asked


@pytest.mark.parametrize("net", DETECTORS)
@pytest.mark.parametrize("name", MIXING)
def test_any_method_on_boxes_steps_with_mixing(name: str, net: str) -> None:
    m = method(name, detector(net), mix={"mixup": 0.5, "mosaic": 0.5})
    before = bits(m)
    losses = step(m, batch(), 50, optimizer_of(m))
    plain = method(name, detector(net))(batch(), 50)
    assert losses.keys() == plain.keys()
    assert all(loss.isfinite() for loss in losses.values())
    assert torch.equal(losses["sup/cls"], plain["sup/cls"])
    assert not torch.equal(losses["unsup/cls"], plain["unsup/cls"])
    assert any(key.startswith("student.") and not torch.equal(before[key], value) for key, value in bits(m).items())
    assert before.keys() == bits(method(name, detector(net))).keys()  # mixing has no state: old checkpoints load


@pytest.mark.parametrize("net", DETECTORS)
@pytest.mark.parametrize("name", MIXING)
def test_of_a_mixed_box_the_missing_mass_is_background_and_its_proposal_is_whole(name: str, net: str) -> None:
    m = method(name, detector(net), mix=ALWAYS)
    asked = asked_for(m, batch())
    p, a = asked["roi" if net == "faster_rcnn" else "dense"]
    masses = a.cls[a.matched >= 0].sum(1)
    assert len(masses)
    assert ((masses > 0) & (masses < 1)).all()
    assert not a.cls[a.matched == -1].any()
    if net == "faster_rcnn":
        p, a = asked["rpn"]
        assert a.cls.shape == (len(p),)
        assert (a.cls[a.matched >= 0] == 0).all()
        assert (a.cls[a.matched == -1] == 1).all()


def test_labelled_boxes_of_a_mixed_image_do_not_lift_the_damping() -> None:
    """Damping asks what the teacher found; nothing, here."""
    damped, bare = (
        method("mean_teacher", detector("retinanet"), score=1.0, mix=ALWAYS, damping=d)(batch(), 50) for d in (0.01, 1)
    )
    torch.testing.assert_close(damped["unsup/box"], bare["unsup/box"] * 0.01)
    assert bare["unsup/box"] > 0  # of the labelled boxes


def test_a_method_of_ones_own_can_be_reported_to_mix() -> None:
    m = Method(detector("fcos"), Config(name="x", mix={"tiles": 4}))
    assert m.mixer.tiles == 4
    assert Method(detector("fcos"), Config(name="x")).mixer is None


@pytest.mark.parametrize(
    ("name", "changes"), [("humble_teacher", {}), ("mean_teacher", {"form": "consistency"}), ("csd", {})]
)
def test_who_compares_rows_cannot_mix(tmp_path: Path, name: str, changes: dict) -> None:
    section = {"name": name, "burn_in": 6, "mix": {"mixup": 0.5, "mosaic": 0}} | changes
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method=section))
    assert (error.value.field, error.value.code) == ("method.mix", 2)
    assert "'mix' blends the student's view" in str(error.value)
    assert "\n" not in str(error.value)


def test_weight_ramps_and_shares_of_steps_are_resolved() -> None:
    cfg = Config.model_validate({"name": "x", "burn_in": "10%", "ramp": 10, "weight": 2}, context={"steps": 100})
    assert cfg.burn_in == 10
    m = method("mean_teacher", detector("fcos"), burn_in=10, ramp=10, weight=2)
    assert [m.unsup_weight(s, None) for s in (10, 14, 19, 50)] == [0.2, 1.0, 2.0, 2.0]


def test_the_teacher_copies_until_its_average_starts() -> None:
    m = method("mean_teacher", detector("fcos"), ema=EmaConfig(decay=0.9, start=5).model_dump())
    assert [m.teacher.decay(s) for s in (0, 4)] == [0, 0]
    assert m.teacher.decay(5) == pytest.approx(6 / 7)
    assert m.teacher.decay(100) == 0.9


def test_unbiased_teacher_damps_where_it_is_asked_to() -> None:
    """As published it does not; without a single label, damped losses are that much smaller."""
    make = method("unbiased_teacher", detector("retinanet"), score=1.0).cfg
    assert make.damping == 1
    plain, damped = (
        method("unbiased_teacher", detector("retinanet"), score=1.0, damping=d)(batch(), 50)["unsup/cls"]
        for d in (1.0, 0.01)
    )
    assert plain > 0
    torch.testing.assert_close(damped, 0.01 * plain)


@pytest.mark.parametrize("name", ["humble_teacher", "unbiased_teacher"])
def test_an_average_begins_at_the_end_of_burn_in_or_where_the_config_says(name: str) -> None:
    m = method(name, detector("fcos"), burn_in=6, ema={"decay": 0.9})
    assert [m.teacher.decay(s) for s in (0, 5, 6)] == [0, 0, 0.9]
    m = method(name, detector("fcos"), burn_in=6, ema={"decay": 0.9, "start": 2})
    assert [m.teacher.decay(s) for s in (0, 1, 2, 6)] == [0, 0, 0.9, 0.9]


def test_a_method_may_live_in_the_users_own_module(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_methods.py").write_text(
        "from ssod.methods.mean_teacher import MeanTeacher\nclass Mine(MeanTeacher):\n    pass\nMETHOD = Mine\n"
    )
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "mine.py").write_text((tmp_path / "my_methods.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SSOD_ALLOW_CODE", "pkg")
    assert find("pkg.mine").__name__ == "Mine"


def test_the_table_of_slots_is_true() -> None:
    """The README of the methods folder says which slots each method fills; ask the classes."""
    lines = (Path(ssod.methods.__file__).parent / "README.md").read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| method |"))
    slots = [cell.strip() for cell in lines[head].strip("|").split("|")][1:]
    stated = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        stated[name] = [cell == "own" for cell in cells]
    assert stated == {name: [slot in vars(find(name)) for slot in slots] for name in names()}
