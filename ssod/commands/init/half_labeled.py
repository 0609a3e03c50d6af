"""Whether a set looks half labelled: an image without a box may show no object, or nobody labelled it yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssod.data.datasets import DataSets
from ssod.utils.errors import SsodError

_WAYS = {
    "labeled": "if nobody labelled them yet: --unlabeled rest; if they show no object: data.labeled.which=all",
    "val": "if nobody labelled them yet: data.val.which=labeled; if they show no object: data.val.which=all",
}


def refuse_half_labeled(section: Mapping[str, Any], data: DataSets) -> None:
    """Refuse sets of which more than half of the images have no box, unless the config says what these are.

    Args:
        section: the ``data`` section.
        data: what it names.

    Raises:
        SsodError: code 2, with the two ways to say it.
    """
    for part, sets in {"labeled": (data.labeled, data.hidden), "val": (data.val,)}.items():
        counts = [np.diff(one.starts) for one in sets if one is not None]
        boxes = np.concatenate(counts) if counts else np.zeros(0)
        bare = int((boxes == 0).sum())
        if 2 * bare > len(boxes) and "which" not in section[part]:
            problem = f"{bare} of {len(boxes)} images have no box"
            raise SsodError("command line", f"--{part}", problem, _WAYS[part])
