"""A step in parts has the gradient of its whole batch: every method on every detector that it can learn on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ssod.detectors.d2.dense import RunningNormalizer
from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.methods.base import Method
from ssod.methods.registry import find, names
from ssod.structures import Batch, Output, Pseudo, Targets, View
from ssod.utils.signals import Signals
from tests.parts import together
from tests.test_methods import DETECTORS, SIDE, K, detector, matrix, method, offered

N, STEP = 4, 50
CLOSE = 1e-5
MEANS = ("sup/", "unsup/", "off/", "labeled/", "pseudo/boxes", "pseudo/foreground")  # values that are means
# What a method can be asked for beside its defaults, where something else is counted.
ADAPTIVE = {"assigner": {"name": "adaptive"}}
FORMS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("consistent_teacher", "retinanet", ADAPTIVE, {}),
    ("consistent_teacher", "fcos", ADAPTIVE, {}),
    ("mean_teacher", "fcos", ADAPTIVE, {"threshold": "gmm", "damping": 0.5}),
    ("mean_teacher", "retinanet", {}, {"form": "consistency", "score": 0.5}),
    ("mean_teacher", "faster_rcnn", {}, {"form": "consistency", "score": 0.5}),
    ("unbiased_teacher", "faster_rcnn", {}, {"threshold": "gmm"}),
    ("mean_teacher", "retinanet", {}, {"threshold": {"name": "label_count", "images": 6}, "hold_back": 1.0}),
    ("humble_teacher", "fcos", {}, {"norm": "foreground"}),
    ("dsl", "fcos", {"box_weight": "centerness"}, {}),
    ("pseco", "fcos", {"half_size": True}, {}),
    ("pseco", "faster_rcnn", {"half_size": True, "levels": (3, 6)}, {}),
    ("unbiased_teacher_v2", "fcos", {}, {"box_score": 0.2, "normalize": True}),
    ("supervised", "fcos", {}, {"loss": {"sup": {"cls": "equalization"}}}),
    ("supervised", "retinanet", {}, {"loss": {"sup": {"weighting": "plain_conv"}}}),
    ("supervised", "faster_rcnn", {}, {"loss": {"sup": {"weighting": "plain_conv"}}}),
]
# A mean of so many samples is the mean: what a branch draws is not the same in parts.
UNCERTAIN = {"name": "uncertainty", "samples": 10**14}
WEIGHTINGS = [
    ("fcos", "cleanliness"),
    ("fcos", "background_reliability"),
    ("faster_rcnn", "background_reliability"),
    ("retinanet", "sample_weighting"),
    ("faster_rcnn", "sample_weighting"),
]


@pytest.fixture(autouse=True)
def rows_that_know_no_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolve image by image: oneDNN rounds one image otherwise than eight, and a last bit may choose a box."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def boxes(empty: bool = False) -> list[Targets]:
    """As many boxes as may be: none, one, several."""
    g = torch.Generator().manual_seed(9)
    made = []
    for count in (0, 0, 0, 0) if empty else (2, 0, 1, 5):
        corner, size = torch.rand(count, 2, generator=g) * 50, torch.rand(count, 2, generator=g) * 35 + 8
        made.append(Targets(torch.cat([corner, corner + size], 1), torch.randint(0, K, (count,), generator=g)))
    return made


def view(seed: int, targets: list[Targets] | None = None, flip: bool = False) -> View:
    g = torch.Generator().manual_seed(seed)
    return View(
        images=torch.randint(0, 256, (N, 3, SIDE, SIDE), dtype=torch.uint8, generator=g),
        sizes=torch.tensor([[SIDE, SIDE], [SIDE - 7, SIDE - 13]]).repeat(N // 2, 1),
        matrix=matrix(flip).repeat(N, 1, 1),
        keys=torch.arange(N) + 100 * seed,
        ids=list(range(N)),
        targets=targets,
    )


def whole(m: Method, empty: bool = False) -> Batch:
    """The student's view is mirrored, unless the method compares the views pixel by pixel."""
    flip = not (m.uses_unlabeled and m.cfg.taught_by != "boxes")
    return Batch(view(0, boxes(empty)), {"weak": view(5), "strong": view(5, flip=True) if flip else view(6)})


def cut(batch: Batch, count: int) -> list[Batch]:
    """The same images in parts of one size."""

    def part(v: View, rows: slice) -> View:
        return replace(
            v,
            **{name: getattr(v, name)[rows] for name in ("images", "sizes", "matrix", "keys", "ids")},
            targets=None if v.targets is None else v.targets[rows],
        )

    size = N // count
    rows = [slice(i * size, (i + 1) * size) for i in range(count)]
    return [Batch(part(batch.labeled, r), {name: part(v, r) for name, v in batch.views.items()}) for r in rows]


def net(name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.setitem(DETECTORS, name, DETECTORS[name] | changes)
    return detector(name)


def stepper(m: Method, parts: int) -> Stepper:
    tree = {"steps": 100, "lr": 1e-4, "batch": {"labeled": N, "unlabeled": N}, "accumulate": parts, "device": "cpu"}
    return Stepper(m, TrainConfig.model_validate(tree, context={"steps": 100}), Signals())


def learn(m: Method, parts: int, empty: bool = False) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Make a step; return its gradient, its losses, and the buffers that it leaves."""
    done = stepper(m, parts).train_step(iter(cut(whole(m, empty), parts)), STEP)
    assert done.made, done.fault
    gradient = torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None])
    return gradient, done.values, {name: b for name, b in m.named_buffers() if b.is_floating_point()}


def without_ties(m: Method, exact: bool) -> Method:
    """Change the weights so that no last bit decides: in place, and always in the same way.

    A box that several classes share is a tie between them in the assigner: one class alone is found. A student that
    predicts the very boxes of its teacher sits where the box losses have no slope: it is moved away from it. Of some
    100 000 activations one is as near to the bend of its ReLU as float32 can tell: dense detectors have float64.
    """
    if exact:
        m.student.double(), m.teacher.double()
        peer = getattr(m, "peer", None)  # the second model of a pair
        if peer is not None:
            peer.student.double(), peer.teacher.double()
    g = torch.Generator().manual_seed(1)
    for path, parameter in m.named_parameters():
        if parameter.requires_grad and "teacher" not in path:
            noise = torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
            parameter.data += (0.2 if parameter.ndim == 1 else 0.1 * parameter.data.abs().mean()) * noise
    for path, module in m.named_modules():
        if path.endswith("cls_logits"):
            module.bias.data.zero_().view(-1, K)[:, 1:] = -8
    return m


def marked(cases: list[tuple]) -> list[Any]:
    """Mark where a last bit decides all the same: RoIs, which torchvision has in float32 alone, the question for the
    nearest row of a dense head (rows that the border cuts are ties), and ranks of rows by their overlap.
    """
    bits = {"faster_rcnn", "instant_teaching_rectify", "cleanliness"}
    mark = [pytest.mark.rows_know_no_neighbours]
    return [pytest.param(*case, marks=mark if bits & {*case[:2]} else []) for case in cases]


def division(name: str, kind: str) -> int:
    """Return how many parts to make, of one image or of two: each method, on its detectors, meets both."""
    kinds = [kind for _, kind in offered([name])]
    return (N, N // 2)[(len(name) + kinds.index(kind)) % 2]


def same_in_parts(
    make: Callable[[], Method], empty: bool = False, exact: bool = True, parts: int | None = None
) -> None:
    """Compare a step with one in ``parts``; by default one number for a detector, and another for its neighbour."""
    first = make()
    exact = exact and "rpn_cls" not in first.student.kinds
    parts = parts or (N, N // 2)[len(first.student.kinds) % 2]
    gradient, losses, buffers = learn(without_ties(first, exact), 1, empty)
    cut_gradient, cut_losses, cut_buffers = learn(without_ties(make(), exact), parts, empty)
    assert (cut_gradient - gradient).norm() <= CLOSE * gradient.norm(), parts
    assert cut_losses.keys() == losses.keys()
    found, wanted = ({k: v for k, v in of.items() if k.startswith(MEANS)} for of in (cut_losses, losses))
    for name, value in (wanted | buffers).items():
        found_value = (found | cut_buffers)[name]
        torch.testing.assert_close(found_value, value, rtol=CLOSE, atol=1e-7, msg=f"{name} in {parts} parts")


def test_each_method_meets_parts_of_one_image_and_of_two() -> None:
    for name in names():
        met = [division(name, kind) for _, kind in offered([name])]
        assert set(met) == {N, N // 2} or len(met) == 1, name


@pytest.mark.parametrize(("name", "kind"), marked(offered(names())))
def test_the_gradient_is_that_of_the_whole_batch(name: str, kind: str) -> None:
    same_in_parts(lambda: method(name, detector(kind)), parts=division(name, kind))


@pytest.mark.parametrize(("name", "kind", "detector_keys", "keys"), marked(FORMS))
def test_whatever_else_it_counts(
    name: str, kind: str, detector_keys: dict, keys: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_in_parts(lambda: method(name, net(kind, detector_keys, monkeypatch), **keys))


@pytest.mark.parametrize(("kind", "weighting"), marked(WEIGHTINGS))
def test_whatever_weighs_its_rows(kind: str, weighting: str) -> None:
    keys = {"loss": {"unsup": {"weighting": weighting}}}
    same_in_parts(lambda: method("mean_teacher", detector(kind), **keys), exact=weighting != "cleanliness")


@pytest.mark.parametrize("kind", DETECTORS)
def test_uncertain_rows_are_those_of_the_whole_batch(kind: str) -> None:
    loss = {side: {"weighting": UNCERTAIN} for side in ("sup", "unsup")}
    same_in_parts(lambda: method("mean_teacher", detector(kind), loss=loss))


@pytest.mark.parametrize("changes", [{}, ADAPTIVE])
def test_a_batch_without_boxes_is_no_exception(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses are divided by 1, and a part's by its share of that."""
    same_in_parts(lambda: method("supervised", net("fcos", changes, monkeypatch)), empty=True)


# ---- what it costs -----------------------------------------------------------------------------------------------


def looks(m: Method, parts: int, steps: int = 2) -> tuple[int, int]:
    """Return how many images student and teacher look at in the last of some steps."""
    seen = {"student": 0, "teacher": 0}

    def count(who: str, model: torch.nn.Module) -> None:
        predict = model.predict

        def counted(v: View) -> Any:
            seen[who] += len(v)
            return predict(v)

        model.predict = counted

    count("student", m.student)
    count("teacher", m.teacher.model)
    made = stepper(m, parts)
    for step in range(STEP, STEP + steps):
        seen.update(student=0, teacher=0)
        assert made.train_step(iter(cut(whole(m), parts)), step).made
    return seen["student"], seen["teacher"]


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize(
    ("name", "kind", "keys", "student"),
    [
        ("mean_teacher", "retinanet", {"damping": 0.5}, 2 * N),  # labels alone are exchanged
        ("mean_teacher", "fcos", {"threshold": "gmm"}, 4 * N),  # ... and counts of rows, for which it looks first
        ("mean_teacher", "faster_rcnn", {"loss": {"unsup": {"weighting": "background_reliability"}}}, 4 * N),
        ("soft_teacher", "faster_rcnn", {}, 4 * N),
        ("dense_teacher", "fcos", {}, 4 * N),
        ("pseco", "faster_rcnn", {}, 4 * N),
    ],
)
def test_the_teacher_looks_once_and_the_student_twice_at_most(
    name: str, kind: str, keys: dict, student: int, parts: int
) -> None:
    assert looks(method(name, detector(kind), **keys), parts) == (student, N)


def test_humble_teachers_ensemble_looks_at_each_image_and_its_mirror_image_once() -> None:
    assert looks(method("humble_teacher", detector("fcos")), 2) == (4 * N, 2 * N)


def test_stacs_teacher_looks_once_in_a_run() -> None:
    m = method("stac", detector("fcos"))
    seen: list[int] = []
    predict = m.given.model.predict
    m.given.model.predict = lambda v: seen.append(len(v)) or predict(v)
    assert looks(m, 2, steps=3)[1] == 0  # the average, which is measured, is not asked
    assert seen == [1] * N


def test_a_step_of_one_part_looks_as_it_always_did() -> None:
    assert looks(method("soft_teacher", detector("fcos")), 1) == (2 * N, N)


def test_a_teacher_that_is_asked_for_more_than_its_method_says_looks_again() -> None:
    """``needs_maps`` says what is kept; a method that says too little is slower, and no less right."""

    class Curious(find("mean_teacher")):
        def label(self, teacher: Output, batch: Batch) -> Pseudo:
            assert teacher.stages["dense"].num_images == len(batch.weak)
            assert teacher.proposals is None
            assert len(teacher.pyramid) == len(self.student.strides)
            assert len(teacher.score([t.boxes for t in teacher.detections()])) == sum(map(len, teacher.detections()))
            return Pseudo(teacher.detections(0.4))

    def make() -> Method:
        plain = method("mean_teacher", detector("fcos"))
        return Curious(plain.student, plain.cfg).train()

    same_in_parts(make)


def test_detectron2s_running_mean_is_that_of_the_whole_batch() -> None:
    """Parts divide it among them, and each leaves it as the whole batch would."""
    positive = torch.tensor([True, True, False, True])
    whole = RunningNormalizer(300.0).train()
    divided = [RunningNormalizer(300.0).train() for _ in range(2)]

    def run(part: int) -> Tensor:
        divided[part].value.fill_(300.0)
        return divided[part](positive[2 * part : 2 * part + 2])

    wanted = whole(positive)
    shares, _ = together([partial(run, 0), partial(run, 1)])
    assert float(wanted) == pytest.approx(0.9 * 300 + 0.1 * 3)
    for share, own in zip(shares, divided):
        torch.testing.assert_close(share, wanted / 2)
        torch.testing.assert_close(own.value, whole.value)
