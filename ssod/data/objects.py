"""Whether there are objects to measure on, and not more in an image than are ever detected."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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


def most_objects(found: Labeled) -> int:
    """Return how many objects the fullest image has; crowds are none."""
    owner = np.repeat(np.arange(len(found)), np.diff(found.starts))[~found.crowd]
    return int(np.bincount(owner, minlength=1).max())


def crowded(limit: int | None, most: Mapping[str, int]) -> list[str]:
    """Return a warning for each labelled set with images that have more objects than are ever detected in one.

    Args:
        limit: detections of an image; None = not known.
        most: part of the data -> objects of its fullest image.
    """
    return [
        f"warning[D44] data.{part}: images have up to {count} objects, and no more than {limit} are detected in one; "
        f"set detector.decode.detections={count}, which AP then counts, too"
        for part, count in most.items()
        if limit is not None and count > limit
    ]
