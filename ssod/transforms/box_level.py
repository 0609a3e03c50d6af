"""Operations on single objects of a picture: which of them take part, and when. (arXiv:2103.17220)

They read boxes, so they have a meaning for labelled images alone; a view of others refuses them. Ignore regions are no
objects and take no part. All chance is in ``draw``: what depends on boxes is drawn from a seed that is drawn there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field, field_validator

from ssod.structures import Targets
from ssod.transforms.area_map import Three, areas, chance_of
from ssod.transforms.transform import Seen, Size, Transform, needs_boxes
from ssod.utils.schema import Section

# (picture, its boxes in its own pixels, [M] bool who takes part, a generator) -> picture and boxes
Change = Callable[[Seen, Targets, np.ndarray, np.random.Generator], Seen]


class OnBoxes(Section):
    """What operations on single objects have in common."""

    p: float = Field(1.0, ge=0, le=1)
    "Probability that anything happens to a picture."
    chance: Three = (0.1, 0.1, 0.1)
    "Chance of a small, a middle and a large object of that picture to take part."
    ramp: bool = False
    "Whether `p` grows with the run, in a straight line from 0 at the first step."
    short: int | None = Field(None, gt=0)
    """Shorter side of the pictures that areas and pixels are meant for; they grow and shrink with that of the picture.
    None = they are pixels of the picture itself."""

    @field_validator("chance")
    @classmethod
    def _are_chances(cls, chance: Three) -> Three:
        if not all(0 <= one <= 1 for one in chance):
            raise ValueError(f"chances lie in [0, 1], got {list(chance)}")
        return chance

    def unit(self, size: Size) -> float:
        """Return the pixels of a picture of ``size`` (width, height) that one pixel of the parameters stands for."""
        return 1.0 if self.short is None else min(size) / self.short

    def drawn(self, rng: np.random.Generator, size: Size, change: Change) -> Transform:
        """Draw all that does not depend on the boxes, and return what then does the rest."""
        coin, seed = rng.random(), int(rng.integers(1 << 63))

        def boxed(seen: Seen) -> Seen:
            if coin >= self.p * (seen.setting.progress if self.ramp else 1):
                return seen
            own, targets = np.random.Generator(np.random.Philox(seed)), seen.boxes()
            chance = chance_of(areas(targets.boxes.numpy()) / self.unit(size) ** 2, self.chance)
            chosen = (own.random(len(chance)) < chance) & (targets.trust() > 0).numpy()
            return change(seen, targets, chosen, own) if chosen.any() else seen

        return Transform(size, np.eye(3), needs_boxes, boxed)
