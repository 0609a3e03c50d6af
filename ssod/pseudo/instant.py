"""Which rows of a head are confident enough to be labels, in the order of Instant-Teaching. (arXiv:2103.11402)"""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import nms

from ssod.structures import Output, Predictions, Targets


def rows_of(out: Output) -> Predictions:
    """Return the rows that detections come from: the RoI head's answer for each proposal, or the dense map."""
    return out.score(out.proposals) if "rpn" in out.stages else out.stages["dense"]


def confidence(p: Predictions) -> Tensor:
    """Return [R, K] float32: class probability, or its geometric mean with the quality (FCOS)."""
    probs = p.probs()
    return probs if p.quality is None else (probs * p.quality.float().sigmoid()[:, None]).sqrt()


def confident(p: Predictions, threshold: float, *, overlap: float = 0.5) -> list[Targets]:
    """Keep rows whose likeliest class scores at least ``threshold``, and suppress what they repeat.

    As released: the test comes before suppression; a row has one box, that of its likeliest class, not clipped to the
    image; its other classes stay in with that box and their own score (above 0.001), so what is returned may score
    below ``threshold`` and the caller tests again.

    Args:
        p: rows of N images.
        threshold: lowest score of a row's likeliest class.
        overlap: of two boxes of one class that overlap more than this, the lower score goes.

    Returns:
        N Targets with scores, best first, at most 100 each.
    """
    scores = confidence(p)
    rows = (scores.amax(1) >= threshold).nonzero().squeeze(1)
    chosen = p[rows]
    return suppress(chosen.boxes(), scores[rows], chosen.image, p.num_images, overlap)


def suppress(
    boxes: Tensor, scores: Tensor, image: Tensor, num_images: int, overlap: float, floor: float = 0.001, most: int = 100
) -> list[Targets]:
    """Suppress among boxes of one class and image, where a box stands for every class that scores above ``floor``.

    Args:
        boxes: [R, 4].
        scores: [R, K].
        image: [R] int64.
        num_images: N.
        overlap: of two boxes that overlap more than this, the lower score goes.
        floor: (box, class) pairs at or below this are no candidates.
        most: boxes kept per image.

    Returns:
        N Targets with scores, best first.
    """
    row, label = (scores > floor).nonzero().unbind(1)
    score, image, boxes = scores[row, label], image[row], boxes[row]
    # In float64 boxes of different classes and images are moved apart without a rounding that could matter.
    apart = boxes.double()
    if len(row):
        apart = apart + ((image * scores.shape[1] + label) * (apart.max() - apart.min() + 1))[:, None]
    kept = nms(apart, score.double(), overlap)
    found = Targets(boxes[kept], label[kept], score[kept])
    return [found[image[kept] == i][:most] for i in range(num_images)]


def at_least(targets: list[Targets], score: float) -> list[Targets]:
    """Keep boxes that score ``score`` or more."""
    return [t[t.scores >= score] for t in targets]
