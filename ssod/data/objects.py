"""Whether there are objects to measure on."""

from __future__ import annotations

from ssod.data.formats.records import Labeled
from ssod.utils.errors import Exit, SsodError


def check_measurable(metric: str, val: Labeled) -> None:
    """Refuse images to measure on in which a metric finds no object: there is no AP of them.

    Args:
        metric: as in ``eval.metric``.
        val: the images.

    Raises:
        SsodError: code 3.
    """
    ignored = val.crowd if metric == "coco" else val.crowd | val.difficult
    if ignored.all():
        problem = f"no object to measure on: eval.metric={metric} ignores all {len(ignored)} boxes"
        fix = "name images with objects; VOC's metrics ignore difficult ones, coco does not"
        raise SsodError("config", "data.val", problem, fix, code=Exit.DATA)
