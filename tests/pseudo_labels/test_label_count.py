"""As many labels of a class as labelled images have, boxes in doubt beside them; and losses that wait for labels."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from ssod.pseudo_labels.background_damping import enough_boxes
from ssod.pseudo_labels.threshold import LabelCountThreshold, ThresholdConfig, build_threshold
from ssod.structures import LabelStatistics, Pseudo, Targets
from tests.parts import together
from tests.waits import Waits

K = 2


def found(labels: list[int], scores: list[float]) -> Targets:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(len(labels), 1)
    return Targets(boxes, torch.tensor(labels, dtype=torch.long), torch.tensor(scores))


def threshold(images: int = 4, boxes: tuple[float, float] = (2, 1), **keys: float) -> LabelCountThreshold:
    """Return one for labelled images with so many boxes of each class."""
    made = LabelCountThreshold(K, images=images, **({"reliable": 0.5, "unsure": 2.0, "least": 0.05} | keys))
    counts = torch.tensor([int(10 * b) for b in boxes])
    made.queue.expect(LabelStatistics(10, counts, counts))
    return made


def scores(targets: list[Targets]) -> list[list[float]]:
    return [[round(float(s), 3) for s in t.confidence().sort(descending=True).values] for t in targets]


def step(number: int, n: int = 4) -> list[Targets]:
    """Some detections of ``n`` images, ten of each class."""
    g = torch.Generator().manual_seed(number)
    return [found([0, 1] * 10, (torch.rand(20, generator=g) * 0.9 + 0.06).tolist()) for _ in range(n)]


def test_labels_are_as_many_as_their_share_of_what_is_expected_and_doubts_twice_as_many_in_all() -> None:
    """Eight boxes of class 0 are expected in four images, of class 1 four. Ranks count from 0: one box more passes."""
    m = threshold()
    for number in range(3):  # the last call's images alone are in the queue
        labels = m.label(step(number))
    kinds = [torch.cat([t.labels for t in kind]).bincount(minlength=K).tolist() for kind in (labels.cls, labels.unsure)]
    assert kinds == [[4 + 1, 2 + 1], [16 - 4, 8 - 2]]
    assert labels.box is None
    every, limits = step(2), m.stats["threshold"]
    best = sorted((s for t in every for c, s in zip(t.labels.tolist(), t.scores.tolist()) if c == 0), reverse=True)
    assert float(limits[0]) == pytest.approx(best[4])
    assert float(m.stats["threshold_unsure"][0]) == pytest.approx(best[16])
    assert float(m.stats["unsure_per_image"]) == 18 / 4


def test_the_first_images_have_as_many_labels_as_later_ones() -> None:
    """A queue of 400 images holds four: ranks are those of four."""
    labels = threshold(images=400).label(step(0))
    assert torch.cat([t.labels for t in labels.cls]).bincount(minlength=K).tolist() == [5, 3]


def test_a_weak_teacher_has_labels_all_the_same() -> None:
    """No score reaches 0.2: a fixed threshold would leave background alone."""
    weak = [found([0, 0, 0, 0, 0, 1], [0.19, 0.15, 0.12, 0.11, 0.1, 0.07])] * 4
    labels = threshold().label(weak)
    assert scores(labels.cls) == [[0.19, 0.15, 0.07]] * 4
    assert scores(labels.unsure) == [[0.12, 0.11, 0.1]] * 4


def test_what_scores_less_than_the_least_is_background() -> None:
    labels = threshold(least=0.3).label([found([0, 0, 1], [0.9, 0.2, 0.25])] * 4)
    assert scores(labels.cls) == [[0.9]] * 4
    assert scores(labels.unsure) == [[]] * 4


def test_a_class_without_a_detection_and_images_without_one() -> None:
    m = threshold()
    empty = found([], [])
    labels = m.label([empty] * 4)
    assert [len(t) for t in labels.cls + labels.unsure] == [0] * 8
    labels = m.label([found([0], [0.8]), empty, empty, empty])
    assert scores(labels.cls) == [[0.8], [], [], []]
    assert all(value.isfinite().all() for value in m.stats.values())


def test_a_state_goes_on_with_the_same_bits_and_other_constants_are_the_configs() -> None:
    first, second = threshold(images=6), threshold(images=6)
    for number in range(3):
        first.label(step(number))
    second.load_state_dict(first.state_dict())
    one, other = (m.label(step(3)) for m in (first, second))
    assert scores(one.cls) == scores(other.cls)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    bold = threshold(images=6, reliable=1.0)
    bold.load_state_dict(first.state_dict())
    assert sum(map(len, bold.label(step(4)).cls)) > sum(map(len, first.label(step(4)).cls))


def test_parts_of_a_step_have_the_labels_of_the_whole() -> None:
    whole, parts = threshold(images=6), [threshold(images=6) for _ in range(2)]
    for number in range(3):
        images = step(number)

        def own(part: int, images: list[Targets] = images) -> Pseudo:
            return parts[part].label(images[2 * part : 2 * part + 2])

        wanted = whole.label(images)
        before = [{k: v.clone() for k, v in m.state_dict().items()} for m in parts]

        def again(part: int, before: list[dict] = before, own=own) -> Pseudo:
            parts[part].load_state_dict(before[part])
            return own(part)

        labels, _ = together([partial(again, 0), partial(again, 1)])
        assert scores(labels[0].cls + labels[1].cls) == scores(wanted.cls)
        assert scores(labels[0].unsure + labels[1].unsure) == scores(wanted.unsure)


def test_no_wait_for_each_image() -> None:
    waits = [Waits(), Waits()]
    for counter, n in zip(waits, (2, 6)):
        m, some = threshold(), step(0, n)
        with counter:
            m.label(some)
    assert waits[0].masks == waits[1].masks


def test_config_words() -> None:
    read = TypeAdapter(ThresholdConfig).validate_python
    made = build_threshold(read("label_count"), 3)
    assert isinstance(made, LabelCountThreshold)
    assert made.queue.scores.shape == (512, 100)
    for wrong in ({"reliable": 1.5}, {"unsure": 0.5}, {"images": 0}, {"score": 0.5}):
        with pytest.raises(ValidationError):
            read({"name": "label_count"} | wrong)


@pytest.mark.parametrize(("boxes", "factor"), [(0, 0.0), (2, 0.0), (3, 1.0), (9, 1.0)])
def test_losses_are_held_back_below_so_many_boxes_an_image(boxes: int, factor: float) -> None:
    targets = [found([0] * boxes, [0.9] * boxes), *[found([], [])] * 3]
    with Waits() as waits:
        assert float(enough_boxes(targets, 0.75)) == factor
    assert waits.copies == 0
