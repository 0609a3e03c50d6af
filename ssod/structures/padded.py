"""Boxes of several images as one tensor with as many rows for each, so that the device is not waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ssod.structures.mapped import Mapped
from ssod.structures.ragged import select
from ssod.structures.targets import Targets

FACTS = 7  # numbers of a box: its corners, its label, its score, its weight


@dataclass
class PaddedBoxes(Mapped):
    """The scored boxes of N images, with rows that are none behind them.

    Attributes:
        facts: [N, M, 7] float32: corners, label, score, weight; a row whose score is 0 is no box.
    """

    facts: Tensor

    @staticmethod
    def of(targets: Sequence[Targets]) -> PaddedBoxes:
        """Put together the boxes of N images; they have scores above 0, and what else they know is left out."""
        rows = [
            torch.cat([t.boxes, torch.stack([t.labels.to(t.boxes), t.confidence(), t.trust()], 1)], 1) for t in targets
        ]
        return PaddedBoxes(pad_sequence(rows, batch_first=True).float())

    @staticmethod
    def both(first: PaddedBoxes, second: PaddedBoxes) -> PaddedBoxes:
        """Return the union of the boxes of the same N images."""
        return PaddedBoxes(torch.cat([first.facts, second.facts], 1))

    @property
    def boxes(self) -> Tensor:
        """[N, M, 4]."""
        return self.facts[..., :4]

    @property
    def real(self) -> Tensor:
        """[N, M] bool: which rows are boxes."""
        return self.facts[..., 5] > 0

    def cut(self, most: int) -> PaddedBoxes:
        """Return the first ``most`` rows of each image, which are as many then."""
        return PaddedBoxes(F.pad(self.facts[:, :most], (0, 0, 0, max(0, most - self.facts.shape[1]))))

    def at(self, boxes: Tensor, keep: Tensor) -> PaddedBoxes:
        """Return the same at other places [N, M, 4], without the rows that are not kept, [N, M] bool."""
        facts = torch.cat([boxes, self.facts[..., 4:]], -1)
        return PaddedBoxes(torch.where(keep[..., None], facts, 0))


def unpadded(several: Sequence[PaddedBoxes]) -> list[list[Targets]]:
    """Return the boxes alone, image by image; waits for the device twice, whatever their number is."""
    images = [facts for padded in several for facts in padded.facts]
    found = [Targets(f[:, :4], f[:, 4].long(), f[:, 5], weight=f[:, 6]) for f in images]
    kept = iter(select(found, torch.cat([f[:, 5] for f in images]) > 0))
    return [[next(kept) for _ in padded.facts] for padded in several]
