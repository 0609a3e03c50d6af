"""Pipelines: read from plain lists, drawn deterministically, boxes carried with the pixels."""

import json

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ssod.structures import Targets
from ssod.transforms.augmentations import AUGMENTATIONS
from ssod.transforms.presets import PRESETS
from ssod.transforms.views import Pipeline, ViewsConfig, make_views, order
from tests.amount import examples
from tests.transforms.common import picture

CONFIG = """
labeled:
  weak: [{resize: {short: [40, 60], long: 100}}, flip]
  strong: {start: weak, ops: [unbiased_strong]}
unlabeled:
  base: {hidden: true, ops: [flip]}
  weak: {start: base, ops: [{resize: {short: [40, 60]}}]}
  strong: {start: weak, ops: [unbiased_strong]}
  half: {start: strong, ops: [{resize: {ratio: 0.5}}]}
  other: [{resize: {short: [40, 60]}}, flip, soft_teacher_strong]
val: [{resize: {short: 60, long: 100}}]
"""


NEED_PARAMETERS = {"resize", "stretch", "crop", "zoom_in", "zoom_out", "box_color", "box_move", "policy"}
NEED_PARAMETERS |= {"one_of", "shuffle", "maybe"}


def config():
    return ViewsConfig.model_validate(yaml.safe_load(CONFIG))


def targets(n=3, crowd=True):
    boxes = torch.tensor([[5.0, 6, 40, 30], [50, 10, 70, 44], [0, 0, 80, 60]])[:n]
    weight = torch.tensor([1.0, 0, 1])[:n] if crowd else None
    return Targets(boxes, torch.tensor([2, 0, 1])[:n], weight=weight)


def test_round_trip_through_plain_values():
    plain = config().model_dump(mode="json", exclude_none=True)
    assert ViewsConfig.model_validate(json.loads(json.dumps(plain))) == config()
    assert plain["val"] == [{"resize": {"short": [60, 60], "long": 100}}]
    assert plain["unlabeled"]["base"] == {"ops": ["flip"], "hidden": True}
    everything = [
        *(name for name in AUGMENTATIONS if name not in NEED_PARAMETERS),
        *PRESETS,
        {"one_of": ["flip", ["rotate", "blur"]]},
        {"shuffle": [["rotate", "blur"], {"maybe": {"p": 0.3, "ops": ["flip"]}}]},
        {"crop": {"height": 30}},
        {"stretch": {"height": 30, "width": 40}},
        {"zoom_in": {"ratio": [1.1, 1.2]}},
        {"zoom_out": {"ratio": 0.5}},
        {"box_color": {"op": "color", "level": 2, "area": [6, 2, 0.4]}},
        {"box_move": {"op": "rotate", "degrees": 6, "p": 0.4, "ramp": True, "short": 800}},
        {"policy": {"name": "scale_aware", "variant": "published", "parts": ["zoom_in", "boxes"]}},
    ]
    pipeline = Pipeline.model_validate(everything)
    assert Pipeline.model_validate(pipeline.model_dump(mode="json")) == pipeline


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        (["flp"], "unknown operation 'flp'; did you mean 'flip'?"),
        (["unbiased_srtong"], "did you mean 'unbiased_strong'?"),
        ([{"resize": {"shrt": 3}}], "resize.shrt: unknown parameter; did you mean 'short'?"),
        ([{"resize": {"short": [5, 3]}}], "resize.short: range [5, 3] is empty"),
        (["resize"], "resize needs 'short', 'long' or 'ratio'"),
        ([{"resize": {"short": 0}}], "must be positive"),
        ([{"flip": 0.5}], "flip: 0.5 is not a mapping; known parameters: p"),
        ([{"flip": {"p": 2}}], "flip.p: Input should be less than or equal to 1"),
        ([{"flip": {}, "blur": {}}], "is no operation"),
        ([{"weak": {"short": 3}}], "is a preset and takes no parameters"),
        ([{"one_of": []}], "expected a list of operations"),
        ([{"one_of": ["rotat"]}], "did you mean 'rotate'?"),
        ([{"maybe": {"p": 0.1, "ops": ["blurr"]}}], "did you mean 'blur'?"),
        ([{"color_op": {"ops": ["solarise"]}}], "'solarize'"),
        ([{"color_op": {"level": [0, 9]}}], "levels run from 1 to 9"),
        ([{"crop": {"share": [0.5, 1.5]}}], "'share' must lie in (0, 1]"),
        ([{"cutout": {"share": [0.5, 1.5]}}], "shares lie in [0, 1]"),
        ([{"erase": {"ratio": [0, 1]}}], "must be above 0"),
        ("flip", "expected a list of operations, got str"),
        ([7], "7 is no operation"),
        ({"start": "nowhere"}, "starts from unknown view 'nowhere'"),
        ({"start": "a"}, "in a circle"),
        ({"hidden": True, "ops": ["flip"]}, "every view is hidden"),
        ({"strt": "a"}, "Extra inputs"),
    ],
)
def test_mistakes_are_named(ops, words):
    with pytest.raises(ValidationError) as caught:
        ViewsConfig.model_validate({"labeled": {"a": ops}, "val": []})
    assert words in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize("val", [{"start": "a", "ops": []}, {"hidden": True, "ops": []}])
def test_the_view_of_evaluation_stands_alone(val):
    with pytest.raises(ValidationError, match="is the only one"):
        ViewsConfig.model_validate({"labeled": {"a": []}, "val": val})


def test_the_schema_for_editors_knows_both_forms():
    forms = ViewsConfig.model_json_schema()["$defs"]["Pipeline"]["anyOf"]
    assert [form["type"] for form in forms] == ["array", "object"]
    assert set(forms[1]["properties"]) == {"ops", "start", "hidden"}


def test_order_follows_starts():
    names = order(config().unlabeled)
    assert names.index("base") < names.index("weak") < names.index("strong") < names.index("half")


def test_draws_depend_on_their_key_alone():
    image, views = picture(80, 60), config().unlabeled

    def seen(*draw, views=views):
        return {
            n: (s.image.tobytes(), s.matrix.tobytes(), s.key) for n, s in make_views(image, None, views, *draw).items()
        }

    first = seen(0, "unlabeled", 4, 11)
    assert seen(0, "unlabeled", 4, 11) == first
    assert seen(0, "unlabeled", 4, 11, views=dict(reversed(views.items()))) == first
    for other in [(1, "unlabeled", 4, 11), (0, "labeled", 4, 11), (0, "unlabeled", 5, 11), (0, "unlabeled", 4, 12)]:
        assert all(seen(*other)[name][2] != first[name][2] for name in first)
    sizes = {make_views(image, None, views, 0, "u", 4, p)["weak"].image.size for p in range(40)}
    assert len(sizes) > 10
    assert len({s[2] for s in first.values()}) == len(first)


def test_aligned_views_share_their_matrix_and_independent_ones_do_not():
    views = config().unlabeled
    differ = 0
    for position in range(30):
        seen = make_views(picture(80, 60), None, views, 0, "unlabeled", 1, position)
        assert list(seen) == ["weak", "strong", "half", "other"]
        assert np.array_equal(seen["weak"].matrix, seen["strong"].matrix)
        assert seen["weak"].image.size == seen["strong"].image.size
        w, h = seen["strong"].image.size
        scale = np.diag([((w + 1) // 2) / w, ((h + 1) // 2) / h, 1])
        assert seen["half"].matrix == pytest.approx(scale @ seen["strong"].matrix)
        differ += not np.allclose(seen["weak"].matrix, seen["other"].matrix)
    assert differ >= 29


def test_hidden_base_is_shared():
    views = ViewsConfig.model_validate(
        {
            "labeled": {"x": []},
            "unlabeled": {
                "base": {"hidden": True, "ops": ["flip"]},
                "weak": {"start": "base", "ops": [{"resize": {"short": [40, 60]}}]},
                "strong": {"start": "base", "ops": [{"resize": {"short": [40, 60]}}]},
            },
            "val": [],
        }
    ).unlabeled
    flips, scales = set(), set()
    for position in range(30):
        seen = make_views(picture(80, 60), None, views, 0, "u", 1, position)
        flips.add((seen["weak"].matrix[0, 0] < 0, seen["strong"].matrix[0, 0] < 0))
        scales.add(abs(seen["weak"].matrix[0, 0]) == abs(seen["strong"].matrix[0, 0]))
    assert flips == {(True, True), (False, False)}
    assert False in scales


def test_boxes_are_carried_clipped_and_dropped_with_their_rows():
    views = {"v": Pipeline.model_validate([{"crop": {"width": 45}}])}
    image = picture(80, 60)
    counts = set()
    for position in range(40):
        sample = make_views(image, targets(), views, 0, "l", 0, position)["v"]
        left = -sample.matrix[0, 2]
        expected = [
            ([max(x1 - left, 0), y1, min(x2 - left, 45), y2], label, weight)
            for (x1, y1, x2, y2), label, weight in zip(targets().boxes.tolist(), (2, 0, 1), (1.0, 0.0, 1.0))
            if min(x2 - left, 45) - max(x1 - left, 0) > 1
        ]
        assert sample.targets.boxes.tolist() == [e[0] for e in expected]
        assert sample.targets.labels.tolist() == [e[1] for e in expected]
        assert sample.targets.weight.tolist() == [e[2] for e in expected]
        counts.add(len(expected))
    assert counts == {2, 3}


def test_no_boxes_stay_no_boxes():
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    seen = make_views(picture(80, 60), empty, config().labeled, 0, "l", 0, 0)
    assert all(s.targets.boxes.shape == (0, 4) and s.targets.labels.shape == (0,) for s in seen.values())
    assert all(s.targets is None for s in make_views(picture(80, 60), None, config().labeled, 0, "l", 0, 0).values())


names = st.sampled_from(
    ["flip", "flip_vertical", "translate_x", "translate_y", "rotate", "shear_x", "shear_y", "cutout", "erase", "blur"]
)
sized = st.one_of(
    st.builds(lambda a, b: {"resize": {"short": [min(a, b), max(a, b)], "long": 130}}, *[st.integers(1, 130)] * 2),
    st.builds(lambda r: {"resize": {"ratio": r}}, st.floats(0.05, 2)),
    st.builds(lambda h, w: {"stretch": {"height": h, "width": w}}, *[st.integers(1, 130)] * 2),
    st.builds(lambda a, b: {"crop": {"share": [min(a, b), max(a, b)]}}, *[st.floats(0.05, 1)] * 2),
    st.builds(lambda h, w: {"crop": {"height": h, "width": w}}, *[st.integers(1, 130)] * 2),
    st.builds(lambda d: {"rotate": {"degrees": d}}, st.floats(0, 180)),
)
op = st.one_of(names, sized, st.lists(st.one_of(names, sized), min_size=1, max_size=3).map(lambda g: {"one_of": [g]}))
side = st.floats(0, 100, width=32)


@settings(max_examples=examples(50), deadline=None)
@given(
    ops=st.lists(op, max_size=5),
    size=st.tuples(st.integers(8, 100), st.integers(8, 100)),
    corners=st.lists(st.tuples(side, side, side, side), max_size=6),
    position=st.integers(0, 5),
)
def test_any_chain_keeps_boxes_inside_and_rows_together(ops, size, corners, position):
    boxes = [
        (min(a, c, size[0] - 2), min(b, d, size[1] - 2), min(max(a, c) + 1, size[0]), min(max(b, d) + 1, size[1]))
        for a, b, c, d in corners
    ]
    n = len(boxes)
    before = Targets(
        torch.tensor(boxes).reshape(-1, 4), torch.arange(n), weight=torch.arange(n) / max(n, 1), scores=torch.rand(n)
    )
    sample = make_views(picture(*size), before, {"v": Pipeline.model_validate(ops)}, 0, "l", 0, position)["v"]
    after, (width, height) = sample.targets, sample.image.size
    assert len(after.boxes) == len(after.labels) == len(after.weight) == len(after.scores) <= n
    assert torch.equal(after.weight, before.weight[after.labels])
    x1, y1, x2, y2 = after.boxes.unbind(1)
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= width)).all()
    assert ((y1 >= 0) & (y1 < y2) & (y2 <= height)).all()
    assert after.boxes.dtype == torch.float32
