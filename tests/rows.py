"""What a detector loses on boxes, and what weightings are told, without a method around them."""

from typing import Any

from torch import Tensor

from ssod.losses.weighting.context import Context
from ssod.structures import Detector, Targets


def losses_of(detector: Detector, out: Any, targets: list[Targets]) -> dict[str, Tensor]:
    """Assign and reduce."""
    return detector.reduce(detector.assign(out, targets))


def context(**known: Any) -> Context:
    """A context that knows this much, and of the rest nothing."""
    nothing: dict[str, Any] = {"side": "unsup", "step": 0, "rows": {}, "factors": {}}
    unknown = dict.fromkeys(("student", "view", "labels_or_none", "batch", "teacher_or_none"))
    absent = {f"{name}_or_none": known.pop(name) for name in ("labels", "teacher") if name in known}

    def one(stage: str, p: Any, a: Any) -> Tensor:
        return a.cls_weight.new_ones(())

    return Context(**unknown | nothing | {"normalizer": one} | absent | known)
