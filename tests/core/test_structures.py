"""The six types: selection, movement between views, mirrors, soft and hard assignments."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssod.structures import Assignment, Batch, Predictions, Pseudo, Targets, View
from ssod.structures.boxes import DeltaCoder
from ssod.structures.ragged import select
from ssod.utils import seeding
from ssod.utils.given import given
from tests.rows import context
from tests.waits import Waits


def view(n: int = 2, height: int = 40, width: int = 60, matrix: torch.Tensor | None = None) -> View:
    g = torch.Generator().manual_seed(n)
    return View(
        images=torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=g),
        sizes=torch.tensor([[height, width]] * n),
        matrix=torch.eye(3).repeat(n, 1, 1) if matrix is None else matrix,
        keys=torch.arange(n),
    )


def targets(*boxes: list[float]) -> Targets:
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)), scores=torch.rand(len(boxes))
    )


def test_selection_keeps_every_field_in_step() -> None:
    t = Targets(torch.rand(3, 4), torch.tensor([0, 1, 2]), torch.rand(3), torch.rand(3, 5), torch.rand(3))
    picked = t[torch.tensor([True, False, True])]
    assert picked.labels.tolist() == [0, 2]
    assert all(len(getattr(picked, f)) == 2 for f in ("boxes", "scores", "probs", "weight"))


def test_selection_by_a_mask_waits_once() -> None:
    t = Targets(torch.rand(3, 4), torch.tensor([0, 1, 2]), torch.rand(3), torch.rand(3, 5), torch.rand(3))
    with Waits() as waits:
        t[torch.tensor([True, False, True])]
        assert waits.masks == 1
        t[:2], t[torch.tensor([0, 2])]
        assert waits.masks == 1


def test_images_are_selected_from_together() -> None:
    some = [targets([1, 2, 3, 4], [0, 0, 9, 9]), targets(), targets([5, 5, 6, 6])]
    keep = torch.tensor([False, True, True])
    with Waits() as waits:
        picked = select(some, keep)
    assert waits.masks == 1
    assert [t.boxes.tolist() for t in picked] == [[[0, 0, 9, 9]], [], [[5, 5, 6, 6]]]
    assert [t.labels.tolist() for t in picked] == [[1], [], [0]]
    assert torch.equal(picked[0].scores, some[0].scores[1:])
    assert [len(t) for t in select(some, ~keep)] == [1, 0, 0]
    assert [len(t) for t in select(some[1:2], keep[:0])] == [0]


@pytest.mark.parametrize("n", [2, 5])
def test_moving_waits_once_for_all_images(n: int) -> None:
    src, dst, pseudo = view(n), view(n, height=30), Pseudo([targets([1, 2, 3, 4])] * n)
    with Waits() as waits:
        pseudo.move(src, dst)
    assert (waits.masks, waits.copies) == (1, 0)


def test_foreground_rows_are_searched_once_and_anew_in_a_copy() -> None:
    a = Assignment(torch.zeros(3), torch.ones(3), torch.zeros(3, 4), torch.tensor([0.0, 1, 1]))
    with Waits() as waits:
        assert a.fg_rows.tolist() == a.fg_rows.tolist() == [1, 2]
    assert waits.masks == 1
    assert replace(a, box_weight=torch.tensor([1.0, 0, 0])).fg_rows.tolist() == [0]


def test_no_boxes_is_an_empty_shape_and_never_a_sentinel() -> None:
    t = Targets.empty(torch.zeros(1))
    assert t.boxes.shape == (0, 4)
    assert t.soft(3).shape == (0, 3)
    assert t.trust().shape == (0,)


def test_move_follows_the_matrices() -> None:
    double = torch.diag(torch.tensor([2.0, 2, 1])).repeat(2, 1, 1)
    src, dst = view(), view(height=80, width=120, matrix=double)
    moved = Pseudo([targets([1, 2, 3, 4]), targets()]).move(src, dst)
    assert moved.cls[0].boxes.tolist() == [[2, 4, 6, 8]]
    assert len(moved.cls[1]) == 0


def test_move_drops_what_left_the_view() -> None:
    away = torch.tensor([[1.0, 0, 50], [0, 1, 0], [0, 0, 1]]).repeat(1, 1, 1)
    src, dst = view(1), view(1, matrix=away)
    moved = Pseudo([targets([0, 0, 9, 9], [20, 0, 30, 9])]).move(src, dst)
    assert moved.cls[0].boxes.tolist() == [[50, 0, 59, 9]]
    assert moved.cls[0].labels.tolist() == [0]


def test_moving_forth_and_back_returns_the_boxes() -> None:
    flip = torch.tensor([[-1.5, 0, 90], [0, 1.5, 0], [0, 0, 1]]).repeat(1, 1, 1)
    src, dst = view(1), view(1, height=60, width=90, matrix=flip)
    pseudo = Pseudo([targets([5, 6, 25, 30])])
    back = pseudo.move(src, dst).move(dst, src)
    torch.testing.assert_close(back.cls[0].boxes, pseudo.cls[0].boxes)


@pytest.mark.parametrize("width", [60, 47])
def test_flipped_mirrors_pixels_and_boxes_alike(width: int) -> None:
    v = view(1)
    v.images.zero_()
    v.sizes[0, 1] = width
    v.images[0, :, 10:20, 5:15] = 255
    with Waits() as waits:
        mirrored = v.flipped()
    assert waits.copies == 0
    moved = Pseudo([targets([5, 10, 15, 20])]).move(v, mirrored).cls[0].boxes[0].long()
    x1, y1, x2, y2 = moved.tolist()
    assert mirrored.images[0, 0, y1:y2, x1:x2].eq(255).all()
    assert mirrored.images.sum() == v.images.sum()
    assert torch.equal(mirrored.flipped().images, v.images)
    torch.testing.assert_close(mirrored.flipped().matrix, v.matrix)


def test_hard_and_soft_assignments_agree() -> None:
    hard = Assignment(torch.tensor([2, 0, 3]), *(torch.ones(3),) * 2, torch.ones(3))
    soft = hard.soft(3)
    assert soft.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert Assignment(soft, torch.ones(3), torch.zeros(3, 4), torch.ones(3)).labels().tolist()[:2] == [2, 0]


def test_soft_targets_of_a_dense_head_take_no_more_memory_than_they_must() -> None:
    """COCO's 80 classes and 1.6 million rows are 0.5 GB of float32 already."""

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            out = func(*args, **(kwargs or {}))
            made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
            self.largest = max([self.largest, *(x.untyped_storage().nbytes() for x in made)])
            return out

    with Sizes() as sizes:
        soft = Assignment(torch.arange(100) % 81, *(torch.ones(100),) * 3).soft(80)
    assert soft.dtype == torch.float32
    assert sizes.largest <= 100 * 81 * 4


def test_predictions_pick_the_deltas_of_a_class() -> None:
    p = Predictions(
        logits=torch.tensor([[0.0, 5, 0, 0], [0, 0, 0, 9]]),
        deltas=torch.arange(24.0).view(2, 3, 4) / 100,
        priors=torch.tensor([[0.0, 0, 10, 10]] * 2),
        image=torch.zeros(2, dtype=torch.long),
        sizes=torch.tensor([[20, 20]]),
        coder=DeltaCoder(),
        softmax=True,
        cls_features=[torch.zeros(2, 7)],
    )
    assert p.num_classes == 3
    torch.testing.assert_close(p.probs().sum(1) < 1, torch.tensor([True, True]))
    torch.testing.assert_close(p.boxes()[0], p.coder.decode(p.deltas[:1, 1], p.priors[:1])[0])
    one = p[torch.tensor([True, False])]
    assert len(one) == 1
    assert one.cls_features is None  # which rows of a map would they be?


def test_a_batch_moves_with_everything_in_it() -> None:
    v = view()
    v.targets = [targets([1, 2, 3, 4]), targets()]
    batch = Batch(v, {"weak": view()})
    moved = batch.to("meta")
    assert moved.labeled.targets[0].boxes.device.type == "meta"
    assert moved.weak.images.device.type == "meta"


def test_uniform_keys_depend_on_key_and_row_alone() -> None:
    keys = torch.tensor([seeding.key(0, "a"), seeding.key(0, "b")])
    rows = torch.arange(4096)
    both = seeding.uniform(keys[:, None], rows[None])
    assert torch.equal(both[1], seeding.uniform(keys[1], rows))
    assert 0 <= both.min() < 1e-2
    assert 0.99 < both.max() < 1
    assert abs(both.mean() - 0.5) < 0.02
    assert abs(torch.corrcoef(both)[0, 1]) < 0.05
    assert len(both.unique()) > 8000


@pytest.mark.parametrize(("device", "free"), [("cpu", False), (torch.device("cpu"), False), ("meta", True)])
def test_a_copy_to_the_cpu_is_done_when_it_is_returned(
    monkeypatch: pytest.MonkeyPatch, device: torch.device | str, free: bool
) -> None:
    """A copy from a GPU that does not wait would be read while it is still being written."""
    asked = []
    real = torch.Tensor.to

    def spy(t: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        asked.append(options.get("non_blocking", False))
        return real(t, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", spy)
    targets([1, 2, 3, 4]).to(device)
    assert asked == [free] * 3


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda: given(None, "there is none"), "there is none"),
        (lambda: Targets.empty(torch.zeros(1)).confidence(), "ground truth"),
        (lambda: view().truth(), "no labels"),
        (lambda: Assignment(*[torch.zeros(0)] * 4).matches(), "teacher's map"),
        (lambda: context().labels, "chooses no boxes"),
        (lambda: context().teacher, "labelled"),
    ],
)
def test_what_is_absent_and_needed_is_reported_in_a_sentence(ask: Callable[[], object], reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        ask()


def test_what_is_there_is_handed_on() -> None:
    found = [targets([0, 0, 1, 1])]
    labels = Pseudo(found)
    assert found[0].confidence() is found[0].scores
    assert context(labels=labels).labels is labels
    assert context(teacher=labels).teacher is labels
    assert replace(view(), targets=found).truth() is found
