"""Supervised: labelled images only; the twin that every method is measured against.

Its teacher is the same moving average that the semi-supervised methods have, so that a gain over it is the gain of the
unlabelled images and not of weight averaging.
"""

from ssod.methods import base
from ssod.methods.base import Losses, count_per_image, tag
from ssod.structures import Batch


class Config(base.Common):
    """Nothing beyond the average."""


class Supervised(base.Method):
    """The labelled half of the step."""

    Config = Config
    uses_unlabeled = False

    def forward(self, batch: Batch, step: int) -> Losses:
        """Return ``sup/<name>`` losses; see ``base.Method.forward``."""
        self.stats = {"labeled/boxes_per_image": count_per_image(batch.labeled.targets)}
        out = self.student.predict(batch.labeled)
        return tag("sup", self.learn("sup", out, batch.labeled.targets))


METHOD = Supervised
