"""What a training may cost, and what it will cost by the pixels that it sees: the rule by which ``ssod init`` chooses.

Counted, of one image in training (by hooks on torch, at 128 pixels, of the recipes' detectors):

* bytes kept for the backward pass, for each pixel: those of the backbone, and 1.5 (two stages: 0.5) for each channel of
  the pyramid where it begins at level 3, four times as many where it begins at level 2;
* multiply-adds of a look, for each pixel: those of the backbone, and 1.8 (two stages: 0.4) times the square of the
  channels, likewise; the head of a second stage comes on top, for each of its rows.

Memory is 1.3 times the bytes of the images that are looked at together, and a gigabyte for weights, optimiser, teacher
and library. Time is that of learning: three looks at an image that teaches, one of the teacher. A core makes 20
thousand million multiply-adds a second with the small net and one stage, 13 with two stages, whose sampling and
suppression are not counted, and 24 with the others (measured on two Xeon cores, the whole step counted, where the small
net made 12 to 37 with one stage), and each further core is taken for half a one. Both are estimates, and how far off
they are on other machines was not measured; ``ssod plan`` measures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssod.data.loading.workers import usable_cpus
from ssod.methods.plateau_config import AUTO, LATEST
from ssod.utils.errors import SsodError

# Of each backbone: bytes kept, and multiply-adds, for a pixel.
BACKBONES = {
    "tiny": (130, 4_300),
    "mobilenet_v3_large": (370, 4_000),
    "resnet18": (150, 36_000),
    "resnet50": (950, 84_000),
    "resnet101": (1770, 158_000),
}
GB = 2**30
ELSEWHERE = "8GB"  # where a detector for a GPU is prepared on a machine without one
ON_CPU = "15m"

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(m|min|h|gb)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """What a training may cost; one of the two is None.

    Attributes:
        text: as people wrote it.
        seconds: of the whole training, on this machine's CPU.
        memory: bytes of the device.
        cores: that compute.
    """

    text: str
    seconds: float | None = None
    memory: float | None = None
    cores: int = 1


@dataclass(frozen=True)
class Load:
    """What a training looks at.

    Attributes:
        backbone: a key of ``BACKBONES``.
        channels: of the pyramid.
        first: the pyramid's first level.
        two_stages: whether rows are looked at once more.
        roi: multiply-adds of a second stage for an image, and the bytes that it keeps.
        images: labelled and unlabelled images per step.
        steps: how many steps.
        taught: share of the steps in which unlabelled images teach.
        aspect: longer side over shorter side of an image.
    """

    backbone: str
    channels: int
    first: int
    two_stages: bool
    roi: tuple[float, float]
    images: tuple[int, int]
    steps: int
    taught: float
    aspect: float

    @property
    def finer(self) -> int:
        """How much more the cells of the first level are than they are at level 3."""
        return 4 ** (3 - self.first)

    def memory(self, short: int, accumulate: int = 1) -> float:
        """Return bytes of a step with images of ``short`` pixels, a fifth more where views vary, in parts."""
        head = (0.5 if self.two_stages else 1.5) * self.channels * self.finer
        kept = BACKBONES[self.backbone][0] + head
        together = sum(self.images) / accumulate
        return GB + 1.3 * (kept * (1.2 * short) ** 2 * self.aspect + self.roi[1]) * together

    def seconds(self, short: int, cores: int) -> float:
        """Return the seconds of all steps on a CPU."""
        head = (0.4 if self.two_stages else 1.8) * self.channels**2 * self.finer
        look = (BACKBONES[self.backbone][1] + head) * short**2 * self.aspect + self.roi[0]
        labeled, unlabeled = self.images
        looks = 3 * labeled + (3 + 1) * unlabeled * self.taught
        pace = 24e9 if self.backbone != "tiny" else 13e9 if self.two_stages else 20e9
        pace *= (1 + cores) / 2
        return self.steps * looks * look / pace


def read_budget(text: str | None, backbone: str) -> Budget:
    """Return what a user allows, or what this machine does.

    Without a word the memory of the GPU counts. Where there is none, a net for the CPU has ``ON_CPU``, and another one
    ``ELSEWHERE``: it is likely to be trained on another machine.

    Raises:
        SsodError: neither a time nor an amount of memory, or a time where a GPU will train.
    """
    import torch  # most of what this module says needs none

    cuda = torch.cuda.is_available()
    if text is None and cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        return Budget(f"{total / GB:.0f}GB", memory=0.9 * total)
    text = (ON_CPU if backbone == "tiny" else ELSEWHERE) if text is None else text
    found = _FORM.fullmatch(text.strip())
    amount = float(found[1]) if found else 0.0
    if found is None or amount <= 0:
        raise SsodError("command line", "--budget", f"'{text}' is no budget", "write a time, 30m or 2h, or memory, 8GB")
    unit = found[2].lower()
    if unit == "gb":
        return Budget(text, memory=amount * GB)
    if cuda:
        problem = f"{text}, and the time of a step on a GPU is not known before it is measured"
        raise SsodError("command line", "--budget", problem, "write memory, 8GB; ssod plan measures the time")
    return Budget(text, seconds=amount * (3600 if unit == "h" else 60), cores=usable_cpus())


def load_of(detector: Any, images: tuple[int, int], steps: int, taught: float, aspect: float) -> Load:
    """Return the load of a detector, by its config section, one of ours."""
    two, roi = detector.name == "faster_rcnn", (0.0, 0.0)
    if two:
        head = detector.roi
        read = head.size**2 * detector.channels
        roi = (head.rows * (read * head.hidden + head.hidden**2), 4.0 * head.rows * (read + 4 * head.hidden))
    return Load(detector.backbone, detector.channels, detector.levels[0], two, roi, images, steps, taught, aspect)


def parts_within(budget: Budget, load: Load, short: int, most: int) -> int | None:
    """Return into how many parts a step must be cut at this size; None where it does not fit the budget at all."""
    if budget.seconds is not None:
        return 1 if load.seconds(short, budget.cores) <= budget.seconds else None
    parts = 1
    while budget.memory is not None and load.memory(short, parts) > budget.memory:
        if 2 * parts > most:
            return None
        parts *= 2
    return parts


def cost_in_words(budget: Budget, load: Load, short: int, parts: int) -> str:
    """Return what a size will cost: ``about 48 min of learning on 2 CPUs`` or ``about 5.1 GB``."""
    if budget.seconds is not None:
        cpus = f"{budget.cores} CPU{'s' if budget.cores > 1 else ''}"
        minutes = load.seconds(short, budget.cores) / 60
        return f"{'less than a minute' if minutes < 1 else f'about {minutes:.0f} min'} of learning on {cpus}"
    return f"about {load.memory(short, parts) / GB:.1f} GB"


def taught_share(method: Mapping[str, Any], steps: int) -> float:
    """Return the share of the steps in which unlabelled images teach, by a method's section as recipes write it."""
    start = method.get("start", method.get("burn_in", 0))
    start = LATEST if start == AUTO else start
    if isinstance(start, str):
        return 1 - float(start.removesuffix("%")) / 100
    return max(0.0, 1 - (start or 0) / steps)
