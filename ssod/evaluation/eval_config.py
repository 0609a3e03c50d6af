"""How a detector is measured, as a config says it."""

from typing import Literal

from pydantic import Field

from ssod.utils.schema import Section


class EvalConfig(Section):
    """How a detector is measured."""

    metric: Literal["coco", "voc", "voc07"] = "coco"
    "COCO's AP; or VOC's with the area under the curve, or VOC 2007's with 11 points."
    batch: int = Field(8, ge=1)
    "Images at a time, on each process."
    diagnose: int = Field(64, ge=0)
    "Unlabelled images on which pseudo-labels are looked at after each evaluation, for log and report; 0 = none."
