"""STAC's rotation and shear: about the middle of the picture, and by the tangent. (arXiv:2005.04757)

``geometry`` has those of Soft Teacher, which turn about another point half a pixel away and shear from a corner.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from ssod.transforms.geometry import rotation_matrix, shift_matrix, warped
from ssod.transforms.transform import Size, Transform
from ssod.utils.schema import Section


class CenterRotate(Section):
    """Turn about (W/2, H/2); boxes grow to the hull of their turned corners."""

    degrees: float = Field(30.0, ge=0, le=180)
    "Largest angle; drawn uniformly from minus to plus this."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return warped(size, about_middle(size, turn(rng.uniform(-self.degrees, self.degrees))))


class CenterShear(Section):
    """Slant sideways; the middle row stays in place."""

    degrees: float = Field(30.0, ge=0, lt=90)
    "Largest angle; the factor is its tangent."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return warped(size, about_middle(size, slant(rng.uniform(-self.degrees, self.degrees))))


def turn(degrees: float) -> np.ndarray:
    """Return the rotation about the origin, [3, 3], clockwise on screen where ``degrees`` is positive."""
    return rotation_matrix((1, 1), degrees)


def slant(degrees: float) -> np.ndarray:
    """Return the shear along x that leaves y = 0 in place, [3, 3]: x' = x - tan(a) y."""
    return np.array([[1.0, -math.tan(math.radians(degrees)), 0], [0, 1, 0], [0, 0, 1]])


def about_middle(size: Size, matrix: np.ndarray) -> np.ndarray:
    """Return ``matrix`` as it acts about the middle of a picture of ``size`` (width, height)."""
    x, y = size[0] / 2, size[1] / 2
    return shift_matrix(x, y) @ matrix @ shift_matrix(-x, -y)
