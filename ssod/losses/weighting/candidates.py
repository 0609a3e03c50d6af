"""Weightings that choose their own rows: the assigner that they put in the place of a one-stage detector's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssod.assign.build import divisor_of
from ssod.assign.top_iou import TOP, TopIoUAssigner
from ssod.losses.weighting.registry import RULES
from ssod.structures import Assigner, Detector


def assigner_for(student: Detector, weightings: Mapping[str, Mapping[str, Any]]) -> Assigner | None:
    """Return what says which rows learn which box in the place of the detector's assigner; None = that one does.

    Rows that do not exist for the detector's assigner, beyond a padded image, do not exist for it either.

    Args:
        student: the detector.
        weightings: those of a side, each with the parameters that the config names; they fit the detector.
    """
    chosen = [params for name, params in weightings.items() if RULES[name].candidates]
    if not chosen or student.assigner is None:  # a two-stage detector samples its rows
        return None
    return TopIoUAssigner(chosen[0].get("top", TOP), divisor_of(student.assigner))
