"""Boxes in three lists that stay together, two sets of them on every detector, and what a loss is divided by."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from ssod.assign.two_sets import with_boxes_of
from ssod.losses.box import BOX, BOX_STD
from ssod.losses.build import TABLES
from ssod.losses.weighting.registry import RULES
from ssod.methods import base
from ssod.methods.base import Method
from ssod.methods.registry import find
from ssod.structures import Assignment, Predictions, Pseudo, Targets, join
from ssod.transforms.mix import MixConfig, Mixer
from ssod.utils.errors import SsodError
from tests.losses.rows import predictions
from tests.test_methods import DETECTORS, SEMI, K, batch, batch_for, detector, method, some_targets, view

LISTS = [f.name for f in fields(Pseudo)]
MIXES = {
    "mixup": {"mixup": 1.0, "mosaic": 0.0},
    "mosaic of 2": {"mixup": 0.0, "mosaic": 1.0, "tiles": 2},
    "mosaic of 4": {"mixup": 0.0, "mosaic": 1.0, "tiles": 4},
}


def scored(targets: list[Targets]) -> list[Targets]:
    return [replace(t, scores=torch.full((len(t),), 0.7)) for t in targets]


def shifted(targets: list[Targets], by: float) -> list[Targets]:
    return [replace(t, boxes=t.boxes + by) for t in targets]


# ---- three lists ---------------------------------------------------------------------------------------------------


def three_lists() -> Pseudo:
    first = scored(some_targets())
    return Pseudo(**{name: shifted(first, 3.0 * i) for i, name in enumerate(LISTS)})


def alone(boxes: list[Targets], name: str) -> Pseudo:
    """The same boxes as the only ones of a ``Pseudo`` whose other lists are empty."""
    nothing = [t[:0] for t in boxes]
    return Pseudo(**({"cls": nothing} | {name: boxes}))


@pytest.mark.parametrize("name", LISTS)
def test_every_list_moves_with_its_view(name: str) -> None:
    src, dst = view(0), view(1, flip=True)
    moved = getattr(three_lists().move(src, dst), name)
    by_itself = alone(getattr(three_lists(), name), "cls").move(src, dst).cls
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(moved, by_itself))
    assert any(len(t) for t in moved)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("how", MIXES)
def test_no_mixer_separates_a_list_from_its_pixels(how: str, name: str) -> None:
    """Each list is placed as the boxes that teach classes are; true boxes join those that teach, and them alone."""
    mixer = Mixer(K, **MixConfig.model_validate(MIXES[how]).model_dump())
    strong, labeled = view(3), view(4, some_targets())
    _, mixed = mixer(strong, three_lists(), labeled)
    _, expected = mixer(strong, alone(getattr(three_lists(), name), "cls"), labeled)
    kept, changed = 0, 0
    for got, wanted, before in zip(getattr(mixed, name), expected.cls, getattr(three_lists(), name)):
        own = wanted.scores < 1  # a box of the truth counts as 1
        wanted = wanted if name != "unsure" else wanted[own]
        assert torch.equal(got.boxes, wanted.boxes)
        assert torch.equal(got.probs, wanted.probs)
        kept += int(own.sum())
        same = len(got) == len(before) and torch.equal(got.boxes, before.boxes) and (got.probs.sum(1) == 1).all()
        changed += int(not same)
    assert kept
    assert changed


def test_each_is_the_only_change_of_all_lists() -> None:
    assert all(len(t) == 0 for name in LISTS for t in getattr(three_lists().each(lambda of: [t[:0] for t in of]), name))
    plain = Pseudo(some_targets()).each(lambda of: [t[:1] for t in of])
    assert plain.box is None
    assert plain.unsure is None


def test_a_union_of_boxes_has_what_any_of_them_has() -> None:
    hard, soft = some_targets()[0], replace(some_targets()[1], probs=torch.tensor([[0.2, 0.3, 0.0]]))
    both = join([hard, replace(soft, scores=torch.tensor([0.4]), weight=torch.zeros(1))])
    assert both.scores.tolist() == [1, 1, pytest.approx(0.4)]
    assert both.weight.tolist() == [1, 1, 0]
    torch.testing.assert_close(both.probs[2], torch.tensor([0.2, 0.3, 0.0]))
    assert both.probs[:2].sum(1).tolist() == [1, 1]
    assert join([hard, hard]).scores is None


# ---- two sets of boxes, and what nobody is sure of, on every detector ----------------------------------------------


def taught_by(boxes: Pseudo, name: str) -> base.Method:
    m = method("mean_teacher", detector(name), damping=1.0)
    m.label = lambda teacher, batch: boxes
    return m


def unsup(name: str, boxes: Pseudo) -> dict[str, Tensor]:
    losses = taught_by(boxes, name)(batch(flip=False), 50)
    return {key: loss.detach() for key, loss in losses.items() if key.startswith("unsup/")}


@pytest.mark.parametrize("net", DETECTORS)
def test_classes_learn_from_one_set_and_places_from_the_other(net: str) -> None:
    """The class loss is that of the first set alone, the box loss that of the second, whatever the other one is."""
    first, second = scored(some_targets()), shifted(scored(some_targets()), 12.0)
    both, one, two = unsup(net, Pseudo(first, box=second)), unsup(net, Pseudo(first)), unsup(net, Pseudo(second))
    assert one["unsup/cls"] != two["unsup/cls"]
    assert one["unsup/box"] != two["unsup/box"]
    torch.testing.assert_close(both["unsup/cls"], one["unsup/cls"])
    torch.testing.assert_close(both["unsup/box"], two["unsup/box"])
    for key in {"unsup/rpn_cls", "unsup/rpn_box"} & set(both):  # the proposal network learns both from the first set
        torch.testing.assert_close(both[key], one[key])


@pytest.mark.parametrize("net", DETECTORS)
def test_without_boxes_to_regress_only_classes_learn(net: str) -> None:
    first = scored(some_targets())
    got = unsup(net, Pseudo(first, box=[t[:0] for t in first]))
    assert got["unsup/box"] == 0
    torch.testing.assert_close(got["unsup/cls"], unsup(net, Pseudo(first))["unsup/cls"])


@pytest.mark.parametrize("net", DETECTORS)
def test_unsure_boxes_are_neither_object_nor_background(net: str) -> None:
    """Of the rows on an unsure box none counts; of all others nothing changes. No box at all would be background."""
    boxes = scored(some_targets())
    m = taught_by(Pseudo([t[:0] for t in boxes], unsure=boxes), net)
    asked: dict[str, tuple[Predictions, Assignment]] = {}
    reduce = m.student.reduce
    m.student.reduce = lambda assigned, *more: asked.update(assigned) or reduce(assigned, *more)
    m(batch(flip=False), 50)
    (stage, (p, a)), *_ = [(s, pa) for s, pa in asked.items() if s != "roi"]
    background = a.cls == p.num_classes
    assert background.all() or (a.cls_weight[~background] == 0).all()
    assert not a.fg.any()
    assert (a.matched == -2).any(), stage
    assert (a.cls_weight[a.matched == -2] == 0).all()


# ---- rows ----------------------------------------------------------------------------------------------------------


def sides(weight: Tensor) -> tuple[Predictions, Assignment]:
    g = torch.Generator().manual_seed(0)
    low = 20 * torch.rand(4, 2, generator=g)
    boxes = torch.cat([low, low + 5 + 10 * torch.rand(4, 2, generator=g)], 1)
    p = predictions(torch.zeros(4, K), (boxes + torch.randn(4, 4, generator=g))[:, None], box_std=torch.randn(4, 4))
    return p, Assignment(torch.zeros(4, dtype=torch.long), torch.ones(4), boxes, weight)


@pytest.mark.parametrize("name", ["l1", "smooth_l1", "nll"])
def test_a_box_is_the_sum_of_its_sides(name: str) -> None:
    p, whole = sides(torch.ones(4))
    _, each = sides(torch.ones(4, 4))
    loss = BOX_STD[name]
    torch.testing.assert_close(each.weighed_box(loss(p, each)), whole.weighed_box(loss(p, whole)))
    parts = []
    for side in range(4):
        _, one = sides(torch.nn.functional.one_hot(torch.full((4,), side), 4).float())
        assert one.fg.all()
        parts.append(one.weighed_box(loss(p, one)))
    torch.testing.assert_close(sum(parts), whole.weighed_box(loss(p, whole)))


@pytest.mark.parametrize("name", ["iou", "giou", "diou", "ciou"])
def test_a_loss_of_whole_boxes_has_no_sides(name: str) -> None:
    p, each = sides(torch.ones(4, 4))
    with pytest.raises(TypeError, match="weights"):
        each.weighed_box(BOX[name](p, each))


def test_the_quality_of_a_row_counts_by_the_mean_of_its_sides() -> None:
    _, a = sides(torch.tensor([1.0, 0, 0, 1]).repeat(4, 1))
    assert a.weighed_quality(torch.ones(4)).tolist() == [0.5] * 4


@pytest.mark.parametrize("net", DETECTORS)
def test_each_loss_has_a_normalizer_of_its_own(net: str) -> None:
    student, data = detector(net), batch().labeled
    assigned = student.assign(student.predict(data), data.targets)
    stage = next(s for s in assigned if s != "rpn")
    p, a = assigned[stage]
    plain = student.reduce(assigned)
    own = student.normalizers(p, a) if stage == "dense" else student.normalizers(stage, p, a)
    for name in {"cls", "box", "quality"} & set(plain):
        other = replace(a, normalizer=a.normalizer | {name: 4 * own[name]})
        changed = student.reduce(assigned | {stage: (p, other)})
        torch.testing.assert_close(changed[name], plain[name] / 4)
        same = [key for key in plain if key not in (name, *(("cls",) if name == "box" and stage == "roi" else ()))]
        assert all(torch.equal(changed[key], plain[key]) for key in same)


def test_a_row_may_have_a_class_of_one_set_and_a_box_of_the_other() -> None:
    n = 3
    cls = Assignment(torch.tensor([0, K, 1]), torch.ones(n), torch.ones(n, 4), torch.tensor([1.0, 0, 1]))
    box = Assignment(torch.tensor([K, 2, 1]), torch.ones(n), torch.full((n, 4), 2.0), torch.tensor([0.0, 1, 1]))
    both = with_boxes_of(cls, box)
    assert both.cls.tolist() == [0, K, 1]
    assert both.fg.tolist() == [False, True, True]
    assert both.box[:, 0].tolist() == [1, 2, 2]


@pytest.mark.parametrize("net", DETECTORS)
def test_a_second_ranking_of_the_same_maps(net: str) -> None:
    out = detector(net).eval().predict(view(0))

    def reversed_classes(p: Predictions) -> Tensor:
        return p.probs().flip(1)

    first, second = out.detections(0.01), out.detections(0.01, rank=reversed_classes)
    assert any(not torch.equal(a.labels, b.labels) for a, b in zip(first, second))
    same = out.detections(0.01, rank=lambda p: p.probs())
    if net == "faster_rcnn":
        assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(first, same))


# ---- views ---------------------------------------------------------------------------------------------------------


class TwoViewsConfig(base.Config):
    """A second view, which is the weak one."""

    @property
    def student_views(self) -> tuple[str, ...]:
        """Both."""
        return ("strong", "weak")


def losses_with(config: type[base.Config]) -> dict[str, Tensor]:
    m = base.Method(detector("fcos"), config(name="x"))
    return m(batch(), 50)


def test_the_student_learns_from_every_view_that_a_method_names() -> None:
    one, two = losses_with(base.Config), losses_with(TwoViewsConfig)
    weak = base.Method(detector("fcos"), base.Config(name="x"))
    data = batch()
    data.views["strong"] = data.weak
    other = weak(data, 50)
    for key in one:
        expected = one[key] + other[key] if key.startswith("unsup/") else one[key]
        torch.testing.assert_close(two[key], expected)


# ---- every key is read, or refused ---------------------------------------------------------------------------------


PASSING = {"consistent_teacher": {"threshold": {"name": "fixed", "score": 0.2}}}  # for more than a box or two
HARDER = {"ohem": {"ratio": 0.1}}  # a few rows are left out even where hardly any are background


def choices(net: str, side: str) -> list[dict]:
    """Every loss and weighting that a config could name for a side: one that is not the detector's own for each."""
    student = detector(net)
    found: list[dict] = []
    for row, kind in student.kinds.items():
        own = student.rows[row]
        fits = [n for n, loss in TABLES[kind].items() if getattr(own, "func", own) is not loss and n != "equalization"]
        found += [{row: {"name": n}} for n in fits[:1]] or [{row: {"name": next(iter(TABLES[kind])), "weight": 3.0}}]
    stages = {"rpn", "roi"} if "rpn_cls" in student.kinds else {"dense"}
    changing = [n for n, rule in RULES.items() if stages & set(rule.stages) and not (rule.pseudo and side == "sup")]
    return found + [{"weighting": {"name": n} | HARDER.get(n, {})} for n in changing]


WALKED = [(name, "fcos") for name in ["supervised", *SEMI]] + [("mean_teacher", "faster_rcnn")]


# Weightings that a method refuses for a reason of its own: STAC's second stage would start with what they have learnt,
# and LabelMatch's rows of unsure boxes have a class target already.
OF_ITS_OWN = {"stac": lambda rule: rule.learns, "label_match": lambda rule: rule.softens}


WHOLE = ("supervised", "mean_teacher", *OF_ITS_OWN)  # methods on which every choice is walked, for both sides


def kind(choice: dict) -> object:
    """Return what choices have in common that a method could refuse or pass over alike."""
    if "weighting" not in choice:
        return next(iter(choice))  # the loss of which row
    rule = RULES[choice["weighting"]["name"]]
    return rule.pseudo, rule.softens, rule.matched, rule.branch, rule.candidates, rule.learns


def walked(name: str, net: str) -> list[tuple[str, dict]]:
    """Return (side, choice) for a method: all, or for unlabelled images one of each kind, another for each method.

    The loss on labelled images is the base class's: there it is one row's loss and one weighting for each method.
    """
    every = [(side, choice) for side in ("sup", "unsup") for choice in choices(net, side)]
    if name in WHOLE:
        return every
    alike: dict[object, list[tuple[str, dict]]] = {}
    for side, choice in every:
        alike.setdefault((side, kind(choice) if side == "unsup" else "weighting" in choice), []).append((side, choice))
    return [group[SEMI.index(name) % len(group)] for group in alike.values()]


@pytest.mark.parametrize(("name", "net"), WALKED)
def test_every_loss_that_a_config_names_changes_what_is_learnt_or_is_refused(name: str, net: str) -> None:
    """Gradients are compared, as some weightings leave the sum of a loss as it was."""

    def learnt(**section: object) -> list[Tensor | None]:
        m = method(name, detector(net), **PASSING.get(name, {}), **section)
        torch.manual_seed(1)
        sum(m(batch_for(m), 50).values()).backward()
        return [p.grad for p in m.student.parameters()]

    def changes(found: list[Tensor | None]) -> bool:
        return any(a is not None and not torch.equal(a, b) for a, b in zip(plain, found))

    plain, refused = learnt(), []
    for side, choice in walked(name, net):
        if (name, choice) == ("unbiased_teacher_v2", {"box": {"name": "l1"}}):
            choice = {"box": {"name": "smooth_l1"}}  # the other one is its own
        try:
            found = learnt(loss={side: choice})
        except (SsodError, ValueError) as error:
            refused.append((side, choice, "loss" in str(error)))
            continue
        assert changes(found) or choice == {"weighting": {"name": "sample_weighting"}}, (side, choice)
    assert all(named for *_, named in refused)
    own = OF_ITS_OWN.get(name, lambda rule: False)
    rules = {id(choice): RULES[choice["weighting"]["name"]] for _, choice, _ in refused if "weighting" in choice}
    refused = [entry for entry in refused if id(entry[1]) not in rules or not own(rules[id(entry[1])])]
    sides = {side for side, *_ in refused}
    from_boxes = find(name).uses_unlabeled and method(name, detector(net)).cfg.taught_by == "boxes"
    assert sides <= {"unsup"}
    assert len(refused) <= 1 if from_boxes else sides  # a method that mixes has no place in the teacher's view


@pytest.mark.parametrize("name", SEMI)
@pytest.mark.parametrize("key", ["mix", "threshold", "damping", "hold_back", "ramp_shape"])
def test_every_key_of_a_method_changes_its_loss_or_is_refused(name: str, key: str) -> None:
    values = {
        "mix": {"mixup": 1.0, "mosaic": 0.0},
        "threshold": {"name": "fixed", "score": 0.9},
        "damping": 0.5,
        "hold_back": 0.5,
        "ramp_shape": "linear" if name == "csd" else "sigmoid",  # the other one is its own
    }
    none_passes = {"score": 0.99, "threshold": {"name": "fixed", "score": 0.99}}
    if name == "stac":  # which, as released, keeps the best box of an image
        none_passes["as_released"] = False
    usual = {"damping": none_passes, "ramp_shape": {"ramp": 100}}.get(key, {})
    fields_ = find(name).Config.model_fields
    usual = {k: v for k, v in usual.items() if k in fields_}
    plain = method(name, detector("fcos"), **usual)
    reads = key in fields_ and (plain.cfg.taught_by == "boxes" or key == "ramp_shape")
    own = {"mix": {"soft_teacher", "label_match", "pseco", "mix_pl"}, "damping": {"mix_pl"}}
    if not reads or name in own.get(key, ()):
        with pytest.raises(ValueError, match=key):
            method(name, detector("fcos"), **usual, **{key: values[key]})
        return
    other = method(name, detector("fcos"), **usual, **{key: values[key]})
    for module in [*plain.modules(), *other.modules()]:
        if isinstance(module, Method):
            module.boxes_per_image = 1e6  # no teacher finds so many
    before, after = plain(batch_for(plain), 50), other(batch_for(other), 50)
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("unsup/"))
