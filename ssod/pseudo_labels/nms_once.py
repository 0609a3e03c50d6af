"""Which rows of a head are confident enough to be labels, in the order of Instant-Teaching. (arXiv:2103.11402)"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ssod.structures import Output, Predictions, Targets
from ssod.structures.ragged import select

FLOOR = 0.001  # scores at or below this are no candidates


def rows_of(out: Output) -> Predictions:
    """Return the rows that detections come from: the RoI head's answer for each proposal, or the dense map."""
    return out.stages["dense"] if out.proposals is None else out.score(out.proposals)


def confidence(p: Predictions) -> Tensor:
    """Return [R, K] float32 scores; see ``Predictions.scores``."""
    return p.scores()


def confident(p: Predictions, threshold: float, *, overlap: float = 0.5, secondary: bool = False) -> list[Targets]:
    """Keep rows whose likeliest class scores at least ``threshold``, and suppress what they repeat.

    As released: the test comes before suppression, and a row has one box, that of its likeliest class, not clipped to
    the image. Its other classes stay in, with that box and their own scores, and the test is made again at the end. As
    a lower score suppresses no higher one, they matter only to who looks at them before that: co-rectify.

    Args:
        p: rows of N images.
        threshold: lowest score.
        overlap: of two boxes of one class that overlap more than this, the lower score goes.
        secondary: leave out the second test: other classes of the rows found stay in when they score above 0.001.

    Returns:
        N Targets with scores, best first, at most 100 each.
    """
    scores = confidence(p)
    rows = (scores.amax(1) >= threshold).nonzero().squeeze(1)
    chosen, scores = p[rows], scores[rows]
    candidates = scores > FLOOR if secondary else scores >= threshold
    return suppress(chosen.boxes(), scores, candidates, chosen.image, p.num_images, overlap)


def suppress(
    boxes: Tensor, scores: Tensor, candidates: Tensor, image: Tensor, num_images: int, overlap: float, most: int = 100
) -> list[Targets]:
    """Suppress among boxes of one class and image, where a box may stand for several classes.

    Args:
        boxes: [R, 4]; one whose corners changed places, as in an aligned head, is none.
        scores: [R, K].
        candidates: [R, K] bool, the (box, class) pairs to choose from.
        image: [R] int64, sorted.
        num_images: N.
        overlap: of two boxes that overlap more than this, the lower score goes.
        most: boxes kept per image.

    Returns:
        N Targets with scores, best first.
    """
    upright = (boxes[:, 2:] >= boxes[:, :2]).all(1, keepdim=True)
    row, label = (candidates & upright).nonzero().unbind(1)
    score, image, boxes = scores[row, label], image[row], boxes[row]
    # In float64, and from 0, because torchvision may move classes apart: then no rounding matters, and none meet.
    place = boxes.double() - (boxes.min().double() if len(row) else 0.0)
    # Image by image: all pairs are compared, and pairs of two images are useless.
    counts = image.bincount(minlength=num_images).tolist()
    found = []
    for moved, b, labels, s in zip(*(t.split(counts) for t in (place, boxes, label, score))):
        kept = batched_nms(moved, s.double(), labels, overlap)[:most]
        found.append(Targets(b[kept], labels[kept], s[kept]))
    return found


def at_least(targets: list[Targets], score: float) -> list[Targets]:
    """Keep boxes that score ``score`` or more."""
    return select(targets, torch.cat([t.confidence() for t in targets]) >= score)
