"""Whether two programs find the same in the same images, to within rounding.

Rounding differs between runtimes, and now and then it decides: of two scores that are equal to seven digits either may
come first, and what the first suppresses is then another box. Every image is therefore looked at again with its pixels
moved by up to 1e-5. Where torch itself changes its mind, or the two programs agree on some of the copies, the image is
counted as *undecided* and judges nobody: a wrong program is wrong on all of them.

``HALF`` is for networks that compute in float16. Of what a detection without a partner is forgiven there: the other
program has suppressed it, that is, it has one of the same class that overlaps it by more than NMS allows and scores no
less. Greedy NMS drops nothing else, so this holds whichever of two near-equal boxes came first. More of them than torch
itself has on moved pixels (``ALONE``) are a difference, or boxes that are all moved a little would pass. The limits
follow from a trained Faster R-CNN on 30 images of NEU-DET, 96 x 96 pixels: partners lay up to 0.019 px and 0.0011
apart, and one detection of 682 had none. Sides are up to 352 pixels here and networks may be deeper, hence 0.5 px and
0.01. Pixels are moved by half a thousandth, which is what rounding them to float16 does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssod.detectors.decode import DecodeConfig
from ssod.structures import Detector, Predictions, Targets, View
from ssod.structures.boxes import iou

ALONE = 0.05  # share of the detections that may be forgiven, beside twice as many as torch's own answers lack
NUDGES = 3  # copies of each image with its pixels moved

Batch = tuple[Tensor, Tensor]  # images [N, 3, H, W] float 0..1, sizes [N, 2]
Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Limits:
    """How far two programs may be apart.

    Attributes:
        box: largest difference of a coordinate, in pixels.
        score: largest difference of a score.
        near: pixels; what lies further off is another detection, however equal the score.
        edge: a score this near the threshold, or the last place, may fall on either side.
        nudge: how far pixels of 0..1 are moved to see whether an answer hangs on rounding.
        overlap: how much less than NMS's IoU still counts as suppressed; None = nothing is forgiven for that.
    """

    box: float = 0.05
    score: float = 1e-4
    near: float = 2.0
    edge: float = 1e-5
    nudge: float = 1e-5
    overlap: float | None = None


FULL = Limits()
HALF = Limits(box=0.5, score=0.01, near=0.5, edge=0.01, nudge=5e-4, overlap=0.02)


@dataclass
class Parity:
    """What a comparison found.

    Attributes:
        images: images compared.
        undecided: images left out, because torch's own answer hangs on rounding.
        empty: images in which torch found nothing.
        boxes: detections compared.
        box: largest difference of a coordinate, in pixels.
        score: largest difference of a score.
        differ: images on which the two disagree.
        problem: the first of them, in words; empty = none.
        alone: torch's detections without a partner, which are forgiven; of ``HALF``.
        swayed: how many of torch's have no partner in torch's own answers to moved pixels, the mean of the copies.
    """

    images: int = 0
    undecided: int = 0
    empty: int = 0
    boxes: int = 0
    box: float = 0.0
    score: float = 0.0
    differ: int = 0
    problem: str = ""
    alone: int = 0
    swayed: float = 0.0

    def add(self, boxes: int, box: float, score: float, problem: str, where: str) -> None:
        """Count one image."""
        self.images += 1
        self.empty += boxes == 0
        self.boxes += boxes
        self.box, self.score = max(self.box, box), max(self.score, score)
        if problem:
            self.differ += 1
            self.problem = self.problem or f"{where}: {problem}"

    def merge(self, other: Parity) -> None:
        """Add what another comparison found."""
        for name in ("images", "undecided", "empty", "boxes", "differ", "alone", "swayed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.box, self.score = max(self.box, other.box), max(self.score, other.score)
        self.problem = self.problem or other.problem

    def line(self) -> str:
        """Return the counts and the largest differences."""
        text = f"{self.images} images ({self.empty} without detections), {self.boxes} boxes"
        if self.boxes:
            text += f"; largest difference {self.box:.2g} px, score {self.score:.1g}"
        else:
            text += ": the detector finds nothing, so no box could be compared"
        text += f"; {self.alone} without a partner, as NMS chose another" if self.alone else ""
        return f"{text}; {self.undecided} more hang on rounding" if self.undecided else text


@torch.no_grad()
def measure(detector: Detector, torch_run: Run, other: Run, batches: Iterable[Batch], limits: Limits = FULL) -> Parity:
    """Compare ``other`` with ``torch_run``, the detector as it predicts.

    Args:
        detector: whose ``decode`` says threshold and number of detections.
        torch_run: the reference.
        other: what is to be judged.
        batches: images and their sizes.
        limits: how far they may be apart.

    Raises:
        Whatever ``other`` raises: a program that crashes is no program.
    """
    found, cfg = Parity(), detector.decode
    for images, sizes in batches:
        draw = torch.Generator().manual_seed(0)
        copies = [images + limits.nudge * (2 * torch.rand(images.shape, generator=draw) - 1) for _ in range(NUDGES)]
        want, have = _split(torch_run(images, sizes)), _split(other(images, sizes))
        again = [_split(torch_run(copy, sizes)) for copy in copies]
        result = [differences(a, b, cfg, limits) for a, b in zip(want, have)]
        wrong = [problem != "" for _, _, problem in result]
        if any(wrong):
            for copy, expected in zip(copies, again):
                pairs = zip(expected, _split(other(copy, sizes)))
                wrong = [bad and differences(a, b, cfg, limits)[2] != "" for bad, (a, b) in zip(wrong, pairs)]
        for i, (box, score, problem) in enumerate(result):
            swayed = any(differences(want[i], copy[i], cfg, limits)[2] for copy in again)
            if swayed or (problem and not wrong[i]):
                found.undecided += 1
            else:
                found.add(len(want[i]), box, score, problem, f"image {i} of {len(images)}, {sizes[i].tolist()}")
                if limits.overlap is not None:
                    found.alone += len(_pair(want[i], have[i], limits)[2])
                    found.swayed += sum(len(_pair(want[i], copy[i], limits)[2]) for copy in again) / NUDGES
    if found.alone > 2 * found.swayed + ALONE * found.boxes and not found.problem:
        found.problem = (
            f"{found.alone} of {found.boxes} detections have no partner; {found.swayed:.0f} hang on rounding"
        )
    return found


def _split(out: tuple[Tensor, Tensor, Tensor]) -> list[Targets]:
    """Drop the padding of each image."""
    return [Targets(b[s > 0], k[s > 0], s[s > 0]) for b, s, k in zip(*out)]


def differences(want: Targets, have: Targets, cfg: DecodeConfig, limits: Limits = FULL) -> tuple[float, float, str]:
    """Return the largest difference of coordinates and of scores, and what is wrong, if anything is.

    Each detection is paired with the nearest of its class and score, if that is near. One without a partner is
    forgiven where the other program had no room for it, or where its score lies on the threshold.
    """
    box, score, alone, free = _pair(want, have, limits)
    lost = _unexplained(want[torch.tensor(alone, dtype=torch.long)], have, cfg, limits)
    new = _unexplained(have[free], want, cfg, limits)
    if lost or new:
        most = max(lost + new)
        return box, score, f"{len(lost)} detections missing, {len(new)} too many, best score {most:.4f}"
    return box, score, f"a box lies {box:.3g} px off, {limits.box} allowed" if box > limits.box else ""


def _pair(want: Targets, have: Targets, limits: Limits) -> tuple[float, float, list[int], Tensor]:
    """Return the largest differences of partners; the rows of ``want`` without one, and [B] bool, those of ``have``."""
    apart = (want.boxes[:, None] - have.boxes).abs().amax(-1)  # [A, B]
    alike = (want.labels[:, None] == have.labels) & ((want.scores[:, None] - have.scores).abs() <= limits.score)
    apart = torch.where(alike & (apart <= limits.near), apart, torch.inf)
    box = score = 0.0
    alone, free = [], torch.ones(len(have), dtype=torch.bool)
    for i in range(len(want)):
        distance = torch.where(free, apart[i], torch.inf)
        j = int(distance.argmin()) if len(have) else -1
        if j < 0 or distance[j] == torch.inf:
            alone.append(i)
            continue
        free[j] = False
        box = max(box, float(distance[j]))
        score = max(score, abs(float(want.scores[i] - have.scores[j])))
    return box, score, alone, free


def _unexplained(alone: Targets, other: Targets, cfg: DecodeConfig, limits: Limits) -> list[float]:
    """Return the scores of detections that the other program should have had a partner for."""
    scores = alone.confidence()
    wrong = scores > _edge(other, cfg) + limits.edge
    if limits.overlap is not None:
        rival = (alone.labels[:, None] == other.labels) & (other.confidence() >= scores[:, None] - limits.score)
        over = iou(alone.boxes, other.boxes) > cfg.nms - limits.overlap
        wrong &= ~(rival & over).any(1)
    return scores[wrong].tolist()


def _edge(found: Targets, cfg: DecodeConfig) -> float:
    """Return the score below which a detection has no place: the threshold, or that of the last one when full."""
    return float(found.scores.min()) if len(found) == cfg.detections else cfg.score


# ---- pictures to compare on --------------------------------------------------------------------------------------

# One batch a line: padded (height, width), and the sizes inside.
_LAYOUT = (
    ((128, 160), [(128, 160)]),
    ((128, 160), [(101, 133)]),
    ((96, 352), [(77, 333)]),
    ((256, 192), [(256, 140), (211, 192)]),
    ((32, 32), [(17, 29)]),
)


def pictures(detector: Detector, seed: int = 0) -> list[Batch]:
    """Return seeded batches: patterns in which the detector sees something, and flat ones in which it should not."""
    out = []
    for number, ((height, width), sizes) in enumerate(_LAYOUT):
        draw = torch.Generator().manual_seed(seed * len(_LAYOUT) + number)
        images = torch.stack([texture(height, width, draw) for _ in sizes])
        inside = torch.tensor(sizes)
        out.append((within(provoke(detector, images, inside), inside), inside))
        flat = torch.full_like(images, 0.25 * number)
        out.append((within(flat, inside), inside))
    return out


def texture(height: int, width: int, draw: torch.Generator) -> Tensor:
    """Return a random picture [3, H, W] in 0..1 with structure at every scale."""
    layers = []
    for cells in (2, 5, 13, 37):
        noise = torch.rand(1, 3, cells, cells, generator=draw)
        layers.append(torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0])
    return torch.stack(layers).mean(0)


def within(images: Tensor, sizes: Tensor) -> Tensor:
    """Return images with 0 outside their sizes, as a loader pads them."""
    rows = torch.arange(images.shape[2]) < sizes[:, 0, None]
    columns = torch.arange(images.shape[3]) < sizes[:, 1, None]
    return images * (rows[:, None, :, None] & columns[:, None, None, :])


def provoke(detector: Detector, images: Tensor, sizes: Tensor, steps: int = 12, size: float = 0.02) -> Tensor:
    """Push pixels up the gradient of the best scores, so that a detector with a threshold has something to report.

    Scores above one half are left alone: those that reach 1.0 exactly are ties.

    Args:
        detector: in eval mode.
        images: [N, 3, H, W] in 0..1.
        sizes: [N, 2].
        steps: how often.
        size: change of a pixel at each step.
    """
    for _ in range(steps):
        images = images.detach().requires_grad_()
        best = rows(detector, images, sizes).probs().clamp(1e-6, 0.5).log().amax(1)
        (slope,) = torch.autograd.grad(best.topk(min(20 * len(images), len(best))).values.sum(), images)
        images = (images + size * slope.sign()).clamp(0, 1)
    return images.detach()


def rows(detector: Detector, images: Tensor, sizes: Tensor) -> Predictions:
    """Return the rows that detections are made of: the dense map, or the RoI head's answers for its proposals."""
    out = detector.predict(as_view(images, sizes))
    return out.stages["dense"] if "dense" in out.stages else out.score(out.proposals)


def as_view(images: Tensor, sizes: Tensor) -> View:
    """Return a view of images [N, 3, H, W] that are their own originals; nothing in it depends on values."""
    n = images.shape[0]  # not len(): it is symbolic in an export
    matrix = torch.eye(3, device=images.device).expand(n, 3, 3)
    return View(images, sizes, matrix, torch.zeros(n, dtype=torch.long, device=images.device))
