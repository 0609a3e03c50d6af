"""What is kept of a teacher's answer while a step looks at other images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field

from torch import Tensor

from ssod.methods.teachers import FileOutput
from ssod.structures import Clusters, Output, Predictions, Rank, Targets


@dataclass
class BoxesAlone:
    """The boxes of an output, kept without the maps that they come from; see ``structures.Output``.

    Any other question makes the teacher look again: ``Config.needs_maps`` of the method should have said so.

    Args:
        out: what a teacher saw.
        again: looks at the same view once more.
    """

    out: InitVar[Output]
    again: Callable[[], Output]
    boxes: list[Targets] = field(init=False)

    def __post_init__(self, out: Output) -> None:
        self.boxes = out.detections()

    @property
    def stages(self) -> dict[str, Predictions]:
        """Its dense maps."""
        return self.again().stages

    @property
    def proposals(self) -> list[Tensor] | None:
        """Its proposals."""
        return self.again().proposals

    @property
    def pyramid(self) -> list[Tensor]:
        """Its feature maps."""
        return self.again().pyramid

    def detections(self, score: float | None = None, rank: Rank | None = None) -> list[Targets]:
        """Return the boxes."""
        return self.boxes if score is None and rank is None else self.again().detections(score, rank)

    def clusters(self) -> Clusters:
        """Return the boxes, and what was suppressed for their sake."""
        return self.again().clusters()

    def score(self, boxes: list[Tensor]) -> Predictions:
        """Say what is in these boxes."""
        return self.again().score(boxes)


@dataclass
class BoxesAndTop(BoxesAlone):
    """The boxes of an output and the coarsest of its feature maps, which is then all that ``pyramid`` holds."""

    top: Tensor = field(init=False)

    def __post_init__(self, out: Output) -> None:
        super().__post_init__(out)
        self.top = out.pyramid[-1]

    @property
    def pyramid(self) -> list[Tensor]:
        """Its coarsest feature map."""
        return [self.top]


def worth_keeping(out: Output, again: Callable[[], Output], maps: bool) -> Output:
    """Return what of an output is to be kept while other images are looked at: all of it, or its boxes alone."""
    return out if maps or isinstance(out, FileOutput) else BoxesAlone(out, again)
