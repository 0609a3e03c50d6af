"""Co-rectify: two models correct each other's boxes and scores. (arXiv:2103.11402, Sec. 3.4)

The paper averages a model's detections with what its peer says about the same boxes (``rectify_once``). The released
code does it twice, on the union of both models' detections (``co_rectify``). A second opinion is ``Output.score``:
exact on a two-stage detector. A dense head has no answer for a box that it was not asked about and gives that of its
nearest row, so there it is an approximation; and as sigmoid classes leave no share to the background, its share is 0.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.pseudo_labels.nms_once import FLOOR, confidence, suppress
from ssod.structures import Output, Predictions, Targets
from ssod.structures.boxes import clip
from ssod.structures.ragged import image_index

SoftBoxes = tuple[list[Tensor], list[Tensor]]  # boxes [M_i, 4] and scores [M_i, K + 1] of N images, background last


def co_rectify(
    a: Output, b: Output, found_a: list[Targets], found_b: list[Targets], num_classes: int, *, overlap: float = 0.5
) -> tuple[list[Targets], list[Targets]]:
    """Correct the detections of two models on the same view, in the released code's two rounds.

    Args:
        a, b: what each model saw.
        found_a, found_b: its detections, by ``nms_once.confident`` with ``secondary``.
        num_classes: K.
        overlap: of two boxes of one class that overlap more than this, the lower score goes.

    Returns:
        The labels for ``a``, corrected last by ``b``, and those for ``b``, corrected last by ``a``; N Targets each,
        with scores that the caller has yet to test.
    """
    union = join(soft_boxes(found_a, num_classes), soft_boxes(found_b, num_classes))
    everything = join(join(first_round(a, union), first_round(b, union)), union)
    return second_round(b, everything, overlap), second_round(a, everything, overlap)


def rectify_once(found: list[Targets], peer: Output) -> list[Targets]:
    """Correct a model's detections by its peer, in the paper's one round (Sec. 3.4).

    With c the score of a box t, and c^r and t^r what the peer says about that box and its class, the label has the
    score ``(c + c^r) / 2`` and the box ``(c t + c^r t^r) / (c + c^r)``. Classes stay, and nothing is suppressed again.

    Args:
        found: the model's detections, N Targets with scores.
        peer: what the other model saw in the same view.

    Returns:
        N Targets with scores that the caller has yet to test.
    """
    p = peer.score([t.boxes for t in found])
    boxes, labels = torch.cat([t.boxes for t in found]), torch.cat([t.labels for t in found])
    scores = torch.cat([t.confidence() for t in found])
    second = confidence(p).gather(1, labels[:, None]).squeeze(1)
    better = weighted(boxes, scores, clip(p.boxes(labels), p.sizes[p.image]), second)
    counts = [len(t) for t in found]
    parts = zip(found, better.split(counts), ((scores + second) / 2).split(counts))
    return [replace(t, boxes=b, scores=s) for t, b, s in parts]


def first_round(model: Output, union: SoftBoxes) -> SoftBoxes:
    """Average with the model's opinion: each box weighs as much as its own best score, then the scores."""
    probs, refined = opinion(model, union[0])
    boxes, scores = torch.cat(union[0]), torch.cat(union[1])
    better = weighted(boxes, scores.amax(1), refined, probs.amax(1))
    return split_like(union, better, (probs + scores) / 2)


def second_round(model: Output, union: SoftBoxes, overlap: float) -> list[Targets]:
    """Average once more; here scores come first, and it is the averaged one that weighs the refined box."""
    probs, refined = opinion(model, union[0])
    boxes, before = torch.cat(union[0]), torch.cat(union[1])
    scores = (probs + before) / 2
    better = weighted(boxes, before.amax(1), refined, scores.amax(1))
    scores = scores[:, :-1]
    image = image_index([len(b) for b in union[0]], boxes.device)
    return suppress(better, scores, scores > FLOOR, image, len(union[0]), overlap)


def opinion(model: Output, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Ask a model about boxes: probabilities [M, K + 1], and the box of the likeliest class, clipped to the image."""
    p = model.score(boxes)
    return with_background(p), clip(p.boxes(), p.sizes[p.image])


def with_background(p: Predictions) -> Tensor:
    """Return [R, K + 1] probabilities; the background's is 0 for a sigmoid head."""
    if p.softmax:
        return p.logits.float().softmax(-1)
    return F.pad(confidence(p), (0, 1))


def weighted(a: Tensor, weight_a: Tensor, b: Tensor, weight_b: Tensor) -> Tensor:
    """Return the mean of boxes [M, 4] weighted by [M]; ``a`` where neither weighs anything."""
    share = weight_b / (weight_a + weight_b).clamp(min=torch.finfo(weight_b.dtype).tiny)
    return torch.lerp(a, b, share[:, None].to(a.dtype))


def soft_boxes(targets: list[Targets], num_classes: int) -> SoftBoxes:
    """Return detections as boxes and score vectors: the score at the label, 0 elsewhere."""
    hot = [F.one_hot(t.labels, num_classes + 1) * t.confidence()[:, None] for t in targets]
    return [t.boxes for t in targets], hot


def join(a: SoftBoxes, b: SoftBoxes) -> SoftBoxes:
    """Return what both believe, image by image."""
    boxes, scores = ([torch.cat(pair) for pair in zip(x, y)] for x, y in zip(a, b))
    return boxes, scores


def split_like(like: SoftBoxes, boxes: Tensor, scores: Tensor) -> SoftBoxes:
    """Divide rows of all images as those of ``like`` are divided."""
    counts = [len(b) for b in like[0]]
    return list(boxes.split(counts)), list(scores.split(counts))
