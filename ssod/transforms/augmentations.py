"""The operations a view can name, read from YAML and written back.

An item of a list is a name (``flip``), ``{name: {parameter: value}}``, ``{one_of: [a, b, [c, d]]}``,
``{shuffle: [a, b]}``, ``{maybe: {p: 0.2, ops: [a]}}``, or the name of a preset, which stands for a list of items.

A new operation is a section with a ``draw``, in ``geometry``, ``centered``, ``photometric``, ``erasing`` or a file of
its own, and one line in ``AUGMENTATIONS``. One that reads boxes, or other images, is named in ``asks``, too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator, ValidationError

from ssod.transforms import (
    box_color,
    box_move,
    centered,
    erasing,
    geometry,
    mosaic,
    one_op,
    patch_shuffle,
    photometric,
    scale_aware,
    yolo_colors,
    zoom,
)
from ssod.transforms.presets import PRESETS
from ssod.transforms.transform import Augmentation, Size, Transform, chain
from ssod.utils.schema import Section


def parse_list(value: object) -> tuple[Augmentation, ...]:
    """Read a list of operations, presets unfolded.

    Raises:
        ValueError: naming what is unknown and the nearest known name.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of operations, got {type(value).__name__}; write [resize, flip]")
    augmentations: list[Augmentation] = []
    for item in value:
        if isinstance(item, str) and item in PRESETS:
            augmentations.extend(parse_list(PRESETS[item]))
        else:
            augmentations.append(_parse(item))
    return tuple(augmentations)


def dump_list(augmentations: Sequence[Augmentation]) -> list[Any]:
    """Return the plain form of ``augmentations``; ``parse_list`` reads it back."""
    return [_dump(augmentation) for augmentation in augmentations]


Augmentations = Annotated[
    tuple[Any, ...],
    PlainValidator(parse_list, json_schema_input_type=list[str | dict[str, Any]]),
    PlainSerializer(dump_list, return_type=list[Any]),
]


def _group(value: object) -> tuple[Augmentation, ...]:
    return parse_list(value if isinstance(value, list | tuple) else [value])


def _groups(value: object) -> tuple[tuple[Augmentation, ...], ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("expected a list of operations or of lists of them")
    return tuple(_group(item) for item in value)


def _dump_groups(groups: Sequence[Sequence[Augmentation]]) -> list[Any]:
    lists = [dump_list(group) for group in groups]
    return [items[0] if len(items) == 1 else items for items in lists]


Groups = Annotated[
    tuple[tuple[Any, ...], ...],
    PlainValidator(_groups, json_schema_input_type=list[Any]),
    PlainSerializer(_dump_groups, return_type=list[Any]),
]


class OneOf(Section):
    """Exactly one of the groups, each as likely as the others."""

    groups: Groups
    "Operations or lists of operations."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return chain(self.groups[int(rng.integers(len(self.groups)))], rng, size)


class Shuffle(Section):
    """All the groups, in random order; the order inside a group stays."""

    groups: Groups
    "Operations or lists of operations."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return chain(
            [augmentation for i in rng.permutation(len(self.groups)) for augmentation in self.groups[i]], rng, size
        )


class Maybe(Section):
    """All the operations, or none."""

    ops: Augmentations
    "A list of operations."
    p: float = Field(0.5, ge=0, le=1)
    "Probability."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return chain(self.ops if rng.random() < self.p else (), rng, size)


AUGMENTATIONS: dict[str, type[Section]] = {
    "resize": geometry.Resize,
    "stretch": geometry.Stretch,
    "flip": geometry.Flip,
    "flip_vertical": geometry.FlipVertical,
    "crop": geometry.Crop,
    "translate_x": geometry.TranslateX,
    "translate_y": geometry.TranslateY,
    "rotate": geometry.Rotate,
    "shear_x": geometry.ShearX,
    "shear_y": geometry.ShearY,
    "center_rotate": centered.CenterRotate,
    "center_shear": centered.CenterShear,
    "geometry_op": one_op.GeometryOp,
    "mosaic": mosaic.Mosaic,
    "affine": mosaic.Affine,
    "patch_shuffle": patch_shuffle.PatchShuffle,
    "color_op": photometric.ColorOp,
    "color_op_uniform": one_op.ColorOpUniform,
    "color_jitter": photometric.ColorJitter,
    "grayscale": photometric.Grayscale,
    "blur": photometric.Blur,
    "smooth": photometric.Smooth,
    "brightness_contrast": photometric.BrightnessContrast,
    "rgb_shift": photometric.RgbShift,
    "hsv_shift": photometric.HsvShift,
    "hsv_gain": yolo_colors.HsvGain,
    "channel_shuffle": photometric.ChannelShuffle,
    "jpeg": photometric.Jpeg,
    "noise": photometric.Noise,
    "cutout": erasing.Cutout,
    "cutout_squares": erasing.CutoutSquares,
    "cutout_scales": yolo_colors.CutoutScales,
    "holes": erasing.Holes,
    "erase": erasing.Erase,
    "zoom_in": zoom.ZoomIn,
    "zoom_out": zoom.ZoomOut,
    "scale_jitter": zoom.ScaleJitter,
    "box_color": box_color.BoxColor,
    "box_move": box_move.BoxMove,
    "policy": scale_aware.Policy,
    "one_of": OneOf,
    "shuffle": Shuffle,
    "maybe": Maybe,
}
_NAMES = {kind: name for name, kind in AUGMENTATIONS.items()}


def leaves(augmentations: Sequence[Augmentation]) -> Iterator[Augmentation]:
    """Yield the operations of a list, groups unfolded."""
    for augmentation in augmentations:
        if isinstance(augmentation, OneOf | Shuffle):
            for group in augmentation.groups:
                yield from leaves(group)
        elif isinstance(augmentation, Maybe):
            yield from leaves(augmentation.ops)
        else:
            yield augmentation


@dataclass(frozen=True)
class Asks:
    """What an operation asks for besides the picture.

    Attributes:
        name: of the operation.
        others: whether it takes parts of other images of the picture's kind.
        boxes: whether it asks for boxes, its own and those of these images.
        instead: what to write where nobody can answer; empty = nothing but to remove it.
    """

    name: str
    others: bool
    boxes: bool = True
    instead: str = ""


def asks(augmentations: Sequence[Augmentation]) -> list[Asks]:
    """Return the operations that a picture alone does not suffice for."""
    found = []
    for op in leaves(augmentations):
        if isinstance(op, scale_aware.Policy) and {"zoom_out", "boxes"} & set(op.does):
            rest = [part for part in scale_aware.SEARCHED[op.variant].parts if part in ("zoom_in", "jitter")]
            found.append(Asks("policy", "zoom_out" in op.does, instead=f"parts: [{', '.join(rest)}]"))
        elif isinstance(op, mosaic.Mosaic):
            found.append(Asks("mosaic", others=True, boxes=False))
        elif isinstance(op, zoom.ZoomOut | box_color.BoxColor | box_move.BoxMove):
            found.append(Asks(_NAMES[type(op)], isinstance(op, zoom.ZoomOut)))
    return found


def _parse(item: object) -> Augmentation:
    if isinstance(item, tuple(_NAMES)):
        return item
    if isinstance(item, str):
        name, params = item, None
    elif isinstance(item, Mapping) and len(item) == 1:
        ((name, params),) = item.items()
    else:
        raise ValueError(f"{item!r} is no operation; write a name, or {{name: {{parameter: value}}}}")
    if name in PRESETS:
        raise ValueError(f"'{name}' is a preset and takes no parameters; write its operations out to change them")
    if name not in AUGMENTATIONS:
        raise ValueError(f"unknown operation '{name}'; {nearest(str(name), [*AUGMENTATIONS, *PRESETS])}")
    kind = AUGMENTATIONS[name]
    if kind in (OneOf, Shuffle):
        params = {"groups": params}
    elif not isinstance(params, Mapping | None):
        raise ValueError(f"{name}: {params!r} is not a mapping; known parameters: {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(params or {})
    except ValidationError as error:
        raise ValueError(_explain(name, kind, error)) from None


def _explain(name: str, kind: type[Section], error: ValidationError) -> str:
    """Turn pydantic's first finding about one operation into a phrase."""
    first = error.errors()[0]
    path = ".".join([name, *(str(part) for part in first["loc"] if part != "groups")])
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown parameter; {nearest(str(first['loc'][0]), list(kind.model_fields))}"
    return f"{path}: {first['msg'].removeprefix('Value error, ')}"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the part of a message that suggests a name."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def _dump(augmentation: Augmentation) -> Any:
    name = _NAMES[type(augmentation)]
    params = augmentation.model_dump(mode="json", exclude_unset=True)
    if isinstance(augmentation, OneOf | Shuffle):
        return {name: params["groups"]}
    return {name: params} if params else name
