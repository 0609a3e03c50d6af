"""Colours and moves of single objects: the released code's numbers, and what may not happen."""

import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ssod.structures import Targets
from ssod.transforms import box_color
from ssod.transforms.area_map import area_map, area_ratio, areas, chance_of
from ssod.transforms.augmentations import parse_list
from ssod.transforms.box_color import PLAIN, WITH_LEVEL, BoxColor
from ssod.transforms.box_move import BoxMove
from ssod.transforms.scale_aware import RATIOS, released_amount, shared_out
from ssod.transforms.transform import Seen, Setting
from ssod.transforms.views import Pipeline, make_views
from tests.transforms.common import picture
from tests.transforms.scale_aware_cases import CASES, rows_first, targets_of

NAMES = {"SolarizeAdd": "solarize_add", "AutoContrast": "autocontrast"}  # others in lower case
MOVE = {"hflip": "flip", "translateX": "translate_x", "translateY": "translate_y"}
CLOSE = {"rtol": 1e-6, "atol": 1e-8}


def ratios_of(case):
    return None if case["area_index"] is None else [RATIOS[i] for i in case["area_index"]]


# ---- the released code's numbers -------------------------------------------------------------------------------------


def test_golden_chances():
    for case, values in CASES.of("box_probability"):
        got = chance_of(areas(values["boxes"]), shared_out(case["ratios"]))
        np.testing.assert_allclose(got, values["probability"], **CLOSE)


def test_golden_maps():
    for case, values in CASES.of("gaussian"):
        (height, width), boxes = values["image_hw"].tolist(), values["boxes"].reshape(-1, 4)
        ratio = np.ones(len(boxes)) if ratios_of(case) is None else area_ratio(areas(boxes), ratios_of(case))
        alpha = area_map(boxes, ratio, (width, height))
        assert alpha.shape == (height, width)
        row, column = values["pixel_row_col"].T
        np.testing.assert_allclose(alpha[row, column], values["alpha_sum"], **CLOSE)
        assert alpha.sum() == pytest.approx(values["total"])
        for i, own in enumerate(values.get("alpha", ())):
            np.testing.assert_allclose(area_map(boxes[[i]], ratio[[i]], (width, height))[row, column], own, **CLOSE)


def test_golden_colors():
    seen = set()
    for _, values in CASES.of("colour"):
        pixels = rows_first(values.pop("image"))
        for key, expected in values.items():
            name, level = key.split(".")
            name = NAMES.get(name, name.lower())
            got = PLAIN[name](pixels) if name in PLAIN else WITH_LEVEL[name](pixels, int(level[1:]))
            np.testing.assert_allclose(got, rows_first(expected), err_msg=key, **CLOSE)
            seen.add(name)
    assert seen == {*PLAIN, *WITH_LEVEL}


def test_golden_colors_of_objects():
    for case, values in CASES.of("colour_on_boxes"):
        op = BoxColor(op=NAMES.get(case["op"], case["op"].lower()), level=case["level"], area=tuple(ratios_of(case)))
        got = op.colored(rows_first(values["image"]), values["boxes"].reshape(-1, 4))
        np.testing.assert_allclose(got, rows_first(values["image_out"]), **CLOSE)


def test_golden_moves():
    """Boxes of copies are clipped here; the released code lays one at the border that was never pasted (``x04``)."""
    for case, values in CASES.of("geometric_on_boxes"):
        name, pixels = MOVE[case["op"]], rows_first(values["image"])
        amount = {} if name == "flip" else {"pixels": released_amount(name, case["level"])}
        sign = -1 if case["negative"] else 1
        targets = targets_of(values["boxes"], values["labels"])
        got, after = BoxMove(op=name, **amount).moved(pixels, targets, sign * values["selected"].astype(int))
        np.testing.assert_allclose(got, rows_first(values["image_out"]), **CLOSE)
        boxes, labels = values["boxes_out"].clip(min=0), values["labels_out"]
        if case["name"] == "translate_to_border":
            assert np.array_equal(got, pixels)
            boxes, labels = boxes[:1], labels[:1]
        np.testing.assert_allclose(after.boxes, boxes, **CLOSE)
        assert after.labels.tolist() == labels.tolist()


def test_golden_amounts():
    for _, values in CASES.of("magnitude"):
        for level in values["level"].tolist():
            assert released_amount("rotate", level) == pytest.approx(values["rotate"][level, 0])
            assert released_amount("shear_x", level) == pytest.approx(values["shear_x"][level, 1])
            assert released_amount("shear_y", level) == pytest.approx(values["shear_y"][level, 2])
            assert released_amount("translate_x", level) == pytest.approx(values["translate"][level])
            assert box_color.enhance_factor(level) == pytest.approx(values["enhance_factor"][level])
            assert box_color.SOLARIZE_ADD * level == pytest.approx(values["solarize_add"][level])


# ---- formulas by hand ------------------------------------------------------------------------------------------------


def test_the_mass_of_a_map_is_a_number_of_pixels_within_a_class():
    boxes = np.array([[0.0, 0, 20, 20], [0, 0, 40, 50], [0, 0, 60, 60], [0, 0, 100, 150], [0, 0, 300, 400]])
    ratio = area_ratio(areas(boxes), (6.0, 2.0, 0.4))
    assert ratio * areas(boxes) == pytest.approx([12288, 12288, 12288, 20480, 0.4 * 120000])
    wide = np.array([[980.0, 990, 1020, 1010]])
    assert area_map(wide, np.array([3.0]), (2000, 2000)).sum() == pytest.approx(3 * 800, rel=1e-6)


def test_equalize_is_that_of_pillow_on_eight_bits():
    image = picture(61, 47)
    got = box_color.to_bytes(box_color.equalize(box_color.to_float(np.asarray(image))))
    assert np.array_equal(got, np.asarray(ImageOps.equalize(image)))
    assert not np.array_equal(got, np.asarray(image))


def test_flat_channels_stay():
    pixels = np.zeros((3, 4, 3), np.float32) + np.float32(0.25)
    for name, op in PLAIN.items():
        assert np.array_equal(op(pixels), pixels), name


def test_one_row_of_pixels_can_be_sharpened():
    pixels = np.linspace(0, 1, 15, dtype=np.float32).reshape(1, 5, 3)
    assert box_color.sharpness(pixels, 9).shape == pixels.shape
    assert box_color.sharpness(pixels, 5) == pytest.approx(pixels)


def test_level_five_is_the_picture_itself():
    pixels = box_color.to_float(np.asarray(picture(9, 7)))
    for name in ("color", "contrast", "brightness", "sharpness"):
        assert WITH_LEVEL[name](pixels, 5) == pytest.approx(pixels, abs=1e-6)


# ---- in a view -------------------------------------------------------------------------------------------------------

CERTAIN = {"chance": [1, 1, 1]}
BRIGHT = {"box_color": {"op": "brightness", "level": 0, **CERTAIN}}


def view_of(ops, image, targets, position=0, progress=1.0):
    views = {"v": Pipeline.model_validate(ops)}
    return make_views(image, targets, views, 0, "labeled", 0, position, setting=Setting(progress))["v"]


def two_boxes(weight=None):
    given = None if weight is None else torch.tensor(weight)
    return Targets(torch.tensor([[8.0, 8, 24, 26], [40, 10, 58, 40]]), torch.tensor([4, 7]), weight=given)


def test_colors_reach_the_object_and_not_the_far_corner():
    image = Image.new("RGB", (400, 300), (200, 200, 200))
    sample = view_of([BRIGHT], image, two_boxes())
    pixels = np.asarray(sample.image)[..., 0]
    assert pixels[17, 16] < 100
    assert pixels[299, 399] == 200
    assert np.array_equal(sample.matrix, np.eye(3))
    assert torch.equal(sample.targets.boxes, two_boxes().boxes)


def test_short_scales_what_pixels_mean():
    """The same picture at half its size: a map that is measured in its own pixels covers more of it."""
    targets = Targets(torch.tensor([[40.0, 40, 60, 60]]), torch.tensor([0]))
    large = Image.new("RGB", (400, 400), (200, 200, 200))
    small = Image.new("RGB", (200, 200), (200, 200, 200))
    half = Targets(targets.boxes / 2, targets.labels)
    scaled = {"box_color": {**BRIGHT["box_color"], "short": 400}}
    means = [
        np.asarray(view_of([op], image, t).image).mean()
        for op, image, t in ((BRIGHT, large, targets), (scaled, small, half), (BRIGHT, small, half))
    ]
    assert means[0] == pytest.approx(means[1], rel=1e-3)
    assert means[2] < means[1] - 4
    shift = {"box_move": {"op": "translate_x", "pixels": 40, "short": 400, **CERTAIN}}
    moved = view_of([shift], small, half).targets.boxes
    assert abs(moved[1, 0] - moved[0, 0]).item() == 20


def test_a_copy_has_pixels_where_its_box_is():
    image = Image.new("RGB", (120, 60), (50, 50, 50))
    image.paste((250, 250, 250), (40, 20, 60, 40))
    targets = Targets(torch.tensor([[40.0, 20, 60, 40]]), torch.tensor([3]), weight=torch.tensor([1.0]))
    places = set()
    for position in range(20):
        op = {"box_move": {"op": "translate_x", "pixels": 30, **CERTAIN}}
        sample = view_of([op], image, targets, position)
        assert sample.targets.labels.tolist() == [3, 3]
        assert sample.targets.weight.tolist() == [1, 1]
        x1, y1, x2, y2 = (int(v) for v in sample.targets.boxes[1])
        assert (x2 - x1, y2 - y1) == (20, 20)
        middle = (x1 + x2) // 2
        assert sample.image.image().getpixel((middle, 30))[0] > 240
        assert sample.image.image().getpixel((50, 30))[0] == 250  # the object stays
        places.add(x1)
    assert places == {10, 70}


def test_a_copy_without_room_is_left_out():
    image, targets = picture(60, 40), Targets(torch.tensor([[35.0, 5, 55, 25]]), torch.tensor([3]))
    op = {"box_move": {"op": "translate_x", "pixels": 16, **CERTAIN}}
    found = {tuple(map(tuple, view_of([op], image, targets, i).targets.boxes.tolist())) for i in range(20)}
    assert found == {((35, 5, 55, 25),), ((35, 5, 55, 25), (19, 5, 39, 25))}  # to the right, 9 of 20 pixels are left


@pytest.mark.parametrize("spec", [{"op": "flip"}, {"op": "rotate", "degrees": 20}, {"op": "shear_y", "degrees": 20}])
def test_what_stays_in_place_changes_its_crop_alone(spec):
    image, targets, changed = picture(90, 60), two_boxes(), 0
    for position in range(6):
        sample = view_of([{"box_move": {**spec, **CERTAIN}}], image, targets, position)
        assert torch.equal(sample.targets.boxes, targets.boxes)
        differs = (np.asarray(sample.image) != np.asarray(image)).any(-1)
        inside = np.zeros_like(differs)
        inside[8:26, 8:24] = inside[10:40, 40:58] = True
        assert not differs[~inside].any()
        changed += differs[inside].mean() > 0.3
    assert changed == 6


def test_turned_crops_turn_to_either_side():
    image, one = picture(90, 60), Targets(torch.tensor([[8.0, 8, 60, 50]]), torch.tensor([0]))
    op = {"box_move": {"op": "rotate", "degrees": 20, **CERTAIN}}
    assert len({view_of([op], image, one, position).image.tobytes() for position in range(12)}) == 2


@pytest.mark.parametrize("op", [BRIGHT, {"box_move": {"op": "translate_y", "pixels": 5, **CERTAIN}}])
def test_crowds_and_pictures_without_boxes_take_no_part(op):
    image = picture(90, 60)
    none = Targets.empty(torch.zeros(0))
    for targets in (none, two_boxes([0.0, 0.0])):
        sample = view_of([op], image, targets)
        assert sample.image.tobytes() == image.tobytes()
        assert len(sample.targets) == len(targets)
    sample = view_of([op], image, two_boxes([0.0, 1.0]))
    assert sample.image.tobytes() != image.tobytes()
    assert sample.targets.labels.tolist()[:2] == [4, 7]
    assert 4 not in sample.targets.labels.tolist()[2:]


def test_each_size_has_its_chance():
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 60, 60], [0, 0, 120, 120]])
    image, changed = Image.new("RGB", (130, 130), (200, 200, 200)), []
    for row in range(3):
        targets = Targets(boxes[row : row + 1], torch.tensor([0]))
        op = {"box_color": {**BRIGHT["box_color"], "chance": [0.9, 0.5, 0.1]}}
        same = [view_of([op], image, targets, p).image.tobytes() == image.tobytes() for p in range(150)]
        changed.append(1 - np.mean(same))
    assert changed == pytest.approx([0.9, 0.5, 0.1], abs=0.12)  # three standard errors of 150 draws


def test_the_ramp_is_a_straight_line():
    image = Image.new("RGB", (60, 60), (200, 200, 200))

    def share(progress, ramp):
        op = {"box_color": {**BRIGHT["box_color"], "p": 0.8, "ramp": ramp}}
        same = [view_of([op], image, two_boxes(), p, progress).image.tobytes() == image.tobytes() for p in range(150)]
        return 1 - np.mean(same)

    assert share(0, True) == 0
    assert share(0.5, True) == pytest.approx(0.4, abs=0.12)
    assert share(0.5, False) == pytest.approx(0.8, abs=0.1)
    changed = [share(t, True) for t in (0.2, 0.6, 1)]
    assert changed == sorted(changed)  # the same draws: what changes early changes late


def test_moves_after_a_flip_read_flipped_boxes():
    image = Image.new("RGB", (120, 60), (50, 50, 50))
    image.paste((250, 250, 250), (10, 20, 30, 40))
    targets = Targets(torch.tensor([[10.0, 20, 30, 40]]), torch.tensor([3]))
    ops = [{"flip": {"p": 1}}, {"box_move": {"op": "translate_y", "pixels": 18, **CERTAIN}}, {"resize": {"ratio": 2}}]
    sample = view_of(ops, image, targets)
    assert sample.targets.boxes[0].tolist() == [180, 40, 220, 80]
    x1, y1, x2, y2 = sample.targets.boxes[1].tolist()
    assert [x1, x2] == [180, 220]
    assert y1 in (4, 76)
    assert sample.image.image().getpixel((200, int(y1 + y2) // 2))[0] > 230
    expected = np.array([[-2.0, 0, 240], [0, 2, 0], [0, 0, 1]])
    assert np.array_equal(sample.matrix, expected)


def test_a_group_of_operations_carries_boxes():
    image, targets = picture(90, 60), two_boxes()
    ops = [
        {
            "maybe": {
                "p": 1,
                "ops": [{"one_of": [[BRIGHT, {"box_move": {"op": "translate_y", "pixels": 6, **CERTAIN}}]]}],
            }
        }
    ]
    sample = view_of(ops, image, targets)
    assert len(sample.targets) == 4
    assert torch.equal(sample.targets.boxes[:2], targets.boxes)
    assert image.tobytes() == picture(90, 60).tobytes()


def test_views_that_go_on_keep_the_boxes_of_their_start():
    views = {
        "a": Pipeline.model_validate([{"box_move": {"op": "translate_y", "pixels": 6, **CERTAIN}}]),
        "b": Pipeline.model_validate({"start": "a", "ops": [{"flip": {"p": 1}}]}),
    }
    seen = make_views(picture(90, 60), two_boxes(), views, 0, "labeled", 0, 0)
    a, b = seen["a"].targets.boxes, seen["b"].targets.boxes
    assert len(a) == len(b) == 4
    assert torch.equal(b[:, [1, 3]], a[:, [1, 3]])
    assert torch.equal(b[:, [2, 0]], 90 - a[:, [0, 2]])


def test_unlabelled_pictures_are_an_error():
    (op,) = parse_list([BRIGHT])
    transform = op.draw(np.random.default_rng(0), (90, 60))
    with pytest.raises(TypeError, match="needs boxes"):
        transform.follow(Seen(picture(90, 60), np.eye(3), None))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"box_color": {"op": "colour", "level": 2}}, "'color'"),
        ({"box_color": {"op": "color"}}, "'color' needs a level, 0 to 10"),
        ({"box_color": {"op": "equalize", "level": 2}}, "'equalize' has no level; remove it"),
        ({"box_color": {"op": "color", "level": 11}}, "less than or equal to 10"),
        ({"box_color": {"op": "color", "level": 2, "area": [1, 0, 1]}}, "areas are above 0"),
        ({"box_color": {"op": "color", "level": 2, "chance": [0.1, 1.1, 0]}}, "chances lie in [0, 1]"),
        ({"box_move": {"op": "rotate"}}, "'rotate' needs 'degrees'"),
        ({"box_move": {"op": "rotate", "pixels": 3}}, "'rotate' needs 'degrees'"),
        ({"box_move": {"op": "translate_x", "pixels": 3, "degrees": 3}}, "'translate_x' has no 'degrees'; remove it"),
        ({"box_move": {"op": "flip", "degrees": 3}}, "'flip' has no 'degrees'; remove it"),
        ({"box_move": {"op": "flip", "short": 0}}, "greater than 0"),
        ({"box_move": {"op": "flip", "ramps": True}}, "did you mean 'ramp'?"),
    ],
)
def test_mistakes_are_named(spec, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_list([spec])
