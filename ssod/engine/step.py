"""What became of a step, for whoever asks; the device may know it before the host."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from ssod.engine.guard import Judgement
from ssod.utils import distributed


class Step:
    """What became of a step. All ranks agree on it, but for ``values``.

    What was made of it was decided on the device. The host reads it when somebody first asks, which waits for the
    device; all ranks ask for the same steps in the same order.

    Args:
        number: of the step.
        judged: the verdict on it.
        losses: detached losses and statistics of this rank, means over its parts.
        ids: of its labelled images.

    Attributes:
        number: as given.
    """

    def __init__(self, number: int, judged: Judgement, losses: dict[str, Tensor], ids: list[Any]) -> None:
        self.number, self._judged, self._losses, self._ids = number, judged, losses, ids

    @property
    def known(self) -> bool:
        """Whether asking no longer waits for the device."""
        return self._judged.known

    @property
    def stop(self) -> int:
        """Exit code of the stop that some rank was asked for; 0 = none."""
        return self._judged.read().stop

    @property
    def made(self) -> bool:
        """Whether student and teacher have moved; a step that was not made left everything as it was."""
        return self._judged.read().good

    @property
    def values(self) -> dict[str, Tensor]:
        """Losses and statistics; empty where the step was not made."""
        return self._losses if self.made else {}

    @property
    def fault(self) -> str:
        """What was out of range, as ``Judgement.culprit`` names it.

        Empty where the step was made, and where an fp16 gradient did overflow: that is no fault, and the scale of the
        loss is halved.
        """
        return self._found[0]

    @property
    def images(self) -> list[Any]:
        """Ids of the labelled images of the rank with the fault."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[str, list[Any]]:
        if self.made or self._judged.read().overflow:
            return "", []
        found = [(name, ids) for name, ids in distributed.gather((self._judged.culprit(), self._ids)) if name]
        # A gradient is averaged over ranks: where only it is bad, the cause lies with another rank.
        found.sort(key=lambda item: item[0].startswith("gradient"))
        return found[0] if found else ("gradient", self._ids)
