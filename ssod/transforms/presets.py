"""Lists of operations that papers share, by name; a config writes the name where it would write the list.

Resizing depends on the data set and is never part of a strong preset: write ``[{resize: ...}, flip, <preset>]``, or
``{start: weak, ops: [<preset>]}`` for a strong view that is pixel-aligned with the weak one.
"""

from typing import Any

_ONE_GEOMETRY = {"one_of": ["translate_x", "translate_y", "rotate", ["shear_x", "shear_y"]]}
_ONE_MOVE = {"one_of": ["translate_x", "translate_y", "center_rotate", "center_shear"]}

PRESETS: dict[str, list[Any]] = {
    # Soft Teacher (arXiv:2106.09018), Consistent-Teacher, PseCo on COCO, from their released configs: short side
    # 400..1200, long side at most 1333, flip 0.5.
    "weak": [{"resize": {"short": [400, 1200], "long": 1333}}, "flip"],
    # The same code's labelled images: one of nine colour operations on top of the weak view.
    "soft_teacher_labeled": ["color_op"],
    # The same code's student view: colour and one geometric operation in random order, then 1 to 4 patches. The
    # ranges are the operations' defaults: 10 % moves, 30 degrees, patches up to 20 %, filled with 125.
    "soft_teacher_strong": [{"shuffle": ["color_op", _ONE_GEOMETRY]}, "cutout"],
    # Unbiased Teacher (arXiv:2102.09480, Appendix), Dense Teacher, LabelMatch: colours, blur and three erased
    # rectangles. No geometry, so that with `start: weak` both views share their pixels' places.
    "unbiased_strong": [
        "color_jitter",
        "grayscale",
        "blur",
        {"erase": {"p": 0.7, "area": [0.05, 0.2], "ratio": [0.3, 3.3]}},
        {"erase": {"p": 0.5, "area": [0.02, 0.2], "ratio": [0.1, 6.0]}},
        {"erase": {"p": 0.3, "area": [0.02, 0.2], "ratio": [0.05, 8.0]}},
    ],
    # The same without erasing: LabelMatch's labelled images.
    "unbiased_color": ["color_jitter", "grayscale", "blur"],
    # STAC (arXiv:2005.04757), from its released code. A coin decides whether the whole picture is moved; where it is
    # not, the pixels of a single box are, but by the method, as boxes are needed (`method.box_affine` of `stac`). No
    # flip precedes it.
    "stac_strong": [
        {"shuffle": ["color_op", {"maybe": {"p": 0.5, "ops": [_ONE_MOVE]}}]},
        "cutout_squares",
    ],
    # DSL (arXiv:2207.05536), from its released code, after the patch shuffle and the flip: half of the images are moved
    # as a whole. There the pixels of a single box are moved in the others, for which boxes are needed.
    "dsl_strong": [{"maybe": {"p": 0.5, "ops": [_ONE_MOVE]}}, "unbiased_strong"],
    # MixPL (arXiv:2312.07006), from its released code: one colour and one geometric operation in random order. Patches
    # are erased by the method, on the device, as boxes that they hide are dropped (`method.erase` of `mix_pl`).
    "mix_pl_strong": [{"shuffle": ["color_op_uniform", "geometry_op"]}],
    # Instant-Teaching (arXiv:2103.11402), from its released config; photometric only.
    "instant_strong": [
        {"maybe": {"p": 0.5, "ops": ["holes"]}},
        {"maybe": {"p": 0.2, "ops": ["brightness_contrast"]}},
        {"maybe": {"p": 0.2, "ops": [{"one_of": ["rgb_shift", "hsv_shift"]}]}},
        {"maybe": {"p": 0.2, "ops": ["jpeg"]}},
        {"maybe": {"p": 0.2, "ops": ["channel_shuffle"]}},
        {"maybe": {"p": 0.2, "ops": [{"one_of": ["smooth", {"smooth": {"kind": "median"}}]}]}},
    ],
    # Humble Teacher (arXiv:2106.10456) names colour, sharpness, contrast, noise and cutout and publishes no strength:
    # the strengths are those of Soft Teacher's operations, the noise is at most 5 % of the grey range.
    "humble_strong": [
        {"color_op": {"ops": ["color"]}},
        {"color_op": {"ops": ["sharpness"]}},
        {"color_op": {"ops": ["contrast"]}},
        "noise",
        "cutout",
    ],
}
