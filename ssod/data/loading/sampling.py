"""Which images a step sees, and which of them are this process's share: functions of what a step is, without state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssod.data.formats.records import Images
from ssod.data.loading.sampler import Grouped, Shuffled
from ssod.utils import collective
from ssod.utils.errors import Exit, SsodError

Stream = Shuffled | Grouped


@dataclass(frozen=True)
class Place:
    """Which of the processes of a job this one is.

    Attributes:
        rank: its number.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Place:
        """Return the place of this process."""
        return cls(collective.rank(), collective.world_size())

    def part(self, n: int) -> range:
        """Return this process's share of ``n`` items; the shares in rank order are the whole."""
        return range(self.rank * n // self.world, (self.rank + 1) * n // self.world)


@dataclass(frozen=True)
class Sampling:
    """How the images of a step are drawn and cut up.

    Attributes:
        labeled: labelled images of one optimiser step, over all ranks and micro-batches.
        unlabeled: the same for unlabelled ones; 0 = none.
        seed: the run's seed.
        unlabeled_from: before this step no unlabelled image is drawn.
        accumulate: micro-batches of one step.
        group_by_aspect: batches of either wide images or the others, to waste less on padding.
    """

    labeled: int
    unlabeled: int
    seed: int
    unlabeled_from: int = 0
    accumulate: int = 1
    group_by_aspect: bool = False

    def check(self, place: Place) -> None:
        """Test that a step's images can be shared by all processes and micro-batches.

        Raises:
            SsodError: code 2.
        """
        parts = self.accumulate * place.world
        for name, size in (("labeled", self.labeled), ("unlabeled", self.unlabeled)):
            if size % parts:
                raise SsodError(
                    "config",
                    f"train.batch.{name}",
                    f"{size} cannot be shared by {place.world} processes x {self.accumulate} micro-batches",
                    f"use a multiple of {parts}",
                )
        if self.labeled < 1:
            raise SsodError("config", "train.batch.labeled", f"{self.labeled} is below 1", "use at least 1")

    def stream(self, images: Images, name: str, sizes: Callable[[Images], np.ndarray]) -> Stream:
        """Return the order in which ``images`` come; streams of different names are independent.

        Args:
            images: what is drawn from.
            name: of the stream.
            sizes: gives [N, 2] (height, width) of images; asked only where they are grouped by it.

        Raises:
            SsodError: there is no image, or too many whose size cannot be read (code 3).
        """
        if len(images) == 0:
            raise SsodError("config", f"data.{name}", "0 images", "check the path and the split", code=Exit.DATA)
        if not self.group_by_aspect:
            return Shuffled(len(images), self.seed, name)
        return Grouped.from_sizes(sizes(images), self.seed, name)

    def share(self, stream: Stream, size: int, step: int, micro: int, place: Place) -> list[tuple[int, int]]:
        """Return (position, image) of one process's share of a micro-batch.

        The micro-batches of rank 0 in their order, then those of rank 1 and so on are the ``size`` images that one
        process alone would see in the step.
        """
        part = size // (self.accumulate * place.world)
        first = (place.rank * self.accumulate + micro) * part
        return list(enumerate(stream.batch(step, size), step * size))[first : first + part]
