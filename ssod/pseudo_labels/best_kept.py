"""A threshold that no image falls short of: where no box reaches it, the best one is kept. (arXiv:2005.04757)"""

from __future__ import annotations

from dataclasses import replace

import torch

from ssod.structures import Targets
from ssod.structures.ragged import image_index, select


def at_least(images: list[Targets], score: float, *, best: bool, half: bool) -> list[Targets]:
    """Keep the boxes whose score is ``score`` or more.

    Args:
        images: N Targets with scores.
        score: the threshold.
        best: whether an image without such a box keeps its best one, and all that score as much.
        half: whether scores and threshold are compared in float16.

    Returns:
        N Targets.
    """
    scores = torch.cat([t.confidence() for t in images])
    scores = scores.half() if half else scores
    limit = scores.new_full((len(images),), score)
    image = image_index([len(t) for t in images], scores.device)
    if best:
        most = torch.full_like(limit, torch.inf).scatter_reduce(0, image, scores, "amax", include_self=False)
        limit = torch.minimum(limit, most)
    return select(images, scores >= limit[image])


def rounded(images: list[Targets]) -> list[Targets]:
    """Round boxes and scores to float16, as which the released code stores them: to half a pixel above 512."""
    return [replace(t, boxes=t.boxes.half().float(), scores=t.confidence().half().float()) for t in images]
