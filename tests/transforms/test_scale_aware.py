"""The policy by name: what its list says, how often it does what, and where it may stand."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from ssod.structures import Targets
from ssod.transforms import scale_aware
from ssod.transforms.augmentations import asks, parse_list
from ssod.transforms.box_color import BoxColor
from ssod.transforms.box_move import BoxMove
from ssod.transforms.scale_aware import DIGITS, RATIOS, SEARCHED, decode, operations, released_amount
from ssod.transforms.transform import Setting
from ssod.transforms.views import Pipeline, ViewsConfig, by_chance, make_views, misaligned
from ssod.utils.errors import SsodError
from tests.amount import examples
from tests.data.test_loader import same_batches
from tests.transforms.common import loaded, make_images, make_labeled, picture
from tests.transforms.scale_aware_cases import CASES
from tests.transforms.test_box_level import MOVE, NAMES

RELEASED = {"policy": {"name": "scale_aware", "variant": "released"}}
PUBLISHED = {"policy": {"name": "scale_aware", "variant": "published"}}


def only(variant, *parts):
    return {"policy": {"name": "scale_aware", "variant": variant, "parts": list(parts)}}


# ---- the lists -------------------------------------------------------------------------------------------------------


def test_golden_policies():
    for case, values in CASES.of("policy"):
        policy = decode(values["list"].tolist())
        zoom_in, zoom_out = float(values["zoom_in_probability"]), float(values["zoom_out_probability"])
        assert policy.zoom_in == pytest.approx((zoom_in, float(values["zoom_in_ratio"])))
        out = (1 - zoom_in) * (zoom_in + zoom_out), float(values["zoom_out_ratio"])
        assert policy.zoom_out == pytest.approx(out)
        assert policy.area == pytest.approx(values["area_ratio"])
        assert [RATIOS[i] for i in values["area_index"]] == pytest.approx(values["area_ratio"])
        for k, pair in enumerate(policy.pairs):
            name, move = case["colour_ops"][k], case["geometric_ops"][k]
            assert pair.color[0] == NAMES.get(name, name.lower())
            assert pair.color[1:] == pytest.approx((values["colour_probability"][k], values["colour_level"][k]))
            kind = MOVE.get(move, move.replace("shear", "shear_").lower())
            amount = released_amount(kind, values["geometric_level"][k])
            assert (pair.move[0], *pair.move[1:]) == (kind, pytest.approx(values["geometric_probability"][k]), amount)
        for chance, weights in (
            (policy.color_chance, values["area_index"]),
            (policy.move_chance, values["prob_index"]),
        ):
            assert chance == pytest.approx(0.3 * weights / weights.sum())
        if case["name"] == "released":
            assert values["list"].tolist() == DIGITS


def test_what_paper_and_code_share_and_where_they_differ():
    released, published = SEARCHED["released"], SEARCHED["published"]
    assert released.zoom_in == pytest.approx((0.25, 1.2))
    assert released.zoom_out == pytest.approx((0.4125, 0.5))
    assert (published.zoom_in, published.zoom_out) == ((0.2, 1.2), (0.4, 0.5))
    assert released.area == published.area == (6, 2, 0.4)
    assert released.color_chance == pytest.approx((0.1615, 0.1154, 0.0231), abs=1e-4)
    assert released.move_chance == published.move_chance == published.color_chance == pytest.approx([0.1] * 3)
    assert [p.color for p in published.pairs[:4]] == [
        (name, pytest.approx(p), level) for name, p, level in (pair.color for pair in released.pairs[:4])
    ]
    assert [p.move[0] for p in published.pairs] == [p.move[0] for p in released.pairs]
    assert [p.move[1] for p in published.pairs] == pytest.approx([0.4, 0.4, 0.2, 0.3, 0.2])
    assert [p.move[1] for p in released.pairs] == pytest.approx([0.4, 0.4, 0.2, 0.5, 0.2])
    assert [p.move[2] for p in released.pairs] == [48, 6, 9, 0, 96]
    slant = float(np.degrees(np.arctan(0.18)))
    assert [p.move[2] for p in published.pairs] == pytest.approx([60, 6, slant, 0, 120])


@pytest.mark.parametrize("variant", ["published", "released"])
def test_a_policy_is_made_of_operations_that_a_view_can_name(variant):
    pairs = operations(variant, 800)
    assert [[type(op) for op in ops] for ops in pairs] == [[BoxColor, BoxMove]] * 4 + [[BoxMove]]
    for ops in pairs:
        assert parse_list(Pipeline(ops=ops).model_dump(mode="json")) == ops
        assert all(op.ramp and op.short == 800 for op in ops)


def test_what_has_no_strength_is_no_operation(monkeypatch):
    digits = [*DIGITS[:4], *[1, 5, 0, 4, 5, 0] * 5, *DIGITS[34:]]  # equalize, which has no level, and a shift by 0
    monkeypatch.setitem(scale_aware.SEARCHED, "zero", decode(digits))
    assert [[(op.op, op.level) for op in ops] for ops in operations("zero", None)] == [[("equalize", None)]] * 5


def test_round_trip_through_plain_values():
    ops = [RELEASED, only("published", "zoom_in"), {"policy": {**RELEASED["policy"], "short": 800}}]
    pipeline = Pipeline.model_validate(ops)
    plain = json.loads(json.dumps(pipeline.model_dump(mode="json")))
    assert plain == ops
    assert Pipeline.model_validate(plain) == pipeline


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("policy", "policy.name: Field required"),
        ({"policy": {"name": "scale_aware"}}, "policy.variant: Field required"),
        ({"policy": {"name": "autoaugment", "variant": "released"}}, "'scale_aware'"),
        ({"policy": {"name": "scale_aware", "variant": "paper"}}, "'published' or 'released'"),
        (only("published", "jitter"), "'published' has no part 'jitter'; choose from zoom_in, zoom_out, boxes"),
        (only("released"), "at least 1 item"),
        ({"policy": {**only("released", "jitter")["policy"], "short": 800}}, "'boxes' is no part here; remove it"),
    ],
)
def test_mistakes_are_named(spec, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_list([spec])


# ---- how often -------------------------------------------------------------------------------------------------------


def drawn(spec, n=600, size=(64, 48)):
    """Count (zoomed in, zoomed out) over draws, by what becomes of the matrix."""
    (op,) = parse_list([spec])
    found = Counter()
    for seed in range(n):
        transform = op.draw(np.random.default_rng(seed), size)
        scale = transform.matrix[0, 0]
        found["in" if scale > 1 else "out" if scale < 1 else "as it was"] += 1
    return {key: count / n for key, count in found.items()}


def test_zooms_exclude_each_other_and_come_as_often_as_they_should():
    shares = drawn(only("released", "zoom_in", "zoom_out"))
    assert shares == pytest.approx({"in": 0.25, "out": 0.4125, "as it was": 0.3375}, abs=0.06)
    assert drawn(PUBLISHED) == pytest.approx({"in": 0.2, "out": 0.4, "as it was": 0.4}, abs=0.06)
    assert drawn(only("released", "zoom_in")) == pytest.approx({"in": 0.25, "as it was": 0.75}, abs=0.06)
    assert set(drawn(only("released", "boxes"), 50)) == {"as it was"}


def test_jitter_is_always_there_where_it_is_a_part():
    (op,) = parse_list([only("released", "jitter")])
    sizes = Counter(op.draw(np.random.default_rng(seed), (64, 48)).size for seed in range(400))
    assert set(sizes) == {(48, 36), (56, 42), (64, 48), (72, 54), (80, 60)}
    assert min(sizes.values()) > 50


def test_it_does_what_it_says_to_labelled_pictures():
    boxes = torch.tensor([[8.0, 8, 24, 26], [40, 10, 58, 40]])

    def read(i):
        return picture(70, 50, i), Targets(boxes, torch.tensor([i, i]))

    views = {"v": Pipeline.model_validate([RELEASED])}
    counts = Counter()
    for position in range(60):
        targets = Targets(boxes, torch.tensor([20, 21]))
        sample = make_views(picture(90, 60), targets, views, 0, "labeled", 0, position, setting=Setting(1.0, 9, read))
        labels = sample["v"].targets.labels.tolist()
        counts[len({label for label in labels if label < 20})] += 1
        assert len(labels) == len(sample["v"].targets.boxes)
        width, height = sample["v"].image.size
        x1, y1, x2, y2 = sample["v"].targets.boxes.unbind(1)
        assert ((x1 >= 0) & (x1 < x2) & (x2 <= width) & (y1 >= 0) & (y1 < y2) & (y2 <= height)).all()
    assert set(counts) <= {0, 1, 2, 3}
    assert counts[3] > 10  # the images of a zoom out, of which some boxes are cut off


side = st.floats(0, 90, width=32)
CERTAIN = {"chance": [1, 1, 1]}
ANY = [
    {"zoom_in": {"ratio": [1, 2]}},
    {"zoom_out": {"ratio": [0.5, 0.99]}},
    "scale_jitter",
    {"box_color": {"op": "equalize", **CERTAIN}},
    {"box_color": {"op": "sharpness", "level": 9, "short": 300, **CERTAIN}},
    {"box_move": {"op": "translate_x", "pixels": 12, **CERTAIN}},
    {"box_move": {"op": "translate_y", "pixels": 30.5, "short": 100, **CERTAIN}},
    {"box_move": {"op": "rotate", "degrees": 30, **CERTAIN}},
    {"box_move": {"op": "shear_x", "degrees": 30, **CERTAIN}},
    {"flip": {"p": 1}},
    "rotate",
    {"crop": {"share": [0.1, 1]}},
    {"resize": {"ratio": [0.1, 2]}},
]


@settings(max_examples=examples(20), deadline=None)
@given(
    ops=st.lists(st.sampled_from(ANY), max_size=5),
    size=st.tuples(st.integers(4, 90), st.integers(4, 90)),
    corners=st.lists(st.tuples(side, side, side, side), max_size=6),
)
def test_any_chain_keeps_boxes_inside_and_rows_together(ops, size, corners):
    """A weight says which box a row was; those of other images have weight 5."""
    xs, ys = ([sorted((min(c[i], size[i]), min(c[i + 2], size[i]))) for c in corners] for i in (0, 1))
    boxes = torch.tensor([(x[0], y[0], x[1], y[1]) for x, y in zip(xs, ys)]).reshape(-1, 4)
    own = Targets(boxes, torch.arange(len(boxes)), weight=torch.arange(len(boxes)) / 10)
    theirs = Targets(torch.tensor([[4.0, 4, 30, 30]]), torch.tensor([99]), weight=torch.tensor([5.0]))
    setting = Setting(1.0, 4, lambda i: (picture(40, 30 + i), theirs))
    views = {"v": Pipeline.model_validate(ops)}
    sample = make_views(picture(*size), own, views, 0, "labeled", 0, 0, setting=setting)["v"]
    after, (width, height) = sample.targets, sample.image.size
    assert len(after.boxes) == len(after.labels) == len(after.weight)
    assert torch.equal(after.weight, torch.where(after.labels == 99, 5.0, after.labels / 10))
    x1, y1, x2, y2 = after.boxes.unbind(1)
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= width)).all()
    assert ((y1 >= 0) & (y1 < y2) & (y2 <= height)).all()
    assert after.boxes.dtype == after.weight.dtype == torch.float32


# ---- where it may stand ----------------------------------------------------------------------------------------------

HERE = "which an unlabelled image does not have when its views are made"


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (
            RELEASED,
            f"view 'strong': 'policy' asks for boxes and other labelled images, {HERE}; write parts: [zoom_in, jitter]",
        ),
        (PUBLISHED, f"'policy' asks for boxes and other labelled images, {HERE}; write parts: [zoom_in], or remove it"),
        (only("released", "boxes", "zoom_in"), f"'policy' asks for boxes, {HERE}; write parts: [zoom_in, jitter]"),
        ({"zoom_out": {"ratio": 0.5}}, "'zoom_out' asks for boxes and other labelled images"),
        (
            {"box_color": {"op": "equalize"}},
            f"'box_color' asks for boxes, {HERE}; remove it, or put it in a view of lab",
        ),
        ({"box_move": {"op": "flip"}}, "'box_move' asks for boxes"),
        (
            {"one_of": ["flip", ["blur", {"maybe": {"p": 0.1, "ops": [{"box_move": {"op": "flip"}}]}}]]},
            "'box_move' asks",
        ),
        ({"shuffle": [{"zoom_out": {"ratio": 0.5}}]}, "'zoom_out' asks"),
    ],
)
@pytest.mark.parametrize("hidden", [False, True])
def test_it_is_refused_where_nobody_knows_the_boxes(op, words, hidden):
    views = {"strong": {"ops": [op], "hidden": hidden}, "weak": {"start": "strong", "ops": []}}
    with pytest.raises(ValidationError) as caught:
        ViewsConfig.model_validate({"labeled": {"weak": []}, "unlabeled": views, "val": []})
    assert words in caught.value.errors()[0]["msg"]
    assert caught.value.errors()[0]["loc"] == ("unlabeled",)
    with pytest.raises(ValidationError, match="the view of evaluation"):
        ViewsConfig.model_validate({"labeled": {"weak": []}, "val": [op]})
    assert ViewsConfig.model_validate({"labeled": {"weak": [op]}, "val": []})


def test_what_is_sound_without_labels_is_offered_there():
    views = ViewsConfig.model_validate(
        {
            "labeled": {"weak": [RELEASED]},
            "unlabeled": {
                "weak": ["flip"],
                "strong": {"start": "weak", "ops": [only("released", "zoom_in", "jitter")]},
            },
            "val": [],
        }
    ).unlabeled
    assert asks(views["strong"].ops) == []
    assert misaligned(views, "weak", "strong")
    assert by_chance(views, "strong")
    for position in range(20):
        seen = make_views(picture(80, 60), None, views, 0, "unlabeled", 0, position)
        transfer = seen["strong"].matrix @ np.linalg.inv(seen["weak"].matrix)
        assert transfer[0, 1] == transfer[1, 0] == 0
        assert seen["strong"].targets is None


# ---- in a loader -----------------------------------------------------------------------------------------------------

VIEWS = {
    "labeled": {"weak": ["flip", RELEASED], "plain": ["flip"]},
    "unlabeled": {"weak": [], "strong": {"start": "weak", "ops": [only("released", "zoom_in", "jitter")]}},
    "val": [],
}


def batches(tmp_path, views=VIEWS, n=7, **changes):
    labeled, unlabeled = make_labeled(tmp_path / "l", n), make_images(tmp_path / "u", 5, name="un")
    return loaded(labeled, unlabeled, ViewsConfig.model_validate(views), **changes)


def test_a_step_is_the_same_wherever_a_run_starts_and_whoever_reads(tmp_path):
    whole = list(batches(tmp_path, steps=6))
    same_batches(whole[4:], batches(tmp_path, steps=6, start=4))
    same_batches(whole[:4], list(batches(tmp_path, steps=6, workers=2))[:4])


def test_parts_of_a_step_are_the_whole(tmp_path):
    whole = list(batches(tmp_path, steps=4))
    parts = list(batches(tmp_path, steps=4, accumulate=2))
    for step, batch in enumerate(whole):
        keys = torch.cat([part.labeled.keys for part in parts[2 * step : 2 * step + 2]])
        assert torch.equal(batch.labeled.keys, keys)
        targets = [t for part in parts[2 * step : 2 * step + 2] for t in part.labeled.targets]
        for a, b in zip(batch.labeled.targets, targets, strict=True):
            assert torch.equal(a.boxes, b.boxes)
            assert torch.equal(a.labels, b.labels)


def test_progress_is_that_of_the_step(tmp_path, monkeypatch):
    seen = []
    real = scale_aware.Policy.draw

    def spy(self, rng, size):
        transform = real(self, rng, size)
        return replace(transform, boxed=lambda state: (seen.append(state.setting), transform.follow(state))[1])

    monkeypatch.setattr(scale_aware.Policy, "draw", spy)
    list(batches(tmp_path, steps=10, start=6))
    assert [setting.progress for setting in seen] == [step / 10 for step in range(6, 10) for _ in range(4)]
    assert {setting.count for setting in seen} == {7}
    image, targets = seen[0].read(3)
    assert isinstance(image, Image.Image)
    assert isinstance(targets, Targets)


def test_too_few_labelled_images_are_refused_before_the_first(tmp_path):
    with pytest.raises(SsodError, match="'policy' puts 4 labelled images together, and there are 3") as caught:
        batches(tmp_path, n=3)
    assert caught.value.field == "views.labeled.weak"
    views = {**VIEWS, "labeled": {"weak": [only("released", "zoom_in", "jitter", "boxes")]}}
    assert len(list(batches(tmp_path / "other", views, n=3, steps=2))) == 2
    assert len(list(batches(tmp_path / "four", n=4, steps=2))) == 2
