"""ACRST: our reading's numbers through our functions; crops, the bank, colours, the classifier, and a step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from ssod import config
from ssod.engine.checkpointing import checkpoint
from ssod.pseudo_labels.image_veto import ImageClassifier, confirmed, label_sets, presence_loss
from ssod.pseudo_labels.pseudo_recall import PseudoRecall, expected_density, pseudo_recall, sampling_probability
from ssod.structures import Batch, LabelStatistics, Pseudo, Targets, View
from ssod.transforms.crop_bank import LABELED, PSEUDO, CropBank, worth_keeping
from ssod.transforms.paste import Crops, owners, paste, places, visible
from ssod.transforms.recolor import ColorsConfig, gaussian, recolored, smoothed, turned
from ssod.utils import seeding
from ssod.utils.errors import SsodError
from tests.paths import golden_path
from tests.small import small_config, train_command
from tests.test_methods import DETECTORS, batch, detector, method, optimizer_of, some_targets, step, view
from tests.test_micro_batches import learn
from tests.test_ranks import NETS, largest_difference, losses, run, two
from tests.test_ranks import PLAIN as PLAIN_TRAIN
from tests.waits import Waits

FILE = np.load(golden_path("acrst_formulas.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))


def of_kind(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    found = torch.from_numpy(FILE[f"{case['id']}.{name}"])
    return found.float() if found.is_floating_point() else found


# ---- formulas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", of_kind("class_probability"))
def test_class_probability_golden(case: dict) -> None:
    """A class without a label counts as one box, none lacking is uniform."""
    expected = expected_density(array(case, "labelled_counts"), case["labelled_images"])
    recall = pseudo_recall(expected, array(case, "pseudo_counts"), torch.tensor(float(case["unlabelled_images"])))
    torch.testing.assert_close(recall, array(case, "pseudo_recall"))
    torch.testing.assert_close(sampling_probability(recall), array(case, "probability"))


def test_before_the_first_image_every_class_is_as_likely_and_a_recall_of_1_is_uniform() -> None:
    recall = PseudoRecall(4, 0.9)
    assert torch.equal(recall.probability(), torch.full((4,), 0.25))
    assert torch.equal(sampling_probability(torch.ones(4)), torch.full((4,), 0.25))


def test_counts_fade_and_are_measured_against_the_labels() -> None:
    recall = PseudoRecall(2, 0.5)
    recall.see(LabelStatistics(10, torch.tensor([20, 0]), torch.tensor([5, 0])))
    assert torch.equal(recall.expected, torch.tensor([2.0, 0.1]))
    recall.count(torch.tensor([0, 0, 1]), 4)
    recall.count(torch.tensor([0]), 4)
    assert torch.equal(recall.found, torch.tensor([2.0, 0.5]))
    assert recall.images == 6
    torch.testing.assert_close(recall.recall(), torch.tensor([2 / 6 / 2, 0.5 / 6 / 0.1]))
    assert set(recall.state_dict()) == {"found", "images"}


@pytest.mark.parametrize("case", of_kind("two_stage_filter"))
def test_two_stage_filter_golden(case: dict) -> None:
    """Both limits are met by what equals them."""
    inputs = (array(case, name) for name in ("scores", "labels", "image", "image_class_probability"))
    first, kept = confirmed(*inputs, case["detection_threshold"], case["image_threshold"])
    assert torch.equal(first, array(case, "stage1_mask"))
    assert torch.equal(kept, array(case, "kept_mask"))


def one_image(size: Tensor, side: tuple[int, int]) -> View:
    return View(torch.zeros(1, 3, *side, dtype=torch.uint8), size[None], torch.eye(3)[None], torch.zeros(1).long(), [0])


@pytest.mark.parametrize("case", of_kind("paste"))
def test_paste_golden(case: dict) -> None:
    size, corner, sides = array(case, "image_hw"), array(case, "crop_xy"), array(case, "crop_wh")
    rects = torch.cat([corner, corner + sides], 1).float()[None]
    canvas = (int(size[0]) + 5, int(size[1]) + 3)
    if len(sides):
        owner = owners(rects[0], size, canvas)
        assert torch.equal(owner[: size[0], : size[1]], array(case, "pixel_owner"))
        assert (owner[size[0] :] == -1).all()  # nothing lies in the padding
        assert (owner[:, size[1] :] == -1).all()
    boxes, labels, source = (array(case, name) for name in ("boxes", "labels", "source"))
    crops = Crops(torch.zeros(1, len(sides), 3, 4, 4, dtype=torch.uint8), sides[None], array(case, "crop_labels")[None])
    if len(sides):
        torch.testing.assert_close(visible(boxes, rects.expand(len(boxes), -1, -1)), array(case, "visible_fraction"))
    given = Targets(boxes, labels, box_weight=(source == 0).float())  # of a pseudo-box, places are not learnt
    _, (found,) = paste(one_image(size, canvas), [given], crops, rects, case["min_visible"])
    assert torch.equal(found.boxes, array(case, "boxes_out"))
    assert torch.equal(found.labels, array(case, "labels_out"))
    assert torch.equal(found.box_trust(), array(case, "box_loss_weight"))


# ---- pasting -------------------------------------------------------------------------------------------------------


def picture(n: int = 1, height: int = 64, width: int = 96) -> View:
    """Smooth images whose red is x, whose green is y and whose blue is the image's number, with padding."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    images = torch.stack([torch.stack([2 * x, 2 * y, torch.full_like(x, 50 * i)]) for i in range(n)]).to(torch.uint8)
    sizes = torch.tensor([[height - 4, width - 6]]).repeat(n, 1)
    images[:, :, height - 4 :], images[..., width - 6 :] = 0, 0
    return View(images, sizes, torch.eye(3).repeat(n, 1, 1), torch.arange(n) + 7, list(range(n)))


def bank_of(boxes: Tensor, labels: Tensor, classes: int = 3, size: int = 4, source: int = LABELED) -> CropBank:
    bank = CropBank(classes, size, 32)
    bank.push(source, picture(), [Targets(boxes, labels)], torch.ones(len(boxes), dtype=torch.bool))
    return bank


def test_a_crop_comes_back_as_it_was_cut_out() -> None:
    bank = bank_of(torch.tensor([[20.0, 10, 60, 42]]), torch.tensor([1]))
    crops = bank.draw(torch.zeros(1, 1, 3), torch.ones(3) / 3, torch.ones(1, 1, dtype=torch.bool))
    assert crops.labels.item() == 1
    assert torch.equal(crops.sides, torch.tensor([[[40.0, 32]]]))
    black = replace(picture(), images=torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    drawn, (found,) = paste(black, [Targets.empty(torch.zeros(1))], crops, torch.tensor([[[20.0, 10, 60, 42]]]), 0.3)
    assert torch.equal(found.boxes, torch.tensor([[20.0, 10, 60, 42]]))
    assert found.box_trust() == 0
    here, there = drawn.images[0, :, 10:42, 20:60] * 255, picture().images[0, :, 10:42, 20:60]
    assert (here - there).abs().max() <= 2  # half a pixel at a border, and rounding
    drawn.images[0, :, 10:42, 20:60] = 0
    assert not drawn.images.any()


def test_later_crops_lie_on_top_and_none_shines_through() -> None:
    pixels = torch.stack([torch.full((3, 8, 8), v, dtype=torch.uint8) for v in (255, 51)])[None]
    crops = Crops(pixels, torch.full((1, 2, 2), 20.0), torch.tensor([[0, 1]]))
    rects = torch.tensor([[[10.0, 10, 30, 30], [20, 10, 40, 30]]])
    drawn, (found,) = paste(picture(), [Targets.empty(torch.zeros(1))], crops, rects, 0.3)
    torch.testing.assert_close(drawn.images[0, :, 10:30, 10:20], torch.ones(3, 20, 10))
    torch.testing.assert_close(drawn.images[0, :, 10:30, 20:40], torch.full((3, 20, 20), 0.2))
    assert torch.equal(found.labels, torch.tensor([0, 1]))


def test_places_lie_anywhere_in_the_image_and_hang_over_right_and_bottom_alone() -> None:
    draws, sides = torch.rand(1, 4000, 3), torch.full((1, 4000, 2), 20.0)
    rects = places(draws, sides, torch.tensor([[40, 80]]), (0.5, 1.5))[0]
    assert rects[:, :2].min() == 0
    assert torch.equal(rects[:, :2].amax(0), torch.tensor([79.0, 39]))
    extent = rects[:, 2:] - rects[:, :2]
    assert torch.equal(extent[:, 0], extent[:, 1])
    assert (extent.min(), extent.max()) == (10, 30)
    assert torch.equal(rects, rects.round())
    none = places(draws, torch.zeros_like(sides), torch.tensor([[40, 80]]), (0.5, 1.5))
    assert torch.equal(none[..., :2], none[..., 2:])


def test_a_crop_that_is_cut_to_a_sliver_is_not_pasted() -> None:
    draws, sides = torch.rand(1, 4000, 3), torch.full((1, 4000, 2), 20.0)
    size = torch.tensor([[40, 80]])
    every, most = (places(draws, sides, size, (0.5, 1.5), inside)[0] for inside in (0.0, 0.25))
    extent = every[:, 2:] - every[:, :2]
    shown = (torch.minimum(every[:, 2:], torch.tensor([80.0, 40])) - every[:, :2]).prod(1) / extent.prod(1)
    assert shown.min() < 0.1
    kept = most[:, 2] > most[:, 0]
    assert torch.equal(kept, shown >= 0.25)
    assert torch.equal(most[kept], every[kept])
    m, data = method("acrst", detector("fcos"), paste={"most": 20, "inside": 0.9}), batch()
    seen = looks(m)
    m(data, 50)
    boxes = torch.cat([t.boxes[t.box_trust() == 0] for t in seen[0][1]])
    assert len(boxes)
    assert (boxes[:, 2:] - boxes[:, :2]).amin() > 1


def test_what_is_not_there_has_no_box_even_if_none_is_too_small() -> None:
    crops = Crops(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 2, 2), torch.tensor([[0, 1]]))
    _, (found,) = paste(picture(), [Targets.empty(torch.zeros(1))], crops, torch.full((1, 2, 4), 9.0), 0.0)
    assert not len(found)


def test_visible_counts_the_union_of_what_covers() -> None:
    covers = torch.tensor([[[0.0, 0, 5, 10], [3, 0, 6, 10], [20, 20, 30, 30], [4, 4, 4, 9]]])
    assert visible(torch.tensor([[0.0, 0, 10, 10]]), covers).item() == pytest.approx(0.4)
    assert visible(torch.tensor([[0.0, 0, 0, 10]]), covers) == 0


# ---- the bank ------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_large_uncovered_and_no_crowd() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 20, 20], [0, 0, 7, 20], [40, 0, 60, 20], [40, 0, 60, 6], [40, 6, 60, 7], [0, 40, 9, 49]]
    )
    weight = torch.tensor([1.0, 1, 1, 1, 1, 0])
    kept = worth_keeping([Targets(boxes, torch.zeros(6).long(), weight=weight)], 8, 0.3)
    assert kept.tolist() == [False, False, False, False, False, False]  # covered by .35, small, covered by .35, ...
    kept = worth_keeping([Targets(boxes, torch.zeros(6).long(), weight=weight)], 8, 0.4)
    assert kept.tolist() == [True, False, True, False, False, False]
    crowd = replace(Targets(boxes, torch.zeros(6).long()), weight=torch.tensor([1.0, 0, 1, 0, 0, 0]))
    assert worth_keeping([crowd], 8, 0.0).tolist() == [True, False, True, False, False, False]
    assert len(worth_keeping([Targets.empty(torch.zeros(1))] * 2, 8, 0.3)) == 0


def test_the_oldest_crop_of_a_class_goes_first() -> None:
    bank = CropBank(2, 3, 8)
    width = iter(range(10, 30))

    def push(source: int, labels: list[int], keep: list[bool]) -> None:
        boxes = torch.tensor([[0.0, 0, next(width), 10] for _ in labels])
        bank.push(source, picture(), [Targets(boxes, torch.tensor(labels))], torch.tensor(keep))

    def widths(queue: int) -> list[float]:
        return bank.sides[queue * 3 : queue * 3 + 3, 0].tolist()

    push(LABELED, [1, 0, 1, 0], [True, True, True, False])
    assert bank.fill().tolist() == [[1, 2], [0, 0]]
    assert widths(1) == [10, 12, 0]
    push(PSEUDO, [1], [True])
    assert widths(3) == [14, 0, 0]
    push(LABELED, [1, 1], [True, True])
    assert widths(1) == [16, 12, 15]
    push(LABELED, [1, 1, 1, 1, 1], [True] * 5)  # more than there is room for: the last three stay
    assert sorted(widths(1)) == [19, 20, 21]
    push(LABELED, [1], [True])
    assert sorted(widths(1)) == [20, 21, 22]
    assert bank.fill().tolist() == [[1, 3], [0, 1]]
    assert not bank.pixels[-1].any()


def test_classes_are_drawn_as_likely_as_said_and_those_without_crops_not_at_all() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 12, 12], [0, 0, 14, 14]])
    bank = bank_of(boxes, torch.tensor([0, 0, 2]))
    draws, wanted = torch.rand(40, 500, 3), torch.ones(40, 500, dtype=torch.bool)
    crops = bank.draw(draws, torch.tensor([0.25, 0.5, 0.25]), wanted)
    share = torch.bincount(crops.labels.flatten(), minlength=3) / crops.labels.numel()
    torch.testing.assert_close(share, torch.tensor([0.5, 0, 0.5]), atol=0.02, rtol=0)
    assert set(crops.sides[crops.labels == 0][:, 0].tolist()) == {10, 12}
    assert (bank.draw(draws, torch.tensor([0.0, 1.0, 0.0]), wanted).sides > 0).all()  # only others are there
    assert not bank.draw(draws, torch.ones(3), ~wanted).sides.any()
    assert not CropBank(3, 4, 8).draw(draws, torch.ones(3), wanted).sides.any()
    bank.push(PSEUDO, picture(), [Targets(boxes[2:] + 0.0, torch.tensor([0]))], torch.tensor([True]))
    crops = bank.draw(draws, torch.tensor([1.0, 0, 0]), wanted)
    assert (crops.sides[..., 0] == 14).float().mean() == pytest.approx(0.5, abs=0.02)  # either queue as often


# ---- colours on the device -----------------------------------------------------------------------------------------

PLAIN = {"jitter": 0.0, "gray": 0.0, "blur": 0.0, "erase": ()}


def test_colours_that_never_come_change_nothing() -> None:
    view = picture(3)
    torch.testing.assert_close(recolored(view, ColorsConfig(**PLAIN)).images, view.images / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_one_strength_is_what_torchvision_does(name: str) -> None:
    """Where no level is cut, each alone is torchvision's formula with the drawn factor."""
    adjust = getattr(functional, f"adjust_{name}")
    view = replace(picture(2), images=(picture(2).images / 4 + 60).to(torch.uint8), sizes=torch.tensor([[64, 96]] * 2))
    cfg = ColorsConfig(
        **PLAIN | {"jitter": 1.0}, **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0) | {name: 0.4}
    )
    found = recolored(view, cfg).images
    u = seeding.uniform(view.keys[:, None], -(2**42) + torch.arange(12))
    factor = 0.6 + 0.8 * u[:, 1 + ["brightness", "contrast", "saturation"].index(name)]
    for image, f, got in zip(view.images, factor.tolist(), found):
        torch.testing.assert_close(got, adjust(image / 255, f), atol=2e-3, rtol=0)


def test_a_turn_of_the_hue_keeps_greys_and_comes_back() -> None:
    turn, back = turned(torch.tensor([0.1])), turned(torch.tensor([-0.1]))
    torch.testing.assert_close(turn[0] @ back[0], torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn[0] @ torch.ones(3), torch.ones(3), atol=5e-3, rtol=0)
    torch.testing.assert_close(
        turn[0] @ torch.tensor([1.0, 0, 0]), turned(torch.tensor([1.1]))[0][:, 0], atol=1e-5, rtol=0
    )
    assert (turn[0] @ torch.tensor([1.0, 0, 0]))[1] > 0.1  # red goes towards yellow, as in HSV


def test_blur_keeps_the_mean_of_what_is_flat_up_to_the_border() -> None:
    view = picture(2)
    flat = replace(view, images=torch.where(view.images >= 0, 100, 0).to(torch.uint8))
    flat.images[:, :, 60:], flat.images[..., 90:] = 0, 0
    found = recolored(flat, ColorsConfig(**PLAIN | {"blur": 1.0})).images
    torch.testing.assert_close(found, flat.images / 255, atol=1e-5, rtol=0)  # padding has no part in it, and stays 0
    dot = torch.zeros(1, 3, 31, 31)
    dot[..., 15, 15] = 1
    every = torch.ones(1, 31, dtype=torch.bool)
    blurred = smoothed(
        smoothed(dot, gaussian(torch.tensor([1.5])), every).transpose(2, 3), gaussian(torch.tensor([1.5])), every
    )
    wanted = functional.gaussian_blur(dot, [13, 13], [1.5, 1.5])
    torch.testing.assert_close(blurred.transpose(2, 3), wanted, atol=1e-5, rtol=0)


def test_erased_rectangles_have_their_size_and_stay_in_the_image() -> None:
    view = replace(picture(40), images=torch.zeros(40, 3, 64, 96, dtype=torch.uint8))
    cfg = ColorsConfig(**PLAIN | {"erase": ({"p": 1.0, "area": [0.1, 0.2], "ratio": [0.5, 2.0]},)})
    found = recolored(view, cfg).images
    share = (found.amax(1) > 0).float().sum((1, 2)) / (60 * 90)
    assert 0.09 < share.min() < share.max() < 0.21
    assert not found[:, :, 60:].any()
    assert not found[..., 90:].any()
    assert found[found > 0].mean() == pytest.approx(0.5, abs=0.02)
    none = recolored(view, ColorsConfig(**PLAIN | {"erase": ({"p": 0.5},)})).images.flatten(1).any(1)
    assert 8 < none.sum() < 32


def test_colours_depend_on_an_image_s_key_alone() -> None:
    view = picture(3)
    swapped = replace(view, images=view.images.flip(0), keys=view.keys.flip(0))
    torch.testing.assert_close(
        recolored(view, ColorsConfig()).images, recolored(swapped, ColorsConfig()).images.flip(0), atol=1e-6, rtol=0
    )


def test_the_blur_reaches_no_further_than_its_weights() -> None:
    with pytest.raises(ValueError, match=r"deviations lie in \(0, 2\]"):
        ColorsConfig(sigma=(0.1, 3.0))


# ---- the classifier ------------------------------------------------------------------------------------------------


def test_padding_has_no_part_in_the_opinion_on_an_image() -> None:
    classifier = ImageClassifier(4, 2)
    top, sizes = torch.randn(2, 4, 3, 4), torch.tensor([[32, 64], [96, 128]])
    logits = classifier(top, (96, 128), sizes)
    top[0, :, 1:], top[0, :, :, 2:] = 100.0, 100.0
    torch.testing.assert_close(classifier(top, (96, 128), sizes), logits)
    torch.testing.assert_close(logits[1], classifier.linear(top[1].mean((1, 2))))


def test_label_sets_know_each_class_once() -> None:
    targets = [Targets(torch.zeros(3, 4), torch.tensor([2, 0, 2])), Targets.empty(torch.zeros(1))]
    assert label_sets(targets, 3).tolist() == [[1, 0, 1], [0, 0, 0]]


# ---- a step --------------------------------------------------------------------------------------------------------


def looks(m: object) -> list[tuple[View, list[Targets]]]:
    """What the student is shown from now on, with its boxes: labelled, then unlabelled."""
    seen: list[tuple[View, list[Targets]]] = []
    look = m.look

    def spy(side: str, batch: Batch, step: int, view: View, labels: Pseudo, *more: object) -> object:
        seen.append((view, labels.cls))
        return look(side, batch, step, view, labels, *more)

    m.look = spy
    return seen


@pytest.mark.parametrize("net", DETECTORS)
def test_a_pasted_box_teaches_its_class_and_no_place(net: str) -> None:
    m, data = method("acrst", detector(net), score=1.0, paste={"most": 20}), batch()
    seen, asked = looks(m), []
    reduce = m.student.reduce
    m.student.reduce = lambda assigned, *more: asked.append(assigned) or reduce(assigned, *more)
    m(data, 50)
    (_, labels), (_, pasted) = seen
    place = torch.cat([t.box_trust() for t in labels])
    assert set(place.tolist()) == {0, 1}
    assert sum(map(len, pasted))
    assert not torch.cat([t.box_trust() for t in pasted]).any()
    for stage, (p, a) in asked[0].items():
        rows = a.matched >= 0
        crops = rows & (place[a.matched.clamp(min=0)] == 0)
        counted = a.cls_weight > 0
        assert (crops & counted).any()
        assert (a.cls[crops] < p.num_classes).all()
        assert not a.box_weight[crops].any()
        assert torch.equal(a.box_weight[rows & ~crops] > 0, a.cls_weight[rows & ~crops] > 0), stage
    for _, a in asked[1].values():
        assert not a.box_weight.any()


def test_the_teacher_sees_clean_images_and_the_counts_no_pasted_box() -> None:
    m, data = method("acrst", detector("faster_rcnn")), batch()
    twin = method("acrst", detector("faster_rcnn"), paste={"most": 20})
    none = method("acrst", detector("faster_rcnn"), paste={"most": 0})
    shown = []
    ask = m.ask
    m.ask = lambda view, step: shown.append(view) or ask(view, step)
    for number in (50, 51):
        m(data, number), twin(data, number), none(data, number)
    assert all(view is data.weak for view in shown)
    assert m.recall.found.any()
    assert torch.equal(m.recall.found, twin.recall.found)
    assert torch.equal(m.recall.found, none.recall.found)
    assert torch.equal(m.bank.pixels, twin.bank.pixels)  # no crop of a crop
    assert m.bank.pushed.any()
    assert not none.bank.pushed.any()
    assert m.recall.images.item() == pytest.approx(2 * (1 + 0.999))


def test_labelled_images_come_in_their_own_and_in_strong_colours_with_the_same_crops() -> None:
    m, data = method("acrst", detector("fcos"), burn_in=99), batch()
    seen = looks(m)
    m(data, 3)
    ((view, labels),) = seen
    plain, strong = view.images.chunk(2)
    assert not torch.equal(plain, strong)
    assert len(view.keys.unique()) == 4
    torch.testing.assert_close(strong, recolored(replace(data.labeled, images=plain), m.cfg.colors).images)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(labels[:2], labels[2:]))
    assert not m.bank.fill()[PSEUDO].any()
    m.cfg = m.cfg.model_copy(update={"paste": m.cfg.paste.model_copy(update={"most": 0})})
    m(data, 3)
    torch.testing.assert_close(seen[1][0].images[:2], data.labeled.images / 255)


def test_the_classifier_vetoes_a_class_and_learns_what_there_was_before_pasting() -> None:
    m, data = method("acrst", detector("fcos")), batch()
    kept = m.label(m.ask(data.weak, 50), data)
    label = int(kept.cls[0].labels[0])
    m.image_teacher.model.linear.weight.data.zero_()
    m.image_teacher.model.linear.bias.data[label] = -5
    left = m.label(m.ask(data.weak, 50), data)
    assert label not in torch.cat([t.labels for t in left.cls]).tolist()
    assert m.stats["pseudo/vetoed_per_image"] > 0
    m = method("acrst", detector("fcos"), paste={"most": 20})
    m.classifier.linear.weight.data.zero_()
    m.classifier.linear.bias.data = torch.tensor([5.0, -5, 5])
    losses = m(data, 50)
    wanted = torch.tensor([[0.0, 1, 1], [1, 0, 0]])  # what some_targets has
    logits = torch.tensor([5.0, -5, 5]).expand(2, 3)
    torch.testing.assert_close(losses["sup/image"], presence_loss(logits, wanted))


def test_a_veto_of_0_is_none_and_the_classifier_is_not_asked() -> None:
    m, data = method("acrst", detector("fcos"), image_score=0), batch()
    asked, presence = [], m.presence
    m.presence = lambda classifier, *more: asked.append(classifier) or presence(classifier, *more)
    losses = m(data, 50)
    assert asked == [m.classifier]  # on labelled images, where it learns
    assert losses["sup/image"] > 0
    assert m.stats["pseudo/vetoed_per_image"] == 0
    assert "pseudo/share_of_expected" in m.stats


def test_while_other_parts_are_looked_at_only_what_is_read_is_kept() -> None:
    m, data = method("acrst", detector("fcos")), batch()
    out, again = m.teacher.predict(data.weak), []
    kept = m.kept(out, lambda: again.append(1) or out)
    wanted, found = (m.believed(o, data.weak) for o in (out, kept))
    assert torch.equal(wanted, found)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(kept.detections(), out.detections()))
    assert (len(kept.pyramid), again) == (1, [])
    assert kept.stages.keys() == out.stages.keys()
    assert again == [1]
    weighed = method("acrst", detector("fcos"), loss={"unsup": {"weighting": ["background_reliability"]}})
    assert weighed.kept(out, lambda: out) is out


def test_the_classifier_s_average_follows_as_the_teacher_does() -> None:
    m, data = method("acrst", detector("fcos"), burn_in=2), Batch(view(0, some_targets()))
    optimizer = optimizer_of(m)
    step(m, data, 0, optimizer)
    step(m, data, 1, optimizer)
    mine, average = m.classifier.linear.weight, m.image_teacher.model.linear.weight
    assert torch.equal(mine, average)
    before = average.clone()
    step(m, batch(), 2, optimizer)
    assert not torch.equal(mine, before)
    torch.testing.assert_close(average, before * 0.9996 + mine * 0.0004)
    assert not any(p.requires_grad for p in m.image_teacher.parameters())
    assert {"bank.pixels", "bank.sides", "bank.pushed", "recall.found", "recall.images"} < set(m.state_dict())


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_step_leave_the_bank_of_the_whole(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a part has no true box, and where one has no pseudo-box."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    whole = method("acrst", detector("retinanet"), score=0.9)
    divided = method("acrst", detector("retinanet"), score=0.9)
    learn(whole, 1), learn(divided, parts)
    assert whole.bank.fill()[LABELED].any()
    assert torch.equal(whole.bank.pixels, divided.bank.pixels)
    assert torch.equal(whole.bank.pushed, divided.bank.pushed)
    assert torch.equal(whole.recall.found, divided.recall.found)


def test_nothing_in_pasting_and_colouring_asks_the_device_but_what_is_dropped() -> None:
    m, data = method("acrst", detector("fcos")), batch()
    m(data, 50)
    with Waits() as waits:
        pasted, _ = m.pasted(data.strong, data.labeled.truth())
        recolored(pasted, m.cfg.colors)
    assert waits.masks <= 1
    assert waits.copies == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"paste": {"scale": [0, 1]}}, "method.paste.scale"), ({"colors": {"sigma": 9}}, "method.colors.sigma")],
)
def test_what_the_config_refuses(tmp_path: Path, changes: dict, field: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method={"name": "acrst", "burn_in": 6} | changes))
    assert (error.value.field, error.value.code) == (field, 2)


@pytest.mark.slow
def test_two_ranks_share_one_bank(tmp_path: Path) -> None:
    """They lose what one process loses, and remember what it does."""
    own = {"name": "acrst", "score": 0.02, "burn_in": 2, "ema": {"decay": 0.9, "start": 0}}
    path = small_config(tmp_path, detector=NETS["retinanet"], train__steps=4, **PLAIN_TRAIN, method=own)
    run(train_command(path, tmp_path / "one"))
    two(path, tmp_path / "two")
    two(path, tmp_path / "cut", "train.steps=3")
    two(path, tmp_path / "cut")
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(alone) == len(together) == 4
    assert {"sup/image", "unsup/cls"} < set(alone[-1])
    assert max(largest_difference(a, b) for a, b in zip(alone, together)) <= 1e-5
    states = [checkpoint.load(tmp_path / name / "checkpoints" / checkpoint.LAST)["method"] for name in ("one", "two")]
    for key in ("bank.pushed", "bank.pixels", "recall.images"):
        assert states[0][key].any()
        assert torch.equal(*(state[key] for state in states)), key
    whole, cut = (checkpoint.load(tmp_path / name / "checkpoints" / checkpoint.LAST) for name in ("two", "cut"))
    assert all(torch.equal(value, cut["method"][name]) for name, value in whole["method"].items())
    for share in whole["ranks"]:  # a bank is in a checkpoint once
        assert not {name for name in share["buffers"] if name.startswith(("bank.", "recall."))}
