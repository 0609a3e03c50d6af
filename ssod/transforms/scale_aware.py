"""Scale-aware AutoAugment: two searched policies by name, made of operations that a view can name one by one, too.

Paper: arXiv:2103.17220 (code: maskrcnn-benchmark variant, 35b4a1a; licence non-commercial, only its numbers are here).
Applied to a picture that was resized and flipped, in this order:

1. zoom in, or zoom out, or neither (``zoom``);
2. scale jitter (``zoom``);
3. one of five pairs, each as likely: a colour operation on some objects (``box_color``), then a geometric one
   (``box_move``). Each has a probability, which is multiplied by t = step / steps of the run, 0 at the first step. The
   released code counts the calls of a loader's worker for t, so that a restart begins at 0; here a step knows it.

``released`` is the list of 40 digits in the code, ``published`` the table of the searched policy. They differ:

* zooms: in 0.25, out 0.4125 (the code draws again where it did not zoom in, and compares with the sum of both), or in
  0.2, out 0.4 as printed. Ratios are 1.2 and 0.5 in both;
* pair 4 mirrors with 0.5, or with 0.3; pair 5 has no colour operation in effect in both;
* strength of a level: slants of 1.5 degrees and shifts of 12 pixels, or tangents of 0.03 and 15 pixels as printed.
  Turns of 3 degrees and colours are the same;
* which objects take part: 0.3, divided among small, middle and large ones by digits: equally for geometric operations;
  for colours the code takes the digits of the area ratios, 7, 5 and 1. Nothing is printed: 0.1 for all is ours;
* scale jitter, which ``published`` has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, degrees
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ssod.transforms.area_map import Three
from ssod.transforms.box_color import PLAIN, BoxColor, ColorName
from ssod.transforms.box_move import KEY, BoxMove, MoveName
from ssod.transforms.transform import Augmentation, Size, Transform, chain
from ssod.transforms.zoom import ScaleJitter, ZoomIn, ZoomOut
from ssod.utils.schema import Section

COLORS: tuple[ColorName, ...] = (  # by digit
    "autocontrast",
    "equalize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
)
MOVES: tuple[MoveName, ...] = ("flip", "rotate", "shear_x", "shear_y", "translate_x", "translate_y")  # by digit
RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0)  # of areas, by digit
TAKES_PART = 0.3  # sum of the chances of a small, a middle and a large box
Part = Literal["zoom_in", "zoom_out", "jitter", "boxes"]


@dataclass(frozen=True)
class Pair:
    """A colour operation and a geometric one.

    Attributes:
        color: name, probability and level; None = there is none.
        move: name, probability, and degrees or pixels (0 where it has neither).
    """

    color: tuple[ColorName, float, float] | None
    move: tuple[MoveName, float, float]


@dataclass(frozen=True)
class Searched:
    """A policy in numbers.

    Attributes:
        zoom_in, zoom_out: chance of a picture, and ratio; no picture has both.
        jitter: whether there is scale jitter.
        pairs: of which a picture gets one.
        area: how far colours reach, for small, middle and large objects (``box_color.BoxColor.area``).
        color_chance, move_chance: chances of such objects to take part.
    """

    zoom_in: tuple[float, float]
    zoom_out: tuple[float, float]
    jitter: bool
    pairs: tuple[Pair, ...]
    area: Three
    color_chance: Three = (TAKES_PART / 3, TAKES_PART / 3, TAKES_PART / 3)
    move_chance: Three = (TAKES_PART / 3, TAKES_PART / 3, TAKES_PART / 3)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return what it has."""
        return ("zoom_in", "zoom_out", "jitter", "boxes") if self.jitter else ("zoom_in", "zoom_out", "boxes")


def released_amount(move: MoveName, level: float) -> float:
    """Return the degrees or pixels of a level in the released code; 0 for a flip."""
    return {"rotate": 3.0, "shear_x": 1.5, "shear_y": 1.5, "translate_x": 12.0, "translate_y": 12.0}.get(
        move, 0
    ) * level


def printed_amount(move: MoveName, level: float) -> float:
    """Return the same as printed: a shear of level 10 has the tangent 0.3, a translation 150 pixels."""
    printed = {"rotate": 3.0 * level, "translate_x": 15.0 * level, "translate_y": 15.0 * level}
    return printed.get(move, degrees(atan(0.03 * level)) if move in ("shear_x", "shear_y") else 0.0)


def shared_out(weights: Sequence[int]) -> Three:
    """Divide the chance to take part among small, middle and large boxes."""
    small, middle, large = (TAKES_PART * weight / max(1, sum(weights)) for weight in weights)
    return small, middle, large


def decode(digits: Sequence[int]) -> Searched:
    """Read the 40 digits of a policy as the released code does.

    Args:
        digits: in 0..9: zoom out, zoom in (probability, level); five times colour operation, probability, level,
            geometric operation, probability, level; three area ratios; three weights of geometric operations.
    """
    odds_out, level_out, odds_in, level_in = digits[:4]
    pairs = []
    for i in range(4, 34, 6):
        color, color_odds, color_level, move, move_odds, move_level = digits[i : i + 6]
        name, kind = COLORS[color % len(COLORS)], MOVES[move % len(MOVES)]
        amount = released_amount(kind, move_level)
        pairs.append(Pair((name, 0.1 * color_odds, color_level), (kind, 0.1 * move_odds, amount)))
    small, middle, large = (RATIOS[digit] for digit in digits[34:37])
    zoom_in = 0.05 * odds_in
    return Searched(
        zoom_in=(zoom_in, 1 + 0.05 * (level_in + 1)),
        zoom_out=((1 - zoom_in) * (zoom_in + 0.05 * odds_out), 1 - 0.05 * (level_out + 1)),
        jitter=True,
        pairs=tuple(pairs),
        area=(small, middle, large),
        color_chance=shared_out(digits[34:37]),
        move_chance=shared_out(digits[37:]),
    )


DIGITS = [int(digit) for digit in "6953 342444 524142 642226 222051 308528 751 333".replace(" ", "")]
SEARCHED: dict[str, Searched] = {
    "released": decode(DIGITS),
    "published": Searched(
        zoom_in=(0.2, 1.2),
        zoom_out=(0.4, 0.5),
        jitter=False,
        pairs=(
            Pair(("color", 0.4, 2), ("translate_x", 0.4, printed_amount("translate_x", 4))),
            Pair(("brightness", 0.2, 4), ("rotate", 0.4, printed_amount("rotate", 2))),
            Pair(("sharpness", 0.4, 2), ("shear_x", 0.2, printed_amount("shear_x", 6))),
            Pair(("solarize_add", 0.2, 2), ("flip", 0.3, 0)),
            Pair(None, ("translate_y", 0.2, printed_amount("translate_y", 8))),
        ),
        area=(6.0, 2.0, 0.4),
    ),
}


@lru_cache(maxsize=16)
def operations(variant: str, short: int | None) -> tuple[tuple[Augmentation, ...], ...]:
    """Return the pairs of a policy as operations; what has no probability or no strength is left out."""
    policy, made = SEARCHED[variant], []
    shared = {"ramp": True, "short": short}
    for pair in policy.pairs:
        ops: list[Augmentation] = []
        if pair.color is not None and pair.color[1]:
            name, p, level = pair.color
            own = {} if name in PLAIN else {"level": level}
            given = {"op": name, "p": p, "area": policy.area, "chance": policy.color_chance, **own, **shared}
            ops.append(BoxColor.model_validate(given))
        name, p, amount = pair.move
        if p and (amount or name not in KEY):
            own = {KEY[name]: amount} if name in KEY else {}
            ops.append(BoxMove.model_validate({"op": name, "p": p, "chance": policy.move_chance, **own, **shared}))
        made.append(tuple(ops))
    return tuple(made)


class Policy(Section):
    """A searched policy. Box-level operations and `zoom_out` are for labelled images alone."""

    name: Literal["scale_aware"]
    "Scale-aware AutoAugment."
    variant: Literal["published", "released"]
    "The table of the paper, or the list of the code."
    parts: tuple[Part, ...] | None = Field(None, min_length=1)
    "What of it is done: zoom_in, zoom_out, jitter (`released` alone), boxes. None = all that the variant has."
    short: int | None = Field(None, gt=0)
    """Shorter side of the pictures that areas and shifts are meant for: 800 is that of the search. They grow and shrink
    with that of the picture. None = pixels of the picture itself, as released."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        has = SEARCHED[self.variant].parts
        for part in self.parts or ():
            if part not in has:
                raise ValueError(f"'{self.variant}' has no part '{part}'; choose from {', '.join(has)}")
        if self.short is not None and "boxes" not in self.does:
            raise ValueError("'short' scales what is done to boxes, and 'boxes' is no part here; remove it")
        return self

    @property
    def does(self) -> tuple[Part, ...]:
        """Return the parts that are done."""
        return SEARCHED[self.variant].parts if self.parts is None else self.parts

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        policy, coin = SEARCHED[self.variant], rng.random()
        pair = operations(self.variant, self.short)[int(rng.integers(len(policy.pairs)))]
        zooms = coin < policy.zoom_in[0]
        ops: list[Augmentation] = []
        if zooms and "zoom_in" in self.does:
            ops.append(ZoomIn(ratio=(policy.zoom_in[1], policy.zoom_in[1])))
        if not zooms and coin < policy.zoom_in[0] + policy.zoom_out[0] and "zoom_out" in self.does:
            ops.append(ZoomOut(ratio=(policy.zoom_out[1], policy.zoom_out[1])))
        if "jitter" in self.does:
            ops.append(ScaleJitter())
        return chain([*ops, *(pair if "boxes" in self.does else ())], rng, size)
