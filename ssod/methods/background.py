"""Labels that are incomplete everywhere teach no background: that is refused where nothing else would."""

from __future__ import annotations

from ssod.structures import Detector, LabelStatistics
from ssod.utils.errors import Exit, SsodError


def require_background(student: Detector, statistics: LabelStatistics) -> None:
    """Test that labelled images say where objects are not.

    A class needs images whose labels of it are complete. What a head says of objects of any class, a proposal network
    or an objectness, needs images whose labels are complete in all classes.

    Raises:
        SsodError: there are none.
    """
    if statistics.complete is None:
        return
    *classes, in_all = statistics.complete.tolist()
    nowhere = sum(count == 0 for count in classes)
    fix = "label some images completely; `ssod check` counts the others"
    if nowhere:
        problem = f"labels of {nowhere} of {len(classes)} classes are complete in no image: nothing shows where none is"
        raise SsodError("config", "data.labeled", problem, fix, code=Exit.DATA)
    if in_all == 0 and ("rpn_cls" in student.kinds or student.objectness):
        problem = "no image has complete labels of all classes: nothing shows this detector where no object is"
        raise SsodError("config", "detector.name", problem, f"use retinanet or fcos, or {fix}", code=Exit.DATA)
